//! Publishing and pulling, killed, starved, and all at once: whoever reads finds the old state or the new one, whole, and
//! whoever starts again loses nothing.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::facts::assert_same_tree;
use crate::common::link::{Link, Shape};
use crate::common::sandbox::{Repository, Run, Sandbox, finish, run, run_by};
use crate::common::trees;
use crate::common::web::Web;

/// Kills of a publisher.
const KILLS: u32 = 32;

/// A publisher with two states of a tree, the directory it publishes to, and a client.
struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
    tree: PathBuf,
}

impl Scene {
    fn new(name: &str, files: usize) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        let tree = sandbox.join("tree");
        trees::medium(&tree, files);
        let scene = Self { sandbox, publisher, client, tree };
        scene.publisher.commit("main", &scene.tree);
        scene.client.run(["remote", "add", "os", &scene.url(), "--insecure-unsigned"]).success();
        scene
    }

    fn published(&self) -> PathBuf {
        self.sandbox.join("published")
    }

    fn url(&self) -> String {
        format!("file://{}", self.published().display())
    }

    /// Small packs, so that there are many steps.
    fn publish_command(&self) -> Command {
        self.publisher.command(["publish", "--pack-size", "200000", &self.url(), "main"])
    }

    fn publish(&self) {
        finish(self.publish_command()).success();
    }

    /// Commits new content, about as much as there was.
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

/// Waits for its end; whether it had come to that by itself, and well.
fn kill(mut child: Child) -> bool {
    // SIGKILL, to this child only; it may have ended.
    let _ = child.kill();
    child.wait().expect("a child can be waited for").success()
}

#[test]
fn a_publisher_killed_at_any_moment_leaves_the_old_state_or_the_new_one() {
    let scene = Scene::new("crash-publish", 200);
    scene.publish();
    let mut old = scene.pull().success();
    let mut seed = 1;
    let mut new = scene.change(seed);
    // How long it takes tells where the moments lie.
    let begin = Instant::now();
    let elsewhere = format!("file://{}", scene.sandbox.join("elsewhere").display());
    scene.publisher.run(["publish", "--pack-size", "200000", &elsewhere, "main"]).success();
    let mut whole = begin.elapsed();
    let (mut killed, mut finished) = (0, 0);
    while killed < KILLS {
        let begin = Instant::now();
        let child = start(scene.publish_command());
        std::thread::sleep(whole.mul_f64(f64::from(killed * 7 % KILLS) / f64::from(KILLS)));
        let ended = kill(child);
        if ended {
            // It is quicker than the first one was.
            whole = whole.min(begin.elapsed());
        } else {
            killed += 1;
        }
        let found = scene.pull().success();
        scene.client.assert_clean();
        assert!(found == old || found == new, "neither the old state nor the new one");
        assert!(!ended || found == new, "it said that it was done");
        if found == new {
            // The next one.
            finished += 1;
            assert!(finished < 60, "it is too quick to be killed");
            seed += 1;
            (old, new) = (new, scene.change(seed));
        }
    }
    println!("{killed} killed, {finished} finished before or all the same");
    scene.publish();
    assert_eq!(scene.pull().success(), new);
    scene.assert_client_has_the_tree();
    let left = run("find", [scene.published().as_os_str(), "-name".as_ref(), "*#*".as_ref()]).success();
    assert_eq!(left, "", "what killed publishers left is still there");
    // Somebody who has nothing finds everything, too.
    let fresh = scene.sandbox.repository("fresh");
    fresh.run(["pull", "--insecure-unsigned", &format!("{}#main", scene.url())]).success();
    fresh.assert_clean();
}

#[test]
fn a_pull_killed_at_each_request_goes_on_and_names_nothing_early() {
    let scene = Scene::new("crash-pull", 300);
    scene.publish();
    let web = Web::serve(&scene.published());
    let shape = Shape { round_trip: Duration::from_millis(10), bits_per_second: 1_000_000_000 };
    let link = Link::to(web.address(), shape);
    let url = format!("http://{}", link.address());
    scene.client.run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    let pull = || scene.client.command(["pull", "--settle", "300000", "os:main"]);
    let mut kills = 0;
    for request in 1.. {
        let before = link.passed().requests;
        let mut child = start(pull());
        while link.passed().requests < before + request && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        if kill(child) {
            break;
        }
        kills += 1;
        scene.client.assert_clean();
        let refs = scene.client.run(["refs"]).success();
        if !refs.is_empty() {
            // Killed between naming the commit and its end.
            break;
        }
        assert!(request < 60, "it never ends");
    }
    assert!(kills >= 3, "killed only {kills} times");
    scene.pull().success();
    scene.assert_client_has_the_tree();
}

#[test]
fn a_full_disk_under_a_publisher_is_said_and_changes_nothing() {
    let scene = Scene::new("crash-full", 300);
    let disk = scene.sandbox.tmpfs("published", 2 << 20);
    let said = finish(scene.publish_command()).failure(1);
    assert!(said.contains("No space left on device") && said.contains("make room there"), "{said}");
    let said = scene.pull().failure(1);
    assert!(said.contains("has no ref 'main'"), "{said}");
    let grow = |size: &str| {
        let options = format!("remount,size={size}");
        run("mount", ["-o", &options, disk.to_str().expect("UTF-8")]).success();
    };
    grow("64m");
    scene.publish();
    let first = scene.pull().success();
    // The same for an update: the old state stays.
    scene.change(5);
    let used = run("du", ["-sk", disk.to_str().expect("UTF-8")]).success();
    let used: u64 = used.split_whitespace().next().and_then(|text| text.parse().ok()).expect("a number");
    grow(&format!("{}k", used + 500));
    let said = finish(scene.publish_command()).failure(1);
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(scene.pull().success(), first);
    grow("64m");
    scene.publish();
    assert_ne!(scene.pull().success(), first);
    scene.assert_client_has_the_tree();
}

#[test]
fn two_pulls_and_a_lazy_mount_share_a_repository() {
    let scene = Scene::new("crash-shared", 400);
    scene.publish();
    let mounted = scene.client.mount("os:main", &scene.sandbox.join("lazily"), &["suid", "dev"]);
    let pulls = [0, 1].map(|_| start(scene.client.command(["pull", "--settle", "500000", "os:main"])));
    assert_same_tree(&scene.tree, mounted.path());
    for mut pull in pulls {
        assert!(pull.wait().expect("a child").success());
    }
    assert_same_tree(&scene.tree, mounted.path());
    mounted.unmount();
    scene.assert_client_has_the_tree();
}

#[test]
fn a_lazy_mount_reads_its_state_while_the_next_one_is_published() {
    let scene = Scene::new("crash-meanwhile", 200);
    scene.publish();
    let mounted = scene.client.mount("os:main", &scene.sandbox.join("lazily"), &[]);
    let old: Vec<(PathBuf, Vec<u8>)> = (0..200)
        .map(|number| PathBuf::from(format!("{:02}/file-{number}", number % 40)))
        .map(|path| (path.clone(), fs::read(scene.tree.join(path)).expect("made")))
        .collect();
    let (first, second) = old.split_at(60);
    let read = |files: &[(PathBuf, Vec<u8>)]| {
        for (path, content) in files {
            assert!(fs::read(mounted.path().join(path)).expect("readable") == *content, "{}", path.display());
        }
    };
    read(first);
    // Every file is another one now, and the old ones are in no ref any more.
    for (path, content) in &old {
        fs::write(scene.tree.join(path), content.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()).expect("writable");
    }
    scene.publisher.commit("main", &scene.tree);
    let publisher = start(scene.publish_command());
    read(second);
    let output = publisher.wait_with_output().expect("a child");
    assert!(output.status.success());
    read(&old);
    mounted.unmount();
    scene.pull().success();
    scene.assert_client_has_the_tree();
}

/// Runs a command with another clock.
fn at(time: &str, command: &Command) -> Run {
    let mut faked = Command::new("faketime");
    faked.args(["-f", time]);
    finish(run_by(faked, command))
}

#[test]
fn clocks_that_are_wrong_do_not_matter() {
    let scene = Scene::new("crash-clock", 60);
    let commit = |time: &str| {
        let tree = scene.tree.to_str().expect("UTF-8");
        at(time, &scene.publisher.command(["commit", "--ref", "main", tree])).success()
    };
    let publish = |time: &str| at(time, &scene.publish_command()).success();
    let pull = |time: &str| at(time, &scene.client.command(["pull", "os:main"])).success();
    // A publisher a generation ahead, a client that has just been switched on and believes in 1970.
    let far = commit("@2050-01-01 00:00:00");
    publish("@2050-01-01 00:00:00");
    assert_eq!(pull("@1970-01-02 00:00:00"), far);
    // The publisher's clock was set right; what follows is newer all the same.
    fs::write(scene.tree.join("00/later"), "later").expect("writable");
    let now = commit("@2026-01-01 00:00:00");
    publish("@2026-01-01 00:00:00");
    assert_eq!(pull("@2050-06-01 00:00:00"), now);
    assert_eq!(pull("@1999-12-31 23:59:59"), now);
    scene.assert_client_has_the_tree();
}

#[test]
fn publishers_to_one_directory_take_turns() {
    let scene = Scene::new("crash-turns", 100);
    scene.publish();
    // Copies of one repository, each with a ref of its own, and all with the common one.
    let others: Vec<Repository> = (0..3)
        .map(|number| {
            let path = scene.sandbox.join(&format!("publisher-{number}"));
            run("cp", [Path::new("-a"), scene.publisher.path(), &path]).success();
            let other = Repository::at(path);
            fs::write(scene.tree.join("00/own"), format!("of {number}")).expect("writable");
            other.commit("main", &scene.tree);
            other.commit(&format!("own-{number}"), &scene.tree);
            other
        })
        .collect();
    let children: Vec<(usize, Child)> = others
        .iter()
        .map(|other| other.command(["publish", "--pack-size", "20000", &scene.url(), "main"]))
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
        other.run(["publish", &scene.url(), &format!("own-{number}")]).success();
        let url = format!("{}#own-{number}", scene.url());
        scene.client.run(["pull", "--insecure-unsigned", &url]).success();
    }
    scene.pull().success();
    scene.client.assert_clean();
}
