//! Soak tests: readers compare each answer with a copy of the tree while faults of every kind are made at random.
//!
//! The short form takes some seconds. The figures in SECURITY.md come from the long one:
//!
//! ```text
//! SAPWOOD_SOAK=600 cargo test --release --test root survive::soak -- --ignored --nocapture
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::fs::{Advice, fadvise};

use super::load::{Load, files};
use super::mount::{Subject, eventually};
use super::remote::Remote;
use crate::common::link::{Link, Shape};
use crate::common::random::Random;
use crate::common::sandbox::{finish, run};

/// Longest cut of the link in milliseconds: less than readers wait, so that no error is allowed at any time.
const CUT_MS: u64 = 3000;

/// Adds a user that does a random operation and compares its result with the tree.
pub fn reader(
    seed: u64,
    tree: &Path,
    mounted: &Path,
    done: &Arc<AtomicU64>,
) -> impl FnMut(&AtomicBool) -> Result<(), String> + use<> {
    let (tree, mounted, done, files) = (tree.to_owned(), mounted.to_owned(), Arc::clone(done), files(tree));
    let mut random = Random::new(seed);
    move |_| {
        let path = &files[random.below(files.len() as u64) as usize];
        let (own, ours) = (mounted.join(path), tree.join(path));
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        done.fetch_add(1, Ordering::Relaxed);
        match random.below(8) {
            0 => same(
                &names(own.parent().expect("a file")).map_err(failed)?,
                &names(ours.parent().expect("a file")).map_err(failed)?,
                path,
            ),
            1 => same(&status(&own).map_err(failed)?, &status(&ours).map_err(failed)?, path),
            2 => match fs::symlink_metadata(own.join("nothing")) {
                Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Ok(()),
                other => Err(format!("{}/nothing: {other:?}", path.display())),
            },
            3 => same(&fs::read(&own).map_err(failed)?, &fs::read(&ours).map_err(failed)?, path),
            _ => {
                let (file, reference) = (File::open(&own).map_err(failed)?, File::open(&ours).map_err(failed)?);
                let length = reference.metadata().map_err(failed)?.len();
                let offset = random.below(length + 1);
                let mut bytes = vec![0; random.below(200_000) as usize];
                let mut expected = bytes.clone();
                let (read, wanted) = (read_at(&file, &mut bytes, offset), read_at(&reference, &mut expected, offset));
                let (read, wanted) = (read.map_err(failed)?, wanted.map_err(failed)?);
                // Otherwise the kernel's cache would answer the next reader.
                fadvise(&file, 0, None, Advice::DontNeed).map_err(|errno| errno.to_string())?;
                same(&bytes[..read], &expected[..wanted], path)
            }
        }
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset + length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

fn names(directory: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    let mut names =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn status(path: &Path) -> std::io::Result<(u32, u64, i64, u32)> {
    let data = fs::symlink_metadata(path)?;
    Ok((data.mode(), data.size(), data.mtime(), data.uid()))
}

fn same<T: PartialEq + ?Sized>(found: &T, expected: &T, path: &Path) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{}: A WRONG ANSWER", path.display())) }
}

/// Least time between two stopped workers: a hanging worker counts as a crash, and after five crashes within a minute a mount
/// fetches nothing more, which other tests check.
const STOP_INTERVAL_MIN: Duration = Duration::from_secs(16);

/// A random number for each kind of fault.
const FAULT_SAMPLES: [u64; 8] = [18, 0, 6, 7, 10, 13, 15, 17];

/// Makes faults, and counts them by kind.
struct Faults<'a> {
    subject: &'a Subject,
    link: &'a Link,
    random: Random,
    stopped: Option<Instant>,
    counts: BTreeMap<&'static str, u64>,
}

impl Faults<'_> {
    fn one(&mut self) {
        // Each kind once, then at random.
        let made: u64 = self.counts.values().sum();
        let number = FAULT_SAMPLES.get(made as usize).copied().unwrap_or_else(|| self.random.below(20));
        let kind = match number {
            0..=5 => {
                self.subject.signal_workers(Signal::SIGKILL);
                "kill -9"
            }
            6 if self.stopped.is_none_or(|last| last.elapsed() > STOP_INTERVAL_MIN) => {
                self.stopped = Some(Instant::now());
                self.subject.signal_workers(Signal::SIGSTOP);
                "SIGSTOP"
            }
            7..=9 => {
                self.link.cut();
                std::thread::sleep(Duration::from_millis(self.random.below(CUT_MS)));
                self.link.restore();
                "link cut"
            }
            10..=12 => {
                self.link.cut_after(self.random.below(300_000));
                std::thread::sleep(Duration::from_millis(self.random.below(CUT_MS)));
                self.link.restore();
                "cut within an answer"
            }
            13 | 14 => {
                self.link.forget_connections();
                "connections forgotten"
            }
            15 | 16 => {
                let mut command = self.subject.repository.command([
                    "mounts".as_ref(),
                    "--reexec".as_ref(),
                    self.subject.mounted.path().as_os_str(),
                ]);
                command.env("SAPWOOD_LOG", "error");
                // It fails with a message if the worker is stopped or killed at the same time.
                finish(command);
                "program exchanged"
            }
            17 => {
                self.subject.repository.run(["gc"]);
                "gc"
            }
            _ => {
                self.flip();
                "damaged byte"
            }
        };
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Flips a byte of a file of the repository that holds contents.
    fn flip(&mut self) {
        let root = self.subject.repository.path();
        let find = |name: &str| run("find", [root.join(name).as_os_str(), "-type".as_ref(), "f".as_ref()]).text();
        let text = ["packs", "objects"].map(find).join("\n");
        let paths: Vec<PathBuf> = text.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect();
        if paths.is_empty() {
            return;
        }
        let path = &paths[self.random.below(paths.len() as u64) as usize];
        let Ok(data) = fs::metadata(path) else { return };
        // The index at the end of a pack is mapped; damage to it is not tested here.
        let end = if path.starts_with(root.join("packs")) { data.len() / 2 } else { data.len() };
        let at = 16 + self.random.below(end.max(17) - 16);
        // It may have been removed meanwhile.
        let Ok(()) = fs::set_permissions(path, fs::Permissions::from_mode(0o644)) else { return };
        if let Ok(file) = OpenOptions::new().read(true).write(true).open(path) {
            let mut byte = [0];
            if file.read_at(&mut byte, at).is_ok_and(|length| length == 1) {
                file.write_all_at(&[!byte[0]], at).expect("there is room");
            }
        }
    }
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Returns the KiB of private memory: pages of the program and shared pages depend on the free memory of the system.
fn memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Runs readers under faults for a time. Returns a line of figures.
#[track_caller]
fn soak(name: &str, time: Duration, number: usize) -> String {
    let remote = Remote::new(name, number, Shape::HOME);
    remote.add(&["--stall-timeout", "2"]);
    let options = ["verify=full", "watchdog=2", "cache-size=8M", "fetch-timeout=60"];
    let subject = remote.mount(&options);
    let done = Arc::new(AtomicU64::new(0));
    let mut load = Load::new().prober(subject.mounted.path());
    for seed in 1..=4 {
        load = load.user("reader", reader(seed * 77, &remote.tree, subject.mounted.path(), &done));
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = (descriptors(subject.supervisor), memory(subject.supervisor));
    let mut faults = Faults {
        subject: &subject,
        link: &remote.link,
        random: Random::new(0x5eed),
        stopped: None,
        counts: BTreeMap::new(),
    };
    let end = Instant::now() + time;
    while Instant::now() < end {
        faults.one();
        std::thread::sleep(Duration::from_millis(500 + faults.random.below(1500)));
    }
    let counts = faults.counts;
    remote.link.restore();
    let (longest, _) = load.end();
    let status = subject.status();
    assert_eq!(status["figures"]["errors"], 0, "{status}");
    let after = (descriptors(subject.supervisor), memory(subject.supervisor));
    assert_eq!(after.0, before.0, "the supervisor leaks descriptors");
    assert!(after.1 < before.1 + 1024, "the supervisor grew from {} to {} KiB", before.1, after.1);
    let worker = subject.number("worker_pid");
    eventually("few descriptors of the worker", || descriptors(worker) < 600);
    let figures = format!(
        "{} s: {} answers compared, 0 wrong, 0 errors; faults: {counts:?}; {} workers, {} bytes damaged and repaired by the last; \
         longest wait {} ms; supervisor {} descriptors and {} KiB before, {} and {} after; worker {} KiB",
        time.as_secs(),
        done.load(Ordering::Relaxed),
        status["health"]["starts"],
        status["lazy"]["repaired"],
        longest.as_millis(),
        before.0,
        before.1,
        after.0,
        after.1,
        memory(worker),
    );
    subject.mounted.unmount();
    figures
}

#[test]
fn mount_survives_a_short_soak() {
    println!("{}", soak("soak-short", Duration::from_secs(20), 300));
}

#[test]
#[ignore = "takes ten minutes, or as many seconds as SAPWOOD_SOAK says"]
fn mount_survives_a_long_soak() {
    let seconds = std::env::var("SAPWOOD_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    println!("{}", soak("soak-long", Duration::from_secs(seconds), 3000));
}
