//! Pruning what is published to a directory: what is kept is whole, who read the refs before goes on, and whoever is killed
//! or comes at the same time loses nothing.
//!
//! Marks are as old as their files say, so that a day passes by `touch`.
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Repository, Run, Sandbox, finish, run};
use crate::common::trees;
use crate::common::web::Web;
use serde_json::Value;

/// Kills of a prune.
const KILLS: u32 = 24;

/// A publisher, what it published, and the trees that it was made of, oldest first.
struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
    commits: Vec<(String, PathBuf)>,
}

impl Scene {
    /// Publishes `count` states, a week apart, the last of them now.
    fn new(name: &str, count: u64) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let mut scene = Self { sandbox, publisher, commits: Vec::new() };
        trees::medium(&scene.tree(), 120);
        for number in 0..count {
            scene.change(number);
            scene.commit(7 * (count - 1 - number));
            scene.publish_to(&scene.published(), &[]).success();
        }
        scene
    }

    fn tree(&self) -> PathBuf {
        self.sandbox.join("tree")
    }

    fn published(&self) -> PathBuf {
        self.sandbox.join("published")
    }

    /// Other contents for about a third of the tree. Some of them stay, so that most of a pack dies, and not all.
    fn change(&self, seed: u64) {
        for number in 0..40 {
            let name = if number < 8 { format!("kept-{seed}") } else { "changed".to_owned() };
            let path = self.tree().join(format!("{number:02}/{name}"));
            fs::write(path, trees::noise(seed * 100 + number, 30_000)).expect("writable");
        }
    }

    fn commit(&mut self, days_ago: u64) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later than 1970");
        let time = (now.as_secs() - days_ago * 86_400).to_string();
        let tree = self.tree();
        let arguments = ["commit", "--ref", "main", "--timestamp", &time, tree.to_str().expect("UTF-8")];
        let id = self.publisher.run(arguments).success();
        let copy = self.sandbox.join(&format!("tree-{}", self.commits.len()));
        run("cp", [OsStr::new("-a"), tree.as_os_str(), copy.as_os_str()]).success();
        self.commits.push((id, copy));
    }

    /// Small packs, so that some are dead and some are not.
    fn publish_to(&self, directory: &Path, more: &[&str]) -> Run {
        let url = url(directory);
        let fixed = ["publish", "--pack-size", "1000000", &url, "main"];
        self.publisher.run(fixed.iter().chain(more))
    }

    fn prune_command(&self, directory: &Path, more: &[&str]) -> Command {
        let url = url(directory);
        let fixed = ["publish", "--prune", "--pack-size", "1000000", &url];
        self.publisher.command(fixed.iter().chain(more))
    }

    #[track_caller]
    fn prune(&self, more: &[&str]) -> Value {
        let more: Vec<&str> = ["--json"].iter().chain(more).copied().collect();
        let said = finish(self.prune_command(&self.published(), &more)).success();
        serde_json::from_str(&said).expect("JSON")
    }

    /// A day and an hour pass for what is marked.
    fn let_a_day_pass(&self) {
        let marks = self.published().join("superseded");
        let script = [OsStr::new("-type"), "f".as_ref(), "-exec".as_ref(), "touch".as_ref(), "-d".as_ref()];
        let rest = ["25 hours ago", "{}", "+"].map(OsStr::new);
        run("find", [marks.as_os_str()].into_iter().chain(script).chain(rest)).success();
    }

    /// A client that has nothing pulls the newest `count` commits from `url` and has all of each; gives its repository.
    #[track_caller]
    fn assert_pulls(&self, name: &str, url: &str, count: usize) -> Repository {
        let client = self.sandbox.repository(name);
        client.run(["remote", "add", "os", url, "--insecure-unsigned"]).success();
        let depth = (count - 1).to_string();
        client.run(["pull", "--depth", &depth, "os:main"]).success();
        client.assert_clean();
        for (id, tree) in self.commits.iter().rev().take(count) {
            let mounted = client.mount(id, &self.sandbox.join(&format!("{name}-mounted")), &["suid", "dev"]);
            assert_same_tree(tree, mounted.path());
            mounted.unmount();
        }
        client
    }
}

fn url(directory: &Path) -> String {
    format!("file://{}", directory.display())
}

fn len(report: &Value, field: &str) -> usize {
    report[field].as_array().unwrap_or_else(|| panic!("no list '{field}' in {report}")).len()
}

/// The published files with their bytes, but for marks and locks.
fn files(directory: &Path) -> Vec<(String, u64)> {
    let format = ["-type", "f", "-not", "-name", ".*", "-not", "-path", "*/superseded/*", "-printf", "%P %s\\n"];
    let listed = run("find", [directory.as_os_str()].into_iter().chain(format.map(OsStr::new))).success();
    let split =
        |line: &str| line.split_once(' ').map(|(path, size)| (path.to_owned(), size.parse().expect("a number")));
    let mut files: Vec<(String, u64)> = listed.lines().filter_map(split).collect();
    files.sort();
    files
}

fn bytes_below(files: &[(String, u64)], directory: &str) -> u64 {
    files.iter().filter(|(path, _)| path.starts_with(directory)).map(|(_, size)| size).sum()
}

fn below<'a>(files: &'a [(String, u64)], directory: &str) -> Vec<&'a str> {
    files.iter().filter_map(|(path, _)| path.strip_prefix(directory)).collect()
}

#[test]
fn what_is_kept_is_as_published_afresh_and_the_rest_goes_after_the_grace_period() {
    let scene = Scene::new("prune-whole", 5);
    let before = files(&scene.published());
    let planned = scene.prune(&["--keep-last", "2", "--dry-run"]);
    assert_eq!((len(&planned, "dropped"), planned["commits"].as_u64()), (3, Some(2)));
    assert!(len(&planned, "repack") > 0 && len(&planned, "supersede") > 0, "{planned}");
    assert!(files(&scene.published()) == before, "a dry run changed something");
    assert!(!scene.published().join("superseded").exists());

    let marked = scene.prune(&["--keep-last", "2"]);
    assert_eq!((&marked["supersede"], len(&marked, "remove")), (&planned["supersede"], 0));
    assert_eq!(marked["repack"], planned["repack"]);
    for (path, _) in &before {
        assert!(scene.published().join(path).exists(), "{path} is gone before its time");
    }
    let again = scene.prune(&["--keep-last", "2"]);
    assert_eq!((len(&again, "supersede"), len(&again, "remove")), (0, 0));
    assert_eq!(len(&again, "waiting"), len(&marked, "supersede"));

    scene.let_a_day_pass();
    let removed = scene.prune(&["--keep-last", "2"]);
    assert_eq!(len(&removed, "remove"), len(&marked, "supersede"));
    let after = files(&scene.published());
    assert_eq!(
        bytes_below(&after, ""),
        removed["kept_bytes"].as_u64().expect("a number") + bytes_below(&after, "refs/")
    );
    let idle = scene.prune(&["--keep-last", "2"]);
    for field in ["supersede", "waiting", "remove", "repack", "restore"] {
        assert_eq!(len(&idle, field), 0, "{field}: {idle}");
    }
    assert_eq!(
        run("find", [scene.published().join("superseded"), "-type".into(), "f".into()]).text().lines().count(),
        1
    );

    // The same commits, published by somebody who never had others.
    let fresh = scene.sandbox.join("fresh");
    scene.publish_to(&fresh, &["--depth", "1"]).success();
    let other = files(&fresh);
    for directory in ["refs/", "commits/", "placements/", "images/"] {
        assert_eq!(below(&after, directory), below(&other, directory));
    }
    let (ours, theirs) = (bytes_below(&after, "packs/"), bytes_below(&other, "packs/"));
    assert!(ours < 2 * theirs, "{ours} bytes of packs where {theirs} are enough");
    let web = Web::serve(&scene.published());
    let pulled = scene.assert_pulls("by-http", &web.url(), 2);
    scene.assert_pulls("by-file", &url(&scene.published()), 2);
    let reference = scene.assert_pulls("reference", &url(&fresh), 2);
    for directory in ["objects", "images", "commits"] {
        let paths = [&pulled, &reference].map(|repository| repository.path().join(directory));
        run("diff", [Path::new("-r"), &paths[0], &paths[1]]).success();
    }
    // And what is published next builds on it.
    let mut scene = scene;
    scene.change(77);
    scene.commit(0);
    scene.publish_to(&scene.published(), &[]).success();
    scene.assert_pulls("next", &web.url(), 3);
}

#[test]
fn commits_are_kept_by_age_and_published_and_pruned_in_one_go() {
    let mut scene = Scene::new("prune-age", 4);
    scene.change(40);
    scene.commit(0);
    let arguments = ["--prune", "--keep-younger-than", "10d", "--grace", "0", "--json"];
    let said: Value = serde_json::from_str(&scene.publish_to(&scene.published(), &arguments).success()).expect("JSON");
    assert_eq!(len(&said["publish"], "commits"), 1);
    // Of 21, 14, 7, 0 and 0 days ago.
    assert_eq!((len(&said["prune"], "dropped"), said["prune"]["commits"].as_u64()), (2, Some(3)));
    assert!(len(&said["prune"], "remove") > 0 && len(&said["prune"], "supersede") == 0);
    scene.assert_pulls("client", &url(&scene.published()), 3);
    let listed = files(&scene.published());
    assert_eq!(below(&listed, "commits/").len(), 3);
}

#[test]
fn who_read_the_refs_before_goes_on_for_the_grace_period() {
    let mut scene = Scene::new("prune-grace", 2);
    // A cache that goes on showing the refs of now, and a lazy mount that has read nothing yet.
    let stale = scene.sandbox.directory("stale");
    run("cp", [OsStr::new("-a"), scene.published().join("refs").as_os_str(), stale.as_os_str()]).success();
    for name in ["commits", "deltas", "images", "locators", "packs", "placements"] {
        std::os::unix::fs::symlink(scene.published().join(name), stale.join(name)).expect("writable");
    }
    let (old_cache, web) = (Web::serve(&stale), Web::serve(&scene.published()));
    let lazy = scene.sandbox.repository("lazy");
    lazy.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
    let mounted = lazy.mount("os:main", &scene.sandbox.join("lazily"), &["suid", "dev"]);
    let (_, old_tree) = scene.commits[1].clone();
    for seed in [50, 51] {
        scene.change(seed);
        scene.commit(0);
        scene.publish_to(&scene.published(), &[]).success();
    }
    let report = scene.prune(&["--keep-last", "1"]);
    assert!(len(&report, "dropped") == 3 && len(&report, "repack") > 0, "{report}");
    scene.prune(&["--keep-last", "1"]);
    assert_same_tree(&old_tree, mounted.path());
    mounted.unmount();
    let pull = |name: &str| {
        let client = scene.sandbox.repository(name);
        client.run(["remote", "add", "os", &old_cache.url(), "--insecure-unsigned"]).success();
        (client.run(["pull", "os:main"]), client)
    };
    let (pulled, client) = pull("early");
    assert_eq!(pulled.success(), scene.commits[1].0);
    client.assert_clean();

    // Then it is over, and that is said.
    scene.let_a_day_pass();
    scene.prune(&["--keep-last", "1"]);
    let (pulled, client) = pull("late");
    let said = pulled.failure(1);
    assert!(said.contains(&scene.commits[1].0[..8]) || said.contains("is not there"), "{said}");
    client.assert_clean();
    assert_eq!(client.run(["refs"]).success(), "");
    scene.assert_pulls("fresh", &web.url(), 1);
}

#[test]
fn what_is_needed_again_is_not_removed() {
    let mut scene = Scene::new("prune-again", 2);
    scene.prune(&["--keep-last", "1"]);
    scene.let_a_day_pass();
    // The contents of the first state come back before the second prune, without being sent again.
    scene.change(0);
    scene.commit(0);
    scene.publish_to(&scene.published(), &["--depth", "2"]).success();
    let report = scene.prune(&[]);
    assert_eq!((len(&report, "dropped"), len(&report, "restore")), (0, 0), "{report}");
    scene.assert_pulls("client", &url(&scene.published()), 3);
}

#[test]
fn a_prune_killed_at_any_moment_loses_nothing_and_the_next_one_ends_it() {
    let scene = Scene::new("prune-killed", 4);
    let arguments = ["--keep-last", "2", "--grace", "0"];
    let copy = |name: &str| {
        let copy = scene.sandbox.join(name);
        run("cp", [OsStr::new("-a"), scene.published().as_os_str(), copy.as_os_str()]).success();
        copy
    };
    let whole = copy("whole");
    let begin = Instant::now();
    finish(scene.prune_command(&whole, &arguments)).success();
    let mut time = begin.elapsed();
    let mut killed = 0;
    for number in 0..KILLS {
        let directory = copy("torn");
        let begin = Instant::now();
        let child = start(scene.prune_command(&directory, &arguments));
        std::thread::sleep(time.mul_f64(f64::from(number) / f64::from(KILLS)));
        if kill(child) {
            // It is quicker now than the first one was.
            time = time.min(begin.elapsed());
        } else {
            killed += 1;
        }
        scene.assert_pulls(&format!("torn-{number}"), &url(&directory), 2);
        finish(scene.prune_command(&directory, &arguments)).success();
        assert_eq!(below(&files(&directory), "packs/"), below(&files(&whole), "packs/"));
        assert_eq!(below(&files(&directory), "commits/"), below(&files(&whole), "commits/"));
        scene.assert_pulls(&format!("ended-{number}"), &url(&directory), 2);
        fs::remove_dir_all(&directory).expect("it is ours");
    }
    assert!(killed >= KILLS / 3, "killed only {killed} times");
}

#[test]
fn prunes_and_a_publisher_at_once_do_not_disturb_each_other() {
    let mut scene = Scene::new("prune-at-once", 4);
    for round in 0..3 {
        scene.change(60 + round);
        scene.commit(0);
        let prunes = [0, 1, 2].map(|_| start(scene.prune_command(&scene.published(), &["--keep-last", "2"])));
        scene.publish_to(&scene.published(), &[]).success();
        for mut prune in prunes {
            assert!(prune.wait().expect("a child").success());
        }
        scene.let_a_day_pass();
        scene.assert_pulls(&format!("client-{round}"), &url(&scene.published()), 2);
    }
    scene.prune(&["--keep-last", "1"]);
    scene.let_a_day_pass();
    scene.prune(&["--keep-last", "1"]);
    scene.assert_pulls("last", &url(&scene.published()), 1);
}

#[test]
fn nothing_is_removed_when_not_all_that_is_needed_can_be_read() {
    let scene = Scene::new("prune-damaged", 2);
    let before = files(&scene.published());
    let damage = |path: &str, what: &str| {
        let path = scene.published().join(path);
        let sound = fs::read(&path).expect("published");
        fs::write(&path, &sound[..sound.len() / 2]).expect("writable");
        let said = finish(scene.prune_command(&scene.published(), &["--keep-last", "1", "--grace", "0"])).failure(1);
        assert!(said.contains("nothing was removed") && said.contains(what), "{said}");
        fs::write(&path, sound).expect("writable");
        assert!(files(&scene.published()) == before, "something changed");
    };
    damage("refs/main", "refs/main is damaged");
    let newest = &scene.commits[1].0;
    damage(&format!("commits/{newest}"), newest);
    for locator in below(&before, "locators/") {
        // Only one of them is needed.
        let placement = fs::read_to_string(scene.published().join(format!("placements/{newest}")));
        if placement.is_ok_and(|text| text.contains(locator)) {
            damage(&format!("locators/{locator}"), locator);
        }
    }
    let said = scene.publisher.run(["publish", "--prune", "https://os.example.org/repo"]).failure(1);
    assert!(said.contains("cannot prune https://os.example.org/repo"), "{said}");
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("it can be started")
}

/// Waits for its end; whether it had come to that by itself, and well.
fn kill(mut child: Child) -> bool {
    // SIGKILL, to this child only; it may have ended.
    let _ = child.kill();
    child.wait().expect("a child can be waited for").success()
}
