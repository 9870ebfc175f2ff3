//! A mount under test and its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::sandbox::{Mounted, Repository};

pub struct Subject {
    pub repository: Repository,
    pub mounted: Mounted,
    pub supervisor: i32,
}

impl Subject {
    pub fn new(repository: &Repository, source: &str, at: &Path, options: &[&str]) -> Self {
        let mounted = repository.mount(source, at, options);
        let mut subject = Self { repository: repository.clone(), mounted, supervisor: 0 };
        subject.supervisor = subject.number("pid");
        subject
    }

    pub fn join(&self, path: &str) -> PathBuf {
        self.mounted.path().join(path)
    }

    /// Returns what `sapwood mounts --json` prints, once a worker answers.
    pub fn status(&self) -> serde_json::Value {
        let mut status = serde_json::Value::Null;
        eventually("an answer to 'sapwood mounts'", || {
            let text = self.repository.run(["mounts", "--json"]).success();
            let mounts: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
            let at = self.mounted.path().to_str().expect("UTF-8");
            status = mounts.into_iter().find(|mount| mount["mountpoint"] == at).expect("is listed");
            status["health"].is_object()
        });
        status
    }

    pub fn health(&self, field: &str) -> serde_json::Value {
        self.status()["health"][field].clone()
    }

    pub fn deaths(&self) -> u64 {
        self.health("deaths").as_u64().expect("a number")
    }

    pub fn number(&self, field: &str) -> i32 {
        self.status()[field].as_i64().expect("a number") as i32
    }

    /// Returns the child processes of the supervisor, one of which serves.
    pub fn workers(&self) -> Vec<i32> {
        let pid = self.supervisor;
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the supervisor lives");
        text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
    }

    /// Sends a signal to the workers, also to one that is starting. Returns whether there was one.
    pub fn signal_workers(&self, signal: Signal) -> bool {
        // A worker that has ended meanwhile gets no signal, and its number is not reused yet.
        self.workers().into_iter().filter(|pid| kill(Pid::from_raw(*pid), signal).is_ok()).count() > 0
    }

    /// Returns the lines about a process in the log of all mounts of this machine.
    pub fn log(&self, pid: i32) -> String {
        let text = fs::read_to_string("/run/sapwood/mount.log").expect("there is no journal here");
        text.lines().filter(|line| line.contains(&format!("[{pid}]"))).collect::<Vec<_>>().join("\n")
    }
}

#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come about in a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}
