//! Enters a sandbox in two stages, each in a new execution of this program.
//!
//! The outer stage makes the namespaces; the inner one, as process 1, changes the root, drops privileges and runs the
//! command.
//!
//! *Used by* `cli`, under the program name [`PROGRAM_NAME`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use rustix::fd::OwnedFd;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};

use super::{PROGRAM_NAME, SCRIPT_PATH, SandboxNetwork, SandboxedCommand};

/// The devices that a sandbox has in `/dev`.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The capabilities that installing files needs.
const KEPT_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETFCAP);

/// Resource limits that are ample for building an initramfs and stop runaway programs: number of descriptors, number of
/// processes, bytes of a file, bytes of a core dump.
const RESOURCE_LIMITS: [(Resource, u64); 4] = [
    (Resource::RLIMIT_NOFILE, 65_536),
    (Resource::RLIMIT_NPROC, 16_384),
    (Resource::RLIMIT_FSIZE, 16 << 30),
    (Resource::RLIMIT_CORE, 0),
];

/// The parts of `/proc` that change settings of the whole machine.
const MACHINE_SETTINGS: [&str; 7] =
    ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/sysrq-trigger", "/proc/acpi", "/proc/fs", "/proc/scsi"];

/// Why a sandbox cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// The arguments are not those of a [`SandboxedCommand`].
    #[error("{PROGRAM_NAME} is started by sapwood itself")]
    Arguments,
    #[error("sandbox: cannot {action}")]
    System { action: &'static str, source: io::Error },
    /// The program cannot be started.
    #[error("cannot start {program} in the root")]
    Start { program: String, source: io::Error },
}

fn system_error<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError::System { action, source: source.into() }
}

/// Runs the stage that `arguments` (the program's name first) describe, and returns the exit status of the command.
pub(crate) fn enter(arguments: &[OsString]) -> Result<u8, StageError> {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let [_, stage, text] = words[..] else { return Err(StageError::Arguments) };
    let sandbox: SandboxedCommand = serde_json::from_str(text).map_err(|_| StageError::Arguments)?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system_error("follow the parent"))?;
    let status = match stage {
        "outer" => run_outer(&sandbox, text)?,
        "inner" => run_inner(&sandbox)?,
        _ => return Err(StageError::Arguments),
    };
    Ok(exit_code(status))
}

/// Returns the exit status as a shell reports it: 128 plus the signal for a process killed by one.
fn exit_code(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
}

fn run_outer(sandbox: &SandboxedCommand, text: &str) -> Result<ExitStatus, StageError> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if sandbox.network == SandboxNetwork::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(system_error("make namespaces"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(PROGRAM_NAME).args(["inner", text]);
    command.status().map_err(system_error("start the second stage"))
}

fn run_inner(sandbox: &SandboxedCommand) -> Result<ExitStatus, StageError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(system_error("keep mounts private"))?;
    nix::unistd::sethostname("localhost").map_err(system_error("set the host name"))?;
    match &sandbox.root {
        Some(root) => {
            enter_root(root)?;
            if let Some(script) = &sandbox.script {
                write_script(script).map_err(system_error("write the script"))?;
            }
            drop_privileges()?;
        }
        None => mount_proc()?,
    }
    let (program, arguments) = sandbox.command.split_first().ok_or(StageError::Arguments)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if sandbox.root.is_some() {
        command.env_clear().current_dir("/");
    }
    command.envs(sandbox.environment.iter().map(|(name, value)| (name, value)));
    command.status().map_err(|source| StageError::Start { program: program.clone(), source })
}

/// Makes `root` the root directory. All mounts but `root` itself are made after the change of root, so that no link in
/// `root` can redirect them outside.
fn enter_root(root: &Path) -> Result<(), StageError> {
    mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(system_error("mount the root"))?;
    let devices = DEVICES.map(|name| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        (name, open_tree(rustix::fs::CWD, Path::new("/dev").join(name), flags))
    });
    nix::unistd::chdir(root).map_err(system_error("enter the root"))?;
    nix::unistd::pivot_root(".", ".").map_err(system_error("change the root"))?;
    for directory in ["/proc", "/dev", "/run", "/tmp"] {
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(system_error("make mount points"))?,
        }
    }
    // This precedes the unmount of the old root: a user namespace may mount `/proc` only while another one is fully
    // visible.
    mount_proc()?;
    umount2(".", MntFlags::MNT_DETACH).map_err(system_error("leave the old root"))?;
    mount_tmpfs("/run", "mode=755,size=64m")?;
    mount_tmpfs("/tmp", "mode=1777")?;
    mount_tmpfs("/dev", "mode=755,size=1m")?;
    for (name, tree) in devices {
        attach_device(name, tree.map_err(system_error("find a device"))?).map_err(system_error("place a device"))?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, Path::new("/dev").join(link)).map_err(system_error("link a device"))?;
    }
    fs::create_dir("/dev/shm").map_err(system_error("make /dev/shm"))
}

fn mount_tmpfs(target: &str, options: &str) -> Result<(), StageError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).map_err(system_error("mount a tmpfs"))
}

fn mount_proc() -> Result<(), StageError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(system_error("mount /proc"))?;
    make_settings_read_only().map_err(system_error("make the machine's settings in /proc read-only"))
}

/// Makes those parts of `/proc` read-only that change settings of the whole machine. The kernel lets user 0 write them
/// without any capability.
pub(in crate::compose) fn make_settings_read_only() -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let kept = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for path in MACHINE_SETTINGS {
        match mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>) {
            // This kernel does not have the file.
            Err(nix::errno::Errno::ENOENT) => continue,
            bound => bound?,
        }
        mount(None::<&str>, path, None::<&str>, flags | kept, None::<&str>)?;
    }
    Ok(())
}

fn attach_device(name: &str, tree: OwnedFd) -> io::Result<()> {
    let path = Path::new("/dev").join(name);
    fs::File::create(&path)?;
    Ok(move_mount(tree, "", rustix::fs::CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn write_script(text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(SCRIPT_PATH)?;
    file.write_all(text.as_bytes())
}

fn drop_privileges() -> Result<(), StageError> {
    for (resource, limit) in RESOURCE_LIMITS {
        // A lower limit that was inherited stays.
        let hard = nix::sys::resource::getrlimit(resource).map_or(limit, |(_, hard)| hard.min(limit));
        setrlimit(resource, hard, hard).map_err(system_error("set limits"))?;
    }
    for capability in CapabilitySet::all().difference(KEPT_CAPABILITIES).iter() {
        match remove_capability_from_bounding_set(capability) {
            // This kernel does not know the capability.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(system_error("give up privileges")(error)),
        }
    }
    set_no_new_privs(true).map_err(system_error("give up privileges"))
}
