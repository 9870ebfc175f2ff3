//! A full disk and a broken one: one system call after the other fails, and nothing else does.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::work::{ALL, COMMIT, GC, Scene, Work};
use crate::common::sandbox::{Run, Sandbox, finish, run, run_by};

/// Calls by which something comes to a disk, and how each of them may fail.
const CALLS: &[(&str, &[&str])] = &[
    ("write", &["ENOSPC", "EIO"]),
    ("pwrite64", &["ENOSPC", "EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO"]),
    ("syncfs", &["EIO", "ENOSPC"]),
    ("rename", &["ENOSPC", "EIO"]),
    ("renameat", &["ENOSPC", "EIO"]),
    ("renameat2", &["ENOSPC", "EIO"]),
    ("link", &["ENOSPC"]),
    ("linkat", &["ENOSPC"]),
    ("mkdir", &["ENOSPC"]),
    ("mkdirat", &["ENOSPC"]),
    ("unlink", &["EIO"]),
    ("unlinkat", &["EIO"]),
    ("ftruncate", &["ENOSPC", "EIO"]),
    ("fallocate", &["ENOSPC"]),
    ("copy_file_range", &["ENOSPC", "EIO"]),
    ("fchmod", &["EIO"]),
    ("chmod", &["EIO"]),
    ("flock", &["EIO"]),
];

/// How many seconds a change may take; each takes less than one.
const PATIENCE: &str = "30";

/// The same command below strace, which has the `number`th such call fail. Its record goes to `record`.
fn failing(command: &Command, call: &str, error: &str, number: usize, record: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-qq", "-y", "-o"]).arg(record);
    strace.arg(format!("--inject={call}:error={error}:when={number}"));
    strace.arg(format!("--trace={call}")).args(["--", "timeout", "--signal=KILL", PATIENCE]);
    run_by(strace, command)
}

/// A scene that is prepared once, and put back as it was before each change.
struct Prepared {
    scene: Scene,
    sandbox: Sandbox,
}

impl Prepared {
    fn new(work: &Work) -> Self {
        let sandbox = Sandbox::new(&format!("errors-{}", work.name));
        let scene = Scene::new(&sandbox, &sandbox.directory("disk"));
        (work.prepare)(&scene);
        for directory in [&scene.outside, &scene.disk] {
            copy(directory, &saved(directory));
        }
        Self { scene, sandbox }
    }

    fn again(&self) -> &Scene {
        for directory in [&self.scene.outside, &self.scene.disk] {
            crate::common::sandbox::remove_tree(directory);
            copy(&saved(directory), directory);
        }
        &self.scene
    }
}

fn saved(directory: &Path) -> PathBuf {
    directory.with_extension("saved")
}

fn copy(from: &Path, to: &Path) {
    run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]).success();
}

/// What became of a change of which one call failed.
#[derive(Default)]
struct Outcome {
    failed: usize,
    done_all_the_same: usize,
    /// Calls that were not to a disk.
    of_no_disk: usize,
}

/// Has each call fail in turn, or every `step`th of them.
#[track_caller]
fn survives(work: &Work, step: usize) -> String {
    let mut outcome = Outcome::default();
    let prepared = Prepared::new(work);
    for (call, errors) in CALLS {
        for error in *errors {
            let mut number = 1;
            while fails_well(work, &prepared, (call, error, number), &mut outcome) {
                number += step;
            }
        }
    }
    assert!(outcome.failed > 2, "{}: only {} errors took effect", work.name, outcome.failed);
    format!(
        "{}: {} calls failed; {} changes refused, {} done all the same; 0 lost ({} not to a disk left out)",
        work.name,
        outcome.failed + outcome.done_all_the_same,
        outcome.failed,
        outcome.done_all_the_same,
        outcome.of_no_disk
    )
}

/// Whether the call that failed was one that no disk can fail, such as waking up another thread: libraries rightly take that
/// for impossible. strace shows what a descriptor is in angle brackets: a path, or a kind.
fn is_of_no_disk(call: &str) -> bool {
    ["<anon_inode:", "<pipe:", "<socket:", "<UNIX", "<TCP", "</dev/null"].iter().any(|kind| call.contains(kind))
}

/// Returns whether there was a call of that number.
#[track_caller]
fn fails_well(
    work: &Work,
    prepared: &Prepared,
    (call, error, number): (&str, &str, usize),
    outcome: &mut Outcome,
) -> bool {
    let scene = prepared.again();
    let record = prepared.sandbox.join("strace");
    let run = finish(failing(&(work.change)(scene), call, error, number, &record));
    let record = std::fs::read_to_string(record).expect("strace writes it");
    let Some(injected) = record.lines().find(|line| line.contains("(INJECTED)")) else { return false };
    if is_of_no_disk(injected) {
        outcome.of_no_disk += 1;
        return true;
    }
    let what = format!("{}, {call} number {number}: {error}", work.name);
    assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
    // What `timeout` says of a command that it killed.
    assert_ne!(run.status.code(), Some(137), "{what}: it hangs: {}", run.stderr);
    if run.status.success() {
        outcome.done_all_the_same += 1;
    } else {
        outcome.failed += 1;
        assert!(!run.stderr.trim().is_empty(), "{what}: failed without a word");
    }
    let is_new = (work.look)(scene);
    assert!(is_new || !run.status.success(), "{what}: it said that it was done, and it is not: {}", run.stderr);
    again(work, scene, &what);
    true
}

/// With a sound disk the change is made, whatever was left behind.
#[track_caller]
fn again(work: &Work, scene: &Scene, what: &str) {
    let run: Run = finish((work.change)(scene));
    assert!(run.status.success(), "{what}, and then: {}", run.stderr);
    assert!((work.look)(scene), "{what}, and then it was done and is not there");
}

#[test]
fn an_error_of_the_disk_loses_nothing_that_is_named() {
    for work in &[COMMIT, GC] {
        println!("{}", survives(work, 6));
    }
}

#[test]
#[ignore = "takes many minutes"]
fn an_error_at_every_single_call() {
    for work in &ALL {
        println!("{}", survives(work, 1));
    }
}
