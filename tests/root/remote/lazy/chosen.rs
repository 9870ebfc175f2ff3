//! What is fetched because somebody said so: by profile, by path, or everything; and what a mount says of itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Scene, assert_right_or_refused, eventually, medium_tree, number};
use crate::common::sandbox::Sandbox;

/// What a program reads, in this order: small files, and the first block of a large one.
const READ: [&str; 4] = ["07/file-7", "03/file-3", "11/file-11", "20/file-100"];

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Scene {
    /// Publishes again, by the program, with a profile that the program recorded.
    fn publish_with_profile(&self) -> PathBuf {
        let profile = self.sandbox.join("read.profile");
        let script = READ.map(|path| format!("head -c 1000 \"$SAPWOOD_MOUNT/{path}\" > /dev/null")).join("; ");
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
fn what_is_read_first_is_recorded_published_and_fetched_in_few_requests() {
    let ground = Sandbox::new("lazy-profile-tree");
    let tree = medium_tree(&ground, 400);
    let scene = Scene::new("lazy-profile", &tree);
    let recorded = fs::read_to_string(scene.publish_with_profile()).expect("it was written");
    let listed: Vec<&str> = recorded.lines().filter_map(|line| line.split_once(" /")).map(|(_, path)| path).collect();
    assert_eq!(listed, READ, "{recorded}");
    assert!(recorded.lines().any(|line| line.starts_with("0+") && line.ends_with("/20/file-100")), "{recorded}");
    assert_eq!(scene.client.run(["profile", "show", "os:main"]).success(), recorded.trim_end());

    // Packed together: the plan needs one request for contents, and says what it costs before it costs anything.
    let plan = scene.prefetch(&["--profile", "auto", "--dry-run", "os:main"]);
    assert!(plan["requests"].as_u64().expect("a number") <= 2, "{plan}");

    let mounted = scene.mount(&["profile=none"]);
    fs::read(mounted.path().join(READ[0])).expect("it comes");
    assert_eq!(number(&scene.status(), "bytes_streamed"), 0);
    mounted.unmount();

    let mounted = scene.mount(&["profile=auto", "fetch-timeout=1"]);
    // Some of it came with the first file already.
    eventually("the profile is here", || {
        let plan = scene.prefetch(&["--profile", "auto", "--dry-run", text(mounted.path())]);
        plan["requests"] == 0
    });
    scene.set_online(false);
    for path in &READ[..3] {
        assert!(scene.is_here(mounted.path(), path), "{path} was recorded");
    }
    assert!(!scene.is_here(mounted.path(), "00/file-200"), "nobody has read that");
    mounted.unmount();
    scene.client.assert_clean();
}

#[test]
fn recording_passes_on_the_exit_status_and_joins_what_was_recorded() {
    let ground = Sandbox::new("lazy-record-tree");
    let tree = medium_tree(&ground, 60);
    let scene = Scene::new("lazy-record", &tree);
    let mounted = scene.publisher.mount("main", &scene.sandbox.join("mounted"), &[]);
    let (first, second) = (scene.sandbox.join("first"), scene.sandbox.join("second"));
    let at = text(mounted.path());
    // Also what the kernel has in its cache is seen.
    fs::read(mounted.path().join("05/file-5")).expect("readable");
    let script = "cat \"$SAPWOOD_MOUNT/05/file-5\" > /dev/null; exit 3";
    let run = scene.publisher.run(["profile", "record", at, "-o", text(&first), "--", "sh", "-c", script]);
    assert!(run.failure(3).contains("ended with"));
    scene.publisher.run(["profile", "record", at, "-o", text(&second), "--seconds", "1"]).success();
    let merged = scene.publisher.run(["profile", "merge", text(&first), text(&second)]).success();
    assert_eq!(merged, "# sapwood profile 1\nall /05/file-5");
    mounted.unmount();
    let no_mount = scene.publisher.run(["profile", "record", "nothing", "--seconds", "1"]);
    assert!(no_mount.any_failure().contains("'nothing' is neither a mount"));
}

#[test]
fn what_is_prefetched_is_here_when_nobody_answers_any_more() {
    let ground = Sandbox::new("lazy-prefetch-tree");
    let tree = medium_tree(&ground, 400);
    let scene = Scene::new("lazy-prefetch", &tree);
    let which = scene.client.run(["prefetch", "os:main"]).any_failure();
    assert!(which.contains("--path PATH, --profile FILE|auto, or --all"), "{which}");
    assert!(scene.client.run(["prefetch", "--path", "/none", "os:main"]).any_failure().contains("there is no /none"));

    let planned = scene.prefetch(&["--dry-run", "--path", "/20", "os:main"]);
    let done = scene.prefetch(&["--path", "/20", "os:main"]);
    assert_eq!((&planned["requests"], &planned["bytes"]), (&done["requests"], &done["bytes"]));
    assert_eq!(scene.prefetch(&["--dry-run", "--path", "/20", "os:main"])["requests"], 0);

    let mounted = scene.mount(&["fetch-timeout=1"]);
    scene.prefetch(&["--path", "/21", text(mounted.path())]);
    scene.set_online(false);
    for directory in ["20", "21"] {
        assert_eq!(assert_right_or_refused(&tree.join(directory), &mounted.path().join(directory)), 0);
    }
    assert!(!scene.is_here(mounted.path(), "00/file-200"));
    let told = scene.client.run(["mounts", text(mounted.path())]).success();
    for word in ["only what is here works", "has not answered for", "requests", "answered at once"] {
        assert!(told.contains(word), "{told}");
    }
    assert_eq!(scene.status()["lazy"]["offline_safe"], false);
    scene.set_online(true);
    mounted.unmount();

    assert_eq!(scene.prefetch(&["--all", "os:main"])["whole"], true);
    scene.client.assert_clean();
    scene.set_online(false);
    let mounted = scene.mount(&[]);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    assert!(scene.client.run(["mounts", text(mounted.path())]).success().contains("all are here"));
    mounted.unmount();
}

#[test]
fn a_mount_sees_what_another_process_brought_when_nobody_answers_any_more() {
    let ground = Sandbox::new("lazy-brought-tree");
    let tree = medium_tree(&ground, 2000);
    let scene = Scene::new("lazy-brought", &tree);
    let mounted = scene.mount(&["fetch-timeout=1", "profile=none"]);
    // The mount has seen packs, and is not looking at them anew for a while.
    fs::read(mounted.path().join(READ[0])).expect("it comes");
    assert_eq!(scene.prefetch(&["--all", text(mounted.path())])["whole"], true);
    scene.set_online(false);
    assert_eq!(assert_right_or_refused(&tree, mounted.path()), 0);
    let told = scene.client.run(["mounts", text(mounted.path())]).success();
    assert!(told.contains("everything is here"), "{told}");
    mounted.unmount();
}
