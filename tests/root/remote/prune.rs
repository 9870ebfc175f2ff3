//! Pruning a published directory: what is kept is complete, clients with old refs continue during the grace period, and kills
//! and concurrent commands lose nothing.
//!
//! The age of a mark is the mtime of its file, so a test lets a day pass by `touch`.
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

/// Number of times that a prune is killed.
const KILLS: u32 = 24;

/// A publisher, its published directory, and the trees that were committed, oldest first.
struct Fixture {
    sandbox: Sandbox,
    publisher: Repository,
    commits: Vec<(String, PathBuf)>,
}

impl Fixture {
    /// Publishes `count` states, a week apart, the last of them now.
    fn new(name: &str, count: u64) -> Self {
        let sandbox = Sandbox::new(name);
        let publisher = sandbox.repository("publisher");
        let mut fixture = Self { sandbox, publisher, commits: Vec::new() };
        trees::medium(&fixture.tree(), 120);
        for number in 0..count {
            fixture.change(number);
            fixture.commit(7 * (count - 1 - number));
            fixture.publish_to(&fixture.published(), &[]).success();
        }
        fixture
    }

    fn tree(&self) -> PathBuf {
        self.sandbox.join("tree")
    }

    fn published(&self) -> PathBuf {
        self.sandbox.join("published")
    }

    /// Changes the contents of about a third of the tree, so that most of a pack is unused, and not all.
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

    /// Publishes with small packs, so that some become unused and some do not.
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

    /// Makes the marks older by a day and an hour.
    fn let_a_day_pass(&self) {
        let marks = self.published().join("superseded");
        let script = [OsStr::new("-type"), "f".as_ref(), "-exec".as_ref(), "touch".as_ref(), "-d".as_ref()];
        let rest = ["25 hours ago", "{}", "+"].map(OsStr::new);
        run("find", [marks.as_os_str()].into_iter().chain(script).chain(rest)).success();
    }

    /// Checks that a new client can pull the newest `count` commits from `url` with all their contents. Returns its repository.
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

/// Returns the published files with their lengths, without marks and locks.
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
fn pruned_publication_equals_a_fresh_one_after_the_grace_period() {
    let fixture = Fixture::new("prune-whole", 5);
    let before = files(&fixture.published());
    let planned = fixture.prune(&["--keep-last", "2", "--dry-run"]);
    assert_eq!((len(&planned, "dropped"), planned["commits"].as_u64()), (3, Some(2)));
    assert!(len(&planned, "repack") > 0 && len(&planned, "supersede") > 0, "{planned}");
    assert!(files(&fixture.published()) == before, "a dry run changed something");
    assert!(!fixture.published().join("superseded").exists());

    let marked = fixture.prune(&["--keep-last", "2"]);
    assert_eq!((&marked["supersede"], len(&marked, "remove")), (&planned["supersede"], 0));
    assert_eq!(marked["repack"], planned["repack"]);
    for (path, _) in &before {
        assert!(fixture.published().join(path).exists(), "{path} is gone before its time");
    }
    let again = fixture.prune(&["--keep-last", "2"]);
    assert_eq!((len(&again, "supersede"), len(&again, "remove")), (0, 0));
    assert_eq!(len(&again, "waiting"), len(&marked, "supersede"));

    fixture.let_a_day_pass();
    let removed = fixture.prune(&["--keep-last", "2"]);
    assert_eq!(len(&removed, "remove"), len(&marked, "supersede"));
    let after = files(&fixture.published());
    assert_eq!(
        bytes_below(&after, ""),
        removed["kept_bytes"].as_u64().expect("a number") + bytes_below(&after, "refs/")
    );
    let idle = fixture.prune(&["--keep-last", "2"]);
    for field in ["supersede", "waiting", "remove", "repack", "restore"] {
        assert_eq!(len(&idle, field), 0, "{field}: {idle}");
    }
    assert_eq!(
        run("find", [fixture.published().join("superseded"), "-type".into(), "f".into()]).text().lines().count(),
        1
    );

    // The same commits in a publication that never had others.
    let fresh = fixture.sandbox.join("fresh");
    fixture.publish_to(&fresh, &["--depth", "1"]).success();
    let other = files(&fresh);
    for directory in ["refs/", "commits/", "placements/", "images/"] {
        assert_eq!(below(&after, directory), below(&other, directory));
    }
    let (ours, theirs) = (bytes_below(&after, "packs/"), bytes_below(&other, "packs/"));
    assert!(ours < 2 * theirs, "{ours} bytes of packs where {theirs} are enough");
    let web = Web::serve(&fixture.published());
    let pulled = fixture.assert_pulls("by-http", &web.url(), 2);
    fixture.assert_pulls("by-file", &url(&fixture.published()), 2);
    let reference = fixture.assert_pulls("reference", &url(&fresh), 2);
    for directory in ["objects", "images", "commits"] {
        let paths = [&pulled, &reference].map(|repository| repository.path().join(directory));
        run("diff", [Path::new("-r"), &paths[0], &paths[1]]).success();
    }
    // The next publish builds on it.
    let mut fixture = fixture;
    fixture.change(77);
    fixture.commit(0);
    fixture.publish_to(&fixture.published(), &[]).success();
    fixture.assert_pulls("next", &web.url(), 3);
}

#[test]
fn publish_with_prune_keeps_commits_by_age() {
    let mut fixture = Fixture::new("prune-age", 4);
    fixture.change(40);
    fixture.commit(0);
    let arguments = ["--prune", "--keep-younger-than", "10d", "--grace", "0", "--json"];
    let said: Value =
        serde_json::from_str(&fixture.publish_to(&fixture.published(), &arguments).success()).expect("JSON");
    assert_eq!(len(&said["publish"], "commits"), 1);
    // The commits are 21, 14, 7, 0 and 0 days old.
    assert_eq!((len(&said["prune"], "dropped"), said["prune"]["commits"].as_u64()), (2, Some(3)));
    assert!(len(&said["prune"], "remove") > 0 && len(&said["prune"], "supersede") == 0);
    fixture.assert_pulls("client", &url(&fixture.published()), 3);
    let listed = files(&fixture.published());
    assert_eq!(below(&listed, "commits/").len(), 3);
}

#[test]
fn old_refs_stay_readable_for_the_grace_period() {
    let mut fixture = Fixture::new("prune-grace", 2);
    // A cache that keeps showing the present refs, and a lazy mount that has read nothing yet.
    let stale = fixture.sandbox.directory("stale");
    run("cp", [OsStr::new("-a"), fixture.published().join("refs").as_os_str(), stale.as_os_str()]).success();
    for name in ["commits", "deltas", "images", "locators", "packs", "placements"] {
        std::os::unix::fs::symlink(fixture.published().join(name), stale.join(name)).expect("writable");
    }
    let (old_cache, web) = (Web::serve(&stale), Web::serve(&fixture.published()));
    let lazy = fixture.sandbox.repository("lazy");
    lazy.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
    let mounted = lazy.mount("os:main", &fixture.sandbox.join("lazily"), &["suid", "dev"]);
    let (_, old_tree) = fixture.commits[1].clone();
    for seed in [50, 51] {
        fixture.change(seed);
        fixture.commit(0);
        fixture.publish_to(&fixture.published(), &[]).success();
    }
    let report = fixture.prune(&["--keep-last", "1"]);
    assert!(len(&report, "dropped") == 3 && len(&report, "repack") > 0, "{report}");
    fixture.prune(&["--keep-last", "1"]);
    assert_same_tree(&old_tree, mounted.path());
    mounted.unmount();
    let pull = |name: &str| {
        let client = fixture.sandbox.repository(name);
        client.run(["remote", "add", "os", &old_cache.url(), "--insecure-unsigned"]).success();
        (client.run(["pull", "os:main"]), client)
    };
    let (pulled, client) = pull("early");
    assert_eq!(pulled.success(), fixture.commits[1].0);
    client.assert_clean();

    // After the grace period a pull by the old refs fails with a message.
    fixture.let_a_day_pass();
    fixture.prune(&["--keep-last", "1"]);
    let (pulled, client) = pull("late");
    let said = pulled.failure(1);
    assert!(said.contains(&fixture.commits[1].0[..8]) || said.contains("is not there"), "{said}");
    client.assert_clean();
    assert_eq!(client.run(["refs"]).success(), "");
    fixture.assert_pulls("fresh", &web.url(), 1);
}

#[test]
fn files_needed_again_are_not_removed() {
    let mut fixture = Fixture::new("prune-again", 2);
    fixture.prune(&["--keep-last", "1"]);
    fixture.let_a_day_pass();
    // The contents of the first state come back before the second prune, without being sent again.
    fixture.change(0);
    fixture.commit(0);
    fixture.publish_to(&fixture.published(), &["--depth", "2"]).success();
    let report = fixture.prune(&[]);
    assert_eq!((len(&report, "dropped"), len(&report, "restore")), (0, 0), "{report}");
    fixture.assert_pulls("client", &url(&fixture.published()), 3);
}

#[test]
fn killed_prune_loses_nothing_and_the_next_completes_it() {
    let fixture = Fixture::new("prune-killed", 4);
    let arguments = ["--keep-last", "2", "--grace", "0"];
    let copy = |name: &str| {
        let copy = fixture.sandbox.join(name);
        run("cp", [OsStr::new("-a"), fixture.published().as_os_str(), copy.as_os_str()]).success();
        copy
    };
    let whole = copy("whole");
    let begin = Instant::now();
    finish(fixture.prune_command(&whole, &arguments)).success();
    let mut time = begin.elapsed();
    let mut killed = 0;
    for number in 0..KILLS {
        let directory = copy("torn");
        let begin = Instant::now();
        let child = start(fixture.prune_command(&directory, &arguments));
        std::thread::sleep(time.mul_f64(f64::from(number) / f64::from(KILLS)));
        if kill(child) {
            // Later prunes are quicker than the first one.
            time = time.min(begin.elapsed());
        } else {
            killed += 1;
        }
        fixture.assert_pulls(&format!("torn-{number}"), &url(&directory), 2);
        finish(fixture.prune_command(&directory, &arguments)).success();
        assert_eq!(below(&files(&directory), "packs/"), below(&files(&whole), "packs/"));
        assert_eq!(below(&files(&directory), "commits/"), below(&files(&whole), "commits/"));
        fixture.assert_pulls(&format!("ended-{number}"), &url(&directory), 2);
        fs::remove_dir_all(&directory).expect("owned by the test");
    }
    assert!(killed >= KILLS / 3, "killed only {killed} times");
}

#[test]
fn concurrent_prunes_and_publish_do_not_disturb_each_other() {
    let mut fixture = Fixture::new("prune-at-once", 4);
    for round in 0..3 {
        fixture.change(60 + round);
        fixture.commit(0);
        let prunes = [0, 1, 2].map(|_| start(fixture.prune_command(&fixture.published(), &["--keep-last", "2"])));
        fixture.publish_to(&fixture.published(), &[]).success();
        for mut prune in prunes {
            assert!(prune.wait().expect("a child").success());
        }
        fixture.let_a_day_pass();
        fixture.assert_pulls(&format!("client-{round}"), &url(&fixture.published()), 2);
    }
    fixture.prune(&["--keep-last", "1"]);
    fixture.let_a_day_pass();
    fixture.prune(&["--keep-last", "1"]);
    fixture.assert_pulls("last", &url(&fixture.published()), 1);
}

#[test]
fn prune_removes_nothing_if_a_needed_file_is_unreadable() {
    let fixture = Fixture::new("prune-damaged", 2);
    let before = files(&fixture.published());
    let damage = |path: &str, what: &str| {
        let path = fixture.published().join(path);
        let sound = fs::read(&path).expect("published");
        fs::write(&path, &sound[..sound.len() / 2]).expect("writable");
        let said =
            finish(fixture.prune_command(&fixture.published(), &["--keep-last", "1", "--grace", "0"])).failure(1);
        assert!(said.contains("nothing was removed") && said.contains(what), "{said}");
        fs::write(&path, sound).expect("writable");
        assert!(files(&fixture.published()) == before, "something changed");
    };
    damage("refs/main", "refs/main is damaged");
    let newest = &fixture.commits[1].0;
    damage(&format!("commits/{newest}"), newest);
    for locator in below(&before, "locators/") {
        // Only one of the locators is needed.
        let placement = fs::read_to_string(fixture.published().join(format!("placements/{newest}")));
        if placement.is_ok_and(|text| text.contains(locator)) {
            damage(&format!("locators/{locator}"), locator);
        }
    }
    let said = fixture.publisher.run(["publish", "--prune", "https://os.example.org/repo"]).failure(1);
    assert!(said.contains("cannot prune https://os.example.org/repo"), "{said}");
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().expect("it can be started")
}

/// Kills a process and waits for its end. Returns whether it had ended by itself with success.
fn kill(mut child: Child) -> bool {
    // SIGKILL, to this child only; it may have ended.
    let _ = child.kill();
    child.wait().expect("a child can be waited for").success()
}
