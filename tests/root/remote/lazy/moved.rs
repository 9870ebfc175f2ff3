//! Lazy mounts whose contents the publisher moves to other packs and removes from the old ones.
//!
//! The publisher keeps the commit, so the mount must read on whatever happens to packs and locators.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::eventually;
use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Mounted, Repository, Sandbox, run};
use crate::common::trees;
use crate::common::web::Web;

/// Number of files in each of the two directories.
const FILES: u64 = 300;

struct Fixture {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
    web: Web,
    /// The commit of the second state.
    commit: String,
}

impl Fixture {
    /// Publishes a tree, then another with other contents in `b` and half of `a`, so that most of the first packs is unused.
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        let web = Web::serve(&sandbox.directory("published"));
        client.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
        let mut fixture = Self { sandbox, publisher, client, web, commit: String::new() };
        ["a", "b"].iter().for_each(|directory| fixture.fill(directory, 0..FILES, 0));
        fixture.publish();
        fixture.fill("b", 0..FILES, 1);
        let first = (0..FILES / 2).map(|number| fixture.tree().join(format!("a/{number:03}")));
        first.for_each(|file| fs::remove_file(file).expect("it was made"));
        fixture.commit = fixture.publish();
        fixture
    }

    fn tree(&self) -> PathBuf {
        self.sandbox.join("tree")
    }

    fn fill(&self, directory: &str, numbers: std::ops::Range<u64>, seed: u64) {
        let seed = seed * 2 + u64::from(directory == "a");
        let directory = self.tree().join(directory);
        fs::create_dir_all(&directory).expect("the sandbox is writable");
        for number in numbers {
            let bytes = trees::noise(seed * FILES + number + 1, 2000);
            fs::write(directory.join(format!("{number:03}")), bytes).expect("the sandbox is writable");
        }
    }

    fn url(&self) -> String {
        format!("file://{}", self.sandbox.join("published").display())
    }

    fn publish(&self) -> String {
        let commit = self.publisher.commit("main", &self.tree());
        self.publisher.run(["publish", "--pack-size", "1000000", &self.url(), "main"]).success();
        commit
    }

    /// Publishes a state for each seed. Each but the last leaves a small pack, and the last shares no contents with those
    /// before: then all packs of older commits are merged.
    fn publish_until_all_is_old(&self, seeds: std::ops::Range<u64>) {
        let last = seeds.end;
        for seed in seeds {
            self.fill("b", 0..5, seed);
            self.publish();
        }
        ["a", "b"].iter().for_each(|directory| self.fill(directory, 0..FILES, last));
        self.publish();
    }

    /// Prunes with a large pack size, so that more packs count as small, and are merged.
    fn prune(&self, keep: &str) {
        let words = ["publish", "--prune", "--keep-last", keep, "--grace", "0", "--pack-size", "8000000", &self.url()];
        self.publisher.run(words).success();
    }

    fn locator(&self, commit: &str) -> String {
        let path = self.sandbox.join("published/placements").join(commit);
        let placement: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("published")).expect("JSON");
        placement["locator"]["id"].as_str().expect("text").to_owned()
    }

    /// Prunes until the old positions of a commit's contents are removed.
    fn prune_until_moved(&self, commit: &str, keep: &str) {
        let before = self.locator(commit);
        self.prune(keep);
        self.prune(keep);
        let is_there = self.sandbox.join("published/locators").join(&before).exists();
        assert!(!is_there && self.locator(commit) != before, "nothing was moved");
    }

    fn copy_of_tree(&self, name: &str) -> PathBuf {
        let copy = self.sandbox.join(name);
        run("cp", [OsStr::new("-a"), self.tree().as_os_str(), copy.as_os_str()]).success();
        copy
    }

    fn mount(&self, options: &[&str]) -> Mounted {
        let options: Vec<&str> = ["suid", "dev"].iter().chain(options).copied().collect();
        self.client.mount("os:main", &self.sandbox.join("mounted"), &options)
    }

    fn status(&self) -> serde_json::Value {
        let all: serde_json::Value =
            serde_json::from_str(&self.client.run(["mounts", "--json"]).success()).expect("JSON");
        all[0].clone()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn lazy_mount_reads_on_after_its_contents_were_moved() {
    let fixture = Fixture::new("moved-mount");
    let old = fixture.copy_of_tree("old");
    let mounted = fixture.mount(&["fetch-timeout=5"]);
    fs::read(mounted.path().join("b/017")).expect("it is fetched");
    fixture.prune_until_moved(&fixture.commit, "1");
    fs::read(mounted.path().join("a/170")).expect("it is fetched from its new pack");
    // The contents move again, while the commit is no longer the newest.
    fixture.publish_until_all_is_old(2..12);
    fixture.prune_until_moved(&fixture.commit, "20");
    assert_same_tree(&old, mounted.path());
    mounted.unmount();
    fixture.client.assert_clean();
}

#[test]
fn prefetch_and_background_fill_find_moved_contents() {
    let fixture = Fixture::new("moved-fill");
    let mounted = fixture.mount(&[]);
    fs::read(mounted.path().join("b/017")).expect("it is fetched, with its locator");
    fixture.prune_until_moved(&fixture.commit, "1");
    let words = ["prefetch", "--json", "--path", "/a", text(mounted.path())];
    fixture.client.run(words).success();
    mounted.unmount();

    let mut fixture = fixture;
    fixture.client = fixture.sandbox.repository("other");
    fixture.client.run(["remote", "add", "os", &fixture.web.url(), "--insecure-unsigned"]).success();
    let mounted = fixture.mount(&[]);
    fs::read(mounted.path().join("b/017")).expect("it is fetched, with its locator");
    mounted.unmount();
    // Without the network it is mounted with the last known positions.
    let old = fixture.copy_of_tree("old");
    fixture.publish_until_all_is_old(2..12);
    fixture.prune_until_moved(&fixture.commit, "20");
    fixture.web.stop();
    let mounted = fixture.mount(&["background-fill"]);
    fixture.web.start();
    eventually("all of it is here", || fixture.status()["lazy"]["offline_safe"] == true);
    fixture.web.stop();
    assert_same_tree(&old, mounted.path());
    mounted.unmount();
    fixture.client.assert_clean();
}
