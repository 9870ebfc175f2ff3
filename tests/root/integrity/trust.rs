//! Keys, remotes, signatures and key rotation, and the message of each refusal.
//!
//! The publisher is the program; the test acts as the hostile server, which moves and changes published files.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::common::sandbox::{Repository, Run, Sandbox, finish};

/// A publisher's repository, its keys, the published directory, and a client.
pub(super) struct Fixture {
    pub(super) sandbox: Sandbox,
    pub(super) publisher: Repository,
    pub(super) client: Repository,
}

impl Fixture {
    pub(super) fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        Self { sandbox, publisher, client }
    }

    pub(super) fn as_user<A: AsRef<OsStr>>(
        &self,
        repository: &Repository,
        arguments: impl IntoIterator<Item = A>,
    ) -> Run {
        let mut command = repository.command(arguments);
        command.env("SAPWOOD_KEYS", self.sandbox.join("keys"));
        finish(command)
    }

    pub(super) fn generate(&self, name: &str) -> String {
        self.as_user(&self.publisher, ["key", "generate", name]).success()
    }

    /// Commits a tree that differs from the one before.
    pub(super) fn commit(&self, ref_name: &str, content: &str) -> String {
        let tree = self.sandbox.directory("tree");
        fs::write(tree.join("file"), content).expect("writable");
        self.publisher.commit(ref_name, &tree)
    }

    pub(super) fn url(&self) -> String {
        format!("file://{}", self.sandbox.join("published").display())
    }

    fn published(&self, path: &str) -> PathBuf {
        self.sandbox.join("published").join(path)
    }

    fn publish(&self, arguments: &[&str]) -> Run {
        let url = self.url();
        self.as_user(&self.publisher, ["publish"].into_iter().chain(arguments.iter().copied()).chain([&*url, "main"]))
    }

    fn add_remote(&self, keys: &[&str]) {
        let url = self.url();
        let keys = keys.iter().flat_map(|key| ["--key", key]);
        let arguments = ["remote", "add", "--replace", "os", &url].into_iter().chain(keys);
        self.as_user(&self.client, arguments).success();
    }

    pub(super) fn pull(&self) -> Run {
        self.as_user(&self.client, ["pull", "os:main"])
    }
}

#[test]
fn keys_are_managed_and_a_secret_is_never_overwritten() {
    let fixture = Fixture::new("trust-keys");
    let key = fixture.generate("release");
    assert_eq!(key.len(), 64, "{key}");
    let secret = fixture.sandbox.join("keys/release.key");
    assert_eq!(fs::metadata(&secret).expect("made").permissions().mode() & 0o777, 0o600);
    let listed = fixture.as_user(&fixture.publisher, ["key", "list"]).success();
    assert!(listed.lines().any(|line| line.starts_with("release") && line.contains(&key)), "{listed}");
    let exported = fixture.as_user(&fixture.publisher, ["key", "export", "release"]).success();
    assert_eq!(exported, format!("sapwood-public-key {key} release"));
    let before = fs::read(&secret).expect("readable");
    let refusal = fixture.as_user(&fixture.publisher, ["key", "generate", "release"]).failure(1);
    assert!(refusal.contains("already"), "{refusal}");
    assert_eq!(fs::read(&secret).expect("readable"), before);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("owned by the test");
    fixture.commit("main", "one");
    let refusal = fixture.publish(&["--sign", "release"]).failure(1);
    assert!(refusal.contains("chmod 600"), "{refusal}");
}

#[test]
fn remote_add_requires_keys_or_insecure_unsigned() {
    let fixture = Fixture::new("trust-remotes");
    let key = fixture.generate("release");
    let refusal = fixture.as_user(&fixture.client, ["remote", "add", "os", "https://localhost/os"]).failure(1);
    assert!(refusal.contains("--key FILE") && refusal.contains("--insecure-unsigned"), "{refusal}");
    let file = fixture.sandbox.join("keys/release.pub");
    let file = file.to_str().expect("UTF-8");
    fixture.as_user(&fixture.client, ["remote", "add", "os", "https://localhost/os", "--key", file]).success();
    let refusal = fixture.as_user(&fixture.client, ["remote", "add", "os", "https://x/", "--key", file]).failure(1);
    assert!(refusal.contains("already"), "{refusal}");
    let shown = fixture.as_user(&fixture.client, ["remote", "show", "os"]).success();
    assert!(shown.contains(&key) && shown.contains("https://localhost/os"), "{shown}");
    let listed = fixture.as_user(&fixture.client, ["remote", "list", "--json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["config"]["keys"][0], key.as_str());
    let secret = fixture.sandbox.join("keys/release.key");
    let refusal = fixture
        .as_user(&fixture.client, ["remote", "add", "b", "https://x/", "--key", secret.to_str().expect("UTF-8")])
        .failure(1);
    assert!(refusal.contains("secret"), "{refusal}");
    fixture.as_user(&fixture.client, ["remote", "remove", "os"]).success();
    fixture.as_user(&fixture.client, ["remote", "show", "os"]).failure(1);
}

#[test]
fn only_commits_signed_by_a_trusted_key_are_pulled() {
    let fixture = Fixture::new("trust-refusals");
    fixture.generate("release");
    fixture.generate("stranger");
    fixture.commit("main", "one");
    fixture.add_remote(&["release"]);

    fixture.publish(&[]).success();
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("not signed"), "{refusal}");

    fixture.publish(&["--sign", "stranger"]).success();
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("not trusted"), "{refusal}");
    assert!(fixture.client.run(["refs"]).success().is_empty(), "nothing was named");

    fixture.publish(&["--sign", "stranger", "--sign", "release"]).success();
    fixture.pull().success();

    // The record of another ref in its place.
    let main = fixture.published("refs/main");
    let good = fs::read(&main).expect("published");
    fs::write(fixture.published("refs/other"), &good).expect("owned by the test");
    let refusal = fixture.as_user(&fixture.client, ["pull", "os:other"]).failure(1);
    assert!(refusal.contains("for ref main, not for other"), "{refusal}");

    // A changed byte.
    let mut forged = good.clone();
    forged[80] ^= 1;
    fs::write(&main, &forged).expect("owned by the test");
    fixture.pull().any_failure();
    fs::write(&main, &good).expect("owned by the test");

    // A newer state, then the old one again.
    fixture.commit("main", "two");
    fixture.publish(&["--sign", "release"]).success();
    fixture.pull().success();
    fs::write(&main, &good).expect("owned by the test");
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("older") && refusal.contains("--allow-older"), "{refusal}");
    fixture.as_user(&fixture.client, ["pull", "--allow-older", "os:main"]).success();
    fixture.client.assert_clean();
}

#[test]
fn key_announced_by_a_trusted_key_is_followed_and_remembered() {
    let fixture = Fixture::new("trust-rotation");
    fixture.generate("first");
    fixture.commit("main", "one");
    fixture.publish(&["--sign", "first"]).success();
    fixture.add_remote(&["first"]);
    fixture.pull().success();

    // Two changes of keys while the client was away.
    fixture.as_user(&fixture.publisher, ["key", "generate", "second", "--announced-by", "first"]).success();
    fixture.commit("main", "two");
    fixture.publish(&["--sign", "second"]).success();
    let third = fixture.as_user(&fixture.publisher, ["key", "generate", "third", "--announced-by", "second"]).success();
    fixture.commit("main", "three");
    fixture.publish(&["--sign", "third"]).success();
    fixture.pull().success();
    let shown = fixture.as_user(&fixture.client, ["remote", "show", "os"]).success();
    assert!(shown.contains(&third), "the new key is trusted from now on:\n{shown}");

    // A key that announces itself is not trusted.
    fixture.generate("intruder");
    let intruder = fixture.sandbox.join("keys/intruder.announcement");
    fs::copy(fixture.sandbox.join("keys/third.announcement"), intruder).expect("owned by the test");
    fixture.commit("main", "four");
    fixture.publish(&["--sign", "intruder"]);
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("not trusted"), "{refusal}");
}
