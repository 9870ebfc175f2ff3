//! Which repository and which moment a signed state is of: identities, promotion, replays, and expiry.
//!
//! The publisher is the program; the test acts as the hostile server, which swaps published directories.

use std::fs;
use std::path::PathBuf;

use super::trust::Fixture;
use crate::common::sandbox::{Repository, Run, run};
use crate::common::web::Web;

/// 2099-01-01.
const FAR: &str = "4070908800";

impl Fixture {
    fn publish_from(&self, repository: &Repository, to: &str, words: &[&str]) -> Run {
        let url = format!("file://{}", self.sandbox.join(to).display());
        let always = ["publish", "--sign", "release", &url];
        self.as_user(repository, always.into_iter().chain(words.iter().copied()))
    }

    fn copy(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.sandbox.join(name));
        let _ = fs::remove_dir_all(&to);
        run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]).success();
    }

    /// Adds the published directory to the client as `name`.
    fn add(&self, name: &str, url: &str, words: &[&str]) {
        let always = ["remote", "add", "--replace", name, url, "--key", "release"];
        self.as_user(&self.client, always.into_iter().chain(words.iter().copied())).success();
    }

    fn identity(&self, name: &str) -> String {
        let shown = self.as_user(&self.client, ["remote", "show", "--json", name]).success();
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        shown["identity"].as_str().unwrap_or_default().to_owned()
    }

    /// Names the commit of a local ref by another one.
    fn promote(&self, from: &str, to: &str) {
        let refs = self.publisher.path().join("refs");
        fs::copy(refs.join(from), refs.join(to)).expect("owned by the test");
    }

    fn local_commit(&self, name: &str) -> String {
        let path: PathBuf = self.client.path().join("refs/remotes/os").join(name);
        fs::read_to_string(path).expect("it was pulled").trim().to_owned()
    }
}

#[test]
fn commit_made_for_another_ref_is_published_and_pulled() {
    let fixture = Fixture::new("freshness-promotion");
    fixture.generate("release");
    fixture.add("os", &fixture.url(), &[]);
    // Each time there is another commit for testing, stable becomes it, and once an older one.
    let mut commits: Vec<String> = Vec::new();
    for content in ["one", "two", "three"] {
        commits.push(fixture.commit("testing", content));
        fixture.promote("testing", "stable");
        fixture.publish_from(&fixture.publisher, "published", &["testing", "stable"]).success();
        fixture.as_user(&fixture.client, ["pull", "os:stable", "os:testing"]).success();
        assert_eq!(fixture.local_commit("stable"), commits[commits.len() - 1]);
    }
    fs::write(fixture.publisher.path().join("refs/stable"), format!("{}\n", commits[0])).expect("owned by the test");
    let said = fixture.publish_from(&fixture.publisher, "published", &["stable"]).failure(1);
    assert!(said.contains("no ancestor"), "{said}");
    fixture.publish_from(&fixture.publisher, "published", &["--force", "stable"]).success();
    fixture.as_user(&fixture.client, ["pull", "os:stable"]).success();
    assert_eq!(fixture.local_commit("stable"), commits[0]);
    let at = fixture.sandbox.join("at");
    let mounted = fixture.client.mount("os:stable", &at, &[]);
    assert_eq!(fs::read_to_string(at.join("file")).expect("readable"), "one");
    mounted.unmount();
    fixture.client.assert_clean();
    fixture.publisher.assert_clean();

    // The record of stable in the place of testing.
    let published = fixture.sandbox.join("published/refs");
    fs::copy(published.join("stable"), published.join("testing")).expect("owned by the test");
    let said = fixture.as_user(&fixture.client, ["pull", "os:testing"]).failure(1);
    assert!(said.contains("for ref stable, not for testing"), "{said}");
}

#[test]
fn ref_of_another_repository_is_refused_until_named() {
    let fixture = Fixture::new("freshness-identity");
    fixture.generate("release");
    let staging = fixture.sandbox.repository("staging");
    let tree = fixture.sandbox.directory("debug");
    for content in ["debug", "debug again"] {
        fs::write(tree.join("file"), content).expect("writable");
        staging.commit("main", &tree);
    }
    fixture.publish_from(&staging, "staging-published", &["main"]).success();
    fixture.commit("main", "one");
    fixture.publish_from(&fixture.publisher, "production", &["main"]).success();
    fixture.copy("production", "published");
    fixture.add("os", &fixture.url(), &[]);
    assert_eq!(fixture.identity("os"), "", "nothing was asked yet");
    fixture.pull().success();
    let production = fixture.identity("os");
    assert_eq!(production.len(), 32, "{production}");

    fixture.copy("staging-published", "published");
    let said = fixture.pull().failure(1);
    assert!(said.contains(&format!("not of repository {production}")) && said.contains("--identity"), "{said}");
    let other = said.split("it is of repository ").nth(1).expect("it names both").get(..32).expect("long").to_owned();
    assert_ne!(other, production);
    let mounted = fixture.client.mount("os:main", &fixture.sandbox.join("at"), &[]);
    assert_eq!(fs::read_to_string(mounted.path().join("file")).expect("readable"), "one");
    mounted.unmount();
    fixture.add("os", &fixture.url(), &["--identity", &other]);
    fixture.pull().success();
    assert_eq!(fixture.identity("os"), other);
    // What was seen of production is still remembered, and is what is refused now.
    fixture.copy("production", "published");
    let said = fixture.pull().failure(1);
    assert!(said.contains(&production) && said.contains(&other), "{said}");

    // A publisher that publishes to the wrong place.
    let said = fixture.publish_from(&fixture.publisher, "staging-published", &["--force", "main"]).failure(1);
    assert!(said.contains(&production) && said.contains(&other) && said.contains("--identity"), "{said}");
    // One that never published takes the identity of its destination over.
    let builder = fixture.sandbox.repository("builder");
    builder.commit("other", &tree);
    fixture.publish_from(&builder, "production", &["other"]).success();
    fixture.copy("production", "published");
    fixture.add("os", &fixture.url(), &["--identity", &production]);
    fixture.as_user(&fixture.client, ["pull", "os:other"]).success();
}

#[test]
fn replay_is_refused_under_every_spelling_and_name() {
    let fixture = Fixture::new("freshness-replay");
    fixture.generate("release");
    fixture.commit("main", "one");
    fixture.publish_from(&fixture.publisher, "published", &["main"]).success();
    fixture.copy("published", "old");
    fixture.commit("main", "two");
    fixture.publish_from(&fixture.publisher, "published", &["main"]).success();
    let web = Web::serve(&fixture.sandbox.join("published"));
    let port = web.address().port();
    fixture.add("os", &format!("http://localhost:{port}"), &[]);
    fixture.pull().success();
    fixture.copy("old", "published");
    let refused = |source: &str, words: &[&str]| {
        let said = fixture.as_user(&fixture.client, ["pull", source].iter().chain(words)).failure(1);
        assert!(said.contains("is older than 2"), "{source}: {said}");
    };
    refused("os:main", &[]);
    for host in ["localhost", "LOCALHOST", "127.0.0.1"] {
        for end in ["", "/x/.."] {
            let url = format!("http://{host}:{port}{end}");
            fixture.add("again", &url, &[]);
            refused("again:main", &[]);
            refused(&format!("{url}#main"), &["--key", "release"]);
        }
    }
    fixture.as_user(&fixture.client, ["remote", "remove", "os"]).success();
    fixture.add("os", &fixture.url(), &[]);
    refused("os:main", &[]);
    fixture.as_user(&fixture.client, ["pull", "--allow-older", "os:main"]).failure(1);
    // The URL of the directory was never asked before, so the user says which repository is meant.
    let web_again = format!("http://localhost:{port}");
    fixture.add("os", &web_again, &[]);
    fixture.as_user(&fixture.client, ["pull", "--allow-older", "os:main"]).success();
}

#[test]
fn expiry_limits_only_what_is_newly_taken() {
    let fixture = Fixture::new("freshness-expiry");
    fixture.generate("release");
    let sign_again = |words: &[&str]| {
        let words: Vec<&str> = ["--refresh"].iter().chain(words).copied().collect();
        fixture.publish_from(&fixture.publisher, "published", &words)
    };
    let publish_at = |content: &str, words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["main"]).collect();
        let commit = fixture.commit("main", content);
        fixture.publish_from(&fixture.publisher, "published", &words).success();
        commit
    };
    let first = publish_at("one", &["--time", "1000000000"]);
    fixture.add("os", &fixture.url(), &["--expired", "refuse"]);
    let said = fixture.pull().failure(1);
    assert!(said.contains("it expired") && said.contains("withholding"), "{said}");
    fixture
        .as_user(&fixture.client, ["mount", "os:main", fixture.sandbox.directory("at").to_str().expect("UTF-8")])
        .failure(1);
    let said = sign_again(&[]).success();
    assert!(said.contains("main") && said.contains("expires"), "{said}");
    fixture.pull().success();

    // What was accepted once is mounted whatever its age, and a newer state that has expired is not taken.
    publish_at("two", &["--time", "1000000000"]);
    let said = fixture.pull().failure(1);
    assert!(said.contains("it expired"), "{said}");
    let mounted = fixture.client.mount("os:main", &fixture.sandbox.join("at"), &[]);
    assert_eq!(fs::read_to_string(mounted.path().join("file")).expect("readable"), "one");
    mounted.unmount();
    assert_eq!(fixture.local_commit("main"), first);
    sign_again(&[]).success();
    let at = fixture.sandbox.join("at");
    let lazy = fixture.client.mount("os:main", &at, &[]);
    sign_again(&["--time", "1000000000"]).success();
    assert_eq!(fs::read_to_string(at.join("file")).expect("read after the expiry"), "two");
    lazy.unmount();
    fixture.pull().success();

    // The policy of a client that only warns, and its own limit.
    publish_at("three", &["--time", "1000000000", "--expires", "never"]);
    fixture.add("os", &fixture.url(), &["--expired", "refuse", "--max-age", "90"]);
    let said = fixture.pull().failure(1);
    assert!(said.contains("at most 90"), "{said}");
    fixture.add("os", &fixture.url(), &["--max-age", "90"]);
    let pulled = fixture.pull();
    assert!(pulled.stderr.contains("at most 90"), "{}", pulled.stderr);
    pulled.success();

    // A clock that is behind says nothing about age.
    publish_at("four", &["--time", FAR]);
    fixture.add("os", &fixture.url(), &["--expired", "refuse"]);
    let pulled = fixture.pull();
    assert!(pulled.stderr.matches("clock of this machine").count() == 1, "{}", pulled.stderr);
    pulled.success();
    publish_at("five", &["--time", "1000000000"]);
    fixture.pull().success();

    // Only what one of the signers had signed is signed again.
    fixture.generate("stranger");
    let url = fixture.url();
    let said = fixture.as_user(&fixture.publisher, ["publish", "--refresh", "--sign", "stranger", &url]).failure(1);
    assert!(said.contains("is not signed again"), "{said}");
}
