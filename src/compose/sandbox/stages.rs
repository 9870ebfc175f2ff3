//! Entering a sandbox, one stage for each time this program is started.

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

use super::{NAME, Network, SCRIPT, Sandbox};

/// Devices that every program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What installing files takes.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SETFCAP);

/// Generous for a build of an initramfs, and an end to what runs away: descriptors, processes, bytes of a file, core dumps.
const LIMITS: [(Resource, u64); 4] = [
    (Resource::RLIMIT_NOFILE, 65_536),
    (Resource::RLIMIT_NPROC, 16_384),
    (Resource::RLIMIT_FSIZE, 16 << 30),
    (Resource::RLIMIT_CORE, 0),
];

/// Where `/proc` sets the whole machine instead of telling of processes.
const SETTINGS: [&str; 7] =
    ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/sysrq-trigger", "/proc/acpi", "/proc/fs", "/proc/scsi"];

/// Why a sandbox cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Not called by a [`Sandbox`].
    #[error("{NAME} is started by sapwood itself")]
    Arguments,
    /// The system refused.
    #[error("sandbox: cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The program does not start.
    #[error("cannot start {program} in the root")]
    Start {
        /// Which.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

fn refused<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError::System { action, source: source.into() }
}

/// Runs the stage that `arguments` (the program's name first) describe, and gives the exit status of the command.
///
/// # Errors
/// [`StageError`].
pub fn enter(arguments: &[OsString]) -> Result<u8, StageError> {
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let [_, stage, text] = words[..] else { return Err(StageError::Arguments) };
    let sandbox: Sandbox = serde_json::from_str(text).map_err(|_| StageError::Arguments)?;
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused("follow the parent"))?;
    let status = match stage {
        "outer" => outer(&sandbox, text)?,
        "inner" => inner(&sandbox)?,
        _ => return Err(StageError::Arguments),
    };
    Ok(code(status))
}

/// As shells have it: a signal counts from 128.
fn code(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
}

fn outer(sandbox: &Sandbox, text: &str) -> Result<ExitStatus, StageError> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if sandbox.network == Network::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(refused("make namespaces"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(NAME).args(["inner", text]);
    command.status().map_err(refused("start the second stage"))
}

fn inner(sandbox: &Sandbox) -> Result<ExitStatus, StageError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(refused("keep mounts private"))?;
    nix::unistd::sethostname("localhost").map_err(refused("set the host name"))?;
    match &sandbox.root {
        Some(root) => {
            enter_root(root)?;
            if let Some(script) = &sandbox.script {
                write_script(script).map_err(refused("write the script"))?;
            }
            give_up_privileges()?;
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

/// Makes `root` the root. Mounts are made after that, so that no link in it can lead one of them elsewhere.
fn enter_root(root: &Path) -> Result<(), StageError> {
    mount(Some(root), root, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(refused("mount the root"))?;
    let devices = DEVICES.map(|name| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        (name, open_tree(rustix::fs::CWD, Path::new("/dev").join(name), flags))
    });
    nix::unistd::chdir(root).map_err(refused("enter the root"))?;
    nix::unistd::pivot_root(".", ".").map_err(refused("change the root"))?;
    for directory in ["/proc", "/dev", "/run", "/tmp"] {
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(refused("make mount points"))?,
        }
    }
    // While the old one can still be seen: a user namespace may not mount what it did not see whole before.
    mount_proc()?;
    umount2(".", MntFlags::MNT_DETACH).map_err(refused("leave the old root"))?;
    tmpfs("/run", "mode=755,size=64m")?;
    tmpfs("/tmp", "mode=1777")?;
    tmpfs("/dev", "mode=755,size=1m")?;
    for (name, tree) in devices {
        place_device(name, tree.map_err(refused("find a device"))?).map_err(refused("place a device"))?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(target, Path::new("/dev").join(link)).map_err(refused("link a device"))?;
    }
    fs::create_dir("/dev/shm").map_err(refused("make /dev/shm"))
}

fn tmpfs(target: &str, options: &str) -> Result<(), StageError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).map_err(refused("mount a tmpfs"))
}

fn mount_proc() -> Result<(), StageError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(refused("mount /proc"))?;
    protect_settings().map_err(refused("make the machine's settings in /proc read-only"))
}

/// Makes those parts of `/proc` read-only that set the whole machine. The kernel lets user 0 write them without any
/// capability.
pub(in crate::compose) fn protect_settings() -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let kept = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for path in SETTINGS {
        match mount(Some(path), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>) {
            // This kernel has none of it.
            Err(nix::errno::Errno::ENOENT) => continue,
            bound => bound?,
        }
        mount(None::<&str>, path, None::<&str>, flags | kept, None::<&str>)?;
    }
    Ok(())
}

fn place_device(name: &str, tree: OwnedFd) -> io::Result<()> {
    let path = Path::new("/dev").join(name);
    fs::File::create(&path)?;
    Ok(move_mount(tree, "", rustix::fs::CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn write_script(text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(SCRIPT)?;
    file.write_all(text.as_bytes())
}

fn give_up_privileges() -> Result<(), StageError> {
    for (resource, limit) in LIMITS {
        // A lower limit from outside stays.
        let hard = nix::sys::resource::getrlimit(resource).map_or(limit, |(_, hard)| hard.min(limit));
        setrlimit(resource, hard, hard).map_err(refused("set limits"))?;
    }
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(refused("give up privileges")(error)),
        }
    }
    set_no_new_privs(true).map_err(refused("give up privileges"))
}
