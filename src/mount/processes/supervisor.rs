//! The supervisor's process: from the hand-over to a supervisor that runs.
//!
//! *Not here*: supervising (`mount::supervisor`).
//!
//! *Used by* the subcommands `supervisor` and `successor`.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::mman::{MlockAllFlags, mlockall};

use super::Subcommand;
use super::setup::{detach_terminal, name_process, set_oom_adjustment};
use crate::fuse::SharedState;
use crate::mount::READY_MESSAGE;
use crate::mount::error::{OrCannot as _, ProcessError};
use crate::mount::handoff::{Handoff, OsStringBytes};
use crate::mount::log::LogKind;
use crate::mount::runtime::process_name;
use crate::mount::supervisor::{Ended, Limits, ProcessArguments, StartKind, Supervisor, SupervisorFds};
use crate::store::remove_root;
use crate::sys;

/// OOM score adjustment of the supervisor: never killed, because its end ends all programs that run from the mount.
const SUPERVISOR_OOM_ADJUST: i32 = -1000;

/// Fetch timeout of a mount without one (`nowait`): the longest time that one attempt takes.
const FETCH_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the supervisor of the mount until it is unmounted.
pub(super) fn run(number: &str, kind: StartKind) -> Result<ExitCode, ProcessError> {
    let (handoff, _handoff_file) = Handoff::read(number)?;
    let is_foreground = handoff.log == LogKind::Terminal;
    if is_foreground {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
            .or_cannot("request a signal for the end of the parent process")?;
    } else {
        leave_session()?;
    }
    name_process();
    set_oom_adjustment(SUPERVISOR_OOM_ADJUST);
    let options = handoff.options()?;
    let numbers = handoff.descriptors;
    let keep = |number| sys::inherited_descriptor(number).or_cannot("use a descriptor of the hand-over");
    let fds = SupervisorFds {
        shared: SharedState::open(keep(numbers.shared)?).or_cannot("understand the shared pages of the mount")?,
        device: keep(numbers.device)?,
        // It may have been used.
        spare_device: numbers.spare_device.and_then(|number| keep(number).ok()),
        connections: numbers.connections.map(keep).transpose()?,
        program: keep(numbers.program)?,
        ready: keep(numbers.ready.0)?,
        go: keep(numbers.go.1)?,
        exchange_socket: numbers.registry.map(|(_, _, _, exchange)| keep(exchange)).transpose()?,
        image: numbers.image.map(keep).transpose()?,
    };
    fds.shared.set_supervisor_pid(std::process::id());
    let arguments = ProcessArguments {
        worker: program_arguments(Subcommand::Worker, number)?,
        probe: program_arguments(Subcommand::Probe, number)?,
        unmount: program_arguments(Subcommand::Unmount, number)?,
        remount: program_arguments(Subcommand::Remount, number)?,
        takeover: program_arguments(Subcommand::Takeover, number)?,
    };
    let limits = Limits {
        hang_timeout: options.watchdog,
        fetch_timeout: options.fetch_timeout.unwrap_or(FETCH_ATTEMPT_TIMEOUT),
    };
    let log = keep(numbers.log)?;
    // The other processes hold the file open, too; it is locked until all have ended.
    let (repository, root) = (keep(numbers.repository)?, handoff.root.as_ref().map(OsStringBytes::to_os_string));
    drop((handoff, options));
    let supervisor = Supervisor::new(fds, arguments, limits, kind).or_cannot("receive signals")?;
    let ended = supervisor.run(|| {
        if kind == StartKind::New {
            report_ready();
        }
        if !is_foreground {
            detach_terminal(&log);
        }
        lock_memory();
    });
    if ended == Ended::Unmounted
        && let Some(root) = root
        && let Err(error) = remove_root(&repository, &root)
    {
        tracing::debug!("{}: {error}; the next collection removes it", root.display());
    }
    Ok(match ended {
        Ended::Unmounted => ExitCode::SUCCESS,
        Ended::Failed(code) => ExitCode::from(code),
        Ended::ConnectionLost => ExitCode::FAILURE,
    })
}

fn program_arguments(subcommand: Subcommand, number: &str) -> io::Result<sys::ProgramArguments> {
    let texts = [process_name().as_str(), subcommand.name(), number]
        .map(CString::new)
        .into_iter()
        .collect::<Result<_, std::ffi::NulError>>();
    Ok(sys::ProgramArguments::new(texts?))
}

fn leave_session() -> Result<(), ProcessError> {
    // A process that leads its session already, as one started by a service manager, cannot start another.
    if let Err(errno) = nix::unistd::setsid() {
        tracing::debug!("setsid: {errno}");
    }
    nix::unistd::chdir("/").or_cannot("go to /")
}

fn report_ready() {
    let mut out = io::stdout();
    // A process that no longer reads does not need the message.
    let _ = out.write_all(READY_MESSAGE).and_then(|()| out.flush());
}

/// Locks the pages that are and will be used, since the program may be on the filesystem that is served.
fn lock_memory() {
    let flags =
        MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    // Users other than root may lock little memory; an error is ignored.
    let _ = mlockall(flags);
}
