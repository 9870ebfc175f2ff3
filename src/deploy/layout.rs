//! Where everything is below a sysroot. The only place that spells the names of its directories.
//!
//! ```text
//! sapwood/config.toml               settings; their presence makes a directory a sysroot
//! sapwood/lock                      held by whoever changes anything
//! sapwood/repo/                     the repository
//! sapwood/staged.toml               the deployment that is to be put into the boot menu next
//! sapwood/history.jsonl             what was deployed, booted, blessed and given up, and when
//! sapwood/failed.toml               commits that did not come up on this machine, and why
//! sapwood/finalise-failure.toml     why the last shutdown could not finish an update
//! sapwood/deploy/STATEROOT/var/     the one /var of an operating system
//! sapwood/deploy/STATEROOT/COMMIT.N/
//!     origin.toml                   which commit, where it came from, kernel arguments
//!     root/                         the skeleton of /: links and mount points
//!     etc/                          /etc
//!     etc-journal/NNNN/             what each merge, reset and undo of /etc did, with what they replaced
//! ```
//!
//! A directory that begins with a dot is being made or removed, and means nothing.

use std::path::{Path, PathBuf};

use super::id::{DeploymentId, StaterootName};

/// The paths of one sysroot.
#[derive(Debug, Clone)]
pub struct SysrootLayout {
    root: PathBuf,
}

impl SysrootLayout {
    /// Everything of Sapwood is in this directory of the sysroot.
    pub const BASE: &'static str = "sapwood";

    /// The layout of the sysroot at `root`.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The top of the sysroot: the physical root filesystem.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where everything of Sapwood is.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.root.join(Self::BASE)
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.base().join("config.toml")
    }

    /// The lock.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.base().join("lock")
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.base().join("repo")
    }

    /// The record of the deployment that comes next.
    #[must_use]
    pub fn staged(&self) -> PathBuf {
        self.base().join("staged.toml")
    }

    /// The log.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.base().join("history.jsonl")
    }

    /// The commits that did not come up.
    #[must_use]
    pub fn failed(&self) -> PathBuf {
        self.base().join("failed.toml")
    }

    /// Why an update was not finished.
    #[must_use]
    pub fn finalise_failure(&self) -> PathBuf {
        self.base().join("finalise-failure.toml")
    }

    /// All stateroots.
    #[must_use]
    pub fn stateroots(&self) -> PathBuf {
        self.base().join("deploy")
    }

    /// One stateroot.
    #[must_use]
    pub fn stateroot(&self, name: &StaterootName) -> PathBuf {
        self.stateroots().join(name.as_str())
    }

    /// The `/var` of a stateroot.
    #[must_use]
    pub fn var(&self, name: &StaterootName) -> PathBuf {
        self.stateroot(name).join("var")
    }

    /// Where a `/var` is made before it gets its name.
    #[must_use]
    pub fn new_var(&self, name: &StaterootName) -> PathBuf {
        self.stateroot(name).join(".new-var")
    }

    /// The directory of a deployment.
    #[must_use]
    pub fn deployment(&self, id: &DeploymentId) -> DeploymentLayout {
        DeploymentLayout::new(self.stateroot(id.stateroot()).join(id.directory()))
    }

    /// Where a deployment is made before it gets its name.
    #[must_use]
    pub fn new_deployment(&self, id: &DeploymentId) -> DeploymentLayout {
        DeploymentLayout::new(self.stateroot(id.stateroot()).join(format!("{}{}", Self::MAKING, id.directory())))
    }

    /// What a deployment is called while it is removed.
    #[must_use]
    pub fn old_deployment(&self, id: &DeploymentId) -> PathBuf {
        self.stateroot(id.stateroot()).join(format!("{}{}", Self::REMOVING, id.directory()))
    }

    /// Names of directories that are being made begin with this.
    pub const MAKING: &'static str = ".new-";

    /// Names of directories that are being removed begin with this.
    pub const REMOVING: &'static str = ".old-";
}

/// The paths of one deployment.
#[derive(Debug, Clone)]
pub struct DeploymentLayout {
    directory: PathBuf,
}

impl DeploymentLayout {
    /// The layout of the deployment in `directory`.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it is.
    #[must_use]
    pub fn origin(&self) -> PathBuf {
        self.directory.join("origin.toml")
    }

    /// The skeleton of `/`.
    #[must_use]
    pub fn skeleton(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Its `/etc`.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.directory.join("etc")
    }

    /// What was done to its `/etc`.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.directory.join("etc-journal")
    }
}
