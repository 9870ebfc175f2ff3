//! Removes deployments: chooses which are not needed any more, and removes them from the boot menu first and then from the
//! disk.
//!
//! *Not here*: the rules which deployments are kept (`retention`).
//!
//! *Invariants*: a deployment is renamed to a temporary name in one step before its directory is removed. If the process is
//! killed, the next operation removes directories with such names.
//!
//! *Used by* `apply` and `cli`.

use super::apply::{DeployError, DeployRefusal, DeployTransaction};
use super::boot_menu;
use super::error::SysrootError;
use super::history::HistoryEvent;
use super::id::DeploymentId;
use super::leftover::Leftover;
use super::plan::retention_facts;
use super::retention::{DeploymentRole, KeepReason, Retention, retained};
use super::sysroot::{Deployment, State, Sysroot};
use super::update_state::{self, FinaliseFailure, Staged};
use crate::disk;
use crate::store::{Expect, RefEdit};

impl DeployTransaction<'_> {
    /// Cleans up after an operation that was killed: removes leftover directories and refs, outdated records, and deployments
    /// that never reached the boot menu. Has the boot loader read the menu again if another program wrote its configuration.
    pub(crate) fn clean_up(&self) -> Result<(), DeployError> {
        self.remove_leftovers()?;
        let state = self.read_state()?;
        if state.menu.is_replaced() {
            state.menu.apply(&state.menu.plan_change(state.menu.entries())?)?;
        }
        if state.staged.is_none() {
            update_state::write_record::<Staged>(&self.layout().staged(), None)?;
        }
        if state.finalise_failure.is_none() {
            update_state::write_record::<FinaliseFailure>(&self.layout().finalise_failure(), None)?;
        }
        self.remove_unreachable(&state)
    }

    /// Removes deployments on the user's request, from the menu first and then from the disk. Returns those that are gone.
    ///
    /// # Errors
    /// [`DeployError`], among them [`DeployRefusal`].
    pub(crate) fn undeploy(&self, state: &State, ids: &[DeploymentId]) -> Result<Vec<DeploymentId>, DeployError> {
        self.check_menu()?;
        check_removal(self.sysroot, state, ids)?;
        self.remove_leftovers()?;
        if state.staged.as_ref().is_some_and(|staged| ids.contains(&staged.deployment)) {
            update_state::write_record::<Staged>(&self.layout().staged(), None)?;
        }
        if state.deployments.iter().any(|found| found.entry.is_some() && ids.contains(&found.id)) {
            let entries = boot_menu::wanted_entries(self.sysroot, state, None, &|found| !ids.contains(&found.id));
            self.replace_menu(state, &entries, &[])?;
        }
        self.remove(&self.read_state()?, ids)
    }

    /// Returns the deployments that are not needed any more once `new` is in the menu.
    pub(super) fn to_remove(&self, state: &State, new: &Deployment) -> Vec<DeploymentId> {
        let mut facts = retention_facts(self.sysroot, state, new.id.stateroot());
        for fact in facts.iter_mut().filter(|fact| fact.id == new.id) {
            fact.roles.push(DeploymentRole::New);
        }
        unneeded(&facts)
    }

    /// Removes deployments from the disk, with the refs that keep their commits. They must be neither in the menu nor staged.
    /// What cannot be removed is reported. Returns the deployments that are gone.
    pub(super) fn remove(&self, state: &State, ids: &[DeploymentId]) -> Result<Vec<DeploymentId>, DeployError> {
        let mut removed = Vec::new();
        let writer = self.writer()?;
        for found in state.deployments.iter().filter(|found| ids.contains(&found.id)) {
            let (from, to) =
                (self.layout().deployment(&found.id).directory().to_owned(), self.layout().old_deployment(&found.id));
            // A directory that is itself marked immutable cannot be renamed.
            let renamed = disk::rename_directory(&from, &to)
                .or_else(|_| disk::clear_protection(&from).and_then(|()| disk::rename_directory(&from, &to)));
            if let Err(error) = renamed {
                (self.report)(&Leftover::new(&from, &error));
                continue;
            }
            Leftover::after_removing(&to).iter().for_each(self.report);
            writer.edit_ref(&RefEdit { name: found.id.root_ref(), expect: Expect::Any, to: None })?;
            self.append_history(HistoryEvent::Removed, &found.id, &found.origin, None)?;
            removed.push(found.id.clone());
        }
        Ok(removed)
    }

    /// Removes deployments that an interrupted or replaced operation created and that never reached the boot menu.
    pub(super) fn remove_unreachable(&self, state: &State) -> Result<(), DeployError> {
        if state.menu.entries().is_empty() {
            // An empty menu may mean that the boot partition is not readable; nothing is removed then.
            return Ok(());
        }
        let is_staged = |id: &DeploymentId| state.staged.as_ref().is_some_and(|staged| staged.deployment == *id);
        let is_booted = |id: &DeploymentId| state.booted.as_ref() == Some(id);
        let unreachable = state.deployments.iter().filter(|found| {
            found.entry.is_none() && !is_staged(&found.id) && !is_booted(&found.id) && !found.origin.pinned
        });
        let unreachable: Vec<DeploymentId> = unreachable.map(|found| found.id.clone()).collect();
        self.remove(state, &unreachable)?;
        Ok(())
    }

    /// Removes directories that were being created or removed when a process was killed, and refs of deployments that do not
    /// exist. What cannot be removed is reported.
    pub(super) fn remove_leftovers(&self) -> Result<(), DeployError> {
        for path in self.sysroot.leftovers()? {
            Leftover::after_removing(&path).iter().for_each(self.report);
        }
        let prefix = format!("{}/", DeploymentId::ROOT_REFS);
        let names = self.sysroot.store().ref_names()?;
        let is_stale = |name: &crate::model::RefName| {
            let id: Option<DeploymentId> = name.as_str().strip_prefix(&prefix).and_then(|id| id.parse().ok());
            id.is_some_and(|id| !self.layout().deployment(&id).directory().exists())
        };
        let stale: Vec<_> = names.into_iter().filter(is_stale).collect();
        if stale.is_empty() {
            return Ok(());
        }
        let writer = self.writer()?;
        for name in stale {
            writer.edit_ref(&RefEdit { name, expect: Expect::Any, to: None })?;
        }
        Ok(())
    }
}

/// A plan which deployments a clean-up removes, and why the others are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CleanupPlan {
    /// The deployments that are removed.
    pub(crate) remove: Vec<DeploymentId>,
    /// The deployments that are kept.
    pub(crate) kept: Vec<(DeploymentId, KeepReason)>,
}

impl CleanupPlan {
    /// Plans a clean-up of all stateroots. In each, the deployment that boots next and the one to fall back to are kept.
    ///
    /// # Errors
    /// [`SysrootError::LostMenu`] if the menu is empty, so that it is not known which deployments are needed.
    pub(crate) fn new(sysroot: &Sysroot, state: &State) -> Result<Self, SysrootError> {
        if state.menu.entries().is_empty() {
            return Err(SysrootError::LostMenu);
        }
        let (mut remove, mut kept) = (Vec::new(), Vec::new());
        let mut stateroots: Vec<_> = state.deployments.iter().map(|found| found.id.stateroot()).collect();
        stateroots.sort_unstable();
        stateroots.dedup();
        for stateroot in stateroots {
            let mut facts = retention_facts(sysroot, state, stateroot);
            facts.retain(|fact| fact.id.stateroot() == stateroot);
            add_roles(state, &mut facts);
            remove.extend(unneeded(&facts));
            kept.extend(retained(&facts));
        }
        Ok(Self { remove, kept })
    }
}

/// Adds the roles staged, default and rollback to the deployments of one stateroot.
fn add_roles(state: &State, facts: &mut [Retention]) {
    let is_good =
        |id: &DeploymentId| state.get(id).is_some_and(|found| found.entry.is_some() && !state.has_failed(found));
    let is_first = |id: &DeploymentId| state.default().is_some_and(|default| default.id == *id);
    let mut free_roles = [DeploymentRole::Default, DeploymentRole::Rollback].into_iter();
    for fact in facts {
        if state.staged.as_ref().is_some_and(|staged| staged.deployment == fact.id) {
            fact.roles.push(DeploymentRole::Staged);
        } else if is_good(&fact.id) {
            let role = free_roles.next().map(|role| match role {
                DeploymentRole::Default if !is_first(&fact.id) => DeploymentRole::First,
                other => other,
            });
            fact.roles.extend(role);
        }
    }
}

/// Returns the deployments that the rules of retention do not keep.
fn unneeded(facts: &[Retention]) -> Vec<DeploymentId> {
    let kept = retained(facts);
    let ids = facts.iter().map(|fact| fact.id.clone());
    ids.filter(|id| !kept.iter().any(|(kept, _)| kept == id)).collect()
}

/// Refuses to remove running or pinned deployments, and a removal that would leave no deployment that boots, or none that boots
/// without a network.
pub(crate) fn check_removal(sysroot: &Sysroot, state: &State, ids: &[DeploymentId]) -> Result<(), DeployRefusal> {
    for id in ids {
        if state.booted.as_ref() == Some(id) {
            return Err(DeployRefusal::Booted(id.clone()));
        }
        if state.get(id).is_some_and(|found| found.origin.pinned) {
            return Err(DeployRefusal::Pinned(id.clone()));
        }
    }
    let is_removed = |found: &&Deployment| ids.contains(&found.id);
    let in_menu = || state.deployments.iter().filter(|found| found.entry.is_some());
    let Some(last) = in_menu().find(is_removed) else { return Ok(()) };
    if !in_menu().any(|found| !is_removed(&found)) {
        return Err(DeployRefusal::OnlyOne(last.id.clone()));
    }
    let is_complete = |found: &&Deployment| !sysroot.store().is_lazy(found.origin.commit);
    match in_menu().filter(is_removed).find(is_complete) {
        Some(complete) if !in_menu().filter(is_complete).any(|found| !is_removed(&found)) => {
            Err(DeployRefusal::OnlyComplete(complete.id.clone()))
        }
        _ => Ok(()),
    }
}
