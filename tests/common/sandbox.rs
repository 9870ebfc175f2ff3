//! Sandboxes, in which a test may mount and leave daemons and files behind.
//!
//! Each sandbox is a directory and a mount namespace. Mounts of a test are invisible outside. When the sandbox is dropped, also
//! by a failing test, every process in the namespace is killed and the directory is removed. The namespace belongs to the
//! test's thread; processes that the thread starts inherit it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use rustix::process::PidfdFlags;

/// Longest time of a single command of a test: reading all of a Debian root takes some ten seconds.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(300);

/// Directory in which root's mounts are listed.
const MOUNT_LIST: &str = "/run/sapwood";

/// A directory and a mount namespace, both removed when dropped.
pub struct Sandbox {
    directory: PathBuf,
    namespace: PathBuf,
    /// While it is open, no other namespace gets the same number: the thread may have entered another sandbox.
    _namespace: File,
}

impl Sandbox {
    /// Enters a new mount namespace with this thread and makes an empty directory in the build's temporary folder.
    pub fn new(name: &str) -> Self {
        assert!(geteuid().is_root(), "this test mounts and makes device nodes: run it as root, or run tests/run");
        assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing: this test cannot run (modprobe fuse?)");
        unshare(CloneFlags::CLONE_NEWNS).expect("root may unshare its mounts (a container needs CAP_SYS_ADMIN)");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("private");
        // The list of running mounts is global for all namespaces, so each test gets its own.
        fs::create_dir_all(MOUNT_LIST).expect("root may");
        mount(Some("tmpfs"), MOUNT_LIST, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).expect("tmpfs mounts");
        // Tests that run at the same time may choose the same name.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}.{}.{number}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        remove_tree(&directory);
        fs::create_dir_all(&directory).expect("the build's temporary folder is writable");
        let namespace = Path::new("/proc/thread-self/ns/mnt");
        Self {
            directory,
            _namespace: File::open(namespace).expect("proc is mounted"),
            namespace: fs::read_link(namespace).expect("proc is mounted"),
        }
    }

    /// Returns the sandbox's directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Returns a path in the sandbox, where nothing is made.
    pub fn join(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Makes a directory in the sandbox.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("the sandbox is writable");
        path
    }

    /// Makes a directory with a file system of `bytes` on it, from a sparse image: `kind` is what `mkfs` calls it.
    pub fn loop_mount(&self, name: &str, kind: &str, bytes: u64) -> PathBuf {
        let image = self.join(&format!("{name}.image"));
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("the sandbox is writable");
        run(&format!("mkfs.{kind}"), [image.as_os_str()]).success();
        let target = self.directory(name);
        let arguments: [&OsStr; 5] = ["-t", kind, "-oloop"]
            .map(OsStr::new)
            .into_iter()
            .chain([image.as_os_str(), target.as_os_str()])
            .collect::<Vec<_>>()
            .try_into()
            .expect("five");
        run("mount", arguments).success();
        target
    }

    /// Makes a directory with a tmpfs of `bytes` on it.
    pub fn tmpfs(&self, name: &str, bytes: u64) -> PathBuf {
        let target = self.directory(name);
        let options = format!("size={bytes}");
        mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("tmpfs mounts");
        target
    }

    /// Gives `/dev/fuse` the mode 0666, for this sandbox only, as udev does: the machine may have no udev.
    pub fn open_fuse_to_everybody(&self) {
        let node = self.tmpfs("dev", 4096).join("fuse");
        run(
            "mknod",
            ["-m", "666"]
                .map(OsStr::new)
                .into_iter()
                .chain([node.as_os_str()])
                .chain(["c", "10", "229"].map(OsStr::new)),
        )
        .success();
        mount(Some(&node), "/dev/fuse", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
    }

    /// Makes a repository in the sandbox.
    pub fn repository(&self, name: &str) -> Repository {
        Repository::init(self.join(name))
    }

    /// Kills the processes in the namespace, except for this test, until there are none: some processes replace others that are
    /// killed.
    fn end_processes(&self) {
        for _ in 0..10 {
            if self.kill_processes() == 0 {
                break;
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn kill_processes(&self) -> usize {
        let (own, mut found) = (std::process::id(), 0);
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let namespace = fs::read_link(entry.path().join("ns/mnt"));
            if pid != own && namespace.is_ok_and(|namespace| namespace == self.namespace) {
                // It may have ended by itself since, which is as good.
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                found += 1;
            }
        }
        found
    }

    fn unmount_everything(&self) {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        let inside: Vec<PathBuf> = targets.map(unescape).filter(|path| path.starts_with(&self.directory)).collect();
        for target in inside.iter().rev() {
            let _ = umount2(target, MntFlags::MNT_DETACH);
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end_processes();
        self.unmount_everything();
        if std::env::var_os("SAPWOOD_KEEP_SANDBOX").is_none() {
            remove_tree(&self.directory);
        }
    }
}

/// Decodes a field of the mount table, which writes blanks and backslashes as `\ooo`.
fn unescape(field: &str) -> PathBuf {
    PathBuf::from(field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

/// Removes a tree by `rm`, which handles a depth of 1,000 and modes of 0000, and never crosses into a mount.
pub fn remove_tree(path: &Path) {
    let _ = Command::new("rm").arg("-rf").arg("--one-file-system").arg(path).status();
}

/// The result of a command.
#[derive(Debug)]
pub struct Run {
    /// The command line, for messages.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr, as text.
    pub stderr: String,
    /// Its duration.
    pub time: Duration,
    /// Its peak memory in bytes, as far as it was seen.
    pub memory: u64,
}

impl Run {
    /// Fails the test unless the command exited 0. Returns stdout as text without the last newline.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.status.success(), "{} ended with {}:\n{}", self.command, self.status, self.stderr);
        self.text()
    }

    /// Fails the test unless the command exited with `code` and wrote to stderr. Returns stderr.
    #[track_caller]
    pub fn failure(self, code: i32) -> String {
        let text = self.text();
        assert_eq!(self.status.code(), Some(code), "{}:\n{text}\n{}", self.command, self.stderr);
        assert!(!self.stderr.trim().is_empty(), "{} failed without a word", self.command);
        assert!(!self.stderr.contains("panicked at"), "{} panicked:\n{}", self.command, self.stderr);
        self.stderr
    }

    /// Fails the test unless the command failed, with any code but not by a signal or a panic. Returns stderr.
    #[track_caller]
    pub fn any_failure(self) -> String {
        let code = self.status.code();
        assert!(code.is_some_and(|code| code != 0), "{} ended with {}", self.command, self.status);
        self.failure(code.unwrap_or_default())
    }

    /// Returns stdout as text, without the newline at the end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }
}

/// Runs a program of the distribution.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Run {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command)
}

/// Returns a command by which `runner`, a program that takes another one at the end of its arguments, runs `command` with its
/// environment.
pub fn run_by(mut runner: Command, command: &Command) -> Command {
    runner.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => runner.env(name, value),
            None => runner.env_remove(name),
        };
    }
    runner
}

/// Runs a command to its end, with its output in files.
///
/// Not in pipes: a daemon that keeps the pipe open would make the test wait for ever instead of failing.
pub fn finish(command: Command) -> Run {
    finish_within(command, COMMAND_TIMEOUT)
}

/// Like [`finish`], with a longer time limit.
pub fn finish_within(mut command: Command, patience: Duration) -> Run {
    let line = format!("{command:?}");
    let (stdout, stderr) = (temporary(), temporary());
    let begin = Instant::now();
    command.stdin(Stdio::null()).stdout(clone(&stdout)).stderr(clone(&stderr)).env("LC_ALL", "C");
    let child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error} (tests/install installs it)"));
    let (status, memory) = wait(child, &line, patience);
    let time = begin.elapsed();
    Run { command: line, status, stdout: content(stdout), stderr: lossy(content(stderr)), time, memory }
}

/// Returns the peak memory of a process so far, in bytes; `None` when it has ended, or is about to run its program: until then it
/// has the memory of the test program, for a moment also after it was started.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let program = |process: &str| fs::read_link(format!("/proc/{process}/exe"));
    if program(&pid.to_string()).ok()? == program("self").expect("it runs") {
        return None;
    }
    high_water(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Returns the peak memory of the test program itself so far, in bytes.
pub fn own_peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it runs");
    high_water(&status).expect("a status of a process has VmHWM")
}

/// Reads the peak memory from a `status` file of `/proc`, in bytes.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

fn wait(mut child: Child, line: &str, patience: Duration) -> (ExitStatus, u64) {
    let (begin, mut memory) = (Instant::now(), 0);
    let pid = rustix::process::Pid::from_child(&child);
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("the kernel has pidfds");
    loop {
        memory = peak_memory(child.id()).unwrap_or(0).max(memory);
        // Interval at which its memory is read; the end is noticed at once.
        let pause = if begin.elapsed() < Duration::from_millis(100) { 2_u8 } else { 20 };
        poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], pause).expect("a descriptor can be polled");
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return (status, memory);
        }
        if begin.elapsed() > patience {
            let _ = child.kill();
            panic!("{line} still runs after {} s", patience.as_secs());
        }
    }
}

fn temporary() -> File {
    tempfile::tempfile().expect("temporary files can be made")
}

fn clone(file: &File) -> File {
    file.try_clone().expect("descriptors are not exhausted")
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn content(mut file: File) -> Vec<u8> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("temporary files can be read");
    bytes
}

/// A repository and the program that works on it.
#[derive(Clone)]
pub struct Repository {
    path: PathBuf,
    user: Option<u32>,
}

impl Repository {
    /// Runs `init` at `path`.
    #[track_caller]
    pub fn init(path: PathBuf) -> Self {
        let repository = Self { path, user: None };
        repository.run(["init"]).success();
        repository
    }

    /// Returns an existing repository.
    pub fn at(path: PathBuf) -> Self {
        Self { path, user: None }
    }

    /// Runs `init` as a user other than root, who must own the directory above `path`.
    #[track_caller]
    pub fn init_as(path: PathBuf, user: u32) -> Self {
        let repository = Self { path, user: Some(user) };
        repository.run(["init"]).success();
        repository
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns `sapwood --repo PATH ARGUMENTS…`, not yet started.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let program = super::programs::sapwood();
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()])
                    .arg(program);
                command.env("HOME", "/nonexistent").env_remove("XDG_RUNTIME_DIR");
                command
            }
        };
        // Settings of the user who runs the tests must not affect them.
        for name in
            ["SAPWOOD_REPO", "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "SSL_CERT_FILE"]
        {
            command.env_remove(name);
        }
        command.arg("--repo").arg(&self.path).args(arguments);
        command
    }

    /// Runs `sapwood --repo PATH ARGUMENTS…`.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        finish(self.command(arguments))
    }

    /// Commits a directory. Returns the commit's id.
    #[track_caller]
    pub fn commit(&self, name: &str, directory: &Path) -> String {
        let id =
            self.run([OsStr::new("commit"), OsStr::new("--ref"), OsStr::new(name), directory.as_os_str()]).success();
        assert_is_id(&id);
        id
    }

    /// Commits a tar file. Returns the commit's id.
    #[track_caller]
    pub fn commit_tar(&self, name: &str, tar: &Path) -> String {
        let id =
            // The trees of the tests have names that are whiteouts in a layer of a container image.
            self.run(
                ["commit", "--whiteouts", "verbatim", "--ref", name, "--tar"].map(OsString::from).into_iter().chain([tar.into()]),
            )
            .success();
        assert_is_id(&id);
        id
    }

    /// Runs `fsck` and expects it to find nothing.
    #[track_caller]
    pub fn assert_clean(&self) {
        self.run(["fsck"]).success();
    }

    /// Unmounts what is mounted at `at`. It waits while that is in use: another thread of the test program may be starting a
    /// process, which has all open files of the program for a moment.
    #[track_caller]
    pub fn umount(&self, at: &Path) {
        let begin = Instant::now();
        loop {
            let run = self.run([OsStr::new("umount"), at.as_os_str()]);
            if run.status.success() || !run.stderr.contains("is in use") || begin.elapsed() > Duration::from_secs(30) {
                run.success();
                return;
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Mounts `source` at a new directory `at`.
    #[track_caller]
    pub fn mount(&self, source: &str, at: &Path, options: &[&str]) -> Mounted {
        fs::create_dir_all(at).expect("the sandbox is writable");
        if let Some(user) = self.user {
            std::os::unix::fs::chown(at, Some(user), Some(user)).expect("root may give away");
        }
        let mut arguments = vec![OsString::from("mount")];
        if !options.is_empty() {
            arguments.extend(["-o".into(), options.join(",").into()]);
        }
        arguments.extend([source.into(), at.into()]);
        self.run(arguments).success();
        assert!(is_mounted(at), "`sapwood mount` returned before {} was mounted", at.display());
        Mounted { repository: self.clone(), at: at.to_owned() }
    }
}

/// Returns whether something is mounted exactly at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("proc is mounted");
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|target| unescape(target) == path)
}

#[track_caller]
fn assert_is_id(text: &str) {
    let is_hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(text.len() == 64 && is_hex, "commit should print its id and nothing else on stdout, printed {text:?}");
}

/// A mounted commit, unmounted when dropped.
pub struct Mounted {
    repository: Repository,
    at: PathBuf,
}

impl Mounted {
    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Unmounts, and fails the test if that fails.
    #[track_caller]
    pub fn unmount(self) {
        self.repository.umount(&self.at);
        assert!(!is_mounted(&self.at), "`sapwood umount` returned before {} was gone", self.at.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.at) {
            let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        }
    }
}

/// Returns whether a run was ended by `signal`.
pub fn ended_by(run: &Run, signal: Signal) -> bool {
    run.status.signal() == Some(signal as i32)
}
