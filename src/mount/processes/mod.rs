//! The entry points of the processes behind a mount.
//!
//! Each is this program under another name, with two arguments: the subcommand and the number of the descriptor of the
//! hand-over. They bypass the rest of the command line, so that the supervisor stays small.
//!
//! *Not here*: supervising (`mount::supervisor`); serving (`fuse`).
//!
//! *Invariant*: the names of the subcommands never change, because a program starts processes of a newer or older version.
//!
//! *Used by* `start`, which starts the supervisor, and by the programs of `cli`.
//!
//! | file | holds |
//! | --- | --- |
//! | `supervisor` | from the hand-over to a supervisor that runs |
//! | `worker` | from the hand-over to a worker that serves |
//! | `broker` | from the hand-over to a process that writes to the repository for a worker |
//! | `unmount`, `remount` | the processes that do what a supervisor must not wait for |
//! | `setup` | what several of these processes set up |

mod broker;
mod remount;
mod setup;
mod supervisor;
mod unmount;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use super::error::ProcessError;
use super::runtime::{BROKER_SUBCOMMAND, PROCESS_NAME};
use super::supervisor::StartKind;
use worker::StartReason;

/// The subcommand of a process behind a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subcommand {
    /// The supervisor of a new mount.
    Supervisor,
    /// The supervisor that takes over from another version of itself.
    Takeover,
    /// A worker.
    Worker,
    /// A worker that is started periodically after workers failed to start, and that logs nothing if it fails too.
    Probe,
    /// The process that writes to the repository for a worker.
    Broker,
    /// The process that unmounts.
    Unmount,
    /// The process that mounts again after the connection was lost.
    Remount,
}

impl Subcommand {
    const ALL: [Self; 7] =
        [Self::Supervisor, Self::Takeover, Self::Worker, Self::Probe, Self::Broker, Self::Unmount, Self::Remount];

    /// Returns the name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Takeover => "successor",
            Self::Worker => "worker",
            Self::Probe => "probe",
            Self::Broker => BROKER_SUBCOMMAND,
            Self::Unmount => "end",
            Self::Remount => "remount",
        }
    }

    /// Parses the arguments of a process: the subcommand and the descriptor number. Returns `None` for a user's command.
    pub(crate) fn parse(arguments: &[OsString]) -> Option<(Self, &str)> {
        let [program, name, number, ..] = arguments else { return None };
        let is_mount_process = program.to_str()?.trim_start_matches('@') == PROCESS_NAME;
        let subcommand = Self::ALL.into_iter().find(|subcommand| name.to_str() == Some(subcommand.name()))?;
        Some((subcommand, number.to_str()?)).filter(|_| is_mount_process)
    }

    /// Runs the subcommand until the process ends.
    ///
    /// # Errors
    /// [`ProcessError`], which the caller reports.
    pub(crate) fn run(self, number: &str) -> Result<ExitCode, ProcessError> {
        match self {
            Self::Supervisor => supervisor::run(number, StartKind::New),
            Self::Takeover => supervisor::run(number, StartKind::Takeover),
            Self::Worker => worker::run(number, StartReason::Needed),
            // It fails as the workers before it did, which have logged their errors.
            Self::Probe => worker::run(number, StartReason::Probe).or(Ok(ExitCode::FAILURE)),
            Self::Broker => broker::run(number),
            Self::Unmount => unmount::run(number),
            Self::Remount => remount::run(number),
        }
    }
}
