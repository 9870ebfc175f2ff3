//! What is interrupted: every way in which a repository changes, each with what has to hold afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::sandbox::{Repository, Sandbox, finish, run};
use crate::common::trees;

/// A scene on a disk: `repo` is the repository, or whatever is changed.
pub struct Scene {
    /// Trees, remotes and whatever else is not on the disk that crashes.
    pub outside: PathBuf,
    /// The file system that crashes.
    pub disk: PathBuf,
}

impl Scene {
    pub fn new(sandbox: &Sandbox, disk: &Path) -> Self {
        let outside = sandbox.directory("outside");
        for (name, seed) in [("old", 1), ("new", 2)] {
            let tree = outside.join(name);
            fs::create_dir_all(tree.join("directory")).expect("writable");
            for number in 0..12_u64 {
                // Half of it is common to both; some are packed, some have files of their own, one has several blocks.
                let seed = if number % 2 == 0 { number } else { seed * 1000 + number };
                let size = if number == 5 { 1_500_000 } else { 20_000 + 9_000 * number as usize };
                fs::write(tree.join(format!("directory/{number}")), trees::noise(seed, size)).expect("writable");
            }
        }
        Self { outside, disk: disk.to_owned() }
    }

    pub fn repository(&self) -> Repository {
        Repository::at(self.disk.join("repo"))
    }

    fn elsewhere(&self, name: &str) -> Repository {
        Repository::at(self.outside.join(name))
    }
}

/// Something that changes a repository.
pub struct Work {
    pub name: &'static str,
    /// What is there before.
    pub prepare: fn(&Scene),
    /// The change: the command that makes it.
    pub change: fn(&Scene) -> Command,
    /// Whether the change is there. Fails the test if what is there is neither the state before nor the one after, or if
    /// anything that is named is lost.
    pub look: fn(&Scene) -> bool,
}

fn commit(repository: &Repository, name: &str, tree: &Path) -> Command {
    repository.command(["commit".as_ref(), "--ref".as_ref(), name.as_ref(), tree.as_os_str()])
}

#[track_caller]
fn done(command: Command) {
    finish(command).success();
}

fn init(repository: &Repository) {
    repository.run(["init"]).success();
}

fn same_tree(repository: &Repository, reference: &str, scene: &Scene, tree: &str) -> bool {
    let out = scene.outside.join("exported");
    crate::common::sandbox::remove_tree(&out);
    let exported = repository.run(["export".as_ref(), reference.as_ref(), out.as_os_str()]);
    exported.success();
    let compared = run("diff", ["-r".as_ref(), scene.outside.join(tree).as_os_str(), out.as_os_str()]);
    compared.status.success()
}

/// The ref names the old tree or the new one, whole.
#[track_caller]
fn old_or_new(repository: &Repository, reference: &str, scene: &Scene) -> bool {
    let is_new = same_tree(repository, reference, scene, "new");
    assert!(
        is_new || same_tree(repository, reference, scene, "old"),
        "{reference} is neither the old tree nor the new"
    );
    is_new
}

pub const COMMIT: Work = Work {
    name: "commit",
    prepare: |scene| {
        init(&scene.repository());
        done(commit(&scene.repository(), "main", &scene.outside.join("old")));
    },
    change: |scene| commit(&scene.repository(), "main", &scene.outside.join("new")),
    look: |scene| {
        scene.repository().assert_clean();
        old_or_new(&scene.repository(), "main", scene)
    },
};

pub const GC: Work = Work {
    name: "gc",
    prepare: |scene| {
        let repository = scene.repository();
        init(&repository);
        done(commit(&repository, "gone", &scene.outside.join("new")));
        done(commit(&repository, "main", &scene.outside.join("old")));
        repository.run(["refs", "--delete", "gone"]).success();
    },
    change: |scene| scene.repository().command(["gc"]),
    look: |scene| {
        scene.repository().assert_clean();
        assert!(same_tree(&scene.repository(), "main", scene, "old"), "what a ref names was collected");
        scene.repository().run(["gc"]).success();
        true
    },
};

fn publish(repository: &Repository, destination: &Path) -> Command {
    let url = format!("file://{}", destination.display());
    repository.command(["publish", &url, "main"])
}

fn pull(repository: &Repository) -> Command {
    repository.command(["pull", "os:main"])
}

pub const PULL: Work = Work {
    name: "pull",
    prepare: |scene| {
        let (publisher, client) = (scene.elsewhere("publisher"), scene.repository());
        init(&publisher);
        init(&client);
        let url = format!("file://{}", scene.outside.join("published").display());
        client.run(["remote", "add", "os", &url, "--insecure-unsigned"]).success();
        for tree in ["old", "new"] {
            done(commit(&publisher, "main", &scene.outside.join(tree)));
            done(publish(&publisher, &scene.outside.join("published")));
            if tree == "old" {
                done(pull(&client));
            }
        }
    },
    change: |scene| pull(&scene.repository()),
    look: |scene| {
        scene.repository().assert_clean();
        old_or_new(&scene.repository(), "remotes/os/main", scene)
    },
};

pub const PUBLISH: Work = Work {
    name: "publish",
    prepare: |scene| {
        let publisher = scene.elsewhere("publisher");
        init(&publisher);
        fs::create_dir_all(scene.disk.join("published")).expect("writable");
        done(commit(&publisher, "main", &scene.outside.join("old")));
        done(publish(&publisher, &scene.disk.join("published")));
        done(commit(&publisher, "main", &scene.outside.join("new")));
    },
    change: |scene| publish(&scene.elsewhere("publisher"), &scene.disk.join("published")),
    look: |scene| {
        let client = scene.elsewhere("client");
        crate::common::sandbox::remove_tree(client.path());
        init(&client);
        let url = format!("file://{}", scene.disk.join("published").display());
        client.run(["remote", "add", "os", &url, "--insecure-unsigned"]).success();
        done(pull(&client));
        client.assert_clean();
        let is_new = old_or_new(&client, "remotes/os/main", scene);
        // Whoever published goes on as if nothing had happened.
        done(publish(&scene.elsewhere("publisher"), &scene.disk.join("published")));
        is_new
    },
};

pub const ALL: [Work; 7] =
    [COMMIT, GC, PULL, PUBLISH, super::deploy::SYSTEMD_BOOT, super::deploy::GRUB, super::deploy::EXTLINUX];
