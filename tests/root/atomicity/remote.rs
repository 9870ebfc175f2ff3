//! Publishing and pulling while processes are killed, disks are full, and several run at once: readers find the old state or
//! the new one, complete, and a repeated command loses nothing.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::facts::assert_same_tree;
use crate::common::link::{Link, Shape};
use crate::common::sandbox::{Repository, Run, Sandbox, finish, run, run_by};
use crate::common::trees;
use crate::common::web::Web;

/// Number of times that a publisher is killed.
const KILLS: u32 = 32;

/// A publisher with a tree, the directory that it publishes to, and a client.
struct Fixture {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
    tree: PathBuf,
}

impl Fixture {
    fn new(name: &str, files: usize) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        let tree = sandbox.join("tree");
        trees::medium(&tree, files);
        let fixture = Self { sandbox, publisher, client, tree };
        fixture.publisher.commit("main", &fixture.tree);
        fixture.client.run(["remote", "add", "os", &fixture.url(), "--insecure-unsigned"]).success();
        fixture
    }

    fn published(&self) -> PathBuf {
        self.sandbox.join("published")
    }

    fn url(&self) -> String {
        format!("file://{}", self.published().display())
    }

    /// Returns the command with small packs, so that a publish has many steps.
    fn publish_command(&self) -> Command {
        self.publisher.command(["publish", "--pack-size", "200000", &self.url(), "main"])
    }

    fn publish(&self) {
        finish(self.publish_command()).success();
    }

    /// Commits new contents of about the same size.
    fn change(&self, seed: u64) -> String {
        for number in 0..40 {
            let path = self.tree.join(format!("{number:02}/changed"));
            fs::write(path, trees::noise(seed * 100 + number, 40_000)).expect("writable");
        }
        self.publisher.commit("main", &self.tree)
    }

    fn pull(&self) -> Run {
        self.client.run(["pull", "os:main"])
    }

    #[track_caller]
    fn assert_client_has_the_tree(&self) {
        self.client.assert_clean();
        let mounted = self.client.mount("os:main", &self.sandbox.join("mounted"), &["suid", "dev"]);
        assert_same_tree(&self.tree, mounted.path());
        mounted.unmount();
    }
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started")
}

/// Kills a process and waits for its end. Returns whether it had ended by itself with success.
fn kill(mut child: Child) -> bool {
    // SIGKILL, to this child only; it may have ended.
    let _ = child.kill();
    child.wait().expect("a child can be waited for").success()
}

#[test]
fn killed_publish_leaves_the_old_state_or_the_new_one() {
    let fixture = Fixture::new("crash-publish", 200);
    fixture.publish();
    let mut old = fixture.pull().success();
    let mut seed = 1;
    let mut new = fixture.change(seed);
    // The kills are spread over the duration of an uninterrupted publish.
    let begin = Instant::now();
    let elsewhere = format!("file://{}", fixture.sandbox.join("elsewhere").display());
    fixture.publisher.run(["publish", "--pack-size", "200000", &elsewhere, "main"]).success();
    let mut whole = begin.elapsed();
    let (mut killed, mut finished) = (0, 0);
    while killed < KILLS {
        let begin = Instant::now();
        let child = start(fixture.publish_command());
        std::thread::sleep(whole.mul_f64(f64::from(killed * 7 % KILLS) / f64::from(KILLS)));
        let ended = kill(child);
        if ended {
            // Later publishes are quicker than the first one.
            whole = whole.min(begin.elapsed());
        } else {
            killed += 1;
        }
        let found = fixture.pull().success();
        fixture.client.assert_clean();
        assert!(found == old || found == new, "neither the old state nor the new one");
        assert!(!ended || found == new, "it said that it was done");
        if found == new {
            // The next state is published.
            finished += 1;
            assert!(finished < 60, "it is too quick to be killed");
            seed += 1;
            (old, new) = (new, fixture.change(seed));
        }
    }
    println!("{killed} killed, {finished} finished before or all the same");
    fixture.publish();
    assert_eq!(fixture.pull().success(), new);
    fixture.assert_client_has_the_tree();
    let left = run("find", [fixture.published().as_os_str(), "-name".as_ref(), "*#*".as_ref()]).success();
    assert_eq!(left, "", "what killed publishers left is still there");
    // A client with an empty repository gets everything, too.
    let fresh = fixture.sandbox.repository("fresh");
    fresh.run(["pull", "--insecure-unsigned", &format!("{}#main", fixture.url())]).success();
    fresh.assert_clean();
}

#[test]
fn pull_killed_at_each_request_resumes_and_sets_no_ref_early() {
    let fixture = Fixture::new("crash-pull", 300);
    fixture.publish();
    let web = Web::serve(&fixture.published());
    let shape = Shape { round_trip: Duration::from_millis(10), bits_per_second: 1_000_000_000 };
    let link = Link::to(web.address(), shape);
    let url = format!("http://{}", link.address());
    fixture.client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    let pull = || fixture.client.command(["pull", "--settle", "300000", "os:main"]);
    let mut kills = 0;
    for request in 1.. {
        let before = link.traffic().requests;
        let mut child = start(pull());
        while link.traffic().requests < before + request && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        if kill(child) {
            break;
        }
        kills += 1;
        fixture.client.assert_clean();
        let refs = fixture.client.run(["refs"]).success();
        if !refs.is_empty() {
            // It was killed between setting the ref and its end.
            break;
        }
        assert!(request < 60, "it never ends");
    }
    assert!(kills >= 3, "killed only {kills} times");
    fixture.pull().success();
    fixture.assert_client_has_the_tree();
}

#[test]
fn full_disk_fails_a_publish_with_a_message_and_no_change() {
    let fixture = Fixture::new("crash-full", 300);
    let disk = fixture.sandbox.tmpfs("published", 2 << 20);
    let said = finish(fixture.publish_command()).failure(1);
    assert!(said.contains("No space left on device") && said.contains("make room there"), "{said}");
    let said = fixture.pull().failure(1);
    assert!(said.contains("has no ref 'main'"), "{said}");
    let grow = |size: &str| {
        let options = format!("remount,size={size}");
        run("mount", ["-o", &options, disk.to_str().expect("UTF-8")]).success();
    };
    grow("64m");
    fixture.publish();
    let first = fixture.pull().success();
    // The same for an update: the old state stays.
    fixture.change(5);
    let used = run("du", ["-sk", disk.to_str().expect("UTF-8")]).success();
    let used: u64 = used.split_whitespace().next().and_then(|text| text.parse().ok()).expect("a number");
    grow(&format!("{}k", used + 500));
    let said = finish(fixture.publish_command()).failure(1);
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(fixture.pull().success(), first);
    grow("64m");
    fixture.publish();
    assert_ne!(fixture.pull().success(), first);
    fixture.assert_client_has_the_tree();
}

#[test]
fn two_pulls_and_a_lazy_mount_share_a_repository() {
    let fixture = Fixture::new("crash-shared", 400);
    fixture.publish();
    let mounted = fixture.client.mount("os:main", &fixture.sandbox.join("lazily"), &["suid", "dev"]);
    let pulls = [0, 1].map(|_| start(fixture.client.command(["pull", "--settle", "500000", "os:main"])));
    assert_same_tree(&fixture.tree, mounted.path());
    for mut pull in pulls {
        assert!(pull.wait().expect("a child").success());
    }
    assert_same_tree(&fixture.tree, mounted.path());
    mounted.unmount();
    fixture.assert_client_has_the_tree();
}

#[test]
fn lazy_mount_keeps_its_commit_while_the_next_is_published() {
    let fixture = Fixture::new("crash-meanwhile", 200);
    fixture.publish();
    let mounted = fixture.client.mount("os:main", &fixture.sandbox.join("lazily"), &[]);
    let old: Vec<(PathBuf, Vec<u8>)> = (0..200)
        .map(|number| PathBuf::from(format!("{:02}/file-{number}", number % 40)))
        .map(|path| (path.clone(), fs::read(fixture.tree.join(path)).expect("made")))
        .collect();
    let (first, second) = old.split_at(60);
    let read = |files: &[(PathBuf, Vec<u8>)]| {
        for (path, content) in files {
            assert!(fs::read(mounted.path().join(path)).expect("readable") == *content, "{}", path.display());
        }
    };
    read(first);
    // All files have changed, and no ref names the old ones any more.
    for (path, content) in &old {
        fs::write(fixture.tree.join(path), content.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()).expect("writable");
    }
    fixture.publisher.commit("main", &fixture.tree);
    let publisher = start(fixture.publish_command());
    read(second);
    let output = publisher.wait_with_output().expect("a child");
    assert!(output.status.success());
    read(&old);
    mounted.unmount();
    fixture.pull().success();
    fixture.assert_client_has_the_tree();
}

/// Runs a command with another clock.
fn at(time: &str, command: &Command) -> Run {
    let mut faked = Command::new("faketime");
    faked.args(["-f", time]);
    finish(run_by(faked, command))
}

#[test]
fn wrong_clocks_do_not_affect_publish_and_pull() {
    let fixture = Fixture::new("crash-clock", 60);
    let commit = |time: &str| {
        let tree = fixture.tree.to_str().expect("UTF-8");
        at(time, &fixture.publisher.command(["commit", "--ref", "main", tree])).success()
    };
    let publish = |time: &str| at(time, &fixture.publish_command()).success();
    let pull = |time: &str| at(time, &fixture.client.command(["pull", "os:main"])).success();
    // The publisher's clock is a generation ahead, and the client's is in 1970.
    let far = commit("@2050-01-01 00:00:00");
    publish("@2050-01-01 00:00:00");
    assert_eq!(pull("@1970-01-02 00:00:00"), far);
    // The publisher's clock is set right; the next commit is newer all the same.
    fs::write(fixture.tree.join("00/later"), "later").expect("writable");
    let now = commit("@2026-01-01 00:00:00");
    publish("@2026-01-01 00:00:00");
    assert_eq!(pull("@2050-06-01 00:00:00"), now);
    assert_eq!(pull("@1999-12-31 23:59:59"), now);
    fixture.assert_client_has_the_tree();
}

#[test]
fn only_one_of_concurrent_publishers_to_a_directory_succeeds() {
    let fixture = Fixture::new("crash-turns", 100);
    fixture.publish();
    // Copies of one repository, each with a ref of its own and with the common ref.
    let others: Vec<Repository> = (0..3)
        .map(|number| {
            let path = fixture.sandbox.join(&format!("publisher-{number}"));
            run("cp", [Path::new("-a"), fixture.publisher.path(), &path]).success();
            let other = Repository::at(path);
            fs::write(fixture.tree.join("00/own"), format!("of {number}")).expect("writable");
            other.commit("main", &fixture.tree);
            other.commit(&format!("own-{number}"), &fixture.tree);
            other
        })
        .collect();
    let children: Vec<(usize, Child)> = others
        .iter()
        .map(|other| other.command(["publish", "--pack-size", "20000", &fixture.url(), "main"]))
        .map(|mut command| command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be started"))
        .enumerate()
        .collect();
    let mut winners = 0;
    for (number, child) in children {
        let output = child.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        winners += usize::from(output.status.success());
        assert!(
            output.status.success() || said.contains("by somebody else meanwhile") || said.contains("no ancestor"),
            "{number}: {said}"
        );
    }
    assert_eq!(winners, 1, "each of them published another successor of the same state");
    for (number, other) in others.iter().enumerate() {
        other.run(["publish", &fixture.url(), &format!("own-{number}")]).success();
        let url = format!("{}#own-{number}", fixture.url());
        fixture.client.run(["pull", "--insecure-unsigned", &url]).success();
    }
    fixture.pull().success();
    fixture.client.assert_clean();
}
