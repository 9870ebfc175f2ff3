//! [`Sysroot`]: a physical root filesystem with deployments on it, and [`State`], everything on it as it was read at once.
//!
//! Reading needs no lock: what is read is replaced as a whole. Whatever changes anything takes a [`SysrootLock`], of which
//! there is one at a time, and reads the state under it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::boot::{BootEntry, Loader, LoaderKind, Menu};
use super::config::SysrootConfig;
use super::error::SysrootError;
use super::id::{DeploymentId, StaterootName};
use super::kargs::{DEPLOYMENT_KEY, Kargs};
use super::layout::SysrootLayout;
use super::origin::Origin;
use super::records::{self, Failures, FinaliseFailure, Staged};
use crate::disk::{self, Lock, Wait};
use crate::store::{Config, OpenError, Store};

/// A physical root filesystem with deployments.
#[derive(Debug, Clone)]
pub struct Sysroot {
    layout: SysrootLayout,
    config: SysrootConfig,
    store: Store,
    loader: Loader,
}

/// The proof of being the only one who changes a sysroot.
#[derive(Debug)]
pub struct SysrootLock {
    _lock: Lock,
}

/// One deployment as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Which.
    pub id: DeploymentId,
    /// What it is.
    pub origin: Origin,
    /// Its place in the boot menu: the first, if it has several.
    pub entry: Option<BootEntry>,
}

/// Everything on a sysroot, read at once.
#[derive(Debug, Clone)]
pub struct State {
    /// All deployments: the staged one, then those in the boot menu in its order, then the others.
    pub deployments: Vec<Deployment>,
    /// The boot menu.
    pub menu: Menu,
    /// What waits for the next shutdown.
    pub staged: Option<Staged>,
    /// The commits that did not come up here.
    pub failures: Failures,
    /// Why the last update was not finished.
    pub finalise_failure: Option<FinaliseFailure>,
    /// What runs now, if this is the sysroot of the running system.
    pub booted: Option<DeploymentId>,
}

impl Sysroot {
    /// Makes the directory `root` a sysroot. The boot partition must be mounted.
    ///
    /// # Errors
    /// [`SysrootError`]. Whoever was interrupted can start again.
    pub fn init(root: &Path, config: &SysrootConfig) -> Result<Self, SysrootError> {
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
            // Left by an attempt that was interrupted before the settings were written.
            Ok(_) | Err(OpenError::Exists(_)) => {}
            Err(OpenError::NotEmpty(path)) => {
                disk::remove_directory(&path).map_err(io_error("remove", path.clone()))?;
                Store::init(&path, &Config::default())?;
            }
            Err(other) => return Err(other.into()),
        }
        let found = Loader::of(root, config.bootloader, config.boot.as_deref());
        let loader = found.map_err(io_error("look for a boot loader in", root.to_owned()))?;
        let marker = loader.kernels(&config.id);
        disk::make_directories(&marker).map_err(io_error("create", marker))?;
        // Last, since it makes the directory a sysroot.
        disk::replace(&layout.config(), config.render().as_bytes()).map_err(io_error("write", layout.config()))?;
        Self::open(root)
    }

    /// Opens the sysroot at `root`, with its boot partition mounted below it.
    ///
    /// # Errors
    /// [`SysrootError`].
    pub fn open(root: &Path) -> Result<Self, SysrootError> {
        Self::open_with_boot(root, root)
    }

    /// Opens the sysroot at `root` of a machine that runs from it: what is at `/boot` is mounted there, below `top`, and not
    /// below the physical root.
    ///
    /// # Errors
    /// [`SysrootError`].
    pub fn open_with_boot(root: &Path, top: &Path) -> Result<Self, SysrootError> {
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
        let loader = Loader::of(&top, config.bootloader, config.boot.as_deref())
            .map_err(|source| SysrootError::Io { action: "look for a boot loader in", path: top, source })?;
        Ok(Self { layout, config, store, loader })
    }

    /// Where everything is.
    #[must_use]
    pub const fn layout(&self) -> &SysrootLayout {
        &self.layout
    }

    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &SysrootConfig {
        &self.config
    }

    /// The repository.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The boot loader.
    #[must_use]
    pub const fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Becomes the only one who may change anything, waiting for another as `wait` says.
    ///
    /// # Errors
    /// [`SysrootError::Lock`].
    pub fn lock(&self, wait: Wait<'_>) -> Result<SysrootLock, SysrootError> {
        Ok(SysrootLock { _lock: Lock::exclusive(&self.layout.lock(), wait)? })
    }

    /// Reads everything; `running` is what the kernel that runs was started with, if this is its root.
    ///
    /// # Errors
    /// [`SysrootError`].
    pub fn read(&self, running: Option<&str>) -> Result<State, SysrootError> {
        let menu = Menu::read(&self.loader, &self.config.id)?;
        let mut deployments = Vec::new();
        for stateroot in self.stateroots()? {
            self.read_stateroot(&stateroot, &menu, &mut deployments)?;
        }
        // A record outlives a killed operation: the deployment may not be there yet, or be in the menu already.
        let staged: Option<Staged> = records::read(&self.layout.staged())?;
        let waits = |id: &DeploymentId| deployments.iter().any(|found| found.id == *id && found.entry.is_none());
        let staged = staged.filter(|staged| waits(&staged.deployment));
        let is_staged = |id: &DeploymentId| staged.as_ref().is_some_and(|staged| staged.deployment == *id);
        let place = |found: &Deployment| {
            let in_menu = menu.entries().iter().position(|entry| entry.target.deployment == found.id);
            (!is_staged(&found.id), in_menu.unwrap_or(usize::MAX), -found.origin.deployed)
        };
        deployments.sort_by_key(place);
        let booted = running.and_then(booted_deployment).filter(|id| deployments.iter().any(|found| found.id == *id));
        Ok(State {
            failures: records::read(&self.layout.failed())?.unwrap_or_default(),
            finalise_failure: records::read(&self.layout.finalise_failure())?,
            deployments,
            menu,
            staged,
            booted,
        })
    }

    /// The names of all stateroots, in order.
    ///
    /// # Errors
    /// [`SysrootError::Io`].
    pub fn stateroots(&self) -> Result<Vec<StaterootName>, SysrootError> {
        let mut names: Vec<StaterootName> =
            list(&self.layout.stateroots())?.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    fn read_stateroot(
        &self,
        stateroot: &StaterootName,
        menu: &Menu,
        deployments: &mut Vec<Deployment>,
    ) -> Result<(), SysrootError> {
        for name in list(&self.layout.stateroot(stateroot))? {
            let Some(id) = DeploymentId::from_directory(stateroot, &name) else { continue };
            let origin = self.origin(&id)?;
            let entry = menu.entries().iter().find(|entry| entry.target.deployment == id).cloned();
            deployments.push(Deployment { id, origin, entry });
        }
        Ok(())
    }

    fn origin(&self, id: &DeploymentId) -> Result<Origin, SysrootError> {
        read_origin(&self.layout, id)
    }
}

/// What an initramfs needs to know to start a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTarget {
    /// Which deployment.
    pub id: DeploymentId,
    /// What it is.
    pub origin: Origin,
    /// Its directory.
    pub directory: PathBuf,
    /// The `/var` of its stateroot.
    pub var: PathBuf,
    /// The repository.
    pub repository: PathBuf,
}

/// What the kernel that was started with `command_line` is to run from the sysroot at `root`, which may be mounted
/// read-only.
///
/// # Errors
/// [`SysrootError`].
pub fn boot_target(root: &Path, command_line: &str) -> Result<BootTarget, SysrootError> {
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

fn read_origin(layout: &SysrootLayout, id: &DeploymentId) -> Result<Origin, SysrootError> {
    let path = layout.deployment(id).origin();
    let text =
        fs::read_to_string(&path).map_err(|source| SysrootError::Io { action: "read", path: path.clone(), source })?;
    Origin::parse(&text).map_err(|source| SysrootError::Origin { path, source: Box::new(source) })
}

/// The names in a directory; none when it is not there.
pub(super) fn list(directory: &Path) -> Result<Vec<String>, SysrootError> {
    let io_error = |source| SysrootError::Io { action: "list", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(io_error)?.file_name().into_string().ok());
    }
    Ok(names)
}

impl State {
    /// A deployment.
    #[must_use]
    pub fn get(&self, id: &DeploymentId) -> Option<&Deployment> {
        self.deployments.iter().find(|found| found.id == *id)
    }

    /// What boots next if nothing happens before: the staged one if there is one, else the first of the menu.
    #[must_use]
    pub fn next(&self) -> Option<&Deployment> {
        self.staged().or_else(|| self.default())
    }

    /// The staged deployment.
    #[must_use]
    pub fn staged(&self) -> Option<&Deployment> {
        self.get(&self.staged.as_ref()?.deployment)
    }

    /// The first of the boot menu.
    #[must_use]
    pub fn default(&self) -> Option<&Deployment> {
        self.get(&self.menu.entries().first()?.target.deployment)
    }

    /// The one that runs.
    #[must_use]
    pub fn booted(&self) -> Option<&Deployment> {
        self.get(self.booted.as_ref()?)
    }

    /// What a rollback would bring back: the one that runs if another is going to boot, else the next of the menu in the
    /// same stateroot that did not fail.
    #[must_use]
    pub fn rollback(&self) -> Option<&Deployment> {
        let default = self.default()?;
        match self.booted() {
            Some(booted) if booted.id != default.id => Some(booted),
            _ => self.fallback(default),
        }
    }

    /// The first of the menu but `than`, of the same stateroot, that did not fail.
    #[must_use]
    pub fn fallback(&self, than: &Deployment) -> Option<&Deployment> {
        let in_menu = self.deployments.iter().filter(|found| found.entry.is_some());
        let others = in_menu.filter(|found| found.id != than.id && found.id.stateroot() == than.id.stateroot());
        others.into_iter().find(|found| !self.has_failed(found))
    }

    /// Whether the commit did not come up here, or used up its tries.
    #[must_use]
    pub fn has_failed(&self, deployment: &Deployment) -> bool {
        let is_exhausted = deployment.entry.as_ref().is_some_and(BootEntry::is_exhausted);
        let is_running = self.booted.as_ref() == Some(&deployment.id);
        self.failures.contains_key(&deployment.origin.commit) || (is_exhausted && !is_running)
    }

    /// The deployment that a new one of `stateroot` begins with: the one that runs, else the one that boots next.
    #[must_use]
    pub fn merge_base(&self, stateroot: &StaterootName) -> Option<&Deployment> {
        let mut candidates = self.booted().into_iter().chain(self.deployments.iter().filter(|d| d.entry.is_some()));
        candidates.find(|found| found.id.stateroot() == stateroot)
    }

    /// The deployment that a person means: by its place in the list, its role, its name, or the start of its commit.
    ///
    /// # Errors
    /// [`SysrootError::NoDeployment`].
    pub fn find(&self, text: &str) -> Result<&Deployment, SysrootError> {
        let by_role = match text {
            "booted" => self.booted(),
            "staged" => self.staged(),
            "default" => self.default(),
            "rollback" => self.rollback(),
            _ => None,
        };
        let by_place =
            || text.parse().ok().filter(|_| text.len() < 4).and_then(|place: usize| self.deployments.get(place));
        let by_name =
            || self.deployments.iter().find(|found| found.id.to_string() == text || found.id.directory() == text);
        let by_commit = || {
            let is_long_enough = text.len() >= 6;
            let mut found = self.deployments.iter().filter(|f| f.origin.commit.to_string().starts_with(text));
            found.next().filter(|_| is_long_enough && found.next().is_none())
        };
        let found = by_role.or_else(by_place).or_else(by_name).or_else(by_commit);
        found.ok_or_else(|| SysrootError::NoDeployment(text.to_owned()))
    }

    /// Whether no boot loader was found, so that nobody reads the menu.
    #[must_use]
    pub fn has_no_loader(&self) -> bool {
        self.menu.loader().kind == LoaderKind::None
    }
}
