//! The paths of everything below a sysroot. No other module spells the names of its files and directories.
//!
//! ```text
//! sapwood/config.toml               settings; their presence makes a directory a sysroot
//! sapwood/lock                      locked by the process that changes the sysroot
//! sapwood/repo/                     the repository
//! sapwood/staged.toml               the deployment that is to be put into the boot menu next
//! sapwood/history.jsonl             what was deployed, booted, blessed and given up, and when
//! sapwood/failed.toml               commits that did not come up on this machine, and why
//! sapwood/left.toml                 commits that the administrator left by a rollback
//! sapwood/finalise-failure.toml     why the last shutdown could not finish an update
//! sapwood/deploy/STATEROOT/var/     the one /var of an operating system
//! sapwood/deploy/STATEROOT/COMMIT.N/
//!     origin.toml                   which commit, where it came from, kernel arguments
//!     root/                         the skeleton of /: links and mount points
//!     etc/                          /etc
//!     etc-journal/NNNN/             what each merge, reset and undo of /etc did, with what they replaced
//! ```
//!
//! *Invariants*: a directory whose name begins with a dot is being created or removed; it is no deployment.
//!
//! *Used by* all modules of `deploy`, by `boot` and `cli`.

use std::path::{Path, PathBuf};

use super::id::{DeploymentId, StaterootName};

/// The paths of one sysroot.
#[derive(Debug, Clone)]
pub(crate) struct SysrootLayout {
    root: PathBuf,
}

impl SysrootLayout {
    /// The directory of the sysroot that holds everything of Sapwood.
    pub(crate) const BASE: &'static str = "sapwood";

    /// Returns the layout of the sysroot at `root`.
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Returns the directory that holds everything of Sapwood.
    pub(crate) fn base(&self) -> PathBuf {
        self.root.join(Self::BASE)
    }

    /// Returns the path of the settings.
    pub(crate) fn config(&self) -> PathBuf {
        self.base().join("config.toml")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.base().join("lock")
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.base().join("repo")
    }

    /// Returns the path of the record of the staged deployment.
    pub(crate) fn staged(&self) -> PathBuf {
        self.base().join("staged.toml")
    }

    /// Returns the path of the history.
    pub(crate) fn history(&self) -> PathBuf {
        self.base().join("history.jsonl")
    }

    /// Returns the path of the record of commits that failed to boot.
    pub(crate) fn failed(&self) -> PathBuf {
        self.base().join("failed.toml")
    }

    /// Returns the path of the record of commits that were left by a rollback.
    pub(crate) fn left(&self) -> PathBuf {
        self.base().join("left.toml")
    }

    /// Returns the path of the record why an update was not finalised.
    pub(crate) fn finalise_failure(&self) -> PathBuf {
        self.base().join("finalise-failure.toml")
    }

    /// Returns the directory of all stateroots.
    pub(crate) fn stateroots(&self) -> PathBuf {
        self.base().join("deploy")
    }

    /// Returns the directory of one stateroot.
    pub(crate) fn stateroot(&self, name: &StaterootName) -> PathBuf {
        self.stateroots().join(name.as_str())
    }

    /// Returns the `/var` of a stateroot.
    pub(crate) fn var(&self, name: &StaterootName) -> PathBuf {
        self.stateroot(name).join("var")
    }

    /// Returns the temporary path under which a `/var` is filled.
    pub(crate) fn new_var(&self, name: &StaterootName) -> PathBuf {
        self.stateroot(name).join(".new-var")
    }

    /// Returns the layout of a deployment.
    pub(crate) fn deployment(&self, id: &DeploymentId) -> DeploymentLayout {
        DeploymentLayout::new(self.stateroot(id.stateroot()).join(id.directory()))
    }

    /// Returns the layout of a deployment under the temporary name that it has while it is created.
    pub(crate) fn new_deployment(&self, id: &DeploymentId) -> DeploymentLayout {
        DeploymentLayout::new(self.stateroot(id.stateroot()).join(format!("{}{}", Self::NEW_PREFIX, id.directory())))
    }

    /// Returns an unused path for a deployment while it is removed: an earlier one of the same name may be left over.
    pub(crate) fn old_deployment(&self, id: &DeploymentId) -> PathBuf {
        let directory = self.stateroot(id.stateroot());
        let name = format!("{}{}", Self::OLD_PREFIX, id.directory());
        let others = (1..).map(|number: u32| directory.join(format!("{name}-{number}")));
        let mut paths = std::iter::once(directory.join(&name)).chain(others);
        paths.find(|path| path.symlink_metadata().is_err()).expect("names do not end")
    }

    /// The prefix of the names of directories that are being created.
    pub(crate) const NEW_PREFIX: &'static str = ".new-";

    /// The prefix of the names of directories that are being removed.
    pub(crate) const OLD_PREFIX: &'static str = ".old-";
}

/// The paths of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentLayout {
    directory: PathBuf,
}

impl DeploymentLayout {
    /// Returns the layout of the deployment in `directory`.
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn origin(&self) -> PathBuf {
        self.directory.join("origin.toml")
    }

    /// Returns the path of the skeleton of `/`.
    pub(crate) fn skeleton(&self) -> PathBuf {
        self.directory.join("root")
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.directory.join("etc")
    }

    /// Returns the path of the journal of its `/etc`.
    pub(crate) fn journal(&self) -> PathBuf {
        self.directory.join("etc-journal")
    }
}
