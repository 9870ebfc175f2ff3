//! The sysroot that the arguments and the environment name, and the values that a change of it needs from outside: the lock,
//! the time, the kernel's command line, whether owners can be set.
//!
//! *Used by* all verbs for deployments.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{output, repository};
use crate::deploy::apply::DeployTransaction;
use crate::deploy::etc::PreserveOwners;
use crate::deploy::layout::SysrootLayout;
use crate::deploy::sysroot::{State, Sysroot, SysrootLock};
use crate::disk::Wait;

/// The directory on which the physical root is mounted on a machine that runs a deployment.
const RUNNING_SYSROOT: &str = "/sysroot";

/// The file with the running kernel's command line.
const KERNEL_COMMAND_LINE: &str = "/proc/cmdline";

/// The arguments that name the sysroot.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SysrootArgs {
    /// The sysroot [default: $SAPWOOD_SYSROOT, else /sysroot if it is one, else /]
    #[arg(long, global = true, value_name = "DIR")]
    sysroot: Option<PathBuf>,

    /// Take this for the running kernel's command line; for tests of what a running system does
    #[arg(long, global = true, value_name = "LINE", hide = true)]
    running: Option<String>,
}

/// An opened sysroot.
pub(crate) struct OpenSysroot {
    pub(crate) sysroot: Sysroot,
    /// The running kernel's command line, if it runs from this sysroot.
    pub(crate) running_command_line: Option<String>,
}

impl SysrootArgs {
    /// Returns the directory of the sysroot, whether or not it is one.
    pub(crate) fn path(&self) -> PathBuf {
        if let Some(path) = &self.sysroot {
            return path.clone();
        }
        if let Some(path) = env::var_os("SAPWOOD_SYSROOT").filter(|path| !path.is_empty()) {
            return path.into();
        }
        let running = PathBuf::from(RUNNING_SYSROOT);
        if SysrootLayout::new(running.clone()).config().exists() { running } else { PathBuf::from("/") }
    }

    /// Opens the sysroot.
    ///
    /// # Errors
    /// When there is no sysroot, or it cannot be used.
    pub(crate) fn open(&self) -> Result<OpenSysroot> {
        let path = self.path();
        let is_at = |directory: &str| path.canonicalize().is_ok_and(|path| path == Path::new(directory));
        let top = if is_at(RUNNING_SYSROOT) { Path::new("/") } else { &path };
        let sysroot = Sysroot::open_with_boot(&path, top)?;
        let is_own = is_at("/") || is_at(RUNNING_SYSROOT);
        let running = match &self.running {
            Some(line) => Some(line.clone()),
            None if is_own => Some(
                std::fs::read_to_string(KERNEL_COMMAND_LINE)
                    .with_context(|| format!("cannot read {KERNEL_COMMAND_LINE}"))?,
            ),
            None => None,
        };
        Ok(OpenSysroot { sysroot, running_command_line: running })
    }
}

impl OpenSysroot {
    /// Reads the state of the sysroot: deployments, boot menu, settings.
    ///
    /// # Errors
    /// When something on it cannot be read.
    pub(crate) fn state(&self) -> Result<State> {
        Ok(self.sysroot.read_state(self.running_command_line.as_deref())?)
    }

    /// Takes the lock for changing the sysroot. While another process has it, a note says so.
    ///
    /// # Errors
    /// When the lock cannot be used.
    pub(crate) fn lock(&self) -> Result<SysrootLock> {
        let announce =
            |holder: &str| output::note(format_args!("waiting for {holder}, which is changing the sysroot…"));
        Ok(self.sysroot.lock(Wait::Announced(&announce))?)
    }

    /// Returns a transaction that changes the sysroot under this lock.
    pub(crate) fn transaction<'a>(&'a self, lock: &'a SysrootLock) -> DeployTransaction<'a> {
        DeployTransaction {
            sysroot: &self.sysroot,
            lock,
            ownership: ownership(),
            running: self.running_command_line.as_deref(),
            now: now(),
            wait: &repository::wait_with_notice,
            report: &|leftover| output::note(format_args!("note: {leftover}")),
        }
    }
}

/// Returns whether owners of files can be read and set, which only root can.
pub(crate) fn ownership() -> PreserveOwners {
    if nix::unistd::geteuid().is_root() { PreserveOwners::Yes } else { PreserveOwners::No }
}

/// Returns the current time in seconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
