//! Boots without a virtual machine, in seconds: a real `switch_root` and systemd as PID 1, in namespaces.
//!
//! The system shares only the kernel with the host. Its `/dev` has a list of harmless nodes, its root is a disk image in a loop
//! device, its `fstab` names nothing of the host, and `/sys` is read-only.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::sandbox::{Run, Sandbox, finish, run};
use crate::disk::Loop;
use crate::one_at_a_time;
use crate::system::{System, system};

/// Longest wait for anything in these boots.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);

/// Units that are masked, since there is no console, no network and no second serial port.
const MASKED_UNITS: &str = "systemd.mask=console-getty.service systemd.mask=systemd-networkd-wait-online.service \
                      systemd.mask=test-shell.service";

/// Script that runs before the initramfs's init and sets up what only a container needs.
const CONTAINER_INIT: &str = r#"#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount --bind /cmdline /proc/cmdline
mount -t sysfs -o ro sys /sys
mount -t tmpfs -o mode=755 dev /dev
for node in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0" "fuse 10 229" "console 1 3" "kmsg 1 3"; do
    set -- $node
    mknod -m 666 /dev/$1 c $2 $3
done
mknod /dev/vda b $ROOT_NUMBERS
mkdir /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid,nodev run /run
export container=test
exec /init $ARGUMENTS
"#;

/// Installs a shutdown hook that records the state of the system. The directory of the hook stays mounted until then.
const SHUTDOWN_HOOK: &str = r#"
hooks=/usr/lib/systemd/system-shutdown
unit=$(systemd-escape -p --suffix=mount $hooks)
mkdir -p "/run/systemd/system/$unit.d" /var/hooks
printf '[Unit]\nDefaultDependencies=no\n' > "/run/systemd/system/$unit.d/stay.conf"
systemctl daemon-reload && mount --bind /var/hooks $hooks && cd $hooks || exit 1
md5sum /usr/bin/* > expected
printf '#!/bin/sh\ncd '$hooks'\nmd5sum /usr/bin/* > sums\npgrep -fl sapwood-mount > left\n' > look
chmod 755 look
"#;

/// What is booted.
pub struct Boot<'a> {
    /// The disk with the physical root.
    pub root: &'a Loop,
    /// The files of its boot partition.
    pub boot: &'a Path,
    /// The name of the deployment.
    pub deployment: &'a str,
    /// Further kernel arguments.
    pub arguments: &'a str,
    /// The key that the initramfs trusts.
    pub key: Option<&'a Path>,
}

/// A booted system.
pub struct Booted {
    child: Child,
    init: u32,
}

impl Booted {
    /// Boots a system.
    pub fn start(system: &System, sandbox: &Sandbox, boot: &Boot<'_>) -> Self {
        let Boot { root, boot, deployment, arguments, key } = *boot;
        let physical = sandbox.directory("physical");
        run("mount", [root.device().as_os_str(), physical.as_os_str()]).success();
        let mut files = boot.as_os_str().to_owned();
        files.push("/.");
        run("cp", ["-r".as_ref(), &*files, physical.join("boot").as_os_str()]).success();
        run("umount", [physical.as_os_str()]).success();
        let initramfs = sandbox.tmpfs("initramfs", 256 << 20);
        for directory in ["bin", "proc", "sys", "dev", "run", "sysroot", "usr/lib/sapwood", "old"] {
            fs::create_dir_all(initramfs.join(directory)).expect("writable");
        }
        let unpacked = sandbox.directory("package");
        run("dpkg-deb", [OsString::from("-x"), system.package.clone().into(), unpacked.clone().into()]).success();
        let program = "usr/lib/sapwood/sapwood-prepare-root";
        fs::copy(unpacked.join(program), initramfs.join(program)).expect("in the package");
        fs::copy("/bin/busybox", initramfs.join("bin/busybox")).expect("tests/boot/tools installs it");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/init/init");
        fs::copy(source, initramfs.join("init")).expect("it exists");
        if let Some(key) = key {
            fs::create_dir_all(initramfs.join("etc/sapwood/keys")).expect("writable");
            fs::copy(key, initramfs.join("etc/sapwood/keys/test.pub")).expect("a key");
        }
        let line = format!("sapwood={deployment} root=/dev/vda {arguments}");
        fs::write(initramfs.join("cmdline"), format!("{line}\n")).expect("writable");
        let container_init = CONTAINER_INIT
            .replace("$ROOT_NUMBERS", &root.numbers())
            .replace("$ARGUMENTS", &format!("{line} {MASKED_UNITS}"));
        fs::write(initramfs.join("start"), container_init).expect("writable");
        fs::set_permissions(initramfs.join("start"), fs::Permissions::from_mode(0o755)).expect("owned by the test");
        // A control group of its own, from which its cgroup namespace is made.
        let script = format!(
            "set -e; mkdir -p {dir}/cg; mount -t cgroup2 cgroup2 {dir}/cg; mkdir -p {dir}/cg/sapwood-boot-test; \
             echo $$ > {dir}/cg/sapwood-boot-test/cgroup.procs; umount {dir}/cg; \
             exec unshare -m -p -f -u -i -n -C --kill-child sh -c \
             'mount --make-rprivate / && cd {root} && pivot_root . old && /bin/busybox umount -l /old && exec /start'",
            dir = sandbox.path().display(),
            root = initramfs.display(),
        );
        let log = fs::File::create(sandbox.join("console.log")).expect("writable");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        let child = command.spawn().expect("a shell");
        let mut booted = Self { child, init: 0 };
        booted.init = wait_for("the first process", || booted.find_init());
        booted
    }

    fn find_init(&self) -> Option<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let child = fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()?;
        // Not a process that only prepares the namespaces.
        let namespace = |of: String| fs::read_link(format!("/proc/{of}/ns/pid")).ok();
        (namespace(format!("{child}"))? != namespace("self".to_owned())?).then_some(child)
    }

    /// Runs a command in the system.
    pub fn run(&self, command: &str) -> Run {
        let mut enter = Command::new("nsenter");
        enter.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-p",
            "-u",
            "-i",
            "-n",
            "-C",
            "-r",
            "-w",
            "/bin/sh",
            "-c",
            command,
        ]);
        enter.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        finish(enter)
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        self.run(command).success()
    }

    /// Waits until systemd reports that the system is running.
    #[track_caller]
    pub fn wait_until_running(&self) {
        wait_for("systemd", || self.run("test -S /run/systemd/private").status.success().then_some(()));
        let state = self.run("systemctl is-system-running --wait").text();
        assert_eq!(state, "running", "{}", self.run("systemctl --failed; journalctl -b -p 4 --no-pager").text());
    }

    /// Ends the system. Returns the signal with which the kernel reports how it ended.
    #[track_caller]
    pub fn end(mut self, verb: &str) -> i32 {
        self.run(&format!("systemctl {verb}"));
        let status = wait_for("the end", || self.child.try_wait().expect("a child"));
        status.signal().or(status.code().map(|code| code - 128)).expect("ended by the kernel")
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < BOOT_TIMEOUT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn mount_of_a_booted_deployment_outlives_systemds_shutdown() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-namespace");
    let root = Loop::new(&system.disk(&sandbox.join("disk.img")));
    let (boot, deployment) = (system.boot(), system.deployment());
    let boot = Boot { root: &root, boot: &boot, deployment: &deployment, arguments: "", key: None };
    let booted = Booted::start(system, &sandbox, &boot);
    booted.wait_until_running();
    assert_eq!(booted.ok("systemctl --failed --no-legend"), "");
    let table = booted.ok("findmnt -n -o TARGET,FSTYPE,OPTIONS --list");
    let options = |target: &str| {
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(target));
        line.unwrap_or_else(|| panic!("{target} is not mounted:\n{table}")).to_owned()
    };
    assert!(options("/").contains(" ro,") && options("/usr").contains("fuse.sapwood"), "{table}");
    assert!(options("/etc").contains(" rw,") && options("/var").contains(" rw,"), "{table}");
    assert!(
        options("/usr").contains("default_permissions,allow_other") && !options("/usr").contains("nosuid"),
        "{table}"
    );
    let status = booted.ok("sapwood status");
    assert!(status.starts_with("* 0 ") && status.contains("(running"), "{status}");
    assert!(booted.ok("sapwood mounts").contains("/usr"));
    // Operations of systemd that usually end daemons.
    booted.ok("systemctl daemon-reexec && systemctl is-system-running");
    booted.ok("systemctl isolate multi-user.target && systemctl is-system-running --wait");
    let worker = booted.ok("pgrep -f '^@sapwood-mount worker'");
    booted.ok(&format!("kill -9 {worker} && md5sum /usr/bin/* > /dev/null"));
    assert_ne!(booted.ok("pgrep -f '^@sapwood-mount worker'"), worker);
    // systemd runs the hook from /usr, after it has unmounted what it can and killed every process that it may kill.
    booted.ok(SHUTDOWN_HOOK);
    assert_eq!(booted.end("poweroff"), 2, "SIGINT is how a namespace tells of a power-off");
    let at = sandbox.directory("after");
    run("mount", [root.device().as_os_str(), at.as_os_str()]).success();
    let left =
        |name: &str| fs::read_to_string(at.join("sapwood/deploy/main/var/hooks").join(name)).expect("it was run");
    assert_eq!(left("sums"), left("expected"));
    assert!(left("left").contains("sapwood-mount"));
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn commit_without_a_signature_by_an_initramfs_key_does_not_boot() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-signature");
    let root = Loop::new(&system.disk(&sandbox.join("disk.img")));
    let stranger = system.stranger(sandbox.path());
    let (boot, deployment, key) = (system.boot(), system.deployment(), system.key());
    let arguments = "sapwood.verify=require";
    let boot = |key| Boot { root: &root, boot: &boot, deployment: &deployment, arguments, key };
    for (key, expected) in [(None, "there is no key in /etc/sapwood/keys"), (Some(&*stranger), "which is not trusted")]
    {
        let inside = Sandbox::new("boot-signature-refused");
        let refused = Booted::start(system, &inside, &boot(key));
        let console = || fs::read_to_string(inside.join("console.log")).expect("readable");
        wait_for("the emergency", || console().contains("sapwood: cannot boot: ").then_some(()));
        wait_for("the reason", || console().contains(expected).then_some(()));
        drop(refused);
    }
    // What stands beside /usr is held to the signature, too.
    let on_disk = |script: &str| {
        let at = sandbox.directory("disk");
        run("mount", [root.device().as_os_str(), at.as_os_str()]).success();
        let skeleton = at.join("sapwood/deploy").join(&deployment).join("root");
        let mut shell = Command::new("sh");
        shell.current_dir(&skeleton).args(["-ec", script]);
        finish(shell).success();
        run("umount", [at.as_os_str()]).success();
    };
    for (change, undo) in [("ln -sfn usr/other bin", "ln -sfn usr/bin bin"), ("mkdir added", "rmdir added")] {
        on_disk(change);
        let inside = Sandbox::new("boot-skeleton-refused");
        let refused = Booted::start(system, &inside, &boot(Some(&key)));
        let console = || fs::read_to_string(inside.join("console.log")).expect("readable");
        wait_for("the reason", || console().contains("which its commit does not say").then_some(()));
        drop(refused);
        on_disk(undo);
    }
    let inside = Sandbox::new("boot-signature-good");
    let booted = Booted::start(system, &inside, &boot(Some(&key)));
    booted.wait_until_running();
    booted.end("poweroff");
}
