//! Carrying out: making a deployment, putting it into the boot menu, removing what goes.
//!
//! A deployment is made under a name that means nothing and gets its own in one step. Before that, a record says that it is
//! staged; so whatever is killed, what is there is in the menu, or staged, or has no name and is swept away by the next.

use std::io;
use std::path::{Path, PathBuf};

use super::boot::{BootError, Kernel, WantedEntry};
use super::conflicts::{Record, keep_edits};
use super::error::SysrootError;
use super::etc::{
    ApplyError as EtcApplyError, EtcPlan, Journal, JournalError, LogEntry, Operation, Ownership, ScanError, Sources,
    Use, apply as apply_etc, is_made, scan,
};
use super::history::{self, Happening, HistoryEntry};
use super::id::DeploymentId;
use super::layout::{DeploymentLayout, SysrootLayout};
use super::menu::{self, MenuError};
use super::origin::Origin;
use super::plan::{DeployPlan, EtcInputs, PlanError, When, image_of};
use super::records::{self, FinaliseFailure, Staged};
use super::skeleton::{SkeletonError, VarPlan, fill_var};
use super::space::{BootRoom, SpaceError};
use super::sysroot::{Deployment, State, Sysroot, SysrootLock};
use crate::disk::{self, Wait};
use crate::image::Image;
use crate::store::{Expect, ReadError, RefEdit, RefError, StoreWriter, WriteError};

/// Why something was not carried out. What the machine boots is then the old or the new.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The sysroot.
    #[error(transparent)]
    Sysroot(#[from] SysrootError),
    /// The plan, made once more.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The room for it.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The boot menu.
    #[error(transparent)]
    Menu(#[from] MenuError),
    /// The boot menu.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The top level, or `/var`.
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
    /// `/etc` cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// `/etc` cannot be made.
    #[error(transparent)]
    Etc(#[from] EtcApplyError),
    /// The journal of `/etc`.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The repository cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The ref that keeps the commit.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// A commit cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A rule of what may be removed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is never done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It runs.
    #[error("{0} is running")]
    Booted(DeploymentId),
    /// Somebody wants it to stay.
    #[error("{0} is pinned")]
    Pinned(DeploymentId),
    /// Nothing else would boot.
    #[error("{0} is the only deployment that boots")]
    OnlyOne(DeploymentId),
    /// The others could not boot without a network.
    #[error("{0} is the only deployment of which everything is here: the others need a network to boot")]
    OnlyWhole(DeploymentId),
    /// There is nothing to go back to.
    #[error("there is no deployment to go back to")]
    NoRollback,
    /// Nothing is in the boot menu, so it cannot be said what is needed.
    #[error(
        "the boot menu has no entry of this sysroot, although something was deployed: is the right boot partition mounted?"
    )]
    EmptyMenu,
}

/// One who changes a sysroot: the sysroot, the lock, and what comes from outside.
pub struct Changer<'a> {
    /// The sysroot.
    pub sysroot: &'a Sysroot,
    /// The proof of being alone.
    pub lock: &'a SysrootLock,
    /// Whether owners count.
    pub ownership: Ownership,
    /// What the running kernel was started with, if this is its root.
    pub running: Option<&'a str>,
    /// The time now, in seconds since 1970.
    pub now: i64,
    /// How to wait for whoever writes the repository.
    pub wait: &'a dyn Fn() -> Wait<'static>,
}

impl Changer<'_> {
    /// Reads the sysroot.
    ///
    /// # Errors
    /// [`SysrootError`].
    pub fn state(&self) -> Result<State, SysrootError> {
        self.sysroot.read(self.running)
    }

    pub(super) fn layout(&self) -> &SysrootLayout {
        self.sysroot.layout()
    }

    pub(super) fn writer(&self) -> Result<StoreWriter, WriteError> {
        self.sysroot.store().writer((self.wait)())
    }

    /// Refuses to go on where the boot menu was lost: what is in it decides over what is kept.
    pub(super) fn check_menu(&self) -> Result<(), DeployError> {
        let state = self.state()?;
        if !state.menu.entries().is_empty() {
            return Ok(());
        }
        let path = self.layout().history();
        let log = history::read(&path).map_err(io_error("read", &path))?;
        let was_there = |found: &Deployment| {
            log.iter().any(|entry| entry.event == Happening::Deployed && entry.deployment == found.id)
        };
        if state.deployments.iter().any(was_there) { Err(Refusal::EmptyMenu.into()) } else { Ok(()) }
    }

    /// Makes the planned deployment, and puts it into the boot menu if it is to be there at once.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn deploy(&self, plan: &DeployPlan, image: &Image) -> Result<(), DeployError> {
        self.check_menu()?;
        self.sweep()?;
        self.keep_commit(&plan.id, &plan.origin)?;
        let making = self.layout().new_deployment(&plan.id);
        self.make(plan, &making)?;
        if plan.var == VarPlan::Filled {
            let stateroot = plan.id.stateroot();
            let (new_var, var) = (self.layout().new_var(stateroot), self.layout().var(stateroot));
            fill_var(image, &plan.skeleton, self.sysroot.store(), &new_var, &var, self.ownership)?;
        }
        let staged = Staged { deployment: plan.id.clone(), merge_from: plan.merge_from.clone(), time: self.now };
        records::write(&self.layout().staged(), Some(&staged))?;
        let named = self.layout().deployment(&plan.id).directory().to_owned();
        disk::rename_directory(making.directory(), &named).map_err(io_error("name", &named))?;
        match plan.when {
            When::AtShutdown => {
                self.log(Happening::Staged, &plan.id, &plan.origin, None)?;
                let outdated = self.state()?;
                self.remove_unreachable(&outdated)
            }
            When::Now => {
                let state = self.state()?;
                self.put_into_menu(&state)
            }
        }
    }

    /// Makes the directory of a deployment, durably, under a name that means nothing yet.
    fn make(&self, plan: &DeployPlan, making: &DeploymentLayout) -> Result<(), DeployError> {
        let directory = making.directory();
        disk::make_directories(directory).map_err(io_error("create", directory))?;
        plan.skeleton.make(&making.skeleton())?;
        let base = plan.merge_from.as_ref().map(|base| self.layout().deployment(base).etc());
        let sources = self.sources(base.as_deref());
        apply_etc(&plan.etc.entries, &making.etc(), sources, Use::Fresh)?;
        if let Some(base) = &plan.merge_from {
            let state = self.state()?;
            let base = state.get(base).ok_or_else(|| SysrootError::NoDeployment(base.to_string()))?;
            self.record_merge(&plan.etc_inputs, base, &plan.etc, sources, &Journal::new(making.journal()))?;
        }
        disk::replace(&making.origin(), plan.origin.render().as_bytes())
            .map_err(io_error("write", &making.origin()))?;
        let synced = disk::open_directory(directory).and_then(disk::sync_filesystem);
        synced.map_err(io_error("sync", directory))
    }

    fn sources<'s>(&'s self, local: Option<&'s Path>) -> Sources<'s> {
        let nowhere = Path::new("/nonexistent");
        Sources { local: local.unwrap_or(nowhere), store: self.sysroot.store(), ownership: self.ownership }
    }

    fn record_merge(
        &self,
        inputs: &EtcInputs,
        base: &Deployment,
        plan: &EtcPlan,
        sources: Sources<'_>,
        journal: &Journal,
    ) -> Result<(), DeployError> {
        let base_journal = Journal::new(self.layout().deployment(&base.id).journal());
        let record = Record::new(plan, &inputs.old, &inputs.local, &base_journal)?;
        let entry = LogEntry {
            operation: Operation::Merge,
            time: self.now,
            from: Some(base.origin.commit),
            merged_from: Some(base.id.clone()),
            decisions: record.decisions,
            changes: Vec::new(),
        };
        Ok(journal.record(&inputs.local, &plan.entries, sources, entry, (&record.bases, &record.base_root))?)
    }

    /// Puts the staged deployment into the boot menu, after merging once more what changed in `/etc` since it was staged;
    /// `None` when nothing is staged.
    ///
    /// # Errors
    /// [`DeployError`]; why is also written down for the next boot.
    pub fn finalise(&self) -> Result<Option<DeploymentId>, DeployError> {
        let state = self.state()?;
        let Some(staged) = state.staged() else {
            self.tidy_up()?;
            return Ok(None);
        };
        let id = staged.id.clone();
        let done = self.merge_again(&state, staged).and_then(|()| self.put_into_menu(&state));
        if let Err(error) = &done {
            let reason = chain(error);
            let failure = FinaliseFailure { deployment: id.clone(), time: self.now, reason };
            records::write(&self.layout().finalise_failure(), Some(&failure))?;
        }
        done.map(|()| Some(id))
    }

    /// Brings the `/etc` of the staged deployment up to date with what it is merged from. What was decided on the staged one
    /// itself stays.
    fn merge_again(&self, state: &State, staged: &Deployment) -> Result<(), DeployError> {
        let record = state.staged.as_ref().and_then(|staged| staged.merge_from.as_ref());
        let Some(base) = record.and_then(|base| state.get(base)) else { return Ok(()) };
        let layout = self.layout().deployment(&staged.id);
        let journal = Journal::new(layout.journal());
        let mut inputs = EtcInputs::read(self.sysroot, Some(base), self.ownership)?;
        let mut plan = inputs.merge(self.sysroot, Some(base), &image_of(self.sysroot, staged)?, self.ownership)?;
        let current = scan(&layout.etc(), self.ownership)?;
        let log = journal.entries()?;
        let edited = keep_edits(&log, &current, &mut plan);
        if log.is_empty() || !is_made(&current, &plan.entries) {
            let base_etc = self.layout().deployment(&base.id).etc();
            let sources = self.sources(Some(&base_etc));
            if edited == 0 {
                journal.clear()?;
            }
            self.record_merge(&inputs, base, &plan, sources, &journal)?;
            apply_etc(&plan.entries, &layout.etc(), sources, Use::Live(&current))?;
        }
        let synced = disk::open_directory(layout.directory()).and_then(disk::sync_filesystem);
        synced.map_err(io_error("sync", layout.directory()))
    }

    /// Puts the staged deployment at the top of the boot menu, and removes what goes then.
    fn put_into_menu(&self, state: &State) -> Result<(), DeployError> {
        let Some(staged) = state.staged() else { return Ok(()) };
        let remove = self.outgoing(state, staged);
        let stays = |found: &Deployment| !remove.contains(&found.id);
        let kernel = menu::kernel_of(self.sysroot, &staged.id, &staged.origin)?;
        let room = BootRoom::plan(self.sysroot, state, &kernel, &remove)?;
        if !room.remove_first.is_empty() {
            // A menu without what goes anyway is as good as the old one, and makes room for the new kernel.
            let reduced = menu::wanted(self.sysroot, state, None, &stays);
            menu::change(self.sysroot, self.lock, state, &reduced, &[])?;
        }
        let state = self.state()?;
        let others = menu::wanted(self.sysroot, &state, None, &stays);
        let has_fallback = others.iter().any(|other| {
            let found = state.get(&other.target.deployment);
            other.target.deployment != staged.id && found.is_some_and(|found| !state.has_failed(found))
        });
        let tries =
            Some(self.sysroot.config().boot_tries).filter(|tries| *tries > 0 && has_fallback && state.menu.can_count());
        let first = WantedEntry { target: menu::target(self.sysroot, &staged.id, &staged.origin), tries };
        let entries = menu::wanted(self.sysroot, &state, Some(first), &stays);
        menu::change(self.sysroot, self.lock, &state, &entries, &[kernel])?;
        self.forget_failure(&staged.origin)?;
        records::write::<Staged>(&self.layout().staged(), None)?;
        records::write::<FinaliseFailure>(&self.layout().finalise_failure(), None)?;
        self.log(Happening::Deployed, &staged.id, &staged.origin, None)?;
        self.remove(&self.state()?, &remove)
    }

    /// Makes `target` the one that boots next.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn set_default(&self, state: &State, target: &Deployment, why: Happening) -> Result<(), DeployError> {
        // First, or it would be put on top at the next shutdown.
        records::write::<Staged>(&self.layout().staged(), None)?;
        let mut first = menu::entry_of(self.sysroot, target);
        if state.has_failed(target) && state.menu.can_count() {
            // Another chance.
            first.tries = Some(self.sysroot.config().boot_tries).filter(|tries| *tries > 0);
        }
        let entries = menu::wanted(self.sysroot, state, Some(first), &|_| true);
        let kernel = menu::kernel_of(self.sysroot, &target.id, &target.origin)?;
        menu::change(self.sysroot, self.lock, state, &entries, &[kernel])?;
        self.forget_failure(&target.origin)?;
        self.log(why, &target.id, &target.origin, None)?;
        self.sweep()?;
        self.remove_unreachable(&self.state()?)
    }

    /// Writes the menu anew from what is on the disk, with all kernels: for a boot partition that is new or was damaged.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn write_menu(&self) -> Result<usize, DeployError> {
        let marker = self.sysroot.loader().kernels(&self.sysroot.config().id);
        disk::make_directories(&marker).map_err(io_error("create", &marker))?;
        let state = self.state()?;
        let is_staged = |id: &DeploymentId| state.staged.as_ref().is_some_and(|staged| staged.deployment == *id);
        let path = self.layout().history();
        let log = history::read(&path).map_err(io_error("read", &path))?;
        let put_on_top = |entry: &HistoryEntry| matches!(entry.event, Happening::Deployed | Happening::RolledBack);
        let last_on_top =
            |id: &DeploymentId| log.iter().rposition(|entry| entry.deployment == *id && put_on_top(entry));
        // As it was: what was put on top last is on top.
        let mut found: Vec<&Deployment> = state.deployments.iter().filter(|found| !is_staged(&found.id)).collect();
        found.sort_by_key(|found| std::cmp::Reverse(last_on_top(&found.id)));
        let mut entries = Vec::new();
        let mut kernels: Vec<Kernel> = Vec::new();
        for found in found {
            let kernel = menu::kernel_of(self.sysroot, &found.id, &found.origin)?;
            entries.push(menu::entry_of(self.sysroot, found));
            kernels.push(kernel);
        }
        menu::change(self.sysroot, self.lock, &state, &entries, &kernels)?;
        Ok(entries.len())
    }

    /// Pins a deployment or lets it go.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn set_pinned(&self, deployment: &Deployment, pinned: Pin) -> Result<(), DeployError> {
        let origin = Origin { pinned: pinned == Pin::Keep, ..deployment.origin.clone() };
        let path = self.layout().deployment(&deployment.id).origin();
        disk::replace(&path, origin.render().as_bytes()).map_err(io_error("write", &path))
    }

    /// Keeps the commit of a deployment from being collected.
    fn keep_commit(&self, id: &DeploymentId, origin: &Origin) -> Result<(), DeployError> {
        let edit = RefEdit { name: id.root_ref(), expect: Expect::Any, to: Some(origin.commit) };
        Ok(self.writer()?.edit_ref(&edit)?)
    }

    /// Somebody wants this commit: that it failed before does not count any more.
    fn forget_failure(&self, origin: &Origin) -> Result<(), DeployError> {
        let path = self.layout().failed();
        let mut failures: records::Failures = records::read(&path)?.unwrap_or_default();
        if failures.remove(&origin.commit).is_some() {
            records::write(&path, Some(&failures))?;
        }
        Ok(())
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// [`DeployError::Io`].
    pub fn log(
        &self,
        event: Happening,
        id: &DeploymentId,
        origin: &Origin,
        detail: Option<String>,
    ) -> Result<(), DeployError> {
        let entry = HistoryEntry {
            time: self.now,
            event,
            deployment: id.clone(),
            commit: origin.commit,
            version: origin.os_version.clone(),
            detail,
        };
        let path = self.layout().history();
        history::append(&path, &entry).map_err(io_error("write", &path))
    }
}

/// Whether a deployment stays until further notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It stays.
    Keep,
    /// It may go.
    Release,
}

/// An error with its causes, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    text
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeployError + use<> {
    let path = path.to_owned();
    move |source| DeployError::Io { action, path, source }
}
