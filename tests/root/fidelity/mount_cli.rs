//! The commands `mount`, `umount` and `mounts`, and the helper of mount(8), run as a user runs them.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::programs;
use crate::common::sandbox::{Repository, Run, Sandbox, finish, is_mounted, run};
use nix::mount::{MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;

/// Id of an unprivileged user.
const NOBODY_UID: u32 = 65_534;

/// Makes a tree with a program, a setuid file and a link to a directory.
fn tree(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.directory("tree");
    fs::create_dir_all(root.join("usr/bin")).expect("writable");
    fs::write(root.join("hello"), "hello world\n").expect("writable");
    fs::copy("/bin/sleep", root.join("usr/bin/sleep")).expect("is there");
    fs::copy("/usr/bin/id", root.join("usr/bin/setuid-id")).expect("is there");
    fs::set_permissions(root.join("usr/bin/setuid-id"), fs::Permissions::from_mode(0o4755)).expect("owned by the test");
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).expect("writable");
    root
}

fn committed(sandbox: &Sandbox) -> Repository {
    let repository = sandbox.repository("repo");
    repository.commit("main", &tree(sandbox));
    repository
}

/// Returns what `sapwood mounts --json` prints about one mount.
fn listed(repository: &Repository, at: &Path) -> Option<serde_json::Value> {
    let text = repository.run(["mounts", "--json"]).success();
    let mounts: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    mounts.into_iter().find(|mount| mount["mountpoint"] == at.to_str().expect("UTF-8"))
}

fn pid_of(repository: &Repository, at: &Path) -> u32 {
    number(repository, at, "pid")
}

fn worker_of(repository: &Repository, at: &Path) -> u32 {
    number(repository, at, "worker_pid")
}

fn number(repository: &Repository, at: &Path, name: &str) -> u32 {
    let pid = listed(repository, at).expect("is listed")[name].as_u64().expect("a number");
    u32::try_from(pid).expect("a process number")
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come about in 60 s");
        sleep(Duration::from_millis(5));
    }
}

fn runs(pid: u32) -> bool {
    // A zombie whose parent is another process still has a directory in /proc, but no program.
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

#[test]
fn a_mount_is_listed_until_it_is_unmounted() {
    let sandbox = Sandbox::new("cli-list");
    let repository = committed(&sandbox);
    let mounted = repository.mount("main", &sandbox.join("m"), &[]);
    assert_eq!(fs::read_to_string(mounted.path().join("hello")).expect("reads"), "hello world\n");
    let entry = listed(&repository, mounted.path()).expect("is listed");
    assert_eq!((&entry["source"], &entry["mode"]), (&"main".into(), &"cached".into()));
    assert_eq!(entry["repo"], repository.path().to_str().expect("UTF-8"));
    assert!(entry["figures"]["messages"].as_u64().expect("a number") > 0);
    assert_eq!(entry["figures"]["bytes_read"], 12);
    let table = repository.run(["mounts"]).success();
    assert!(table.lines().any(|line| line.starts_with(mounted.path().to_str().expect("UTF-8"))), "{table}");
    let pid = pid_of(&repository, mounted.path());
    let name = fs::read(format!("/proc/{pid}/cmdline")).expect("runs");
    assert!(name.starts_with(b"@sapwood-mount\0"), "systemd must see the @");
    let at = mounted.path().to_owned();
    mounted.unmount();
    assert_eq!(listed(&repository, &at), None);
    assert!(!runs(pid), "umount returned before the process behind the mount was gone");
}

#[test]
fn a_directory_of_the_commit_can_be_the_root() {
    let sandbox = Sandbox::new("cli-subdir");
    let repository = committed(&sandbox);
    let by_option = repository.mount("main", &sandbox.join("one"), &["subdir=/usr"]);
    let by_source = repository.mount("main:/usr", &sandbox.join("two"), &[]);
    for mounted in [by_option, by_source] {
        assert!(mounted.path().join("bin/sleep").exists());
        mounted.unmount();
    }
    let at = sandbox.directory("three");
    let refused = |arguments: &[&str]| {
        let arguments = ["mount"].iter().chain(arguments).map(OsStr::new).chain([at.as_os_str()]);
        repository.run(arguments).failure(1)
    };
    assert!(refused(&["main:/bin"]).contains("/bin is a symlink in this commit"), "not followed");
    assert!(refused(&["main:/lib"]).contains("no directory /lib"));
    assert!(refused(&["-o", "subdir=/usr", "main:/usr"]).contains("both name a directory"));
}

#[test]
fn failed_mounts_name_the_reason() {
    let sandbox = Sandbox::new("cli-refused");
    let repository = committed(&sandbox);
    let at = sandbox.directory("m");
    let fails = |arguments: &[&OsStr]| repository.run([&[OsStr::new("mount")], arguments].concat()).failure(1);
    let at = at.as_os_str();
    assert!(fails(&["nothing".as_ref(), at]).contains("no ref or commit 'nothing'"));
    assert!(fails(&["-o".as_ref(), "subdri=/usr".as_ref(), "main".as_ref(), at]).contains("did you mean 'subdir'?"));
    assert!(fails(&["-o".as_ref(), "rw".as_ref(), "main".as_ref(), at]).contains("never changes"));
    assert!(fails(&["main".as_ref(), sandbox.join("missing").as_os_str()]).contains("missing"));
    assert!(fails(&["main".as_ref(), sandbox.join("tree/hello").as_os_str()]).contains("not a directory"));
    let no_repository = Command::new(programs::sapwood());
    let no_repository = {
        let mut command = no_repository;
        command.args(["--repo", "/nonexistent", "mount", "main"]).arg(at);
        finish(command).failure(1)
    };
    assert!(no_repository.contains("/nonexistent is not a sapwood repository"), "{no_repository}");
    let mounted = repository.mount("main", Path::new(at), &[]);
    assert!(fails(&["main".as_ref(), at]).contains("already mounted"));
    mounted.unmount();
    let hidden = sandbox.directory("dev");
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounts");
    mknod("/dev/null", SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).expect("root may");
    let message = fails(&["main".as_ref(), hidden.as_os_str()]);
    assert!(message.contains("/dev/fuse is absent") && message.contains("modprobe fuse"), "{message}");
}

fn sleeper_in(directory: &Path) -> Child {
    let child = Command::new("sleep").arg("100").current_dir(directory).stdin(Stdio::null()).spawn();
    child.expect("sleep is there")
}

#[test]
fn umount_names_users_of_a_busy_mount_and_lazy_detaches_it() {
    let sandbox = Sandbox::new("cli-busy");
    let repository = committed(&sandbox);
    let mounted = repository.mount("main", &sandbox.join("m"), &[]);
    let at = mounted.path().to_owned();
    let umount =
        |arguments: &[&OsStr]| repository.run([&[OsStr::new("umount")], arguments, &[at.as_os_str()]].concat());
    let mut sleeper = sleeper_in(&at.join("usr"));
    let message = umount(&[]).failure(1);
    assert!(message.contains(&format!("process {} (sleep): cwd {}/usr", sleeper.id(), at.display())), "{message}");
    assert!(is_mounted(&at));
    let pid = pid_of(&repository, &at);
    umount(&["--lazy".as_ref()]).success();
    assert!(!is_mounted(&at));
    assert!(runs(pid) && listed(&repository, &at).is_some(), "it ends when its last user does");
    sleeper.kill().and_then(|()| sleeper.wait()).expect("it runs");
    eventually("the end of the daemon", || !runs(pid));
    assert_eq!(listed(&repository, &at), None);
    assert!(umount(&[]).failure(1).contains("is not mounted"));
    assert!(repository.run(["umount", "/proc"]).failure(1).contains("not Sapwood's"));
}

#[test]
fn umount_does_not_name_itself() {
    let sandbox = Sandbox::new("umount-self");
    let repository = committed(&sandbox);
    let mounted = repository.mount("main", &sandbox.join("mounted"), &[]);
    let mut command = repository.command([OsStr::new("umount"), mounted.path().as_os_str()]);
    command.current_dir(mounted.path());
    let said = finish(command).any_failure();
    assert!(said.contains("is in use") && !said.contains("(sapwood)"), "{said}");
    mounted.unmount();
}

#[test]
fn daemon_ends_however_its_mount_is_unmounted() {
    let sandbox = Sandbox::new("cli-ends");
    let repository = committed(&sandbox);
    let at = sandbox.join("m");
    let mounted = repository.mount("main", &at, &[]);
    let pid = pid_of(&repository, &at);
    run("umount", [at.as_os_str()]).success();
    eventually("the end after umount(8)", || !runs(pid));
    drop(mounted);

    let mounted = repository.mount("main", &at, &[]);
    let pid = pid_of(&repository, &at);
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).expect("it runs");
    eventually("the end after SIGTERM", || !runs(pid));
    assert!(!is_mounted(&at));
    assert_eq!(listed(&repository, &at), None);
    drop(mounted);

    // Without its supervisor a worker continues, and is not replaced when it ends.
    let mounted = repository.mount("main", &at, &[]);
    let (pid, worker) = (pid_of(&repository, &at), worker_of(&repository, &at));
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it runs");
    eventually("the end after SIGKILL", || !runs(pid));
    assert_eq!(fs::read_to_string(at.join("hello")).expect("reads"), "hello world\n");
    assert_eq!(listed(&repository, &at).expect("lives")["health"]["is_supervised"], false);
    kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL).expect("it runs");
    eventually("the end after SIGKILL", || !runs(worker));
    // The lock is released a moment after the process ends.
    eventually("the end of the entry of a dead daemon", || listed(&repository, &at).is_none());
    let again = repository.run([OsStr::new("mount"), OsStr::new("main"), at.as_os_str()]).failure(1);
    assert!(again.contains("umount"), "{again}");
    repository.run([OsStr::new("umount"), at.as_os_str()]).success();
    drop(mounted);
}

#[test]
fn foreground_mount_is_unmounted_by_sigint() {
    let sandbox = Sandbox::new("cli-foreground");
    let repository = committed(&sandbox);
    let at = sandbox.directory("m");
    let mut child = repository
        .command([OsStr::new("mount"), OsStr::new("--foreground"), OsStr::new("main"), at.as_os_str()])
        .spawn()
        .expect("starts");
    eventually("the mount", || is_mounted(&at));
    assert_eq!(fs::read_to_string(at.join("hello")).expect("reads"), "hello world\n");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it runs");
    assert!(child.wait().expect("ends").success());
    assert!(!is_mounted(&at));
}

/// Installs the helper as `mount.sapwood` for mount(8), in this namespace only.
fn install_helper(sandbox: &Sandbox) {
    let directory = sandbox.directory("sbin");
    let helper = env!("CARGO_BIN_EXE_mount-sapwood");
    for name in ["mount.sapwood", "mount.fuse.sapwood"] {
        fs::copy(helper, directory.join(name)).expect("was built");
    }
    let options = format!("lowerdir={}:/usr/sbin", directory.display());
    mount(Some("overlay"), "/usr/sbin", Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).expect("mounts");
}

fn mount8(arguments: &[&OsStr]) -> Run {
    run("mount", arguments)
}

fn flags(at: &Path) -> String {
    run("findmnt", ["-no".as_ref(), "OPTIONS".as_ref(), "-M".as_ref(), at.as_os_str()]).success()
}

#[test]
fn mount_8_and_fstab_know_the_type() {
    let sandbox = Sandbox::new("cli-helper");
    let repository = committed(&sandbox);
    install_helper(&sandbox);
    let at = sandbox.directory("m");
    let repo = repository.path().display().to_string();
    let options = format!("repo={repo},suid,dev,_netdev,x-systemd.automount");
    mount8(&["-t".as_ref(), "sapwood".as_ref(), "main".as_ref(), at.as_os_str(), "-o".as_ref(), options.as_ref()])
        .success();
    assert_eq!(fs::read_to_string(at.join("hello")).expect("reads"), "hello world\n");
    assert!(!flags(&at).contains("nosuid"), "{}", flags(&at));
    run("mount", ["-o".as_ref(), "remount,nosuid".as_ref(), at.as_os_str()]).success();
    assert!(flags(&at).contains("nosuid") && !flags(&at).contains("nodev"), "{}", flags(&at));
    run("mount", ["-o".as_ref(), "remount,ro".as_ref(), at.as_os_str()]).success();
    assert!(flags(&at).starts_with("ro,nosuid"), "what is not mentioned stays: {}", flags(&at));
    let refused = run("mount", ["-o".as_ref(), "remount,rw".as_ref(), at.as_os_str()]).failure(32);
    assert!(refused.contains("never changes"), "{refused}");
    assert_eq!(fs::read_to_string(at.join("hello")).expect("reads"), "hello world\n");
    run("umount", [at.as_os_str()]).success();

    let fstab = sandbox.join("fstab");
    let line = format!("main:/usr {} fuse.sapwood noauto,nofail,ro,repo={repo} 0 0\n", at.display());
    fs::write(&fstab, line).expect("writable");
    let from_fstab = || mount8(&["-T".as_ref(), fstab.as_os_str(), at.as_os_str()]);
    from_fstab().success();
    assert!(at.join("bin/sleep").exists());
    mount8(&["-T".as_ref(), fstab.as_os_str(), "-o".as_ref(), "remount".as_ref(), at.as_os_str()]).success();
    run("umount", [at.as_os_str()]).success();
    let bad = format!("repo={repo},what=1");
    let failed = mount8(&["-tsapwood".as_ref(), "main".as_ref(), at.as_os_str(), "-o".as_ref(), bad.as_ref()]);
    assert!(failed.failure(32).contains("unknown mount option 'what=1'"));
}

#[test]
fn suid_works_only_when_asked_for() {
    let sandbox = Sandbox::new("cli-suid");
    let repository = committed(&sandbox);
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).expect("owned by the test");
    for (options, expected) in [(&["allow_other"][..], "65534"), (&["allow_other", "suid"][..], "0")] {
        let mounted = repository.mount("main", &sandbox.join("m"), options);
        let id = mounted.path().join("bin/setuid-id").display().to_string();
        let user = format!("--reuid={NOBODY_UID}");
        assert_eq!(run("setpriv", [user.as_str(), "--clear-groups", &id, "-u"]).success(), expected);
        mounted.unmount();
    }
    let mounted = repository.mount("main", &sandbox.join("m"), &[]);
    let refused = run("setpriv", [&format!("--reuid={NOBODY_UID}"), "ls", &mounted.path().display().to_string()]);
    assert!(refused.any_failure().contains("Permission denied"), "allow_other was not given");
    mounted.unmount();
}

#[test]
fn an_ordinary_user_mounts_through_fusermount3() {
    let sandbox = Sandbox::new("cli-user");
    sandbox.open_fuse_to_everybody();
    let home = sandbox.directory("home");
    chown(&home, Some(NOBODY_UID), Some(NOBODY_UID)).expect("root may");
    let source = tree(&sandbox);
    let repository = Repository::init_as(home.join("repo"), NOBODY_UID);
    repository.commit("main", &source);
    let mounted = repository.mount("main", &home.join("m"), &[]);
    let at = mounted.path().to_owned();
    let hello = at.join("hello").display().to_string();
    let user = [
        format!("--reuid={NOBODY_UID}"),
        format!("--regid={NOBODY_UID}"),
        "--clear-groups".into(),
        "cat".into(),
        hello.clone(),
    ];
    assert_eq!(run("setpriv", user).success(), "hello world");
    assert!(fs::read(&hello).is_err(), "not even root looks into a user's mount");
    assert!(listed(&repository, &at).is_some());
    mounted.unmount();
    let fails = |options: &str| {
        let arguments =
            [OsStr::new("mount"), OsStr::new("-o"), OsStr::new(options), OsStr::new("main"), at.as_os_str()];
        repository.run(arguments).failure(1)
    };
    for option in ["passthrough", "suid", "dev"] {
        assert!(fails(option).contains("needs root"), "{option}");
    }
    let config = sandbox.join("fuse.conf");
    fs::write(&config, "# nothing\n").expect("writable");
    mount(Some(&config), "/etc/fuse.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("binds");
    assert!(fails("allow_other").contains("user_allow_other in /etc/fuse.conf"));
    let mut command = repository.command([OsStr::new("mount"), OsStr::new("main"), at.as_os_str()]);
    command.env("PATH", "/nonexistent").env_remove("LD_LIBRARY_PATH");
    // `setpriv` itself is found by its absolute path.
    let arguments: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
    let mut absolute = Command::new("/usr/bin/setpriv");
    absolute.args(arguments).env("PATH", "/nonexistent").env("HOME", "/nonexistent").env_remove("XDG_RUNTIME_DIR");
    let message = finish(absolute).failure(1);
    assert!(message.contains("apt install fuse3"), "{message}");
    umount2("/etc/fuse.conf", nix::mount::MntFlags::empty()).expect("owned by the test");
}

#[test]
fn passthrough_is_shown_as_the_mode_of_a_mount() {
    let sandbox = Sandbox::new("cli-passthrough");
    let repository = sandbox.repository("repo");
    let source = tree(&sandbox);
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(source.join("large"), &large).expect("writable");
    repository.commit("main", &source);
    let mounted = repository.mount("main", &sandbox.join("m"), &["passthrough", "threads=3"]);
    assert_eq!(fs::read(mounted.path().join("large")).expect("reads"), large);
    let entry = listed(&repository, mounted.path()).expect("is listed");
    assert_eq!(entry["mode"], "passthrough");
    assert_eq!(entry["figures"]["bytes_read"], 0, "a large object is a file of its own, which the kernel reads");
    assert_eq!(fs::read_to_string(mounted.path().join("hello")).expect("reads"), "hello world\n");
    mounted.unmount();
}

#[test]
fn mount_processes_use_little_memory_after_a_full_walk() {
    let sandbox = Sandbox::new("cli-size");
    let repository = sandbox.repository("repo");
    repository.commit("main", Path::new("/usr/share"));
    let mounted = repository.mount("main", &sandbox.join("m"), &[]);
    let walk = ["-ls".as_ref(), "-fprintf".as_ref(), "/dev/null".as_ref(), "%p".as_ref()];
    run("find", [&[mounted.path().as_os_str()][..], &walk[..]].concat()).success();
    for (pid, limit) in [(pid_of(&repository, mounted.path()), 2), (worker_of(&repository, mounted.path()), 10)] {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("runs");
        let kib = resident_besides_programs(&maps);
        assert!(kib <= limit << 10, "{kib} KiB resident after a full walk:\n{maps}");
    }
    mounted.unmount();
}

/// Returns the KiB of memory in use without the program and its libraries: those of an unoptimised build are twice as large as
/// in a release, and the benches measure the sum for that.
fn resident_besides_programs(maps: &str) -> u64 {
    let (mut sum, mut is_program) = (0, false);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Rss:"), Some(kib)) if !is_program => sum += kib.parse::<u64>().expect("a number"),
            (Some(range), Some(_)) if range.contains('-') => {
                is_program = line.ends_with("/sapwood") || line.contains("/lib/");
            }
            _ => {}
        }
    }
    sum
}

#[test]
fn too_long_ref_is_refused_before_its_tree_is_read() {
    let sandbox = Sandbox::new("mount-cli-ref");
    let repository = sandbox.repository("repository");
    let tree = sandbox.directory("tree");
    let nothing = sandbox.join("nothing");
    let part = |length: usize| format!("os/{}", "x".repeat(length));
    let said = repository.run(["commit", "--ref", &part(224), nothing.to_str().expect("UTF-8")]).failure(1);
    assert!(said.contains("224 bytes") && said.contains("at most 223"), "{said}");
    assert_eq!(repository.run(["refs"]).success(), "");
    repository.commit(&part(223), &tree);
    let url = format!("file://{}", sandbox.join("published").display());
    repository.run(["publish", &url, &part(223)]).success();
}
