//! Workers that crash, or that stop answering.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::mount::{Subject, eventually};
use crate::common::published::Published;
use crate::common::sandbox::Sandbox;
use crate::common::trees;

/// Makes a client of a commit of which nothing was fetched yet. Returns its repository and the tree.
fn remote(sandbox: &Sandbox) -> (crate::common::sandbox::Repository, PathBuf) {
    let tree = sandbox.join("tree");
    trees::medium(&tree, 300);
    let publisher = sandbox.repository("publisher");
    publisher.commit("main", &tree);
    let published = sandbox.join("published");
    Published::default().add(publisher.path(), "main", &published);
    let client = sandbox.repository("client");
    let url = format!("file://{}", published.display());
    client.run(["remote", "add", "os", &url, "--insecure-unsigned"]).success();
    (client, tree)
}

#[test]
fn only_local_objects_are_served_after_repeated_crashes() {
    let sandbox = Sandbox::new("crash-cached");
    let (client, tree) = remote(&sandbox);
    let subject = Subject::new(&client, "os:main", &sandbox.join("m"), &[]);
    let large = |number: u32| format!("{:02}/file-{number}", number % 40);
    let original = fs::read(tree.join(large(100))).expect("readable");
    assert_eq!(fs::read(subject.join(&large(100))).expect("fetched"), original);
    // Wait until the object is in the repository: what a worker has only in memory is lost with it.
    eventually("the object in the repository", || subject.status()["lazy"]["objects_local"].as_u64() > Some(0));
    std::thread::sleep(Duration::from_secs(3));
    for crash in 1..=5_u64 {
        let health = subject.status()["health"].clone();
        assert_eq!((&health["service"], &health["crashes"]), (&"full".into(), &(crash - 1).into()), "{health}");
        subject.signal_workers(Signal::SIGILL);
        eventually("the next worker", || subject.status()["health"]["crashes"] == crash);
    }
    let status = subject.status();
    assert_eq!(status["health"]["service"], "cached-only", "{status}");
    assert_eq!(status["health"]["last_death"]["killed"], Signal::SIGILL as i32);
    assert_eq!(fs::read(subject.join(&large(100))).expect("it is local"), original);
    let begin = Instant::now();
    let error = fs::read(subject.join(&large(200))).expect_err("is not here");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(begin.elapsed() < Duration::from_secs(10), "reads wait though nothing is fetched");
    let log = subject.log(subject.number("worker_pid"));
    assert!(log.contains("crash again and again") && log.contains("SIGILL"), "{log}");
    let table = client.run(["mounts"]).success();
    assert!(table.contains("cached only, 5 crashes"), "{table}");
    subject.mounted.unmount();
}

#[test]
fn hanging_worker_is_replaced_once_a_request_waits() {
    let sandbox = Sandbox::new("crash-stopped");
    let repository = sandbox.repository("repo");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 100);
    repository.commit("main", &tree);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), &["watchdog=2"]);
    for name in ["00/file-0", "01/file-1"] {
        let before = subject.deaths();
        subject.signal_workers(Signal::SIGSTOP);
        assert_eq!(
            fs::read(subject.join(name)).expect("answered by another"),
            fs::read(tree.join(name)).expect("readable")
        );
        assert_eq!(subject.deaths(), before + 1);
        assert_eq!(subject.health("last_death"), "hung");
    }
    // While no request waits, a stopped worker is not replaced.
    let (deaths, worker) = (subject.deaths(), subject.number("worker_pid"));
    subject.signal_workers(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(5));
    subject.signal_workers(Signal::SIGCONT);
    assert_eq!((subject.deaths(), subject.number("worker_pid")), (deaths, worker));
    subject.mounted.unmount();
}

/// A request that hangs the worker that carries it out: the file of its object is a pipe without a writer.
#[test]
fn request_that_ends_three_workers_is_refused() {
    let sandbox = Sandbox::new("crash-poison");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::write(tree.join("poison"), trees::noise(1, 200_000)).expect("writable");
    fs::write(tree.join("good"), trees::noise(2, 200_000)).expect("writable");
    repository.commit("main", &tree);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), &["watchdog=1"]);
    let sum = crate::common::sandbox::run("sha256sum", [tree.join("poison")]).success();
    let object = repository.path().join("objects").join(&sum[..2]).join(&sum[2..64]);
    fs::remove_file(&object).expect("an object of this size has its own file");
    nix::unistd::mkfifo(&object, nix::sys::stat::Mode::S_IRUSR).expect("owned by the test");
    let poison = std::thread::spawn({
        let path = subject.join("poison");
        move || fs::File::open(path).and_then(|file| file.read_at(&mut [0; 100], 0))
    });
    let mut good = 0;
    while !poison.is_finished() {
        let bytes = fs::read(subject.join("good")).expect("others are answered");
        assert_eq!(bytes, fs::read(tree.join("good")).expect("readable"));
        let file = fs::File::open(subject.join("good")).expect("opens");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("takes advice");
        good += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = poison.join().expect("no panic").expect_err("refused");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(good > 10);
    let health = subject.status()["health"].clone();
    assert_eq!((&health["deaths"], &health["service"]), (&3.into(), &"full".into()), "{health}");
    let log = subject.log(subject.number("worker_pid"));
    assert!(log.contains("has ended several workers"), "{log}");
    subject.mounted.unmount();
}

#[test]
fn recording_continues_with_the_next_worker() {
    let sandbox = Sandbox::new("crash-record");
    let repository = sandbox.repository("repo");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 100);
    repository.commit("main", &tree);
    let profile = sandbox.join("boot.profile");
    let option = format!("profile-record={}", profile.display());
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), &[&option]);
    let read = |name: &str| {
        let original = fs::read(tree.join(name)).expect("readable");
        assert_eq!(fs::read(subject.join(name)).expect("reads"), original);
    };
    let lists = |name: &str| {
        let text = fs::read_to_string(&profile).expect("is replaced, never removed");
        text.lines().any(|line| line.ends_with(&format!(" /{name}")))
    };
    read("00/file-0");
    eventually("a line about what was read", || lists("00/file-0"));
    let deaths = subject.deaths();
    subject.signal_workers(Signal::SIGKILL);
    eventually("the next worker", || subject.deaths() > deaths);
    read("01/file-1");
    eventually("a line of the second worker", || lists("01/file-1"));
    repository.run(["mounts".as_ref(), "--reexec".as_ref(), subject.mounted.path().as_os_str()]).success();
    read("02/file-2");
    subject.mounted.unmount();
    eventually("all that was read", || ["00/file-0", "01/file-1", "02/file-2"].into_iter().all(lists));
}
