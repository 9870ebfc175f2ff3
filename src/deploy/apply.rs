//! Carries out a [`DeployPlan`]: creates the deployment, puts it into the boot menu, and removes what is not needed any more.
//!
//! *Not here*: what to deploy (`plan`), which deployments are removed (`removal`), the order of the boot menu (`boot_menu`).
//!
//! *Invariants*: a deployment is created under a temporary name and renamed in one step, after a record that it is staged was
//! written. If the process is killed, each deployment on the disk is therefore in the boot menu, or staged, or has a temporary
//! name; the next operation removes those with temporary names.
//!
//! *Used by* `cli` (the verbs that change a sysroot); `removal` and `health` add methods to [`DeployTransaction`].

use std::io;
use std::path::{Path, PathBuf};

use super::boot::{BootError, Kernel, WantedEntry};
use super::boot_menu::{self, MenuError};
use super::conflicts::{MergeRecord, preserve_edits};
use super::error::SysrootError;
use super::etc::{
    ApplyError as EtcApplyError, ContentSources, EtcOperation, EtcPlan, Journal, JournalError, LogEntry,
    PreserveOwners, ScanError, TargetTree, apply as apply_etc, matches_plan, scan,
};
use super::history::{self, HistoryEntry, HistoryEvent};
use super::id::DeploymentId;
use super::layout::{DeploymentLayout, SysrootLayout};
use super::leftover::Leftover;
use super::origin::DeploymentOrigin;
use super::plan::{DeployPlan, EtcInputs, PlanError, When, image_of};
use super::skeleton::{SkeletonError, VarPlan, fill_var};
use super::space::{BootSpace, SpaceError};
use super::sysroot::{Deployment, State, Sysroot, SysrootLock};
use super::update_state::{self, FinaliseFailure, LeftCommit, Staged};
use crate::disk::{self, Wait};
use crate::error::chain;
use crate::image::Image;
use crate::store::{Expect, ReadError, RefEdit, RefError, StoreWriter, WriteError};

/// Why an operation failed. The machine then boots either what it booted before or the new deployment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error(transparent)]
    Sysroot(#[from] SysrootError),
    /// Merging `/etc` once more failed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// There is not enough free space.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// The boot menu or the kernels cannot be written.
    #[error(transparent)]
    Menu(#[from] MenuError),
    /// The boot menu cannot be read or written.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The skeleton of `/` or the `/var` cannot be created.
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
    /// `/etc` cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// `/etc` cannot be written.
    #[error(transparent)]
    Etc(#[from] EtcApplyError),
    /// The journal of `/etc` cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The repository cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The ref that keeps the commit from being collected cannot be changed.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// A commit cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A rule forbids the operation.
    #[error(transparent)]
    Refused(#[from] DeployRefusal),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// A rule that forbids an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeployRefusal {
    /// The deployment is running.
    #[error("{0} is running")]
    Booted(DeploymentId),
    /// The deployment is pinned.
    #[error("{0} is pinned")]
    Pinned(DeploymentId),
    /// No other deployment is in the boot menu.
    #[error("{0} is the only deployment that boots")]
    OnlyOne(DeploymentId),
    /// The contents of all other deployments are not completely fetched, so they need a network to boot.
    #[error("{0} is the only deployment of which everything is here: the others need a network to boot")]
    OnlyComplete(DeploymentId),
    /// There is no deployment to roll back to.
    #[error("there is no deployment to go back to")]
    NoRollback,
}

/// What every change of a sysroot needs: the sysroot, its lock, and values from outside, such as the time.
pub(crate) struct DeployTransaction<'a> {
    pub(crate) sysroot: &'a Sysroot,
    /// The proof that no other process changes the sysroot.
    pub(crate) lock: &'a SysrootLock,
    /// Whether owners are read and set.
    pub(crate) ownership: PreserveOwners,
    /// The command line of the running kernel, if this sysroot is its root.
    pub(crate) running: Option<&'a str>,
    /// The time now, in seconds since 1970.
    pub(crate) now: i64,
    /// Returns how to wait for another process that writes the repository.
    pub(crate) wait: &'a dyn Fn() -> Wait<'static>,
    /// Reports what could not be removed and stops nothing.
    pub(crate) report: &'a dyn Fn(&Leftover),
}

impl DeployTransaction<'_> {
    /// Reads the state of the sysroot.
    pub(crate) fn read_state(&self) -> Result<State, SysrootError> {
        self.sysroot.read_state(self.running)
    }

    pub(super) fn layout(&self) -> &SysrootLayout {
        self.sysroot.layout()
    }

    pub(super) fn writer(&self) -> Result<StoreWriter, WriteError> {
        self.sysroot.store().writer((self.wait)())
    }

    /// Replaces the boot menu, and reports kernels that are not needed any more and cannot be removed.
    pub(super) fn replace_menu(
        &self,
        state: &State,
        entries: &[WantedEntry],
        kernels: &[Kernel],
    ) -> Result<(), DeployError> {
        let left = boot_menu::replace_menu(self.sysroot, self.lock, state, entries, kernels)?;
        left.iter().for_each(self.report);
        Ok(())
    }

    /// Returns an error if the boot menu is empty although a deployment was in it before: what is in the menu decides which
    /// deployments are kept.
    pub(super) fn check_menu(&self) -> Result<(), DeployError> {
        let state = self.read_state()?;
        let path = self.layout().history();
        let log = history::read_history(&path).map_err(io_error("read", &path))?;
        let was_in_menu = |found: &Deployment| {
            log.iter().any(|entry| entry.event == HistoryEvent::Deployed && entry.deployment == found.id)
        };
        if state.deployments.iter().any(was_in_menu) { Ok(state.check_menu()?) } else { Ok(()) }
    }

    /// Creates the planned deployment and, unless that waits for the shutdown, puts it into the boot menu.
    pub(crate) fn deploy(&self, plan: &DeployPlan, image: &Image) -> Result<(), DeployError> {
        self.check_menu()?;
        self.remove_leftovers()?;
        self.keep_commit(&plan.id, &plan.origin)?;
        let temporary = self.layout().new_deployment(&plan.id);
        self.create_deployment(plan, &temporary)?;
        if plan.var == VarPlan::Filled {
            let stateroot = plan.id.stateroot();
            let (new_var, var) = (self.layout().new_var(stateroot), self.layout().var(stateroot));
            fill_var(image, &plan.skeleton, self.sysroot.store(), &new_var, &var, self.ownership)?;
        }
        let staged = Staged { deployment: plan.id.clone(), merge_from: plan.merge_from.clone(), time: self.now };
        update_state::write_record(&self.layout().staged(), Some(&staged))?;
        let named = self.layout().deployment(&plan.id).directory().to_owned();
        disk::rename_directory(temporary.directory(), &named).map_err(io_error("name", &named))?;
        match plan.when {
            When::AtShutdown => {
                self.append_history(HistoryEvent::Staged, &plan.id, &plan.origin, None)?;
                let outdated = self.read_state()?;
                self.remove_unreachable(&outdated)
            }
            When::Now => {
                let state = self.read_state()?;
                self.add_to_menu(&state)
            }
        }
    }

    /// Creates the directory of a deployment durably, under the temporary name that `temporary` has.
    fn create_deployment(&self, plan: &DeployPlan, temporary: &DeploymentLayout) -> Result<(), DeployError> {
        let directory = temporary.directory();
        disk::make_directories(directory).map_err(io_error("create", directory))?;
        plan.skeleton.make(&temporary.skeleton())?;
        let base = plan.merge_from.as_ref().map(|base| self.layout().deployment(base).etc());
        let sources = self.content_sources(base.as_deref());
        apply_etc(&plan.etc.entries, &temporary.etc(), sources, TargetTree::Fresh)?;
        if let Some(base) = &plan.merge_from {
            let state = self.read_state()?;
            let base = state.get(base).ok_or_else(|| SysrootError::NoDeployment(base.to_string()))?;
            self.record_merge(&plan.etc_inputs, base, &plan.etc, sources, &Journal::new(temporary.journal()))?;
        }
        disk::replace(&temporary.origin(), plan.origin.render().as_bytes())
            .map_err(io_error("write", &temporary.origin()))?;
        let synced = disk::open_directory(directory).and_then(disk::sync_filesystem);
        synced.map_err(io_error("sync", directory))
    }

    fn content_sources<'s>(&'s self, local: Option<&'s Path>) -> ContentSources<'s> {
        let nowhere = Path::new("/nonexistent");
        ContentSources { local: local.unwrap_or(nowhere), store: self.sysroot.store(), ownership: self.ownership }
    }

    fn record_merge(
        &self,
        inputs: &EtcInputs,
        base: &Deployment,
        plan: &EtcPlan,
        sources: ContentSources<'_>,
        journal: &Journal,
    ) -> Result<(), DeployError> {
        let base_journal = Journal::new(self.layout().deployment(&base.id).journal());
        let record = MergeRecord::new(plan, &inputs.old, &inputs.local, &base_journal)?;
        let entry = LogEntry {
            operation: EtcOperation::Merge,
            time: self.now,
            from: Some(base.origin.commit),
            merged_from: Some(base.id.clone()),
            decisions: record.decisions,
            changes: Vec::new(),
        };
        Ok(journal.record(&inputs.local, &plan.entries, sources, entry, (&record.bases, &record.base_root))?)
    }

    /// Merges what changed in `/etc` since the deployment was staged, then puts the staged deployment into the boot menu.
    /// Returns `None` if nothing is staged.
    ///
    /// # Errors
    /// [`DeployError`]; the reason is also recorded, so that the next boot can report it.
    pub(crate) fn finalise(&self) -> Result<Option<DeploymentId>, DeployError> {
        let state = self.read_state()?;
        let Some(staged) = state.staged() else {
            self.clean_up()?;
            return Ok(None);
        };
        let id = staged.id.clone();
        let finalised = self.remerge(&state, staged).and_then(|()| self.add_to_menu(&state));
        if let Err(error) = &finalised {
            let reason = chain(error);
            let failure = FinaliseFailure { deployment: id.clone(), time: self.now, reason };
            update_state::write_record(&self.layout().finalise_failure(), Some(&failure))?;
        }
        finalised.map(|()| Some(id))
    }

    /// Merges the current `/etc` of the base deployment into the staged deployment once more. Edits that were made in the
    /// `/etc` of the staged deployment itself are preserved.
    fn remerge(&self, state: &State, staged: &Deployment) -> Result<(), DeployError> {
        let record = state.staged.as_ref().and_then(|staged| staged.merge_from.as_ref());
        let Some(base) = record.and_then(|base| state.get(base)) else { return Ok(()) };
        let layout = self.layout().deployment(&staged.id);
        let journal = Journal::new(layout.journal());
        let mut inputs = EtcInputs::read(self.sysroot, Some(base), self.ownership)?;
        let mut plan = inputs.merge(self.sysroot, Some(base), &image_of(self.sysroot, staged)?, self.ownership)?;
        let current = scan(&layout.etc(), self.ownership)?;
        let log = journal.entries()?;
        let edited = preserve_edits(&log, &current, &mut plan);
        if log.is_empty() || !matches_plan(&current, &plan.entries) {
            let base_etc = self.layout().deployment(&base.id).etc();
            let sources = self.content_sources(Some(&base_etc));
            if edited == 0 {
                journal.clear()?;
            }
            self.record_merge(&inputs, base, &plan, sources, &journal)?;
            apply_etc(&plan.entries, &layout.etc(), sources, TargetTree::Live(&current))?;
        }
        let synced = disk::open_directory(layout.directory()).and_then(disk::sync_filesystem);
        synced.map_err(io_error("sync", layout.directory()))
    }

    /// Puts the staged deployment at the top of the boot menu, and removes the deployments that are not needed any more.
    fn add_to_menu(&self, state: &State) -> Result<(), DeployError> {
        let Some(staged) = state.staged() else { return Ok(()) };
        let remove = self.to_remove(state, staged);
        let stays = |found: &Deployment| !remove.contains(&found.id);
        let kernel = boot_menu::find_deployment_kernel(self.sysroot, &staged.id, &staged.origin)?;
        let space = BootSpace::plan(self.sysroot, state, &kernel, &remove)?;
        if !space.remove_first.is_empty() {
            // Removing first the entries that are not needed any more frees space for the new kernel.
            let reduced = boot_menu::wanted_entries(self.sysroot, state, None, &stays);
            self.replace_menu(state, &reduced, &[])?;
        }
        let state = self.read_state()?;
        let others = boot_menu::wanted_entries(self.sysroot, &state, None, &stays);
        let has_fallback = others.iter().any(|other| {
            let found = state.get(&other.target.deployment);
            other.target.deployment != staged.id && found.is_some_and(|found| !state.has_failed(found))
        });
        let tries = Some(self.sysroot.config().boot_tries)
            .filter(|tries| *tries > 0 && has_fallback && state.menu.counts_tries());
        let first = WantedEntry { target: boot_menu::entry_target(self.sysroot, &staged.id, &staged.origin), tries };
        let entries = boot_menu::wanted_entries(self.sysroot, &state, Some(first), &stays);
        self.replace_menu(&state, &entries, &[kernel])?;
        self.forget_failure(&staged.origin)?;
        update_state::write_record::<Staged>(&self.layout().staged(), None)?;
        update_state::write_record::<FinaliseFailure>(&self.layout().finalise_failure(), None)?;
        self.append_history(HistoryEvent::Deployed, &staged.id, &staged.origin, None)?;
        self.remove(&self.read_state()?, &remove)?;
        Ok(())
    }

    /// Makes `target` the deployment that boots next.
    pub(crate) fn set_default(&self, state: &State, target: &Deployment, why: HistoryEvent) -> Result<(), DeployError> {
        // Before the menu is changed: a staged deployment would be put on top at the next shutdown.
        update_state::write_record::<Staged>(&self.layout().staged(), None)?;
        let mut first = boot_menu::current_entry(self.sysroot, target);
        if state.has_failed(target) && state.menu.counts_tries() {
            // Its tries are counted anew.
            first.tries = Some(self.sysroot.config().boot_tries).filter(|tries| *tries > 0);
        }
        let entries = boot_menu::wanted_entries(self.sysroot, state, Some(first), &|_| true);
        let kernel = boot_menu::find_deployment_kernel(self.sysroot, &target.id, &target.origin)?;
        self.replace_menu(state, &entries, &[kernel])?;
        self.forget_failure(&target.origin)?;
        self.append_history(why, &target.id, &target.origin, None)?;
        self.remove_leftovers()?;
        self.remove_unreachable(&self.read_state()?)
    }

    /// Makes `target` the deployment that boots next, and records that the administrator left the one before and what was staged:
    /// upgrades stay away from their commits.
    pub(crate) fn roll_back(&self, state: &State, target: &Deployment) -> Result<(), DeployError> {
        let mut left = state.left.clone();
        for found in state.default().into_iter().chain(state.staged()) {
            left.insert(found.origin.commit, LeftCommit { deployment: found.id.clone(), time: self.now });
        }
        left.remove(&target.origin.commit);
        update_state::write_record(&self.layout().left(), Some(&left))?;
        self.set_default(state, target, HistoryEvent::RolledBack)
    }

    /// Writes the boot menu and all kernels anew from the deployments on the disk, for a boot partition that is new or was
    /// damaged. Returns the number of entries.
    pub(crate) fn write_menu(&self) -> Result<usize, DeployError> {
        let marker = self.sysroot.loader().kernels_directory(&self.sysroot.config().id);
        disk::make_directories(&marker).map_err(io_error("create", &marker))?;
        let state = self.read_state()?;
        let is_staged = |id: &DeploymentId| state.staged.as_ref().is_some_and(|staged| staged.deployment == *id);
        let path = self.layout().history();
        let log = history::read_history(&path).map_err(io_error("read", &path))?;
        let put_on_top =
            |entry: &HistoryEntry| matches!(entry.event, HistoryEvent::Deployed | HistoryEvent::RolledBack);
        let last_on_top =
            |id: &DeploymentId| log.iter().rposition(|entry| entry.deployment == *id && put_on_top(entry));
        // The order of the lost menu: the deployment that was put on top last comes first.
        let mut found: Vec<&Deployment> = state.deployments.iter().filter(|found| !is_staged(&found.id)).collect();
        found.sort_by_key(|found| std::cmp::Reverse(last_on_top(&found.id)));
        let mut entries = Vec::new();
        let mut kernels: Vec<Kernel> = Vec::new();
        for found in found {
            let kernel = boot_menu::find_deployment_kernel(self.sysroot, &found.id, &found.origin)?;
            entries.push(boot_menu::current_entry(self.sysroot, found));
            kernels.push(kernel);
        }
        self.replace_menu(&state, &entries, &kernels)?;
        Ok(entries.len())
    }

    /// Has the boot loader prefer the entries of this sysroot to those of other systems.
    pub(crate) fn prefer_own_entries(&self) -> Result<(), DeployError> {
        let menu = self.read_state()?.menu;
        Ok(menu.apply(&menu.plan_preference()?)?)
    }

    /// Pins or unpins a deployment.
    pub(crate) fn set_pinned(&self, deployment: &Deployment, pinned: Pin) -> Result<(), DeployError> {
        let origin = DeploymentOrigin { pinned: pinned == Pin::Keep, ..deployment.origin.clone() };
        let path = self.layout().deployment(&deployment.id).origin();
        disk::replace(&path, origin.render().as_bytes()).map_err(io_error("write", &path))
    }

    /// Writes the ref that keeps the commit of a deployment from being collected.
    fn keep_commit(&self, id: &DeploymentId, origin: &DeploymentOrigin) -> Result<(), DeployError> {
        let edit = RefEdit { name: id.root_ref(), expect: Expect::Any, to: Some(origin.commit) };
        Ok(self.writer()?.edit_ref(&edit)?)
    }

    /// Forgets that the commit failed to boot before or was left by a rollback, since the user asked for it now.
    fn forget_failure(&self, origin: &DeploymentOrigin) -> Result<(), DeployError> {
        let path = self.layout().left();
        let mut left: update_state::LeftCommits = update_state::read_record(&path)?.unwrap_or_default();
        if left.remove(&origin.commit).is_some() {
            update_state::write_record(&path, Some(&left).filter(|left| !left.is_empty()))?;
        }
        let path = self.layout().failed();
        let mut failures: update_state::FailedCommits = update_state::read_record(&path)?.unwrap_or_default();
        if failures.remove(&origin.commit).is_some() {
            update_state::write_record(&path, Some(&failures))?;
        }
        Ok(())
    }

    /// Appends an entry to the history.
    pub(crate) fn append_history(
        &self,
        event: HistoryEvent,
        id: &DeploymentId,
        origin: &DeploymentOrigin,
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
        history::append_entry(&path, &entry).map_err(io_error("write", &path))
    }
}

/// Whether a deployment is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pin {
    /// The deployment is never removed automatically.
    Keep,
    /// The deployment may be removed.
    Release,
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeployError + use<> {
    let path = path.to_owned();
    move |source| DeployError::Io { action, path, source }
}
