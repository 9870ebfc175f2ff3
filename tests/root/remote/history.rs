//! Requests and bytes with which a new client fetches a commit with a long history, compared with the same commit in a fresh
//! publication.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::trees;
use serde_json::Value;

/// Number of files of the tree.
const FILES: u64 = 300;

struct Fixture {
    sandbox: Sandbox,
    publisher: Repository,
}

impl Fixture {
    /// Publishes states of a tree in each of which other files are changed, in packs of at most 100,000 bytes.
    fn new(name: &str, states: u64) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let fixture = Self { sandbox, publisher };
        fs::create_dir_all(fixture.tree()).expect("the sandbox is writable");
        (0..FILES).for_each(|number| fixture.write(number, 0));
        fs::write(fixture.tree().join("large"), trees::noise(1 << 40, 1_500_000)).expect("the sandbox is writable");
        for state in 0..states {
            (0..FILES)
                .filter(|number| number % 7 == state % 7 && state > 0)
                .for_each(|number| fixture.write(number, state));
            fixture.publish("main", &fixture.published(), &["--pack-size", "100000"]);
        }
        fixture
    }

    fn write(&self, number: u64, state: u64) {
        let bytes = trees::noise(1 + number + state * FILES, 3000 + 20 * usize::try_from(number).expect("small"));
        fs::write(self.tree().join(format!("{number:03}")), bytes).expect("the sandbox is writable");
    }

    fn tree(&self) -> PathBuf {
        self.sandbox.join("tree")
    }

    fn published(&self) -> PathBuf {
        self.sandbox.join("published")
    }

    fn publish(&self, reference: &str, directory: &Path, more: &[&str]) -> Value {
        self.publisher.commit(reference, &self.tree());
        let url = format!("file://{}", directory.display());
        json(&self.publisher.run(["publish", "--json", &url, reference].iter().chain(more)).success())
    }

    fn maintain(&self, words: &[&str]) -> Value {
        let url = format!("file://{}", self.published().display());
        json(&self.publisher.run(["publish", "--json", &url].iter().chain(words)).success())
    }

    fn client(&self, name: &str, directory: &Path) -> Repository {
        let client = self.sandbox.repository(name);
        let url = format!("file://{}", directory.display());
        client.run(["remote", "add", "os", &url, "--insecure-unsigned"]).success();
        client
    }

    /// Returns the requests and bytes of a pull by a new client.
    fn cost(&self, name: &str, directory: &Path, reference: &str) -> (u64, u64) {
        let client = self.client(name, directory);
        let told = json(&client.run(["pull", "--dry-run", "--json", &format!("os:{reference}")]).success());
        (number(&told[0]["requests"]), number(&told[0]["download_bytes"]))
    }

    /// Returns the requests and bytes of a pull from a publication of only this commit.
    fn cost_afresh(&self, reference: &str) -> (u64, u64) {
        let fresh = self.sandbox.join(&format!("fresh-{reference}"));
        let url = format!("file://{}", fresh.display());
        self.publisher.run(["publish", &url, reference]).success();
        self.cost(&format!("fresh-client-{reference}"), &fresh, reference)
    }

    #[track_caller]
    fn assert_costs_as_published_afresh(&self, reference: &str) {
        let (requests, bytes) = self.cost(&format!("new-{reference}"), &self.published(), reference);
        let (_, least) = self.cost_afresh(reference);
        assert!(requests <= 12, "{requests} requests");
        assert!(bytes * 100 <= least * 115, "{bytes} bytes where {least} are enough");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn pruned_publication_costs_new_clients_as_much_as_a_fresh_one() {
    let fixture = Fixture::new("history-prune", 3);
    let before = fixture.sandbox.join("before");
    let old = fixture.client("old", &fixture.published());
    old.run(["pull", "os:main"]).success();
    let (requests, _) = fixture.cost("many", &fixture.published(), "main");
    assert!(requests > 20, "there is something to do: {requests}");
    let planned = fixture.maintain(&["--prune", "--keep-last", "2", "--dry-run"]);
    let done = fixture.maintain(&["--prune", "--keep-last", "2"]);
    assert_eq!((planned["regroup"].as_array().map(Vec::len), &planned["regroup"]), (Some(1), &done["regroup"]));
    assert_eq!(planned["supersede"], done["supersede"]);
    fixture.assert_costs_as_published_afresh("main");
    // A second prune has nothing to do.
    let idle = fixture.maintain(&["--prune", "--keep-last", "2"]);
    assert_eq!((&idle["regroup"], &idle["new_packs"]), (&serde_json::json!([]), &serde_json::json!(0)));
    // Once the old packs are removed, all that is kept is complete.
    fixture.maintain(&["--prune", "--keep-last", "2", "--grace", "0"]);
    let client = fixture.client("client", &fixture.published());
    client.run(["pull", "--depth", "1", "os:main"]).success();
    client.assert_clean();
    let mounted = client.mount("os:main", &before, &["suid", "dev"]);
    assert_same_tree(&fixture.tree(), mounted.path());
    mounted.unmount();
}

#[test]
fn regrouping_removes_nothing_and_needs_no_local_repository() {
    let fixture = Fixture::new("history-regroup", 2);
    // Half of the files are the same, so that contents are shared with what was regrouped before.
    (0..FILES / 2).for_each(|number| fixture.write(number, 9));
    fixture.publish("other", &fixture.published(), &["--pack-size", "100000"]);
    let packs = |fixture: &Fixture| fs::read_dir(fixture.published().join("packs")).expect("published").count();
    let before = packs(&fixture);
    let url = format!("file://{}", fixture.published().display());
    let elsewhere = Repository::at(fixture.sandbox.join("no-repository"));
    let done = json(&elsewhere.run(["publish", "--regroup", "--json", &url]).success());
    assert_eq!(done["regroup"].as_array().map(Vec::len), Some(2), "{done}");
    assert_eq!(done["remove"], serde_json::json!([]));
    assert_eq!(packs(&fixture), before + usize::try_from(number(&done["new_packs"])).expect("few"));
    fixture.assert_costs_as_published_afresh("main");
    fixture.assert_costs_as_published_afresh("other");
    let client = fixture.client("client", &fixture.published());
    client.run(["pull", "os:main", "os:other"]).success();
    client.assert_clean();
}

#[test]
fn publish_repacks_a_bounded_part_and_counts_it() {
    let fixture = Fixture::new("history-publish", 1);
    fs::remove_file(fixture.tree().join("large")).expect("it was made");
    let (mut new, mut packed) = (0, 0);
    for state in 1..10 {
        (0..FILES).filter(|number| number % 7 == state % 7).for_each(|number| fixture.write(number, state));
        let told = fixture.publish("main", &fixture.published(), &[]);
        let (content, again) = (number(&told["content_bytes"]), number(&told["repacked_bytes"]));
        (new, packed) = (new + content - again, packed + content);
    }
    assert!(packed > new, "nothing was packed again");
    assert!(packed <= 3 * new, "{packed} bytes packed where {new} were new");
    let (requests, bytes) = fixture.cost("new", &fixture.published(), "main");
    let (_, least) = fixture.cost_afresh("main");
    assert!(bytes * 10 <= least * 16, "{bytes} bytes in {requests} requests, where {least} are enough");
}

#[test]
fn no_pack_is_longer_than_the_limit() {
    let fixture = Fixture::new("history-packs", 3);
    let longest = |fixture: &Fixture| {
        let listed = fs::read_dir(fixture.published().join("packs")).expect("published");
        listed.map(|entry| entry.expect("listable").metadata().expect("it exists").len()).max()
    };
    // A block of 262,144 incompressible bytes has a pack of its own.
    let most = longest(&fixture).expect("there are packs");
    assert!(most < 262_144 + 100, "{most}");
    fs::remove_file(fixture.tree().join("large")).expect("it was made");
    fs::remove_dir_all(fixture.published()).expect("owned by the test");
    fixture.publish("main", &fixture.published(), &["--pack-size", "200000"]);
    assert!(longest(&fixture).expect("there are packs") <= 200_000);
    fixture.maintain(&["--prune", "--pack-size", "300000"]);
    assert!(longest(&fixture).expect("there are packs") <= 300_000);
}
