//! The cost of a command, counted by strace.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::sandbox::{finish, is_mounted, run_by};

/// System calls that read bytes.
const READ_CALLS: [&str; 6] = ["read", "pread64", "readv", "preadv", "preadv2", "getdents64"];

/// System calls that open descriptors.
const OPEN_CALLS: [&str; 3] = ["openat", "open", "openat2"];

/// System calls by which threads wait for each other, whose number depends on chance.
const WAIT_CALLS: [&str; 4] = ["futex", "sched_yield", "restart_syscall", "clock_nanosleep"];

/// System calls, bytes read, and the highest descriptor number, over all processes and threads of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    pub calls: u64,
    pub bytes: u64,
    pub descriptors: u64,
}

impl Cost {
    /// Counts the calls in a log of strace.
    fn of(record: &str) -> Self {
        let mut cost = Self::default();
        for line in record.lines() {
            // `123 read(3, "…", 5) = 5`, or in two parts: `123 read(3,  <unfinished ...>`, `123 <... read resumed>"…", 5) = 5`.
            let Some((_, call)) = line.split_once(' ') else { continue };
            let call = call.trim_start();
            let Some((before, result)) = call.rsplit_once(" = ") else { continue };
            let name = before.strip_prefix("<... ").map_or_else(|| before.split('('), |rest| rest.split(' ')).next();
            let Some(name) = name else { continue };
            let result = result.split(' ').next().and_then(|number| number.parse::<u64>().ok());
            cost.calls += u64::from(!WAIT_CALLS.contains(&name));
            if READ_CALLS.contains(&name) {
                cost.bytes += result.unwrap_or(0);
            } else if OPEN_CALLS.contains(&name) {
                cost.descriptors = cost.descriptors.max(result.unwrap_or(0));
            }
        }
        assert!(cost.calls > 10, "strace recorded nothing:\n{record}");
        cost
    }

    /// Fails the test if this is more than one and a half times `few`.
    #[track_caller]
    pub fn assert_is_like(self, few: Self, what: &str) {
        let within = |many: u64, few: u64| many * 2 <= few * 3;
        let is_like =
            within(self.calls, few.calls) && within(self.bytes, few.bytes) && within(self.descriptors, few.descriptors);
        assert!(is_like, "{what}: {self:?} with many commits, {few:?} with few");
        println!("{what}: {self:?} with many commits, {few:?} with few");
    }
}

/// Returns `command` below strace, with at most `descriptors` open files, which it cannot raise.
fn traced(command: &Command, descriptors: u64, record: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "--signal=none", "-s", "0", "-o"]).arg(record);
    strace.arg("--").args(["prlimit", &format!("--nofile={descriptors}:{descriptors}")]);
    run_by(strace, command)
}

/// Runs a command that has to succeed. Returns its cost.
#[track_caller]
pub fn cost_of(command: &Command, descriptors: u64, record: &Path) -> Cost {
    finish(traced(command, descriptors, record)).success();
    Cost::of(&fs::read_to_string(record).expect("strace writes it"))
}

/// Counts the cost of a mount in the foreground, from its start until `use_it` was called and it was unmounted.
#[track_caller]
pub fn cost_of_mount(
    command: &Command,
    descriptors: u64,
    record: &Path,
    at: &Path,
    use_it: impl FnOnce(),
    umount: impl FnOnce(),
) -> Cost {
    let mut child = traced(command, descriptors, record)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed");
    wait_until(&mut child, |_| is_mounted(at), OsStr::new("mounted"));
    use_it();
    umount();
    wait_until(&mut child, |child| child.try_wait().expect("a child").is_some(), OsStr::new("ended"));
    Cost::of(&fs::read_to_string(record).expect("strace writes it"))
}

fn wait_until(child: &mut Child, is_so: impl Fn(&mut Child) -> bool, what: &OsStr) {
    let begin = Instant::now();
    while !is_so(child) {
        assert!(begin.elapsed() < Duration::from_secs(60), "not {} after a minute", what.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}
