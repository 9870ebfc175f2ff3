//! Enters a sandbox in two stages, each in a new execution of this program.
//!
//! The outer stage makes the namespaces; the inner one, as process 1, changes the root, drops privileges and runs the
//! command. Each reads the request from its standard input.
//!
//! *Used by* `cli`, under the program name [`PROGRAM_NAME`].

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::error::{StageError, system_error};
use super::{PROGRAM_NAME, SCRIPT_PATH, SandboxedCommand, filter, ids, view};
use crate::sys;

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
/// processes, bytes of a file, bytes of a core dump. With 0 the kernel would still start the machine's handler of core dumps, as
/// root of the machine; with 1 it does not.
const RESOURCE_LIMITS: [(Resource, u64); 4] = [
    (Resource::RLIMIT_NOFILE, 65_536),
    (Resource::RLIMIT_NPROC, 16_384),
    (Resource::RLIMIT_FSIZE, 16 << 30),
    (Resource::RLIMIT_CORE, 1),
];

/// The umask of programs in a sandbox, whatever that of the user is.
const UMASK: u32 = 0o022;

/// Runs the stage that `arguments` (the program's name first) name, and returns the exit status of the command.
pub(crate) fn enter(arguments: &[OsString]) -> Result<u8, StageError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system_error("follow the parent"))?;
    // Whatever the caller of this program had open, a directory for instance, would be a way out.
    sys::close_descriptors_on_exec().map_err(system_error("hide open files"))?;
    if ids::is_holder(arguments) {
        return ids::hold_namespace().map(|()| 0).map_err(system_error("make a user namespace"));
    }
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let sandbox: SandboxedCommand = serde_json::from_reader(io::stdin()).map_err(|_| StageError::Arguments)?;
    let status = match words[..] {
        [_, "outer"] => run_outer(&sandbox)?,
        [_, "inner"] => run_inner(&sandbox, None)?,
        [_, "inner", ids] => run_inner(&sandbox, Some(inherited_namespace(ids)?))?,
        _ => return Err(StageError::Arguments),
    };
    Ok(exit_code(status))
}

/// Returns the exit status as a shell reports it: 128 plus the signal for a process killed by one.
fn exit_code(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
}

fn inherited_namespace(number: &str) -> Result<OwnedFd, StageError> {
    let number = number.parse().map_err(|_| StageError::Arguments)?;
    sys::inherited_descriptor(number).map_err(system_error("find the user namespace"))
}

fn run_outer(sandbox: &SandboxedCommand) -> Result<ExitStatus, StageError> {
    let is_machine_root = ids::are_machine_ids().map_err(system_error("read the map of ids"))?;
    let namespace = is_machine_root.then(ids::make_namespace).transpose();
    let namespace = namespace.map_err(system_error("make a user namespace"))?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(system_error("make namespaces"))?;
    sys::switch_loopback_on().map_err(system_error("switch the loopback interface on"))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0(PROGRAM_NAME).arg("inner");
    if let Some(namespace) = &namespace {
        rustix::io::fcntl_setfd(namespace, rustix::io::FdFlags::empty())
            .map_err(system_error("pass on the user namespace"))?;
        command.arg(namespace.as_raw_fd().to_string());
    }
    command.stdin(Stdio::from(sandbox.encode().map_err(system_error("pass on the request"))?));
    command.status().map_err(system_error("start the second stage"))
}

fn run_inner(sandbox: &SandboxedCommand, namespace: Option<OwnedFd>) -> Result<ExitStatus, StageError> {
    // Without a session of its own the command could type into the user's terminal.
    rustix::process::setsid().map_err(system_error("leave the terminal"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(UMASK));
    nix::unistd::sethostname("localhost").map_err(system_error("set the host name"))?;
    match sys::new_session_keyring() {
        Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
            return Err(system_error("make a keyring")(error));
        }
        _ => {}
    }
    view::enter(&sandbox.view, namespace.as_ref().map(|fd| fd.as_fd()))?;
    if let Some(namespace) = namespace {
        ids::enter_namespace(&namespace).map_err(system_error("enter the user namespace"))?;
        // The change of user cleared it.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(system_error("follow the parent"))?;
    }
    if let Some(script) = &sandbox.script {
        write_script(script).map_err(system_error("write the script"))?;
    }
    drop_privileges()?;
    let (program, arguments) = sandbox.command.split_first().ok_or(StageError::Arguments)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).current_dir("/").env_clear();
    command.envs(sandbox.environment.iter().map(|(name, value)| (name, value)));
    command.status().map_err(|source| StageError::Start { program: program.clone(), source })
}

fn write_script(text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(SCRIPT_PATH)?;
    file.write_all(text.as_bytes())
}

/// Gives up what the command does not need, for this process too: the command sees it as process 1.
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
    let kept = CapabilitySets {
        effective: KEPT_CAPABILITIES,
        permitted: KEPT_CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).map_err(system_error("give up privileges"))?;
    // No file of this process below `/proc` can be opened by the command, such as its root or its program.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(system_error("hide this process"))?;
    set_no_new_privs(true).map_err(system_error("give up privileges"))?;
    filter::restrict().map_err(system_error("filter system calls"))
}
