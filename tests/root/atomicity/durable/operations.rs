//! The operations that are interrupted: every way to change a repository, each with a check of the state afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::sandbox::{Repository, Sandbox, finish, run};
use crate::common::trees;

/// Directories for an operation; `repo` on the disk is the repository, or whatever is changed.
pub struct Fixture {
    /// Trees, remotes and everything else that is not on the disk that crashes.
    pub outside: PathBuf,
    /// The file system that crashes.
    pub disk: PathBuf,
}

impl Fixture {
    pub fn new(sandbox: &Sandbox, disk: &Path) -> Self {
        let outside = sandbox.directory("outside");
        for (name, seed) in [("old", 1), ("new", 2)] {
            let tree = outside.join(name);
            fs::create_dir_all(tree.join("directory")).expect("writable");
            for number in 0..12_u64 {
                // Half of the contents are common to both trees; some are packed, some have files of their own, one has several
                // blocks.
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

    fn outside_repository(&self, name: &str) -> Repository {
        Repository::at(self.outside.join(name))
    }
}

/// An operation that changes a repository.
pub struct Operation {
    pub name: &'static str,
    /// Makes the state before the change.
    pub prepare: fn(&Fixture),
    /// Returns the command that makes the change.
    pub change: fn(&Fixture) -> Command,
    /// Returns whether the change is there. Fails the test if the state is neither the one before nor the one after, or if
    /// anything that a ref names is lost.
    pub check: fn(&Fixture) -> bool,
}

fn commit(repository: &Repository, name: &str, tree: &Path) -> Command {
    repository.command(["commit".as_ref(), "--ref".as_ref(), name.as_ref(), tree.as_os_str()])
}

#[track_caller]
fn run_to_success(command: Command) {
    finish(command).success();
}

fn init(repository: &Repository) {
    repository.run(["init"]).success();
}

fn same_tree(repository: &Repository, reference: &str, fixture: &Fixture, tree: &str) -> bool {
    let out = fixture.outside.join("exported");
    crate::common::sandbox::remove_tree(&out);
    let exported = repository.run(["export".as_ref(), reference.as_ref(), out.as_os_str()]);
    exported.success();
    let compared = run("diff", ["-r".as_ref(), fixture.outside.join(tree).as_os_str(), out.as_os_str()]);
    compared.status.success()
}

/// Checks that the ref names the old tree or the new one, complete. Returns whether it is the new one.
#[track_caller]
fn old_or_new(repository: &Repository, reference: &str, fixture: &Fixture) -> bool {
    let is_new = same_tree(repository, reference, fixture, "new");
    assert!(
        is_new || same_tree(repository, reference, fixture, "old"),
        "{reference} is neither the old tree nor the new"
    );
    is_new
}

pub const COMMIT: Operation = Operation {
    name: "commit",
    prepare: |fixture| {
        init(&fixture.repository());
        run_to_success(commit(&fixture.repository(), "main", &fixture.outside.join("old")));
    },
    change: |fixture| commit(&fixture.repository(), "main", &fixture.outside.join("new")),
    check: |fixture| {
        fixture.repository().assert_clean();
        old_or_new(&fixture.repository(), "main", fixture)
    },
};

pub const GC: Operation = Operation {
    name: "gc",
    prepare: |fixture| {
        let repository = fixture.repository();
        init(&repository);
        run_to_success(commit(&repository, "gone", &fixture.outside.join("new")));
        run_to_success(commit(&repository, "main", &fixture.outside.join("old")));
        repository.run(["refs", "--delete", "gone"]).success();
    },
    change: |fixture| fixture.repository().command(["gc"]),
    check: |fixture| {
        fixture.repository().assert_clean();
        assert!(same_tree(&fixture.repository(), "main", fixture, "old"), "what a ref names was collected");
        fixture.repository().run(["gc"]).success();
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

pub const PULL: Operation = Operation {
    name: "pull",
    prepare: |fixture| {
        let (publisher, client) = (fixture.outside_repository("publisher"), fixture.repository());
        init(&publisher);
        init(&client);
        let url = format!("file://{}", fixture.outside.join("published").display());
        client.run(["remote", "add", "os", &url, "--insecure-unsigned"]).success();
        for tree in ["old", "new"] {
            run_to_success(commit(&publisher, "main", &fixture.outside.join(tree)));
            run_to_success(publish(&publisher, &fixture.outside.join("published")));
            if tree == "old" {
                run_to_success(pull(&client));
            }
        }
    },
    change: |fixture| pull(&fixture.repository()),
    check: |fixture| {
        fixture.repository().assert_clean();
        old_or_new(&fixture.repository(), "remotes/os/main", fixture)
    },
};

pub const PUBLISH: Operation = Operation {
    name: "publish",
    prepare: |fixture| {
        let publisher = fixture.outside_repository("publisher");
        init(&publisher);
        fs::create_dir_all(fixture.disk.join("published")).expect("writable");
        run_to_success(commit(&publisher, "main", &fixture.outside.join("old")));
        run_to_success(publish(&publisher, &fixture.disk.join("published")));
        run_to_success(commit(&publisher, "main", &fixture.outside.join("new")));
    },
    change: |fixture| publish(&fixture.outside_repository("publisher"), &fixture.disk.join("published")),
    check: |fixture| {
        let client = fixture.outside_repository("client");
        crate::common::sandbox::remove_tree(client.path());
        init(&client);
        let url = format!("file://{}", fixture.disk.join("published").display());
        client.run(["remote", "add", "os", &url, "--insecure-unsigned"]).success();
        run_to_success(pull(&client));
        client.assert_clean();
        let is_new = old_or_new(&client, "remotes/os/main", fixture);
        // The publisher's next publish works as if nothing had happened.
        run_to_success(publish(&fixture.outside_repository("publisher"), &fixture.disk.join("published")));
        is_new
    },
};

pub const ALL: [Operation; 7] =
    [COMMIT, GC, PULL, PUBLISH, super::deploy::SYSTEMD_BOOT, super::deploy::GRUB, super::deploy::EXTLINUX];
