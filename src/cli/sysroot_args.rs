//! Which sysroot is meant, and what comes from outside for whoever changes it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{output, repository};
use crate::deploy::apply::Changer;
use crate::deploy::etc::Ownership;
use crate::deploy::layout::SysrootLayout;
use crate::deploy::sysroot::{State, Sysroot, SysrootLock};
use crate::disk::Wait;

/// Where the physical root is on a machine that runs a deployment.
const RUNNING: &str = "/sysroot";

/// What the running kernel was started with.
const COMMAND_LINE: &str = "/proc/cmdline";

/// The sysroot.
#[derive(Debug, Clone, clap::Args)]
pub struct SysrootArgs {
    /// The sysroot [default: $SAPWOOD_SYSROOT, else /sysroot if it is one, else /]
    #[arg(long, global = true, value_name = "DIR")]
    sysroot: Option<PathBuf>,

    /// Take this for the running kernel's command line; for tests of what a running system does
    #[arg(long, global = true, value_name = "LINE", hide = true)]
    running: Option<String>,
}

/// An opened sysroot.
pub struct Opened {
    /// The sysroot.
    pub sysroot: Sysroot,
    /// What the running kernel was started with, if this is its root.
    pub running: Option<String>,
}

impl SysrootArgs {
    /// Where the sysroot is, whether or not it is one.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        if let Some(path) = &self.sysroot {
            return path.clone();
        }
        if let Some(path) = env::var_os("SAPWOOD_SYSROOT").filter(|path| !path.is_empty()) {
            return path.into();
        }
        let running = PathBuf::from(RUNNING);
        if SysrootLayout::new(running.clone()).config().exists() { running } else { PathBuf::from("/") }
    }

    /// Opens the sysroot.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub fn open(&self) -> Result<Opened> {
        let path = self.path();
        let is_at = |place: &str| path.canonicalize().is_ok_and(|path| path == Path::new(place));
        let top = if is_at(RUNNING) { Path::new("/") } else { &path };
        let sysroot = Sysroot::open_with_boot(&path, top)?;
        let is_own = is_at("/") || is_at(RUNNING);
        let running = match &self.running {
            Some(line) => Some(line.clone()),
            None if is_own => {
                Some(std::fs::read_to_string(COMMAND_LINE).with_context(|| format!("cannot read {COMMAND_LINE}"))?)
            }
            None => None,
        };
        Ok(Opened { sysroot, running })
    }
}

impl Opened {
    /// Reads everything on the sysroot.
    ///
    /// # Errors
    /// When something on it cannot be read.
    pub fn state(&self) -> Result<State> {
        Ok(self.sysroot.read(self.running.as_deref())?)
    }

    /// Becomes the only one who changes the sysroot.
    ///
    /// # Errors
    /// When the lock cannot be used.
    pub fn lock(&self) -> Result<SysrootLock> {
        let announce =
            |holder: &str| output::note(format_args!("waiting for {holder}, which is changing the sysroot…"));
        Ok(self.sysroot.lock(Wait::Announced(&announce))?)
    }

    /// Whoever changes the sysroot, under this lock.
    #[must_use]
    pub fn changer<'a>(&'a self, lock: &'a SysrootLock) -> Changer<'a> {
        Changer {
            sysroot: &self.sysroot,
            lock,
            ownership: ownership(),
            running: self.running.as_deref(),
            now: now(),
            wait: &repository::announced,
        }
    }
}

/// Whether owners of files can be told and set.
#[must_use]
pub fn ownership() -> Ownership {
    if nix::unistd::geteuid().is_root() { Ownership::Kept } else { Ownership::Ignored }
}

/// The time now, in seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
