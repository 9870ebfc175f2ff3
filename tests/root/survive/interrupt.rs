//! Waits for contents that do not come: a signal or the mount's fetch timeout ends them.
//!
//! The kernel waits for a page in a way that signals interrupt, so Ctrl-C on a reader takes effect at once. It waits for other
//! answers (names, direct reads) without regard to signals once a worker has taken the request, because `fuser` tells the
//! kernel that it does not support interrupts. Those waits end with the mount's fetch timeout.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::mount::{Subject, eventually};
use super::remote::Remote;
use crate::common::link::Shape;

const MMAP_READ_SCRIPT: &str =
    "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nm[0]\n";

/// Returns a program that SIGINT ends, also where tests run in the background of a shell that ignores it.
fn interruptible(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", program]);
    command
}

fn reader(how: &str, path: &Path) -> Child {
    let mut command = match how {
        "read" => {
            let mut command = interruptible("cat");
            command.arg(path);
            command
        }
        "mmap" => {
            let mut command = interruptible("python3");
            command.args(["-c", MMAP_READ_SCRIPT]).arg(path);
            command
        }
        _ => {
            let mut command = interruptible("dd");
            command.arg(format!("if={}", path.display())).args(["iflag=direct", "bs=4096", "count=1"]);
            command
        }
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
}

/// Waits until a process is blocked on the mount.
fn wait_until_it_waits(child: &Child) {
    eventually("a reader that waits", || {
        let stack = fs::read_to_string(format!("/proc/{}/stack", child.id())).unwrap_or_default();
        stack.contains("fuse") || stack.contains("folio") || stack.contains("filemap")
    });
    std::thread::sleep(Duration::from_millis(200));
}

/// Makes a mount that knows all names, and cuts it off from its server.
fn cut_off(name: &str, patience: &str) -> (Remote, Subject) {
    let remote = Remote::new(name, 600, Shape::HOME);
    let subject = remote.mount(&[patience]);
    eventually("all names here", || subject.status()["lazy"]["image_blocks_missing"] == 0);
    remote.link.cut();
    (remote, subject)
}

#[test]
fn reader_of_unreachable_contents_is_stopped_by_ctrl_c() {
    let (remote, subject) = cut_off("interrupt", "fetch-timeout=3600");
    // Python handles SIGINT, and a signal that does not end a process does not end its wait.
    for (how, file, signal) in [("read", "00/file-200", Signal::SIGINT), ("mmap", "20/file-300", Signal::SIGTERM)] {
        let path = subject.join(file);
        let mut child = reader(how, &path);
        wait_until_it_waits(&child);
        let begin = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("runs");
        let mut status = None;
        eventually("the end of an interrupted reader", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        println!("{how}: ended {} ms after {signal}: {}", begin.elapsed().as_millis(), status.expect("has ended"));
    }
    remote.link.restore();
    subject.mounted.unmount();
}

#[test]
fn read_of_unreachable_contents_ends_at_the_fetch_timeout() {
    let (remote, subject) = cut_off("patience", "fetch-timeout=5");
    let begin = Instant::now();
    let mut child = reader("direct", &subject.join("00/file-200"));
    wait_until_it_waits(&child);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("runs");
    let status = child.wait().expect("a child");
    println!(
        "direct: SIGINT took effect when the patience of 5 s was over: after {} ms, {status}",
        begin.elapsed().as_millis()
    );
    assert!(begin.elapsed() < Duration::from_secs(60));
    // A connection that is accepted and closed is no answer: the mount reports that it is offline, and later that it is online
    // again.
    let lazy = subject.status()["lazy"].clone();
    assert!(lazy["online"] == false && lazy["offline_seconds"].as_u64() >= Some(4), "{lazy}");
    remote.link.restore();
    eventually("content", || fs::read(subject.join("00/file-200")).is_ok());
    let lazy = subject.status()["lazy"].clone();
    assert!(lazy["online"] == true && lazy["offline_seconds"].is_null(), "{lazy}");
    subject.mounted.unmount();
}
