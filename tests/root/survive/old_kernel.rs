//! Kernels before 6.9, which cannot resend the requests of a dead worker; simulated by not asking this kernel to.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::mount::{Subject, eventually};
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::trees;

fn fixture(sandbox: &Sandbox) -> Repository {
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::write(tree.join("blocking"), trees::noise(1, 200_000)).expect("writable");
    fs::write(tree.join("good"), trees::noise(2, 200_000)).expect("writable");
    repository.commit("main", &tree);
    repository
}

#[test]
fn idle_worker_of_an_old_kernel_is_replaced_without_loss() {
    let sandbox = Sandbox::new("old-idle");
    let repository = fixture(&sandbox);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), &["noresend"]);
    let file = fs::File::open(subject.join("good")).expect("opens");
    for _ in 0..3 {
        let deaths = subject.deaths();
        subject.signal_workers(Signal::SIGKILL);
        eventually("the next worker", || subject.deaths() > deaths);
        assert_eq!(fs::read(subject.join("good")).expect("reads"), fs::read(sandbox.join("tree/good")).expect("reads"));
    }
    assert_eq!(subject.health("remounts"), 0);
    assert!(std::io::copy(&mut &file, &mut std::io::sink()).is_ok(), "what was open is open");
    drop(file);
    subject.mounted.unmount();
}

#[test]
fn pending_request_fails_and_old_kernel_is_mounted_anew() {
    let sandbox = Sandbox::new("old-lost");
    let repository = fixture(&sandbox);
    let subject = Subject::new(&repository, "main", &sandbox.join("m"), &["noresend"]);
    // A read that hangs until its worker is killed.
    let sum = crate::common::sandbox::run("sha256sum", [sandbox.join("tree/blocking")]).success();
    let object = repository.path().join("objects").join(&sum[..2]).join(&sum[2..64]);
    fs::rename(&object, sandbox.join("aside")).expect("an object of this size has its own file");
    nix::unistd::mkfifo(&object, nix::sys::stat::Mode::S_IRUSR).expect("owned by the test");
    let blocked = std::thread::spawn({
        let path = subject.join("blocking");
        move || fs::read(path)
    });
    std::thread::sleep(Duration::from_millis(500));
    assert!(!blocked.is_finished(), "there must be something to lose");
    let begin = Instant::now();
    subject.signal_workers(Signal::SIGKILL);
    let lost = blocked.join().expect("no panic").expect_err("an error instead of a wait for ever");
    println!("after {} ms: {lost}", begin.elapsed().as_millis());
    fs::remove_file(&object).and_then(|()| fs::rename(sandbox.join("aside"), &object)).expect("owned by the test");
    eventually("the new mount", || fs::read(subject.join("good")).is_ok());
    for name in ["good", "blocking"] {
        let original = fs::read(sandbox.join("tree").join(name)).expect("readable");
        assert_eq!(fs::read(subject.join(name)).expect("reads"), original);
    }
    let health = subject.status()["health"].clone();
    assert_eq!((&health["remounts"], &health["deaths"]), (&1.into(), &1.into()), "{health}");
    // The new mount's worker is replaced, too.
    let deaths = subject.deaths();
    subject.signal_workers(Signal::SIGKILL);
    eventually("the next worker", || subject.deaths() > deaths);
    assert!(fs::read(subject.join("good")).is_ok());
    subject.mounted.unmount();
}
