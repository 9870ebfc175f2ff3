//! Missing resources: a worker without CPU time, memory, disk space or descriptors; a clock that jumps; a repository that
//! becomes read-only; many mounts at once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::load::{Load, files, md5sums};
use super::mount::{Subject, eventually};
use super::remote::{NEAR, Remote};
use crate::common::sandbox::{Mounted, Sandbox, finish, run};
use crate::common::trees;

#[test]
fn stopped_worker_is_replaced() {
    let remote = Remote::new("starved-stop", 100, NEAR);
    let subject = remote.mount(&["watchdog=1"]);
    let mut pass = md5sums(&remote.tree, subject.mounted.path(), &remote.sandbox.directory("scratch"));
    assert_eq!(pass(&AtomicBool::new(false)), Ok(()));
    let worker = subject.number("worker_pid");
    assert!(subject.signal_workers(Signal::SIGSTOP));
    // Readers wait for the next worker.
    assert_eq!(pass(&AtomicBool::new(false)), Ok(()));
    assert_ne!(subject.number("worker_pid"), worker);
    assert_eq!(subject.health("last_death"), "hung");
    remote.assert_all_right(&subject);
}

/// A memory cgroup, of version 1 or 2, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str, bytes: u64) -> Self {
        let old = Path::new("/sys/fs/cgroup/memory");
        let (base, limit) = if old.join("cgroup.procs").exists() {
            (old.to_owned(), "memory.limit_in_bytes")
        } else {
            fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").expect("there are memory cgroups");
            (PathBuf::from("/sys/fs/cgroup"), "memory.max")
        };
        let group = Self(base.join(format!("sapwood-{name}-{}", std::process::id())));
        fs::create_dir(&group.0).expect("root may make one");
        fs::write(group.0.join(limit), bytes.to_string()).expect("it can be limited");
        group
    }

    fn take(&self, pid: i32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("it takes a process");
    }

    fn limit(&self, bytes: u64) {
        let name = if self.0.join("memory.max").exists() { "memory.max" } else { "memory.limit_in_bytes" };
        // The kernel refuses a limit below the memory in use; the next allocation invokes the OOM killer all the same.
        let _ = fs::write(self.0.join(name), bytes.to_string());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn worker_killed_for_lack_of_memory_is_replaced() {
    let remote = Remote::new("starved-memory", 400, NEAR);
    let subject = remote.mount(&[]);
    let group = Cgroup::new("oom", 1 << 30);
    let worker = subject.number("worker_pid");
    group.take(worker);
    let load =
        Load::new().user("md5sum", md5sums(&remote.tree, subject.mounted.path(), &remote.sandbox.directory("scratch")));
    group.limit(1 << 20);
    eventually("the end of a worker without memory", || {
        // The OOM killer prefers other processes, but it is alone in its group.
        subject.number("worker_pid") != worker
    });
    load.end();
    assert!(subject.deaths() >= 1);
    remote.assert_all_right(&subject);
    subject.mounted.unmount();
}

/// Mounts a tmpfs with these options.
fn disk(sandbox: &Sandbox, options: &str) -> PathBuf {
    let disk = sandbox.directory("disk");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("disk"), &disk, Some("tmpfs"), flags, Some(options)).expect("root may mount");
    disk
}

#[test]
fn full_repository_disk_does_not_stop_reads() {
    let remote = Remote::on("starved-room", 600, NEAR, |sandbox| disk(sandbox, "size=16m"));
    let subject = remote.mount(&[]);
    remote.assert_all_right(&subject);
    subject.signal_workers(Signal::SIGKILL);
    remote.assert_all_right(&subject);
    subject.mounted.unmount();
    remote.client.assert_clean();
}

#[test]
fn repository_that_becomes_read_only_stays_readable() {
    let remote = Remote::on("starved-read-only", 200, NEAR, |sandbox| disk(sandbox, "size=1g"));
    let disk = remote.sandbox.join("disk");
    let subject = remote.mount(&[]);
    let some = files(&remote.tree);
    for path in some.iter().take(some.len() / 2) {
        fs::read(subject.join(path.to_str().expect("UTF-8"))).expect("reads");
    }
    // As ext4 does after an error. Files that are open for writing prevent mount(8) from doing it here; they are closed when
    // their worker ends.
    let remount = |how: &str| run("mount", ["-o".as_ref(), how.as_ref(), disk.as_os_str()]);
    eventually("a read-only disk", || {
        remount("remount,ro").status.success() || !subject.signal_workers(Signal::SIGKILL)
    });
    remote.assert_all_right(&subject);
    // It works also for a worker that started afterwards.
    subject.signal_workers(Signal::SIGKILL);
    remote.assert_all_right(&subject);
    remount("remount,rw").success();
    subject.mounted.unmount();
    remote.client.assert_clean();
}

/// The wall clock of a worker is wrong by years in both directions: nothing depends on it.
#[test]
fn jumps_of_the_clock_do_not_affect_reads() {
    let remote = Remote::new("starved-clock", 100, NEAR);
    let clock = remote.sandbox.join("clock");
    let at = remote.sandbox.directory("m");
    fs::write(&clock, "+20y").expect("writable");
    let mut command = remote.client.command(["mount".as_ref(), "os:main".as_ref(), at.as_os_str()]);
    // Only the wall clock is changed; faketime reads it from a file at each call.
    command.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    finish(command).success();
    for jump in ["-20y", "+1000d", "-1d"] {
        fs::write(&clock, jump).expect("writable");
        let some = format!("cd {} && find . -type f | head -30 | xargs cat > /dev/null", at.display());
        run("sh", ["-c", &some]).success();
    }
    run("diff", ["-r".as_ref(), remote.tree.as_os_str(), at.as_os_str()]).success();
    remote.client.umount(&at);
    remote.client.assert_clean();
}

fn faketime() -> PathBuf {
    let found = ["x86_64", "aarch64"].map(|arch| format!("/usr/lib/{arch}-linux-gnu/faketime/libfaketime.so.1"));
    found.into_iter().map(PathBuf::from).find(|path| path.exists()).expect("tests/install installs faketime")
}

#[test]
fn ten_thousand_open_files_need_few_descriptors() {
    let sandbox = Sandbox::new("starved-files");
    let tree = sandbox.directory("tree");
    for directory in 0..100 {
        fs::create_dir(tree.join(format!("{directory}"))).expect("writable");
        for file in 0..100 {
            // Every tenth file has its own file in the repository.
            let length = if file % 10 == 0 { 70_000 } else { 100 };
            fs::write(tree.join(format!("{directory}/{file}")), trees::noise(directory * 100 + file, length))
                .expect("writable");
        }
    }
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree);
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 20_000, 20_000).expect("root may");
    for options in [&[][..], &["passthrough"]] {
        let subject = Subject::new(&repository, "main", &sandbox.join("m"), options);
        let worker = subject.number("worker_pid");
        // Fewer descriptors than the worker would keep open for later readers.
        let limit = format!("--nofile={0}:{0}", if options.is_empty() { 80 } else { 400 });
        run("prlimit", ["--pid", &worker.to_string(), &limit]).success();
        let open = |path: String| (File::open(subject.join(&path)).expect("opens"), path);
        let held: HashMap<String, File> = (0..10_000)
            .map(|number| open(format!("{}/{}", number / 100, number % 100)))
            .map(|(file, path)| (path, file))
            .collect();
        for (path, file) in &held {
            let mut bytes = vec![0; 100];
            std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, 0)
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!(bytes, fs::read(tree.join(path)).expect("owned by the test")[..100], "{options:?} {path}");
        }
        assert_eq!(subject.number("worker_pid"), worker, "it was not replaced");
        assert_eq!(subject.status()["figures"]["errors"], 0);
        drop(held);
        subject.mounted.unmount();
    }
}

#[test]
fn sixty_four_mounts_work_at_once() {
    let sandbox = Sandbox::new("starved-many");
    let tree = sandbox.join("tree");
    trees::medium(&tree, 40);
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree);
    let mounts: Vec<_> = (0..64)
        .map(|number| repository.mount("main", &sandbox.join(&format!("m{number}")), &["watchdog=60"]))
        .collect();
    std::thread::scope(|scope| {
        for mounted in &mounts {
            let tree = &tree;
            scope.spawn(move || run("diff", ["-r".as_ref(), tree.as_os_str(), mounted.path().as_os_str()]).success());
        }
    });
    let listed = repository.run(["mounts", "--json"]).success();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
    let is_ours = |mount: &&serde_json::Value| mount["repo"] == repository.path().to_str().expect("UTF-8");
    assert_eq!(listed.iter().filter(is_ours).filter(|mount| mount["figures"]["errors"] == 0).count(), 64);
    mounts.into_iter().for_each(Mounted::unmount);
}
