//! Scripts of treefiles and packages cannot reach the machine, and other users cannot redirect a compose.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use super::fixture::Composer;
use crate::common::sandbox::{Sandbox, run};

/// A shell command that prints which files of `/proc` and `/sys` can be opened for writing, with N for the id of a process.
pub const PROBE: &str = "find /proc /sys -type f 2>/dev/null | while read -r file; do \
    if (: >>\"$file\") 2>/dev/null; then echo \"$file\"; fi; done | sed 's,[0-9][0-9]*,N,g' | sort -u";

/// What a process can open for writing of itself and of the sandbox's first process. None of it is the machine's: the kernel
/// lets each process open its own, most of them have no effect when written, and the others change the process itself (its
/// name, its labels, what it dumps, how readily it is killed for memory, how exactly it sleeps).
const OWN_FILES: &str = "arch_status attr/current attr/exec attr/fscreate attr/keycreate attr/prev attr/sockcreate autogroup auxv cgroup \
    children clear_refs cmdline comm coredump_filter cpu_resctrl_groups cpuset environ fdinfo/N gid_map io ksm_merging_pages ksm_stat \
    limits loginuid maps mem mountinfo mounts mountstats numa_maps oom_adj oom_score oom_score_adj pagemap patch_state personality \
    projid_map sched schedstat sessionid setgroups smaps smaps_rollup stack stat statm status syscall timens_offsets timers \
    timerslack_ns uid_map wchan";

/// Fails unless the files that [`PROBE`] printed are all of [`OWN_FILES`].
#[track_caller]
pub fn assert_only_own_files(printed: &str) {
    let own = |line: &str| {
        let rest = line.strip_prefix("/proc/N/")?;
        Some(rest.strip_prefix("task/N/").unwrap_or(rest).to_owned())
    };
    let known: Vec<&str> = OWN_FILES.split_whitespace().collect();
    let others: Vec<&str> =
        printed.lines().filter(|line| !own(line).is_some_and(|name| known.contains(&name.as_str()))).collect();
    assert!(printed.contains("/proc/N/comm"), "the probe found nothing: {printed}");
    assert!(others.is_empty(), "these can be written: {others:?}");
}

/// A script in Perl that makes system calls which reach beyond files, and prints the error number of each.
pub const CALLS: &str = r#"my %calls = (
    mount => [165, 1], umount2 => [166, 1], pivot_root => [155, 1], setns => [308, 1], open_tree => [428, 1],
    move_mount => [429, 1], fsopen => [430, 1], mount_setattr => [442, 1], open_by_handle_at => [304, 1],
    unshare_user => [272, 1, 0x10000000], unshare_net => [272, 1, 0x40000000], clone_user => [56, 1, 0x10000000],
    clone3 => [435, 38], ptrace => [101, 1], process_vm_readv => [310, 1], pidfd_getfd => [438, 1], kcmp => [312, 1],
    keyctl => [250, 1], add_key => [248, 1], request_key => [249, 1], bpf => [321, 1], perf_event_open => [298, 1],
    userfaultfd => [323, 1], io_uring_setup => [425, 38], kexec_load => [246, 1], init_module => [175, 1],
    finit_module => [313, 1], delete_module => [176, 1], syslog => [103, 1, 3], reboot => [169, 1], swapon => [167, 1],
    acct => [163, 1], settimeofday => [164, 1], clock_settime => [227, 1], adjtimex => [159, 1], sethostname => [170, 1],
    iopl => [172, 1], ioperm => [173, 1], mknod_disk => [133, 1, "/tmp/disk", 0060600, 0x0800],
    x32_keyctl => [0x400000fa, 1], socket_packet => [41, 97, 17, 3, 0], socket_vsock => [41, 97, 40, 1, 0],
    socket_alg => [41, 97, 38, 5, 0], socket_audit => [41, 93, 16, 3, 9],
);
for my $name (sort keys %calls) {
    my ($number, $wanted, @arguments) = @{$calls{$name}};
    my $result = syscall($number, @arguments, (0) x (4 - @arguments));
    my $found = $result == -1 ? $! + 0 : 0;
    print "$name: $found instead of $wanted\n" if $found != $wanted;
}
print "calls made\n";
"#;

/// Makes a root with a shell and the programs that the probe needs, from this machine.
pub fn small_root(root: &Path) {
    for directory in
        ["usr/bin", "usr/lib", "usr/sbin", "usr/lib64", "usr/etc", "var/lib/dpkg/info", "var/lib/dpkg/updates"]
    {
        fs::create_dir_all(root.join(directory)).expect("writable");
    }
    for link in ["bin", "lib", "sbin", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link)).expect("writable");
    }
    for program in
        ["sh", "find", "ls", "ln", "rm", "mkdir", "mknod", "mount", "env", "sed", "sort", "grep", "cat", "tr"]
    {
        let path = PathBuf::from("/usr/bin").join(program);
        fs::copy(&path, root.join("usr/bin").join(program)).expect("every machine has it");
        for word in run("ldd", [&path]).success().split_whitespace().filter(|word| word.starts_with('/')) {
            let at = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(at.parent().expect("below the root")).expect("writable");
            fs::copy(word, at).expect("ldd found it");
        }
    }
    fs::write(root.join("usr/lib/os-release"), "ID=demo\n").expect("writable");
    let status =
        "Package: demo\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nMaintainer: n\nDescription: d\n\n";
    fs::write(root.join("var/lib/dpkg/status"), status).expect("writable");
    fs::write(root.join("var/lib/dpkg/info/demo.list"), "").expect("writable");
}

#[test]
fn treefile_script_cannot_change_the_build_machine() {
    let sandbox = Sandbox::new("compose-walls");
    let root = sandbox.directory("root");
    small_root(&root);
    let treefile = sandbox.join("t.yaml");
    let script = [
        "#!/bin/sh".to_owned(),
        format!("({PROBE}) >/usr/lib/writable"),
        "(mknod /usr/lib/sda b 8 0 || mount -t tmpfs none /tmp) 2>/dev/null && echo yes >/usr/lib/powers".to_owned(),
        "env >/usr/lib/environment; umask >/usr/lib/umask; cat /proc/net/dev >/usr/lib/network".to_owned(),
        "ls /proc/1/root/ /proc/1/fd/ >/usr/lib/first 2>/dev/null; (: </dev/tty) 2>/dev/null && echo yes >/usr/lib/terminal".to_owned(),
        "cat /proc/self/uid_map >/usr/lib/ids; grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status >/usr/lib/status".to_owned(),
        "tr '\\0' '\\n' </proc/1/cmdline >/usr/lib/arguments".to_owned(),
        "exit 0".to_owned(),
    ];
    let indented = script.join("\n    ");
    fs::write(
        &treefile,
        format!("ref: t/x\ndistribution: debian\ncontainer: true\npostprocess:\n  - |\n    {indented}\n"),
    )
    .expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    let compose = composer.command(&["--from-root", &root.to_string_lossy(), &treefile.to_string_lossy()]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(compose.get_program()).args(compose.get_args());
    command.env("CI_TOKEN", "secret");
    crate::common::sandbox::finish(command).success();
    let cat = |path: &str| composer.repository.run(["cat", &format!("t/x:/usr/lib/{path}")]);
    assert_only_own_files(&cat("writable").success());
    cat("powers").failure(1);
    cat("terminal").failure(1);
    assert!(!cat("environment").success().contains("CI_TOKEN"));
    assert_eq!(cat("umask").success(), "0022");
    assert_eq!(cat("first").success(), "", "of process 1");
    assert!(!cat("arguments").success().contains("root"), "{}", cat("arguments").success());
    let network = cat("network").success();
    assert!(network.contains("lo:") && network.matches(':').count() == 1, "{network}");
    let ids = cat("ids").success();
    let numbers: Vec<u32> = ids.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [0, first, 65_536] if first > 65_536), "{ids}");
    let status = cat("status").success();
    assert!(status.contains("CapEff:\t00000000800401fb") && status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    // What the script made belongs to user 0 of the image, and has the mode that its umask gives.
    let listed = composer.repository.run(["ls", "-l", "t/x:/usr/lib/umask"]).success();
    assert!(listed.starts_with("-rw-r--r--   1     0     0"), "{listed}");
}

/// Builds an rpm package that has only a script, which runs after its installation.
pub fn rpm_with_script(sandbox: &Sandbox, script: &str) -> PathBuf {
    let spec = sandbox.join("walls.spec");
    let head =
        "Name: walls\nVersion: 1\nRelease: 1\nSummary: s\nLicense: x\nBuildArch: noarch\nRequires(post): demo-base\n";
    fs::write(&spec, format!("{head}%description\nd\n%files\n%post\n{script}")).expect("writable");
    let top = format!("_topdir {}", sandbox.join("build").display());
    run("rpmbuild", ["--quiet", "-bb", "--define", &top, &spec.to_string_lossy()]).success();
    sandbox.join("build/RPMS/noarch/walls-1-1.noarch.rpm")
}

#[test]
fn script_of_a_package_cannot_reach_the_build_machine() {
    let demo = super::rpm::DemoRepository::shared();
    let sandbox = Sandbox::new("compose-walls-package");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let proof = sandbox.join("proof");
    let script = [
        "exec >/usr/lib/walls 2>&1\nid -u; grep CapEff /proc/self/status; env; umask\n",
        &format!("echo x >/proc/1/root{} ; echo x >{}\n", proof.display(), proof.display()),
        "mknod /usr/lib/sda b 8 0 && echo powers; mount -t tmpfs x /mnt && echo powers; ls /proc/1/root/ && echo powers\n",
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches; do (: >>$f) && echo powers; done\nexit 0\n",
    ]
    .concat();
    let package = rpm_with_script(&sandbox, &script);
    let file = sandbox.join("walls.yaml");
    demo.treefile(&file, &format!("ref: walls\npackages: [{}]\n", package.display()));
    let mut command = composer.command(&[&file.to_string_lossy()]);
    command.env("AWS_SECRET_ACCESS_KEY", "secret-of-the-caller");
    crate::common::sandbox::finish_within(command, std::time::Duration::from_secs(300)).success();
    let report = composer.repository.run(["cat", "walls:/usr/lib/walls"]).success();
    assert!(report.starts_with("0\nCapEff:\t00000000800401fb"), "{report}");
    assert!(!report.contains("powers") && !report.contains("secret-of-the-caller"), "{report}");
    assert!(!proof.exists(), "a script of a package wrote to the machine");
}

#[test]
fn database_that_a_package_makes_a_link_is_not_followed() {
    let demo = super::rpm::DemoRepository::shared();
    let sandbox = Sandbox::new("compose-walls-database");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let machine = sandbox.directory("machine");
    let database = machine.join("rpmdb.sqlite");
    fs::write(&database, "the database of the machine\n").expect("writable");
    let script = format!(
        "mv /usr/lib/sysimage/rpm /usr/lib/sysimage/moved; ln -s {} /usr/lib/sysimage/rpm\nexit 0\n",
        machine.display()
    );
    let package = rpm_with_script(&sandbox, &script);
    let file = sandbox.join("walls.yaml");
    demo.treefile(&file, &format!("ref: walls\npackages: [{}]\n", package.display()));
    // The root has no database at any known place any more.
    composer.run(&[&file.to_string_lossy()]).failure(1);
    assert_eq!(fs::read_to_string(&database).expect("it exists"), "the database of the machine\n");
    assert_eq!(fs::read_dir(&machine).expect("it exists").count(), 1);
    composer.assert_nothing_left("walls");
}

#[test]
fn symbolic_link_planted_as_a_lock_is_not_followed() {
    let sandbox = Sandbox::new("compose-walls-lock");
    let (victim, tree) = (sandbox.join("victim"), sandbox.directory("tree"));
    fs::write(&victim, "precious\n").expect("writable");
    let composer = Composer::new(&sandbox.join("c"));
    // As any user can do in a directory that all may write to.
    fs::create_dir_all(&composer.work).expect("writable");
    fs::set_permissions(&composer.work, fs::Permissions::from_mode(0o1777)).expect("owned by the test");
    let planted = composer.work.join("sapwood-compose.x");
    fs::create_dir(&planted).expect("writable");
    symlink(&victim, planted.join("lock")).expect("writable");
    chown(&planted, Some(65534), Some(65534)).expect("root may give away");
    let _ = composer.run(&["--from-root", &tree.to_string_lossy(), "--ref", "t/y"]);
    assert_eq!(fs::read_to_string(&victim).expect("it exists"), "precious\n");
    assert!(planted.exists(), "a directory of another user was removed");

    let repository = sandbox.repository("repo");
    for lock in ["writer.lock", "removal.lock"] {
        let lock = repository.path().join("state").join(lock);
        if lock.exists() {
            fs::remove_file(&lock).expect("owned by the test");
        }
        symlink(&victim, &lock).expect("writable");
        let message = repository.run(["gc"]).failure(1);
        assert!(message.contains("a symbolic link lies there"), "{message}");
        fs::remove_file(&lock).expect("owned by the test");
    }
    assert_eq!(fs::read_to_string(&victim).expect("it exists"), "precious\n");
}
