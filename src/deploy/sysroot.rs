//! Opens a [`Sysroot`], the physical root filesystem with its deployments, locks it, and reads its [`State`].
//!
//! *Not here*: changing a sysroot (`apply`, `removal`, `health`).
//!
//! *Invariants*: reading needs no lock, since files are replaced as a whole. An operation that changes anything holds the
//! [`SysrootLock`], of which there is one at a time, and reads the state while it holds it.
//!
//! *Used by* most modules of `deploy`, by `boot` and `cli`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::boot::{BootEntry, BootLoader, LoaderKind, Menu};
use super::config::SysrootConfig;
use super::error::SysrootError;
use super::id::{DeploymentId, StaterootName};
use super::kargs::{DEPLOYMENT_KEY, Kargs};
use super::layout::SysrootLayout;
use super::leftover::Leftover;
use super::origin::DeploymentOrigin;
use super::update_state::{self, FailedCommits, FinaliseFailure, LeftCommits, Staged};
use crate::disk::{self, Lock, Wait};
use crate::error::chain;
use crate::store::{Config, OpenError, Store};

/// An open sysroot: a physical root filesystem with deployments.
#[derive(Debug, Clone)]
pub(crate) struct Sysroot {
    layout: SysrootLayout,
    config: SysrootConfig,
    store: Store,
    loader: BootLoader,
}

/// The lock of a sysroot: proof that no other process changes it.
#[derive(Debug)]
pub(crate) struct SysrootLock {
    _lock: Lock,
}

/// One deployment as it is on the disk and in the boot menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) id: DeploymentId,
    pub(crate) origin: DeploymentOrigin,
    /// Its entry in the boot menu; the first, if it has several.
    pub(crate) entry: Option<BootEntry>,
}

/// Everything on a sysroot, as it was read at once.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// All deployments: the staged one, then those in the boot menu in its order, then the others.
    pub(crate) deployments: Vec<Deployment>,
    /// The boot menu.
    pub(crate) menu: Menu,
    /// The record of the staged deployment.
    pub(crate) staged: Option<Staged>,
    /// The commits that failed to boot on this machine.
    pub(crate) failures: FailedCommits,
    /// Why the last update was not finalised.
    pub(crate) finalise_failure: Option<FinaliseFailure>,
    /// The commits that the administrator left by a rollback.
    pub(crate) left: LeftCommits,
    /// Directories of deployments that cannot be read and that nothing boots.
    pub(crate) unreadable: Vec<Leftover>,
    /// The running deployment, if this is the sysroot of the running system.
    pub(crate) booted: Option<DeploymentId>,
}

impl Sysroot {
    /// Makes the directory `root` a sysroot. The boot partition must be mounted.
    ///
    /// # Errors
    /// [`SysrootError`]. An attempt that failed or was interrupted can be repeated.
    pub(crate) fn init(root: &Path, config: &SysrootConfig) -> Result<Self, SysrootError> {
        let layout = SysrootLayout::new(root.to_owned());
        let io_error = |action, path: PathBuf| move |source| SysrootError::Io { action, path, source };
        if layout.config().exists() {
            return Err(SysrootError::Exists(root.to_owned()));
        }
        config.check().map_err(|source| SysrootError::Config { path: layout.config(), source: Box::new(source) })?;
        if !root.is_dir() {
            return Err(io_error("find", root.to_owned())(io::Error::from(io::ErrorKind::NotFound)));
        }
        disk::make_directories(&layout.stateroots()).map_err(io_error("create", layout.stateroots()))?;
        match Store::init(&layout.repository(), &Config::default()) {
            // An earlier attempt was interrupted before the settings were written.
            Ok(_) | Err(OpenError::Exists(_)) => {}
            Err(OpenError::NotEmpty(path)) => {
                disk::remove_directory(&path).map_err(io_error("remove", path.clone()))?;
                Store::init(&path, &Config::default())?;
            }
            Err(other) => return Err(other.into()),
        }
        let found = BootLoader::of(root, config.bootloader, config.boot.as_deref());
        let loader = found.map_err(io_error("look for a boot loader in", root.to_owned()))?;
        let marker = loader.kernels_directory(&config.id);
        disk::make_directories(&marker).map_err(io_error("create", marker))?;
        // Written last, since this file makes the directory a sysroot.
        disk::replace(&layout.config(), config.render().as_bytes()).map_err(io_error("write", layout.config()))?;
        Self::open(root)
    }

    /// Opens the sysroot at `root`, with its boot partition mounted below it.
    pub(crate) fn open(root: &Path) -> Result<Self, SysrootError> {
        Self::open_with_boot(root, root)
    }

    /// Opens the sysroot at `root` of a machine that runs from it: the boot partition is mounted below `top`, the `/` of the
    /// running system, and not below the physical root.
    pub(crate) fn open_with_boot(root: &Path, top: &Path) -> Result<Self, SysrootError> {
        let not_found = || SysrootError::NotASysroot(root.to_owned());
        let root = root.canonicalize().map_err(|_| not_found())?;
        let layout = SysrootLayout::new(root.clone());
        let path = layout.config();
        let text = match fs::read_to_string(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(not_found());
            }
            other => other.map_err(|source| SysrootError::Io { action: "read", path: path.clone(), source })?,
        };
        let config =
            SysrootConfig::parse(&text).map_err(|source| SysrootError::Config { path, source: Box::new(source) })?;
        let store = Store::open(&layout.repository())?;
        let top = top.canonicalize().map_err(|_| not_found())?;
        let loader = BootLoader::of(&top, config.bootloader, config.boot.as_deref())
            .map_err(|source| SysrootError::Io { action: "look for a boot loader in", path: top, source })?;
        Ok(Self { layout, config, store, loader })
    }

    /// Returns the paths of the sysroot.
    pub(crate) const fn layout(&self) -> &SysrootLayout {
        &self.layout
    }

    /// Returns the settings.
    pub(crate) const fn config(&self) -> &SysrootConfig {
        &self.config
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the boot loader.
    pub(crate) const fn loader(&self) -> &BootLoader {
        &self.loader
    }

    /// Takes the lock that every change needs, and waits for another process as `wait` says.
    pub(crate) fn lock(&self, wait: Wait<'_>) -> Result<SysrootLock, SysrootError> {
        Ok(SysrootLock { _lock: Lock::exclusive(&self.layout.lock(), wait)? })
    }

    /// Reads the state. `running` is the command line of the running kernel, if this sysroot is its root.
    pub(crate) fn read_state(&self, running: Option<&str>) -> Result<State, SysrootError> {
        let menu = Menu::read(&self.loader, &self.config.id)?;
        let booted = running.and_then(booted_deployment);
        let (mut deployments, mut unreadable) = (Vec::new(), Vec::new());
        for stateroot in self.stateroots()? {
            for name in list_names(&self.layout.stateroot(&stateroot))? {
                let Some(id) = DeploymentId::from_directory(&stateroot, &name) else { continue };
                let entry = menu.entries().iter().find(|entry| entry.target.deployment == id).cloned();
                match read_origin(&self.layout, &id) {
                    Ok(origin) => deployments.push(Deployment { id, origin, entry }),
                    // What nothing boots must not stop the others.
                    Err(error) if entry.is_none() && booted.as_ref() != Some(&id) => {
                        let path = self.layout.deployment(&id).directory().to_owned();
                        unreadable.push(Leftover { path, reason: chain(&error) });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        // If an operation was killed, the record may name a deployment that does not exist yet or is in the menu already.
        let staged: Option<Staged> = update_state::read_record(&self.layout.staged())?;
        let is_pending = |id: &DeploymentId| deployments.iter().any(|found| found.id == *id && found.entry.is_none());
        let staged = staged.filter(|staged| is_pending(&staged.deployment));
        let is_staged = |id: &DeploymentId| staged.as_ref().is_some_and(|staged| staged.deployment == *id);
        // A failure counts as long as its update still has to be finished.
        let failure: Option<FinaliseFailure> = update_state::read_record(&self.layout.finalise_failure())?;
        let finalise_failure = failure.filter(|failure| is_staged(&failure.deployment));
        let sort_key = |found: &Deployment| {
            let in_menu = menu.entries().iter().position(|entry| entry.target.deployment == found.id);
            (!is_staged(&found.id), in_menu.unwrap_or(usize::MAX), -found.origin.deployed)
        };
        deployments.sort_by_key(sort_key);
        let booted = booted.filter(|id| deployments.iter().any(|found| found.id == *id));
        Ok(State {
            failures: update_state::read_record(&self.layout.failed())?.unwrap_or_default(),
            left: update_state::read_record(&self.layout.left())?.unwrap_or_default(),
            unreadable,
            finalise_failure,
            deployments,
            menu,
            staged,
            booted,
        })
    }

    /// Returns the directories that operations were creating or removing and did not remove.
    pub(crate) fn leftovers(&self) -> Result<Vec<PathBuf>, SysrootError> {
        let mut found = Vec::new();
        for stateroot in self.stateroots()? {
            let directory = self.layout.stateroot(&stateroot);
            let is_temporary = |name: &OsStr| {
                let prefixes = [SysrootLayout::NEW_PREFIX, SysrootLayout::OLD_PREFIX];
                prefixes.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
            };
            let names = list_all_names(&directory)?;
            found.extend(names.iter().filter(|name| is_temporary(name)).map(|name| directory.join(name)));
        }
        found.sort();
        Ok(found)
    }

    /// Returns the names of all stateroots, sorted.
    pub(crate) fn stateroots(&self) -> Result<Vec<StaterootName>, SysrootError> {
        let mut names: Vec<StaterootName> =
            list_names(&self.layout.stateroots())?.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }
}

/// The paths and the origin that the initramfs needs to start a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootTarget {
    pub(crate) id: DeploymentId,
    pub(crate) origin: DeploymentOrigin,
    pub(crate) directory: PathBuf,
    /// The `/var` of its stateroot.
    pub(crate) var: PathBuf,
    pub(crate) repository: PathBuf,
}

/// Returns the deployment of the sysroot at `root` that `command_line` names. The sysroot may be mounted read-only.
pub(crate) fn boot_target(root: &Path, command_line: &str) -> Result<BootTarget, SysrootError> {
    let layout = SysrootLayout::new(root.to_owned());
    let id = booted_deployment(command_line)
        .ok_or_else(|| SysrootError::NoDeployment(format!("{DEPLOYMENT_KEY}= (on the kernel's command line)")))?;
    let directory = layout.deployment(&id).directory().to_owned();
    if !directory.is_dir() {
        return Err(SysrootError::NoDeployment(id.to_string()));
    }
    let origin = read_origin(&layout, &id)?;
    let var = layout.var(id.stateroot());
    Ok(BootTarget { id, origin, directory, var, repository: layout.repository() })
}

/// Returns the deployment that a kernel with this command line was started for; `None` when it names none.
#[must_use]
pub fn booted_deployment(command_line: &str) -> Option<DeploymentId> {
    Kargs::parse(command_line).value(DEPLOYMENT_KEY)?.parse().ok()
}

fn read_origin(layout: &SysrootLayout, id: &DeploymentId) -> Result<DeploymentOrigin, SysrootError> {
    let path = layout.deployment(id).origin();
    let text =
        fs::read_to_string(&path).map_err(|source| SysrootError::Io { action: "read", path: path.clone(), source })?;
    DeploymentOrigin::parse(&text).map_err(|source| SysrootError::Origin { path, source: Box::new(source) })
}

/// Returns the names in a directory; none if it does not exist.
fn list_all_names(directory: &Path) -> Result<Vec<OsString>, SysrootError> {
    let io_error = |source| SysrootError::Io { action: "list", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(io_error)?,
    };
    entries.map(|entry| Ok(entry.map_err(io_error)?.file_name())).collect()
}

/// Returns the names in a directory; none if it does not exist. Names that are not UTF-8 are left out.
fn list_names(directory: &Path) -> Result<Vec<String>, SysrootError> {
    Ok(list_all_names(directory)?.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

impl State {
    /// Returns the deployment with this name.
    pub(crate) fn get(&self, id: &DeploymentId) -> Option<&Deployment> {
        self.deployments.iter().find(|found| found.id == *id)
    }

    /// Returns the deployment that boots next: the staged one if there is one, else the default.
    pub(crate) fn next_to_boot(&self) -> Option<&Deployment> {
        self.staged().or_else(|| self.default())
    }

    /// Returns the staged deployment.
    pub(crate) fn staged(&self) -> Option<&Deployment> {
        self.get(&self.staged.as_ref()?.deployment)
    }

    /// Returns the deployment of the first entry of the boot menu.
    pub(crate) fn default(&self) -> Option<&Deployment> {
        self.get(&self.menu.entries().first()?.target.deployment)
    }

    /// Returns the running deployment.
    pub(crate) fn booted(&self) -> Option<&Deployment> {
        self.get(self.booted.as_ref()?)
    }

    /// Returns the deployment that a rollback makes the default: the running one if another is the default, else the fallback
    /// for the default.
    pub(crate) fn rollback(&self) -> Option<&Deployment> {
        let default = self.default()?;
        match self.booted() {
            Some(booted) if booted.id != default.id => Some(booted),
            _ => self.fallback_for(default),
        }
    }

    /// Returns the first other deployment in the menu, of the same stateroot as `deployment`, that did not fail.
    pub(crate) fn fallback_for(&self, deployment: &Deployment) -> Option<&Deployment> {
        let in_menu = self.deployments.iter().filter(|found| found.entry.is_some());
        let others =
            in_menu.filter(|found| found.id != deployment.id && found.id.stateroot() == deployment.id.stateroot());
        others.into_iter().find(|found| !self.has_failed(found))
    }

    /// Returns whether the commit failed to boot on this machine, or the deployment used up its tries and is not running.
    pub(crate) fn has_failed(&self, deployment: &Deployment) -> bool {
        let is_exhausted = deployment.entry.as_ref().is_some_and(BootEntry::is_exhausted);
        let is_running = self.booted.as_ref() == Some(&deployment.id);
        self.failures.contains_key(&deployment.origin.commit) || (is_exhausted && !is_running)
    }

    /// Returns the deployment whose `/etc` is merged into a new one of `stateroot`: the running one, else the first in the
    /// menu.
    pub(crate) fn merge_base(&self, stateroot: &StaterootName) -> Option<&Deployment> {
        let mut candidates = self.booted().into_iter().chain(self.deployments.iter().filter(|d| d.entry.is_some()));
        candidates.find(|found| found.id.stateroot() == stateroot)
    }

    /// Finds the deployment that a text means: a role, an index in the list, a name, or at least 6 digits of a commit.
    pub(crate) fn find(&self, text: &str) -> Result<&Deployment, SysrootError> {
        let by_role = match text {
            "booted" => self.booted(),
            "staged" => self.staged(),
            "default" => self.default(),
            "rollback" => self.rollback(),
            _ => None,
        };
        let by_index =
            || text.parse().ok().filter(|_| text.len() < 4).and_then(|index: usize| self.deployments.get(index));
        let by_name =
            || self.deployments.iter().find(|found| found.id.to_string() == text || found.id.directory() == text);
        let by_commit = || {
            let is_long_enough = text.len() >= 6;
            let mut found = self.deployments.iter().filter(|f| f.origin.commit.to_string().starts_with(text));
            found.next().filter(|_| is_long_enough && found.next().is_none())
        };
        let found = by_role.or_else(by_index).or_else(by_name).or_else(by_commit);
        found.ok_or_else(|| SysrootError::NoDeployment(text.to_owned()))
    }

    /// Returns an error if something is deployed and the boot menu has none of it, as when another program replaced the menu.
    ///
    /// # Errors
    /// [`SysrootError::LostMenu`].
    pub(crate) fn check_menu(&self) -> Result<(), SysrootError> {
        let is_lost = self.menu.entries().is_empty() && self.deployments.iter().any(|found| !self.is_staged(found));
        if is_lost { Err(SysrootError::LostMenu) } else { Ok(()) }
    }

    fn is_staged(&self, found: &Deployment) -> bool {
        self.staged.as_ref().is_some_and(|staged| staged.deployment == found.id)
    }

    /// Returns whether no boot loader was found that reads the menu.
    pub(crate) fn has_no_loader(&self) -> bool {
        self.menu.loader().kind == LoaderKind::None
    }
}
