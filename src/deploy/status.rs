//! What there is on a sysroot, for people and programs: one value, made of the state and what is beside it.

use super::apply::DeployError;
use super::boot::{LoaderKind, Tries};
use super::conflicts;
use super::etc::{Journal, JournalError, LoggedDecision, read_file};
use super::files::Completeness;
use super::id::DeploymentId;
use super::origin::{Upstream, Voucher};
use super::records::FinaliseFailure;
use super::roots::Role;
use super::source::{self, ChooseError, Unsigned};
use super::sysroot::{Deployment, State, Sysroot};
use crate::model::{CommitId, ObjectId, RefName};
use crate::store::{ReadError, Store};

/// A whole sysroot.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Status {
    /// Which boot loader reads the menu.
    pub bootloader: LoaderKind,
    /// All deployments: the staged one, then the menu in its order.
    pub deployments: Vec<DeploymentStatus>,
    /// Why the last update was not finished.
    pub finalise_failure: Option<FinaliseFailure>,
    /// Commits that are avoided, of which no deployment is left.
    pub avoided: Vec<Avoided>,
}

/// A commit that did not come up here.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Avoided {
    /// Which.
    pub commit: CommitId,
    /// When that was noticed, in seconds since 1970.
    pub time: i64,
    /// Why.
    pub reason: String,
}

/// One deployment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DeploymentStatus {
    /// Which.
    pub id: DeploymentId,
    /// What holds of it.
    pub roles: Vec<Role>,
    /// Its commit.
    pub commit: CommitId,
    /// The version that the commit states.
    pub version: Option<String>,
    /// What the operating system calls itself.
    pub title: String,
    /// The ref the commit was made for.
    #[serde(rename = "ref")]
    pub ref_name: RefName,
    /// Where upgrades come from.
    pub upstream: Option<Upstream>,
    /// Who vouched for the commit when it was deployed.
    pub voucher: Voucher,
    /// Why nobody does now, if nobody does.
    pub distrusted: Option<String>,
    /// When the commit was made, in seconds since 1970.
    pub commit_time: i64,
    /// When the deployment was made, in seconds since 1970.
    pub deployed: i64,
    /// The version of its kernel.
    pub kernel: String,
    /// Its kernel arguments.
    pub kargs: String,
    /// How often it may still be tried; nothing once it is trusted.
    pub tries: Option<Tries>,
    /// Why it is avoided, if it is.
    pub failed: Option<String>,
    /// What the merge of its `/etc` could not have both ways, and nobody has settled since.
    pub etc_conflicts: Vec<LoggedDecision>,
    /// How much of the commit is here, unless all of it is.
    pub incomplete: Option<Incomplete>,
}

/// How much of a commit is here.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Incomplete {
    /// Not even all names.
    ImagePartly,
    /// Some of the contents.
    Objects(Completeness),
}

impl Status {
    /// The status of a sysroot.
    ///
    /// # Errors
    /// [`DeployError`].
    pub fn new(sysroot: &Sysroot, state: &State) -> Result<Self, DeployError> {
        let deployments = state.deployments.iter().map(|found| DeploymentStatus::new(sysroot, state, found));
        let is_there = |commit: &CommitId| state.deployments.iter().any(|found| found.origin.commit == *commit);
        let avoided = state.failures.iter().filter(|(commit, _)| !is_there(commit));
        Ok(Self {
            bootloader: sysroot.loader().kind,
            deployments: deployments.collect::<Result<_, _>>()?,
            finalise_failure: state.finalise_failure.clone(),
            avoided: avoided
                .map(|(commit, failure)| Avoided {
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
            voucher: origin.voucher.clone(),
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

fn roles(state: &State, found: &Deployment) -> Vec<Role> {
    let is = |other: Option<&Deployment>| other.is_some_and(|other| other.id == found.id);
    let all = [
        (Role::Booted, is(state.booted())),
        (Role::Staged, is(state.staged())),
        (Role::Default, is(state.default())),
        (Role::Rollback, is(state.rollback())),
        (Role::Pinned, found.origin.pinned),
        (Role::Failed, state.has_failed(found)),
    ];
    all.into_iter().filter(|(_, holds)| *holds).map(|(role, _)| role).collect()
}

/// Why a commit that was vouched for is not now: its key was removed, or its signature is damaged.
fn distrusted(store: &Store, found: &Deployment) -> Result<Option<String>, ReadError> {
    match again(store, found) {
        Ok(_) => Ok(None),
        Err(ChooseError::Read(error)) => Err(error),
        Err(error) => Ok(Some(super::apply::chain(&error))),
    }
}

/// The commit of a deployment, chosen once more in the way it was chosen when it was made.
///
/// # Errors
/// [`ChooseError`].
pub fn again(store: &Store, found: &Deployment) -> Result<source::Chosen, ChooseError> {
    let origin = &found.origin;
    let chosen = match (&origin.voucher, &origin.upstream) {
        (Voucher::Local, _) => source::local(store, origin.commit, Unsigned::Accepted),
        (_, Some(upstream)) => source::pulled(store, origin.commit, upstream.clone()),
        (_, None) => source::local(store, origin.commit, Unsigned::Refused),
    }?;
    Ok(source::Chosen { upstream: origin.upstream.clone(), ..chosen })
}

/// The conflicts of the last merge of a deployment's `/etc` that nobody has looked after since.
///
/// # Errors
/// [`JournalError`].
pub fn open_conflicts(sysroot: &Sysroot, id: &DeploymentId) -> Result<Vec<LoggedDecision>, JournalError> {
    let layout = sysroot.layout().deployment(id);
    let content = |path: &[u8]| read_file(&layout.etc(), path).ok().map(|bytes| ObjectId::of(&bytes));
    Ok(conflicts::open(&Journal::new(layout.journal()).entries()?, &content))
}

fn incomplete(store: &Store, commit: CommitId) -> Result<Option<Incomplete>, DeployError> {
    if !store.is_lazy(commit) {
        return Ok(None);
    }
    let image = match store.image(store.commit(commit)?.image) {
        Err(ReadError::MissingImage { .. }) => return Ok(Some(Incomplete::ImagePartly)),
        other => other?,
    };
    let damaged = |source| ReadError::Image { id: image.id(), source };
    let sum = Completeness::of(&image, store).map_err(damaged)?;
    Ok((!sum.is_whole()).then_some(Incomplete::Objects(sum)))
}
