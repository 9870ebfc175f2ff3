//! The test whether a client of the exchange socket is a worker, of this mount or another.
//!
//! A worker is recognised by its parent, which it cannot choose, since it cannot start processes. A process can change its
//! own arguments and name.
//!
//! *Invariants*: nothing here allocates. A process that cannot be examined is taken for a worker.
//!
//! *Used by* `exchange`.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::Pid;

/// The name of a supervisor, as `cli` sets it by `PR_SET_NAME`.
const SUPERVISOR: &[u8] = b"sapwood-mount";

/// Bytes of `/proc/PID/status` that are read; its first lines contain the name and the parent.
const STATUS_LENGTH: usize = 1024;

/// Returns whether the parent of the process `pid` is a supervisor.
pub(super) fn is_worker(pid: Pid) -> bool {
    let mut status = [0; STATUS_LENGTH];
    let Ok(text) = read_status(pid.as_raw_nonzero().get(), &mut status) else { return true };
    let Some(parent) = number(text, b"PPid:") else { return true };
    // The first process of a PID namespace, or one that was started from outside of it.
    if parent == 0 {
        return false;
    }
    let mut status = [0; STATUS_LENGTH];
    read_status(parent, &mut status).map_or(true, |text| value(text, b"Name:") == Some(SUPERVISOR))
}

fn read_status(pid: i32, buffer: &mut [u8; STATUS_LENGTH]) -> Result<&[u8], Errno> {
    let mut path = [0; 32];
    let length = write_path(pid, &mut path);
    let path = &path[..length];
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let length = rustix::io::read(file, &mut buffer[..])?;
    Ok(&buffer[..length])
}

/// Writes `/proc/PID/status` and returns its length.
fn write_path(pid: i32, path: &mut [u8; 32]) -> usize {
    use std::io::Write as _;
    let mut rest = &mut path[..];
    let whole = rest.len();
    // The longest number has ten digits, so it fits.
    let written = write!(rest, "/proc/{pid}/status");
    if written.is_ok() { whole - rest.len() } else { 0 }
}

fn value<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
}

fn number(text: &[u8], name: &[u8]) -> Option<i32> {
    std::str::from_utf8(value(text, name)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_is_recognised_by_its_parent() {
        let text = b"Name:\tsapwood-mount\nUmask:\t0022\nPid:\t12\nPPid:\t7\n";
        assert_eq!((value(text, b"Name:"), number(text, b"PPid:")), (Some(SUPERVISOR), Some(7)));
        assert!(!is_worker(rustix::process::getpid()), "the parent of a test is not a supervisor");
        let script = "printf sapwood-mount >/proc/self/comm; sleep 60 & echo $!; read line; kill $!";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut parent = command.spawn().expect("every machine has a shell");
        let mut line = String::new();
        let mut output = std::io::BufReader::new(parent.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut output, &mut line).expect("readable");
        let child = line.trim().parse().ok().and_then(Pid::from_raw).expect("a number");
        let found = is_worker(child);
        drop(parent.stdin.take());
        parent.wait().expect("a child");
        assert!(found, "its parent has the name of a supervisor");
        // A process that does not exist; numbers end at 2^22.
        assert!(is_worker(Pid::from_raw(i32::MAX).expect("not zero")));
    }
}
