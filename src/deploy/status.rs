//! The status of a sysroot for `sapwood status`: one value with all deployments, which is printed or written as JSON.
//!
//! *Not here*: printing (`cli`), and reading the sysroot (`sysroot`).
//!
//! *Used by* `cli`.

use super::apply::DeployError;
use super::boot::{BootTries, LoaderKind};
use super::choose::{self, ChooseError, Unsigned};
use super::commit_files::ObjectCounts;
use super::conflicts;
use super::etc::{Journal, JournalError, LoggedDecision, read_file};
use super::id::DeploymentId;
use super::origin::{SignedBy, Upstream};
use super::retention::DeploymentRole;
use super::sysroot::{Deployment, State, Sysroot};
use super::update_state::FinaliseFailure;
use crate::error::chain;
use crate::model::{CommitId, ObjectId, RefName};
use crate::store::{ReadError, Store};

/// The status of a whole sysroot.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct SysrootStatus {
    /// The boot loader that reads the menu.
    pub(crate) bootloader: LoaderKind,
    /// All deployments: the staged one, then those in the menu in its order, then the others.
    pub(crate) deployments: Vec<DeploymentStatus>,
    /// Why the last update was not finalised.
    pub(crate) finalise_failure: Option<FinaliseFailure>,
    /// Commits that are avoided and have no deployment any more.
    pub(crate) avoided: Vec<AvoidedCommit>,
}

/// A commit that failed to boot on this machine.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct AvoidedCommit {
    pub(crate) commit: CommitId,
    /// The time when the failure was noticed, in seconds since 1970.
    pub(crate) time: i64,
    pub(crate) reason: String,
}

/// The status of one deployment.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct DeploymentStatus {
    pub(crate) id: DeploymentId,
    /// The roles of the deployment.
    pub(crate) roles: Vec<DeploymentRole>,
    pub(crate) commit: CommitId,
    /// The version that the commit states.
    pub(crate) version: Option<String>,
    /// The name that the operating system gives itself.
    pub(crate) title: String,
    /// The ref the commit was made for.
    #[serde(rename = "ref")]
    pub(crate) ref_name: RefName,
    /// The remote ref from which upgrades come.
    pub(crate) upstream: Option<Upstream>,
    /// Why the commit was trusted when it was deployed.
    pub(crate) signed_by: SignedBy,
    /// Why the commit is not trusted any more; `None` if it is.
    pub(crate) distrusted: Option<String>,
    /// When the commit was made, in seconds since 1970.
    pub(crate) commit_time: i64,
    /// When the deployment was made, in seconds since 1970.
    pub(crate) deployed: i64,
    /// The version of its kernel.
    pub(crate) kernel: String,
    /// The kernel arguments of the boot entry, or else those of the origin.
    pub(crate) kargs: String,
    /// The tries that are left and made; `None` if boots are not counted.
    pub(crate) tries: Option<BootTries>,
    /// Why the commit is avoided; `None` if it is not.
    pub(crate) failed: Option<String>,
    /// The conflicts of the merge of its `/etc` that were not resolved since.
    pub(crate) etc_conflicts: Vec<LoggedDecision>,
    /// How much of the commit is in the repository; `None` if all of it is.
    pub(crate) incomplete: Option<Incomplete>,
}

/// How much of an incomplete commit is in the repository.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Incomplete {
    /// The image is not complete either, so not even all file names are known.
    #[serde(rename = "image-partly")]
    PartialImage,
    /// The image is complete, but not all contents are fetched.
    Objects(ObjectCounts),
}

impl SysrootStatus {
    /// Collects the status of a sysroot.
    pub(crate) fn new(sysroot: &Sysroot, state: &State) -> Result<Self, DeployError> {
        let deployments = state.deployments.iter().map(|found| DeploymentStatus::new(sysroot, state, found));
        let is_there = |commit: &CommitId| state.deployments.iter().any(|found| found.origin.commit == *commit);
        let avoided = state.failures.iter().filter(|(commit, _)| !is_there(commit));
        Ok(Self {
            bootloader: sysroot.loader().kind,
            deployments: deployments.collect::<Result<_, _>>()?,
            finalise_failure: state.finalise_failure.clone(),
            avoided: avoided
                .map(|(commit, failure)| AvoidedCommit {
                    commit: *commit,
                    time: failure.time,
                    reason: failure.reason.clone(),
                })
                .collect(),
        })
    }
}

impl DeploymentStatus {
    fn new(sysroot: &Sysroot, state: &State, found: &Deployment) -> Result<Self, DeployError> {
        let origin = &found.origin;
        Ok(Self {
            id: found.id.clone(),
            roles: roles(state, found),
            commit: origin.commit,
            version: origin.os_version.clone(),
            title: origin.title.clone(),
            ref_name: origin.ref_name.clone(),
            upstream: origin.upstream.clone(),
            signed_by: origin.signed_by.clone(),
            distrusted: distrusted(sysroot.store(), found)?,
            commit_time: origin.commit_time,
            deployed: origin.deployed,
            kernel: origin.kernel.version.clone(),
            kargs: found.entry.as_ref().map_or(&origin.kargs, |entry| &entry.target.options).to_string(),
            tries: found.entry.as_ref().and_then(|entry| entry.tries),
            failed: state.failure_of(found),
            etc_conflicts: open_conflicts(sysroot, &found.id)?,
            incomplete: incomplete(sysroot.store(), origin.commit)?,
        })
    }
}

/// Returns the roles of a deployment that the status shows.
fn roles(state: &State, found: &Deployment) -> Vec<DeploymentRole> {
    let is = |other: Option<&Deployment>| other.is_some_and(|other| other.id == found.id);
    let all = [
        (DeploymentRole::Booted, is(state.booted())),
        (DeploymentRole::Staged, is(state.staged())),
        (DeploymentRole::Default, is(state.default())),
        (DeploymentRole::Rollback, is(state.rollback())),
        (DeploymentRole::Pinned, found.origin.pinned),
        (DeploymentRole::Failed, state.has_failed(found)),
    ];
    all.into_iter().filter(|(_, holds)| *holds).map(|(role, _)| role).collect()
}

/// Returns why a commit that was trusted when it was deployed is not trusted now: its key was removed, or its signature is
/// damaged.
fn distrusted(store: &Store, found: &Deployment) -> Result<Option<String>, ReadError> {
    match choose_again(store, found) {
        Ok(_) => Ok(None),
        Err(ChooseError::Read(error)) => Err(error),
        Err(error) => Ok(Some(chain(&error))),
    }
}

/// Checks the commit of a deployment once more, in the way in which it was checked when it was deployed.
pub(crate) fn choose_again(store: &Store, found: &Deployment) -> Result<choose::ChosenCommit, ChooseError> {
    let origin = &found.origin;
    let chosen = match (&origin.signed_by, &origin.upstream) {
        (SignedBy::Local, _) => choose::choose_local(store, origin.commit, Unsigned::Accepted),
        (_, Some(upstream)) => choose::choose_pulled(store, origin.commit, upstream.clone()),
        (_, None) => choose::choose_local(store, origin.commit, Unsigned::Refused),
    }?;
    Ok(choose::ChosenCommit { upstream: origin.upstream.clone(), ..chosen })
}

/// Returns the conflicts of the last merge of a deployment's `/etc` that were not resolved since.
pub(crate) fn open_conflicts(sysroot: &Sysroot, id: &DeploymentId) -> Result<Vec<LoggedDecision>, JournalError> {
    let layout = sysroot.layout().deployment(id);
    let content = |path: &[u8]| read_file(&layout.etc(), path).ok().map(|bytes| ObjectId::of(&bytes));
    Ok(conflicts::open_conflicts(&Journal::new(layout.journal()).entries()?, &content))
}

/// Returns how much of a commit is in the repository; `None` if all of it is.
fn incomplete(store: &Store, commit: CommitId) -> Result<Option<Incomplete>, DeployError> {
    if !store.is_lazy(commit) {
        return Ok(None);
    }
    let image = match store.image(store.commit(commit)?.image) {
        Err(ReadError::MissingImage { .. }) => return Ok(Some(Incomplete::PartialImage)),
        other => other?,
    };
    let damaged = |source| ReadError::Image { id: image.id(), source };
    let counts = ObjectCounts::of(&image, store).map_err(damaged)?;
    Ok((!counts.is_complete()).then_some(Incomplete::Objects(counts)))
}
