//! A worker that was taken over: the system calls that an attacker would make, made inside the worker of a running mount.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::fixture::{Client, Fixture};
use super::server::Server;
use crate::common::tracee::Tracee;
use crate::common::trees;

const WRITE: i32 = libc::O_WRONLY;
const CREATE: i32 = libc::O_WRONLY | libc::O_CREAT;

/// A lazy mount of which something was read, so that the repository has objects.
struct Mount {
    fixture: Fixture,
    client: Client,
    at: PathBuf,
    _server: Server,
}

impl Mount {
    fn new(name: &str) -> Self {
        let fixture = Fixture::with(name, |tree| {
            trees::medium(tree, 30);
            fs::write(tree.join("00/small"), trees::noise(4, 5000)).expect("writable");
            fs::write(tree.join("large"), trees::noise(3, 3 << 20)).expect("writable");
        });
        let server = Server::of(&fixture.published);
        let client = fixture.client("worker", &server);
        let at = fixture.sandbox.directory("client-mounted");
        // Its output is read to the end, which comes only if no process of the mount keeps the pipe open.
        let command = client.repository.command(["mount", "os:main", at.to_str().expect("UTF-8")]).output();
        assert!(command.expect("it can be started").status.success());
        let mount = Self { fixture, client, at, _server: server };
        fs::read(mount.at.join("00/small")).expect("served");
        // The last block of the large object was not read.
        let large = fs::File::open(mount.at.join("large")).expect("served");
        std::os::unix::fs::FileExt::read_at(&large, &mut [0; 10], 0).expect("served");
        let begin = Instant::now();
        while listing(&mount.repository("packs")).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing is stored");
            std::thread::sleep(Duration::from_millis(50));
        }
        mount
    }

    fn repository(&self, path: &str) -> PathBuf {
        self.client.repository.path().join(path)
    }

    fn status(&self) -> serde_json::Value {
        let listed = self.client.repository.run(["mounts", "--json"]).success();
        let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let mut mounts = listed.as_array().expect("a list").iter();
        mounts.rfind(|mount| mount["mountpoint"] == *self.at.to_str().expect("UTF-8")).expect("listed").clone()
    }

    fn worker(&self) -> i32 {
        i32::try_from(self.status()["worker_pid"].as_i64().expect("a number")).expect("a process")
    }

    fn end(self) {
        for (path, bytes) in trees_files(&self.fixture.tree) {
            assert!(fs::read(self.at.join(&path)).expect("served") == bytes, "{}", path.display());
        }
        self.client.repository.umount(&self.at);
        self.client.repository.assert_clean();
    }
}

fn listing(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).expect("listable").map(|entry| entry.expect("listed").path()).collect()
}

fn trees_files(tree: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    ["00/file-0", "01/file-1", "large"].map(|name| (name.into(), fs::read(tree.join(name)).expect("made"))).to_vec()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn worker_writes_only_parts_of_its_commit_and_its_list_entry() {
    let mount = Mount::new("worker-files");
    let other = mount.fixture.sandbox.directory("other");
    let other = mount.fixture.publisher.mount("main", &other, &[]);
    let worker = Tracee::attach(mount.worker());
    let mut refused: Vec<(PathBuf, i32)> = Vec::new();
    for directory in ["objects", "packs", "images", "commits", "refs", "tmp", "state", "state/mounts", "remotes"] {
        let directory = mount.repository(directory);
        refused.push((directory.join("new"), CREATE));
        refused.extend(listing(&directory).into_iter().filter(|path| path.is_file()).map(|path| (path, WRITE)));
    }
    refused.extend(["config.toml", "parts/new"].map(|path| (mount.repository(path), CREATE)));
    refused.extend(listing(&mount.repository("parts")).into_iter().map(|other| (other.join("../x"), CREATE)));
    // The list entries of other mounts, and the sockets of supervisors.
    let own = mount.status()["name"].as_str().expect("a name").to_owned();
    let entries = listing(Path::new("/run/sapwood/running"));
    assert!(entries.len() > 1, "the other mount is listed, too");
    for entry in entries.iter().filter(|entry| !entry.ends_with(&own)) {
        refused.push((entry.join("new"), CREATE));
        refused.extend(listing(entry).into_iter().map(|path| (path, WRITE)));
    }
    for path in ["/etc/shadow", "/etc/passwd", "/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj", "/dev/kmsg"]
    {
        refused.push((path.into(), WRITE));
    }
    for (path, flags) in &refused {
        assert_eq!(worker.open(text(path), *flags), Some(libc::EACCES), "{}", path.display());
    }
    assert_eq!(worker.open("/etc/shadow", libc::O_RDONLY), Some(libc::EACCES));
    // What it may write: the parts of its commit, and its list entry.
    let mut parts = listing(&listing(&mount.repository("parts"))[0]);
    // The others are replaced and not written to.
    parts.retain(|path| path.extension().is_none());
    assert_eq!(parts.len(), 2, "the image and the large object");
    parts.iter().for_each(|part| assert_eq!(worker.open(text(part), WRITE), None));
    let entry = Path::new("/run/sapwood/running").join(&own).join(format!("{own}.json"));
    assert_eq!(worker.open(text(&entry), WRITE), None);
    // Names: nothing is removed, renamed or linked elsewhere.
    let pack = listing(&mount.repository("packs")).remove(0);
    let [victim, target] = [pack.clone(), mount.repository("packs/y")];
    let (from, to) = (worker.place(1, text(&victim).as_bytes()), worker.place(2, text(&target).as_bytes()));
    let here = libc::AT_FDCWD as u64;
    assert_eq!(worker.call(libc::SYS_unlinkat, &[here, from, 0]), -i64::from(libc::EACCES));
    assert_eq!(worker.call(libc::SYS_renameat, &[here, from, here, to]), -i64::from(libc::EACCES));
    assert_eq!(worker.call(libc::SYS_linkat, &[here, from, here, to, 0]), -i64::from(libc::ENOSYS));
    assert_eq!(worker.call(libc::SYS_fchmodat, &[here, from, 0o666]), -i64::from(libc::ENOSYS));
    drop(worker);
    other.unmount();
    mount.end();
}

#[test]
fn worker_opens_no_setting_of_the_kernel_for_writing() {
    let mount = Mount::new("worker-settings");
    let worker = Tracee::attach(mount.worker());
    let (mut pending, mut tried) =
        (vec![PathBuf::from("/proc/sys"), PathBuf::from("/sys/kernel"), "/sys/fs".into()], 0);
    pending.extend(listing(Path::new("/proc")).into_iter().filter(|path| {
        let name = path.file_name().expect("it has one").to_string_lossy();
        !name.chars().all(|letter| letter.is_ascii_digit()) && path.is_dir() && !path.is_symlink()
    }));
    for path in listing(Path::new("/proc")).into_iter().filter(|path| path.is_file()) {
        assert_eq!(worker.open(text(&path), WRITE), Some(libc::EACCES), "{}", path.display());
    }
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries.filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let path = entry.path();
                    let Some(path) = path.to_str() else { continue };
                    let error = worker.open(path, WRITE);
                    // Some exist only for a moment.
                    assert!(matches!(error, Some(libc::EACCES | libc::ENOENT)), "{path}: {error:?}");
                    tried += 1;
                }
                _ => {}
            }
        }
    }
    assert!(tried > 500, "{tried} files");
    drop(worker);
    mount.end();
}

#[test]
fn worker_reaches_no_local_service_and_no_other_process() {
    let mount = Mount::new("worker-calls");
    let (pid, supervisor) = (mount.worker(), mount.status()["pid"].as_u64().expect("a process"));
    // A service that would trust root.
    let service = mount.fixture.sandbox.join("service");
    let _service = UnixListener::bind(&service).expect("writable");
    fs::set_permissions(&service, fs::Permissions::from_mode(0o600)).expect("owned by the test");
    let worker = Tracee::attach(pid);
    let program = worker.place(1, b"/bin/true");
    let none = 0;
    let absent: Vec<(&str, i64, Vec<u64>)> = vec![
        ("a local socket", libc::SYS_socket, vec![libc::AF_UNIX as u64, libc::SOCK_STREAM as u64]),
        ("a vsock", libc::SYS_socket, vec![libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64]),
        ("a packet socket", libc::SYS_socket, vec![libc::AF_PACKET as u64, libc::SOCK_RAW as u64]),
        ("a pair of datagrams", libc::SYS_socketpair, vec![libc::AF_UNIX as u64, libc::SOCK_DGRAM as u64, 0, program]),
        ("execve", libc::SYS_execve, vec![program, none, none]),
        ("execveat", libc::SYS_execveat, vec![libc::AT_FDCWD as u64, program, none, none]),
        ("fork", libc::SYS_fork, vec![]),
        ("clone", libc::SYS_clone, vec![libc::SIGCHLD as u64]),
        ("clone3", libc::SYS_clone3, vec![program, 88]),
        ("ptrace", libc::SYS_ptrace, vec![libc::PTRACE_ATTACH as u64, supervisor]),
        ("process_vm_writev", libc::SYS_process_vm_writev, vec![supervisor]),
        ("pidfd_open", libc::SYS_pidfd_open, vec![supervisor]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, vec![supervisor]),
        ("kill the supervisor", libc::SYS_kill, vec![supervisor, libc::SIGKILL as u64]),
        ("kill all", libc::SYS_kill, vec![u64::MAX, libc::SIGKILL as u64]),
        ("tgkill", libc::SYS_tgkill, vec![supervisor, supervisor, libc::SIGKILL as u64]),
        ("signals by F_SETOWN", libc::SYS_fcntl, vec![0, libc::F_SETOWN as u64, supervisor]),
        ("the signal by F_SETSIG", libc::SYS_fcntl, vec![0, 10, libc::SIGKILL as u64]),
        ("prlimit64", libc::SYS_prlimit64, vec![supervisor, libc::RLIMIT_NOFILE as u64, program]),
        ("mount", libc::SYS_mount, vec![program, program, program]),
        ("umount", libc::SYS_umount2, vec![program]),
        ("setns", libc::SYS_setns, vec![0]),
        ("unshare", libc::SYS_unshare, vec![libc::CLONE_NEWUSER as u64]),
        ("chroot", libc::SYS_chroot, vec![program]),
        ("bpf", libc::SYS_bpf, vec![]),
        ("perf_event_open", libc::SYS_perf_event_open, vec![]),
        ("io_uring_setup", libc::SYS_io_uring_setup, vec![1, program]),
        ("userfaultfd", libc::SYS_userfaultfd, vec![]),
        ("keyctl", libc::SYS_keyctl, vec![0]),
        ("add_key", libc::SYS_add_key, vec![]),
        ("init_module", libc::SYS_init_module, vec![]),
        ("reboot", libc::SYS_reboot, vec![]),
        ("sethostname", libc::SYS_sethostname, vec![program, 1]),
        ("settimeofday", libc::SYS_settimeofday, vec![]),
        ("setuid", libc::SYS_setuid, vec![0]),
        ("chmod", libc::SYS_chmod, vec![program, 0o4755]),
        ("chown", libc::SYS_chown, vec![program, 0, 0]),
        ("setxattr", libc::SYS_setxattr, vec![program, program, program, 1]),
        ("utimensat", libc::SYS_utimensat, vec![libc::AT_FDCWD as u64, program]),
        ("mknod", libc::SYS_mknod, vec![program, libc::S_IFCHR as u64]),
        ("symlink", libc::SYS_symlink, vec![program, program]),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, vec![]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, vec![]),
    ];
    for (name, number, arguments) in absent {
        let result = worker.call(number, &arguments);
        assert_eq!(result, -i64::from(libc::ENOSYS), "{name}");
    }
    drop(worker);
    mount.end();
}
