//! What a client that has nothing pays for a commit with a long history: requests and bytes, counted, against the same commit
//! published where nothing was published before.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::trees;
use serde_json::Value;

/// Files of the tree.
const FILES: u64 = 300;

struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
}

impl Scene {
    /// Publishes states of a tree in each of which other files are changed, in packs of at most 100,000 bytes.
    fn new(name: &str, states: u64) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let scene = Self { sandbox, publisher };
        fs::create_dir_all(scene.tree()).expect("the sandbox is writable");
        (0..FILES).for_each(|number| scene.write(number, 0));
        fs::write(scene.tree().join("large"), trees::noise(1 << 40, 1_500_000)).expect("the sandbox is writable");
        for state in 0..states {
            (0..FILES)
                .filter(|number| number % 7 == state % 7 && state > 0)
                .for_each(|number| scene.write(number, state));
            scene.publish("main", &scene.published(), &["--pack-size", "100000"]);
        }
        scene
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

    /// Requests and bytes of a pull by a client that has nothing.
    fn cost(&self, name: &str, directory: &Path, reference: &str) -> (u64, u64) {
        let client = self.client(name, directory);
        let told = json(&client.run(["pull", "--dry-run", "--json", &format!("os:{reference}")]).success());
        (number(&told[0]["requests"]), number(&told[0]["download_bytes"]))
    }

    /// The same of a publication that never had another commit.
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
fn after_a_prune_a_new_client_fetches_as_much_as_of_a_fresh_publication() {
    let scene = Scene::new("history-prune", 3);
    let before = scene.sandbox.join("before");
    let old = scene.client("old", &scene.published());
    old.run(["pull", "os:main"]).success();
    let (requests, _) = scene.cost("many", &scene.published(), "main");
    assert!(requests > 20, "there is something to do: {requests}");
    let planned = scene.maintain(&["--prune", "--keep-last", "2", "--dry-run"]);
    let done = scene.maintain(&["--prune", "--keep-last", "2"]);
    assert_eq!((planned["regroup"].as_array().map(Vec::len), &planned["regroup"]), (Some(1), &done["regroup"]));
    assert_eq!(planned["supersede"], done["supersede"]);
    scene.assert_costs_as_published_afresh("main");
    // It is done, and stays done.
    let idle = scene.maintain(&["--prune", "--keep-last", "2"]);
    assert_eq!((&idle["regroup"], &idle["new_packs"]), (&serde_json::json!([]), &serde_json::json!(0)));
    // Without the old places, all that is kept is whole.
    scene.maintain(&["--prune", "--keep-last", "2", "--grace", "0"]);
    let client = scene.client("client", &scene.published());
    client.run(["pull", "--depth", "1", "os:main"]).success();
    client.assert_clean();
    let mounted = client.mount("os:main", &before, &["suid", "dev"]);
    assert_same_tree(&scene.tree(), mounted.path());
    mounted.unmount();
}

#[test]
fn regrouping_removes_nothing_and_needs_no_local_repository() {
    let scene = Scene::new("history-regroup", 2);
    // Half of it is the same, so that contents are shared with what is regrouped before.
    (0..FILES / 2).for_each(|number| scene.write(number, 9));
    scene.publish("other", &scene.published(), &["--pack-size", "100000"]);
    let packs = |scene: &Scene| fs::read_dir(scene.published().join("packs")).expect("published").count();
    let before = packs(&scene);
    let url = format!("file://{}", scene.published().display());
    let nobody = Repository::at(scene.sandbox.join("no-repository"));
    let done = json(&nobody.run(["publish", "--regroup", "--json", &url]).success());
    assert_eq!(done["regroup"].as_array().map(Vec::len), Some(2), "{done}");
    assert_eq!(done["remove"], serde_json::json!([]));
    assert_eq!(packs(&scene), before + usize::try_from(number(&done["new_packs"])).expect("few"));
    scene.assert_costs_as_published_afresh("main");
    scene.assert_costs_as_published_afresh("other");
    let client = scene.client("client", &scene.published());
    client.run(["pull", "os:main", "os:other"]).success();
    client.assert_clean();
}

#[test]
fn publishing_packs_a_bounded_part_again_and_counts_it() {
    let scene = Scene::new("history-publish", 1);
    fs::remove_file(scene.tree().join("large")).expect("it was made");
    let (mut new, mut packed) = (0, 0);
    for state in 1..10 {
        (0..FILES).filter(|number| number % 7 == state % 7).for_each(|number| scene.write(number, state));
        let told = scene.publish("main", &scene.published(), &[]);
        let (content, again) = (number(&told["content_bytes"]), number(&told["again_bytes"]));
        (new, packed) = (new + content - again, packed + content);
    }
    assert!(packed > new, "nothing was packed again");
    assert!(packed <= 3 * new, "{packed} bytes packed where {new} were new");
    let (requests, bytes) = scene.cost("new", &scene.published(), "main");
    let (_, least) = scene.cost_afresh("main");
    assert!(bytes * 10 <= least * 16, "{bytes} bytes in {requests} requests, where {least} are enough");
}

#[test]
fn no_pack_is_longer_than_the_limit() {
    let scene = Scene::new("history-packs", 3);
    let longest = |scene: &Scene| {
        let listed = fs::read_dir(scene.published().join("packs")).expect("published");
        listed.map(|entry| entry.expect("listable").metadata().expect("there").len()).max()
    };
    // A block of 262,144 bytes that cannot be made shorter has a pack of its own.
    let most = longest(&scene).expect("there are packs");
    assert!(most < 262_144 + 100, "{most}");
    fs::remove_file(scene.tree().join("large")).expect("it was made");
    fs::remove_dir_all(scene.published()).expect("it is ours");
    scene.publish("main", &scene.published(), &["--pack-size", "200000"]);
    assert!(longest(&scene).expect("there are packs") <= 200_000);
    scene.maintain(&["--prune", "--pack-size", "300000"]);
    assert!(longest(&scene).expect("there are packs") <= 300_000);
}
