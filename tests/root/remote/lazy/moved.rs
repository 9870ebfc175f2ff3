//! A mounted commit whose contents the publisher puts elsewhere meanwhile, and removes from where they were.
//!
//! The publisher keeps the commit, so whatever it does to packs and locators, the mount reads on.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::eventually;
use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Mounted, Repository, Sandbox, run};
use crate::common::trees;
use crate::common::web::Web;

/// Files in each of the two directories.
const FILES: u64 = 300;

struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
    web: Web,
    /// The second state.
    commit: String,
}

impl Scene {
    /// Publishes a tree, then another with other contents in `b` and half of `a`, so that packs of the first are mostly dead.
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        let web = Web::serve(&sandbox.directory("published"));
        client.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
        let mut scene = Self { sandbox, publisher, client, web, commit: String::new() };
        ["a", "b"].iter().for_each(|directory| scene.fill(directory, 0..FILES, 0));
        scene.publish();
        scene.fill("b", 0..FILES, 1);
        let first = (0..FILES / 2).map(|number| scene.tree().join(format!("a/{number:03}")));
        first.for_each(|file| fs::remove_file(file).expect("it was made"));
        scene.commit = scene.publish();
        scene
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

    /// Each but the last leaves a small pack, and the last none of the contents before: then all packs of older commits are put
    /// together.
    fn publish_until_all_is_old(&self, seeds: std::ops::Range<u64>) {
        let last = seeds.end;
        for seed in seeds {
            self.fill("b", 0..5, seed);
            self.publish();
        }
        ["a", "b"].iter().for_each(|directory| self.fill(directory, 0..FILES, last));
        self.publish();
    }

    /// The larger a full pack is, the more packs count as small, and are put together.
    fn prune(&self, keep: &str) {
        let words = ["publish", "--prune", "--keep-last", keep, "--grace", "0", "--pack-size", "8000000", &self.url()];
        self.publisher.run(words).success();
    }

    fn locator(&self, commit: &str) -> String {
        let path = self.sandbox.join("published/placements").join(commit);
        let placement: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("published")).expect("JSON");
        placement["locator"]["id"].as_str().expect("text").to_owned()
    }

    /// Prunes until what led to the contents of a commit is gone.
    fn prune_until_moved(&self, commit: &str, keep: &str) {
        let before = self.locator(commit);
        self.prune(keep);
        self.prune(keep);
        let is_there = self.sandbox.join("published/locators").join(&before).exists();
        assert!(!is_there && self.locator(commit) != before, "nothing was put elsewhere");
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
fn a_mount_reads_on_when_its_contents_were_moved_and_pruned_again_and_again() {
    let scene = Scene::new("moved-mount");
    let old = scene.copy_of_tree("old");
    let mounted = scene.mount(&["fetch-timeout=5"]);
    fs::read(mounted.path().join("b/017")).expect("it comes");
    scene.prune_until_moved(&scene.commit, "1");
    fs::read(mounted.path().join("a/170")).expect("it comes from elsewhere");
    // Once more, with the commit not being the newest any longer.
    scene.publish_until_all_is_old(2..12);
    scene.prune_until_moved(&scene.commit, "20");
    assert_same_tree(&old, mounted.path());
    mounted.unmount();
    scene.client.assert_clean();
}

#[test]
fn prefetching_and_filling_find_what_was_moved() {
    let scene = Scene::new("moved-fill");
    let mounted = scene.mount(&[]);
    fs::read(mounted.path().join("b/017")).expect("it comes, and what leads there");
    scene.prune_until_moved(&scene.commit, "1");
    let words = ["prefetch", "--json", "--path", "/a", text(mounted.path())];
    scene.client.run(words).success();
    mounted.unmount();

    let mut scene = scene;
    scene.client = scene.sandbox.repository("other");
    scene.client.run(["remote", "add", "os", &scene.web.url(), "--insecure-unsigned"]).success();
    let mounted = scene.mount(&[]);
    fs::read(mounted.path().join("b/017")).expect("it comes, and what leads there");
    mounted.unmount();
    // Without anybody there, it is mounted with the places that were seen last.
    let old = scene.copy_of_tree("old");
    scene.publish_until_all_is_old(2..12);
    scene.prune_until_moved(&scene.commit, "20");
    scene.web.stop();
    let mounted = scene.mount(&["background-fill"]);
    scene.web.start();
    eventually("all of it is here", || scene.status()["lazy"]["offline_safe"] == true);
    scene.web.stop();
    assert_same_tree(&old, mounted.path());
    mounted.unmount();
    scene.client.assert_clean();
}
