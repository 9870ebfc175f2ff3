//! Mounting what was never pulled: the same tree as the one that was committed, whatever happens on the way.
//!
//! The oracle compares a lazy mount with the directory that was committed, by the distribution's tools. What a network or a
//! server may do wrong is done to the published files or to the link.
#![allow(clippy::disallowed_methods, reason = "fixtures need neither atomic nor durable writes")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::facts::{Scope, assert_rsync_sees_no_difference, assert_same_tree};
use common::published::Published;
use common::sandbox::{Mounted, Repository, Sandbox};
use common::trees;

/// What was published, and a client that has nothing of it.
struct Scene {
    sandbox: Sandbox,
    published: PathBuf,
    client: Repository,
}

impl Scene {
    fn new(name: &str, tree: &Path) -> Self {
        let sandbox = Sandbox::new(name);
        let published = sandbox.directory("published");
        let publisher = sandbox.repository("publisher");
        publisher.commit("main", tree);
        Published::default().add(publisher.path(), "main", &published);
        let client = sandbox.repository("client");
        let scene = Self { sandbox, published, client };
        scene.add_remote(&scene.client);
        scene
    }

    fn add_remote(&self, client: &Repository) {
        let url = format!("file://{}", self.published.display());
        client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    }

    fn mount(&self, options: &[&str]) -> Mounted {
        let options: Vec<&str> = ["suid", "dev"].iter().chain(options).copied().collect();
        self.client.mount("os:main", &self.sandbox.join("mounted"), &options)
    }

    /// The network is gone, or back.
    fn set_online(&self, online: bool) {
        let away = self.sandbox.join("away");
        let (from, to) = if online { (&away, &self.published) } else { (&self.published, &away) };
        fs::rename(from, to).expect("the sandbox is writable");
    }

    fn status(&self) -> serde_json::Value {
        let text = self.client.run(["mounts", "--json"]).success();
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let own = self.sandbox.join("mounted");
        let mounts = all.as_array().expect("a list").iter();
        mounts.filter(|mount| mount["mountpoint"] == *own.to_str().expect("UTF-8")).next_back().expect("listed").clone()
    }
}

fn number(value: &serde_json::Value, field: &str) -> u64 {
    value["lazy"][field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

/// Waits for what happens in the background.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn forests(sandbox: &Sandbox) -> PathBuf {
    let tree = sandbox.join("tree");
    trees::nasty(&tree.join("nasty"));
    trees::medium(&tree.join("medium"), 400);
    trees::wide(&tree.join("wide"), 3000);
    tree
}

#[test]
fn a_tree_that_was_never_pulled_is_the_tree_that_was_committed() {
    let ground = Sandbox::new("lazy-fidelity-tree");
    let tree = forests(&ground);
    let scene = Scene::new("lazy-fidelity", &tree);
    let mounted = scene.mount(&[]);
    assert_same_tree(&tree, mounted.path());
    assert_rsync_sees_no_difference(&tree, mounted.path(), Scope::All);
    eventually("everything was read, so everything is here", || scene.status()["lazy"]["offline_safe"] == true);
    mounted.unmount();
    scene.client.assert_clean();

    // A second time, without anybody there.
    scene.set_online(false);
    let mounted = scene.mount(&[]);
    assert_same_tree(&tree, mounted.path());
    assert_eq!(number(&scene.status(), "requests"), 0);
    mounted.unmount();
    scene.client.assert_clean();
}
