//! Fetching on request: by profile, by path, or everything; and what `mounts` reports about it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Fixture, assert_right_or_refused, eventually, medium_tree, number};
use crate::common::sandbox::Sandbox;

/// Files that a program reads, in this order: small ones, and the first block of a large one.
const READ_ORDER: [&str; 4] = ["07/file-7", "03/file-3", "11/file-11", "20/file-100"];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Fixture {
    /// Publishes again by the program, with a recorded profile.
    fn publish_with_profile(&self) -> PathBuf {
        let profile = self.sandbox.join("read.profile");
        let script = READ_ORDER.map(|path| format!("head -c 1000 \"$SAPWOOD_MOUNT/{path}\" > /dev/null")).join("; ");
        let words = ["profile", "record", "main", "-o", text(&profile), "--", "sh", "-c", &script];
        self.publisher.run(words).success();
        fs::remove_dir_all(&self.published).expect("the sandbox is writable");
        let url = format!("file://{}", self.published.display());
        self.publisher.run(["publish", "--profile", text(&profile), &url, "main"]).success();
        profile
    }

    fn is_here(&self, mounted: &Path, path: &str) -> bool {
        fs::read(mounted.join(path)).is_ok()
    }

    fn prefetch(&self, words: &[&str]) -> serde_json::Value {
        let printed = self.client.run([&["prefetch", "--json"], words].concat()).success();
        serde_json::from_str(&printed).expect("JSON")
    }
}

#[test]
fn recorded_profile_is_published_and_fetched_in_few_requests() {
    let tree_sandbox = Sandbox::new("lazy-profile-tree");
    let tree = medium_tree(&tree_sandbox, 400);
    let fixture = Fixture::new("lazy-profile", &tree);
    let recorded = fs::read_to_string(fixture.publish_with_profile()).expect("it was written");
    let listed: Vec<&str> = recorded.lines().filter_map(|line| line.split_once(" /")).map(|(_, path)| path).collect();
    assert_eq!(listed, READ_ORDER, "{recorded}");
    assert!(recorded.lines().any(|line| line.starts_with("0+") && line.ends_with("/20/file-100")), "{recorded}");
    assert_eq!(fixture.client.run(["profile", "show", "os:main"]).success(), recorded.trim_end());

    // The profile's contents are packed together: the plan needs one request for contents, and a dry run fetches none.
    let plan = fixture.prefetch(&["--profile", "auto", "--dry-run", "os:main"]);
    assert!(plan["requests"].as_u64().expect("a number") <= 2, "{plan}");

    let mounted = fixture.mount(&["profile=none"]);
    fs::read(mounted.path().join(READ_ORDER[0])).expect("it is fetched");
    assert_eq!(number(&fixture.status(), "bytes_streamed"), 0);
    mounted.unmount();

    let mounted = fixture.mount(&["profile=auto", "fetch-timeout=1"]);
    // Some of it was fetched with the first file.
    eventually("the profile is here", || {
        let plan = fixture.prefetch(&["--profile", "auto", "--dry-run", text(mounted.path())]);
        plan["requests"] == 0
    });
    fixture.set_online(false);
    for path in &READ_ORDER[..3] {
        assert!(fixture.is_here(mounted.path(), path), "{path} was recorded");
    }
    assert!(!fixture.is_here(mounted.path(), "00/file-200"), "it was not read");
    mounted.unmount();
    fixture.client.assert_clean();
}

#[test]
fn profile_record_returns_the_exit_status_and_merge_joins() {
    let tree_sandbox = Sandbox::new("lazy-record-tree");
    let tree = medium_tree(&tree_sandbox, 60);
    let fixture = Fixture::new("lazy-record", &tree);
    let mounted = fixture.publisher.mount("main", &fixture.sandbox.join("mounted"), &[]);
    let (first, second) = (fixture.sandbox.join("first"), fixture.sandbox.join("second"));
    let at = text(mounted.path());
    // Files in the kernel's cache are recorded, too.
    fs::read(mounted.path().join("05/file-5")).expect("readable");
    let script = "cat \"$SAPWOOD_MOUNT/05/file-5\" > /dev/null; exit 3";
    let run = fixture.publisher.run(["profile", "record", at, "-o", text(&first), "--", "sh", "-c", script]);
    assert!(run.failure(3).contains("ended with"));
    fixture.publisher.run(["profile", "record", at, "-o", text(&second), "--seconds", "1"]).success();
    let merged = fixture.publisher.run(["profile", "merge", text(&first), text(&second)]).success();
    assert_eq!(merged, "# sapwood profile 1\nall /05/file-5");
    mounted.unmount();
    let no_mount = fixture.publisher.run(["profile", "record", "nothing", "--seconds", "1"]);
    assert!(no_mount.any_failure().contains("'nothing' is neither a mount"));
}

#[test]
fn prefetched_contents_are_readable_offline() {
    let tree_sandbox = Sandbox::new("lazy-prefetch-tree");
    let tree = medium_tree(&tree_sandbox, 400);
    let fixture = Fixture::new("lazy-prefetch", &tree);
    let which = fixture.client.run(["prefetch", "os:main"]).any_failure();
    assert!(which.contains("--path PATH, --profile FILE|auto, or --all"), "{which}");
    assert!(fixture.client.run(["prefetch", "--path", "/none", "os:main"]).any_failure().contains("there is no /none"));

    let planned = fixture.prefetch(&["--dry-run", "--path", "/20", "os:main"]);
    let done = fixture.prefetch(&["--path", "/20", "os:main"]);
    assert_eq!((&planned["requests"], &planned["bytes"]), (&done["requests"], &done["bytes"]));
    assert_eq!(fixture.prefetch(&["--dry-run", "--path", "/20", "os:main"])["requests"], 0);

    let mounted = fixture.mount(&["fetch-timeout=1"]);
    fixture.prefetch(&["--path", "/21", text(mounted.path())]);
    fixture.set_online(false);
    for directory in ["20", "21"] {
        assert_eq!(assert_right_or_refused(&tree.join(directory), &mounted.path().join(directory)), 0);
    }
    assert!(!fixture.is_here(mounted.path(), "00/file-200"));
    let told = fixture.client.run(["mounts", text(mounted.path())]).success();
    for word in ["only what is here works", "has not answered for", "requests", "answered at once"] {
        assert!(told.contains(word), "{told}");
    }
    assert_eq!(fixture.status()["lazy"]["offline_safe"], false);
    fixture.set_online(true);
    mounted.unmount();

    assert_eq!(fixture.prefetch(&["--all", "os:main"])["whole"], true);
    fixture.client.assert_clean();
    fixture.set_online(false);
    let mounted = fixture.mount(&[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    assert!(fixture.client.run(["mounts", text(mounted.path())]).success().contains("all are here"));
    mounted.unmount();
}

/// The ids of 30,000 objects are in so many blocks of the image that one request does not bring them all.
#[test]
fn objects_fetched_by_another_process_are_readable_offline() {
    let tree_sandbox = Sandbox::new("lazy-brought-tree");
    let tree = tree_sandbox.directory("tree");
    (0..30_000).for_each(|number| fs::write(tree.join(number.to_string()), format!("{number}")).expect("writable"));
    let fixture = Fixture::new("lazy-brought", &tree);
    for command in ["prefetch --all", "pull"] {
        let client = fixture.sandbox.repository(&command[..4]);
        fixture.add_remote(&client);
        let point = fixture.sandbox.join("mounted");
        let mounted = client.mount("os:main", &point, &["suid", "dev", "fetch-timeout=1", "profile=none"]);
        // The mount has listed the packs, and does not list them again for a while.
        fs::read(point.join("7")).expect("it is fetched");
        client.run(command.split(' ').chain(["os:main"])).success();
        fixture.set_online(false);
        let wrong = (0..30_000)
            .filter(|number| fs::read(point.join(number.to_string())).ok() != Some(number.to_string().into()));
        assert_eq!(wrong.count(), 0, "after {command}");
        let told = client.run(["mounts", text(&point)]).success();
        assert!(told.contains("everything is here"), "{told}");
        fixture.set_online(true);
        mounted.unmount();
    }
}
