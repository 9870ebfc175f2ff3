//! Removing deployments: which go, which must stay, and taking them from the menu first and then from the disk.
//!
//! What goes gets a name that means nothing in one step; whoever finds such a name removes what is left.

use super::apply::{Changer, DeployError, Refusal, io_error};
use super::history::Happening;
use super::id::DeploymentId;
use super::layout::SysrootLayout;
use super::menu;
use super::plan::standings;
use super::records::{self, Staged};
use super::roots::{Reason, Role, Standing, retained};
use super::sysroot::{Deployment, State, Sysroot, list};
use crate::disk;
use crate::store::{Expect, RefEdit};

impl Changer<'_> {
    /// Finishes what a killed operation had all but done: removes what has no meaning, and records that are out of date.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn tidy_up(&self) -> Result<(), DeployError> {
        self.sweep()?;
        let state = self.state()?;
        if state.staged.is_none() {
            records::write::<Staged>(&self.layout().staged(), None)?;
        }
        self.remove_unreachable(&state)
    }

    /// Removes deployments: from the menu first, then from the disk.
    ///
    /// # Errors
    /// [`DeployError`], among them [`Refusal`].
    pub fn undeploy(&self, state: &State, ids: &[DeploymentId]) -> Result<(), DeployError> {
        self.check_menu()?;
        check_removal(self.sysroot, state, ids)?;
        self.sweep()?;
        if state.staged.as_ref().is_some_and(|staged| ids.contains(&staged.deployment)) {
            records::write::<Staged>(&self.layout().staged(), None)?;
        }
        if state.deployments.iter().any(|found| found.entry.is_some() && ids.contains(&found.id)) {
            let entries = menu::wanted(self.sysroot, state, None, &|found| !ids.contains(&found.id));
            menu::change(self.sysroot, self.lock, state, &entries, &[])?;
        }
        self.remove(&self.state()?, ids)
    }

    /// What is not needed any more once `new` is in the menu.
    pub(super) fn outgoing(&self, state: &State, new: &Deployment) -> Vec<DeploymentId> {
        let mut standings = standings(self.sysroot, state, new.id.stateroot());
        for standing in standings.iter_mut().filter(|standing| standing.id == new.id) {
            standing.roles.push(Role::New);
        }
        unneeded(&standings)
    }

    /// Removes deployments that are in neither the menu nor the record from the disk.
    pub(super) fn remove(&self, state: &State, ids: &[DeploymentId]) -> Result<(), DeployError> {
        let writer = self.writer()?;
        for found in state.deployments.iter().filter(|found| ids.contains(&found.id)) {
            let (from, to) =
                (self.layout().deployment(&found.id).directory().to_owned(), self.layout().old_deployment(&found.id));
            disk::remove_directory(&to).map_err(io_error("remove", &to))?;
            disk::rename_directory(&from, &to).map_err(io_error("rename", &from))?;
            disk::remove_directory(&to).map_err(io_error("remove", &to))?;
            writer.edit_ref(&RefEdit { name: found.id.root_ref(), expect: Expect::Any, to: None })?;
            self.log(Happening::Removed, &found.id, &found.origin, None)?;
        }
        Ok(())
    }

    /// Removes what an operation that was killed or replaced left: deployments that were made and never got into the menu.
    pub(super) fn remove_unreachable(&self, state: &State) -> Result<(), DeployError> {
        if state.menu.entries().is_empty() {
            // Whatever is wrong with the boot partition, it is no reason to remove anything.
            return Ok(());
        }
        let is_staged = |id: &DeploymentId| state.staged.as_ref().is_some_and(|staged| staged.deployment == *id);
        let is_booted = |id: &DeploymentId| state.booted.as_ref() == Some(id);
        let lost = state.deployments.iter().filter(|found| {
            found.entry.is_none() && !is_staged(&found.id) && !is_booted(&found.id) && !found.origin.pinned
        });
        let lost: Vec<DeploymentId> = lost.map(|found| found.id.clone()).collect();
        self.remove(state, &lost)
    }

    /// Removes what has no meaning: directories that were being made or removed, and refs of deployments that are not there.
    pub(super) fn sweep(&self) -> Result<(), DeployError> {
        for stateroot in self.sysroot.stateroots()? {
            let directory = self.layout().stateroot(&stateroot);
            for name in list(&directory)? {
                if name.starts_with(SysrootLayout::MAKING) || name.starts_with(SysrootLayout::REMOVING) {
                    let path = directory.join(name);
                    disk::remove_directory(&path).map_err(io_error("remove", &path))?;
                }
            }
        }
        let prefix = format!("{}/", DeploymentId::ROOT_REFS);
        let names = self.sysroot.store().ref_names()?;
        let gone = |name: &crate::model::RefName| {
            let id: Option<DeploymentId> = name.as_str().strip_prefix(&prefix).and_then(|id| id.parse().ok());
            id.is_some_and(|id| !self.layout().deployment(&id).directory().exists())
        };
        let gone: Vec<_> = names.into_iter().filter(gone).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let writer = self.writer()?;
        for name in gone {
            writer.edit_ref(&RefEdit { name, expect: Expect::Any, to: None })?;
        }
        Ok(())
    }
}

/// What a clean-up would remove, and why the others stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupPlan {
    /// What goes.
    pub remove: Vec<DeploymentId>,
    /// What stays.
    pub kept: Vec<(DeploymentId, Reason)>,
}

impl CleanupPlan {
    /// Plans a clean-up of all stateroots: in each, what boots next and what to fall back to stay.
    ///
    /// # Errors
    /// [`Refusal::EmptyMenu`].
    pub fn new(sysroot: &Sysroot, state: &State) -> Result<Self, Refusal> {
        if state.menu.entries().is_empty() {
            return Err(Refusal::EmptyMenu);
        }
        let (mut remove, mut kept) = (Vec::new(), Vec::new());
        let mut stateroots: Vec<_> = state.deployments.iter().map(|found| found.id.stateroot()).collect();
        stateroots.sort_unstable();
        stateroots.dedup();
        for stateroot in stateroots {
            let mut standings = standings(sysroot, state, stateroot);
            standings.retain(|standing| standing.id.stateroot() == stateroot);
            add_roles(state, &mut standings);
            remove.extend(unneeded(&standings));
            kept.extend(retained(&standings));
        }
        Ok(Self { remove, kept })
    }
}

/// Says of the deployments of one stateroot which are staged, boot next, or are to fall back to.
fn add_roles(state: &State, standings: &mut [Standing]) {
    let is_good =
        |id: &DeploymentId| state.get(id).is_some_and(|found| found.entry.is_some() && !state.has_failed(found));
    let mut places = [Role::Default, Role::Rollback].into_iter();
    for standing in standings {
        if state.staged.as_ref().is_some_and(|staged| staged.deployment == standing.id) {
            standing.roles.push(Role::Staged);
        } else if is_good(&standing.id) {
            standing.roles.extend(places.next());
        }
    }
}

fn unneeded(standings: &[Standing]) -> Vec<DeploymentId> {
    let kept = retained(standings);
    let ids = standings.iter().map(|standing| standing.id.clone());
    ids.filter(|id| !kept.iter().any(|(kept, _)| kept == id)).collect()
}

/// Refuses what would leave the machine without something to boot.
///
/// # Errors
/// [`Refusal`].
pub fn check_removal(sysroot: &Sysroot, state: &State, ids: &[DeploymentId]) -> Result<(), Refusal> {
    for id in ids {
        if state.booted.as_ref() == Some(id) {
            return Err(Refusal::Booted(id.clone()));
        }
        if state.get(id).is_some_and(|found| found.origin.pinned) {
            return Err(Refusal::Pinned(id.clone()));
        }
    }
    let goes = |found: &&Deployment| ids.contains(&found.id);
    let in_menu = || state.deployments.iter().filter(|found| found.entry.is_some());
    let Some(last) = in_menu().find(goes) else { return Ok(()) };
    if !in_menu().any(|found| !goes(&found)) {
        return Err(Refusal::OnlyOne(last.id.clone()));
    }
    let is_whole = |found: &&Deployment| !sysroot.store().is_lazy(found.origin.commit);
    match in_menu().filter(goes).find(is_whole) {
        Some(whole) if !in_menu().filter(is_whole).any(|found| !goes(&found)) => {
            Err(Refusal::OnlyWhole(whole.id.clone()))
        }
        _ => Ok(()),
    }
}
