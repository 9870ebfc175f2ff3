//! The sandbox of a worker, which reads images from unknown authors and connects to their servers, and that of a broker, which
//! writes to the repository for it.
//!
//! A worker enters the sandbox once, before it has a second thread, since most parts restrict the calling thread and those it
//! starts. A part that the kernel does not support is left out; [`Enforced`] (and `sapwood mounts --json`) lists the parts in
//! force.
//!
//! *Not here*: the choice of what a worker needs (`confine`).
//!
//! *Used by* `confine`.
//!
//! | file | holds |
//! | --- | --- |
//! | `capabilities` | drops capabilities that are not needed |
//! | `files` | the files that can be opened and the ports that can be connected to, by Landlock |
//! | `calls` | the system calls that can be made, by seccomp |

mod calls;
mod capabilities;
mod files;

pub(crate) use files::FileAccess;

use crate::fuse::Enforced;

/// The things that a worker must be able to do.
#[derive(Debug, Default)]
pub(crate) struct WorkerSandbox {
    /// Files, and directories with all files below them, that it opens.
    pub(crate) files: Vec<FileAccess>,
    /// Whether it uses a network.
    pub(crate) network: NetworkAccess,
    /// The TCP ports that it connects to.
    pub(crate) ports: Vec<u16>,
    /// Which files it writes.
    pub(crate) writing: WriteAccess,
    /// Whether it registers files with the kernel.
    pub(crate) backing: BackingFiles,
    /// The owner of the repository.
    pub(crate) repository: RepositoryOwner,
}

/// Whether a worker uses a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum NetworkAccess {
    /// No network, and no sockets.
    #[default]
    None,
    Needed,
}

/// Which files a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WriteAccess {
    #[default]
    None,
    /// It writes files of its own: contents that it fetches in parts, recordings, metrics.
    Own,
    /// It writes to the repository: it gives names to what it was given, changes modes and times, and removes.
    Repository,
}

/// Whether a worker registers backing files with the kernel, which needs CAP_SYS_ADMIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum BackingFiles {
    #[default]
    None,
    /// It registers them: passthrough mode.
    Registered,
}

/// The owner of the repository's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RepositoryOwner {
    /// The user of the worker.
    #[default]
    ThisUser,
    /// Another user; the worker is root.
    OtherUser,
}

impl WorkerSandbox {
    /// Enters the sandbox, which cannot be left, and returns the parts in force.
    pub(crate) fn enter(&self) -> Enforced {
        let no_new_privileges = log_failure("new privileges", rustix::thread::set_no_new_privs(true));
        // System calls last: their filter forbids the calls that set up the other parts.
        let files = log_failure("files", files::restrict(&self.files, &self.ports));
        let capabilities = log_failure("capabilities", capabilities::drop_unneeded(self.backing, self.repository));
        let system_calls = log_failure("system calls", calls::restrict(self.network, self.writing, self.backing));
        Enforced { no_new_privileges, capabilities, files, system_calls }
    }
}

fn log_failure<E: std::fmt::Display>(what: &str, result: Result<(), E>) -> bool {
    if let Err(error) = &result {
        tracing::info!("the sandbox of this worker does not restrict {what}: {error}");
    }
    result.is_ok()
}
