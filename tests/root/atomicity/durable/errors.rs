//! Errors of full and broken disks: one system call after the other fails during an operation.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::operations::{ALL, COMMIT, Fixture, GC, Operation};
use crate::common::sandbox::{Run, Sandbox, finish, run, run_by};

/// System calls that write to a disk, each with the errors that it may return.
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

/// Longest time of a change in seconds; each takes less than one.
const CHANGE_TIMEOUT_SECONDS: &str = "30";

/// Returns the command below strace, which makes the `number`th such call fail. strace writes to `record`.
fn failing(command: &Command, call: &str, error: &str, number: usize, record: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-qq", "-y", "-o"]).arg(record);
    strace.arg(format!("--inject={call}:error={error}:when={number}"));
    strace.arg(format!("--trace={call}")).args(["--", "timeout", "--signal=KILL", CHANGE_TIMEOUT_SECONDS]);
    run_by(strace, command)
}

/// A fixture that is prepared once, and restored before each change.
struct Prepared {
    fixture: Fixture,
    sandbox: Sandbox,
}

impl Prepared {
    fn new(operation: &Operation) -> Self {
        let sandbox = Sandbox::new(&format!("errors-{}", operation.name));
        let fixture = Fixture::new(&sandbox, &sandbox.directory("disk"));
        (operation.prepare)(&fixture);
        for directory in [&fixture.outside, &fixture.disk] {
            copy(directory, &saved(directory));
        }
        Self { fixture, sandbox }
    }

    fn assert_change_succeeds(&self) -> &Fixture {
        for directory in [&self.fixture.outside, &self.fixture.disk] {
            crate::common::sandbox::remove_tree(directory);
            copy(&saved(directory), directory);
        }
        &self.fixture
    }
}

fn saved(directory: &Path) -> PathBuf {
    directory.with_extension("saved")
}

fn copy(from: &Path, to: &Path) {
    run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]).success();
}

/// Counts of the changes of which one call failed.
#[derive(Default)]
struct Outcome {
    failed: usize,
    done_all_the_same: usize,
    /// Calls that do not go to a disk.
    not_of_a_disk: usize,
}

/// Makes each call fail in turn, or every `step`th of them.
#[track_caller]
fn survives_errors(operation: &Operation, step: usize) -> String {
    let mut outcome = Outcome::default();
    let prepared = Prepared::new(operation);
    for (call, errors) in CALLS {
        for error in *errors {
            let mut number = 1;
            while survives_error(operation, &prepared, (call, error, number), &mut outcome) {
                number += step;
            }
        }
    }
    assert!(outcome.failed > 2, "{}: only {} errors took effect", operation.name, outcome.failed);
    format!(
        "{}: {} calls failed; {} changes refused, {} done all the same; 0 lost ({} not to a disk left out)",
        operation.name,
        outcome.failed + outcome.done_all_the_same,
        outcome.failed,
        outcome.done_all_the_same,
        outcome.not_of_a_disk
    )
}

/// Returns whether the failed call was one that no disk can make fail, such as waking up another thread: libraries rightly
/// treat that as impossible. strace shows in angle brackets what a descriptor is: a path, or a kind.
fn is_not_a_disk_call(call: &str) -> bool {
    ["<anon_inode:", "<pipe:", "<socket:", "<UNIX", "<TCP", "</dev/null"].iter().any(|kind| call.contains(kind))
}

/// Makes one call fail and checks the result. Returns whether there was a call of that number.
#[track_caller]
fn survives_error(
    operation: &Operation,
    prepared: &Prepared,
    (call, error, number): (&str, &str, usize),
    outcome: &mut Outcome,
) -> bool {
    let fixture = prepared.assert_change_succeeds();
    let record = prepared.sandbox.join("strace");
    let run = finish(failing(&(operation.change)(fixture), call, error, number, &record));
    let record = std::fs::read_to_string(record).expect("strace writes it");
    let Some(injected) = record.lines().find(|line| line.contains("(INJECTED)")) else { return false };
    if is_not_a_disk_call(injected) {
        outcome.not_of_a_disk += 1;
        return true;
    }
    let what = format!("{}, {call} number {number}: {error}", operation.name);
    assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
    // The exit status of `timeout` for a command that it killed.
    assert_ne!(run.status.code(), Some(137), "{what}: it hangs: {}", run.stderr);
    if run.status.success() {
        outcome.done_all_the_same += 1;
    } else {
        outcome.failed += 1;
        assert!(!run.stderr.trim().is_empty(), "{what}: failed without a word");
    }
    let is_new = (operation.check)(fixture);
    assert!(is_new || !run.status.success(), "{what}: it said that it was done, and it is not: {}", run.stderr);
    assert_change_succeeds(operation, fixture, &what);
    true
}

/// Checks that the change succeeds on a sound disk, whatever the failed one left behind.
#[track_caller]
fn assert_change_succeeds(operation: &Operation, fixture: &Fixture, what: &str) {
    let run: Run = finish((operation.change)(fixture));
    assert!(run.status.success(), "{what}, and then: {}", run.stderr);
    assert!((operation.check)(fixture), "{what}, and then it was done and is not there");
}

#[test]
fn disk_errors_at_sampled_calls_lose_nothing_that_a_ref_names() {
    for operation in &[COMMIT, GC] {
        println!("{}", survives_errors(operation, 6));
    }
}

#[test]
#[ignore = "takes many minutes"]
fn disk_errors_at_every_call_lose_nothing_that_a_ref_names() {
    for operation in &ALL {
        println!("{}", survives_errors(operation, 1));
    }
}
