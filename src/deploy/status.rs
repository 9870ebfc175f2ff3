//! The status of a sysroot for `sapwood status`: one value with all deployments, which is printed or written as JSON.
//!
//! *Not here*: printing (`cli`), and reading the sysroot (`sysroot`).
//!
//! *Used by* `cli`.

use super::apply::DeployError;
use super::boot::{self, BootError, BootTries, LoaderKind, MenuProblem, MenuProblemKind};
use super::choose::{self, ChooseError, Unsigned};
use super::commit_files::ObjectCounts;
use super::conflicts;
use super::etc::{Journal, JournalError, LoggedDecision, read_file};
use super::id::DeploymentId;
use super::leftover::Leftover;
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
    /// Commits that the administrator left by a rollback.
    pub(crate) left: Vec<LeftCommitStatus>,
    /// What should be looked at: reasons why something else boots, and what waits for the administrator.
    pub(crate) problems: Vec<Problem>,
    /// Directories that are being created or removed, that could not be removed, or cannot be read as deployments.
    pub(crate) leftovers: Vec<Leftover>,
}

/// A commit that the administrator left by a rollback.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct LeftCommitStatus {
    pub(crate) commit: CommitId,
    /// The deployment that it had.
    pub(crate) deployment: DeploymentId,
    /// The time of the rollback, in seconds since 1970.
    pub(crate) time: i64,
}

/// Something that should be looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Problem {
    pub(crate) kind: ProblemKind,
    pub(crate) message: String,
    /// What can be done about it.
    pub(crate) remedy: String,
}

/// The kind of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", untagged)]
pub(crate) enum ProblemKind {
    /// Something else boots than the first entry of the menu.
    Menu(MenuProblemKind),
    /// A problem of the deployments.
    Deployments(DeploymentProblem),
}

/// The kind of a problem of the deployments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeploymentProblem {
    /// Nothing is deployed, or the boot menu is empty.
    NothingBoots,
    /// No boot loader was found.
    NoLoader,
    /// The last update could not be finished.
    FinaliseFailed,
    /// The deployment that boots next or that runs did not come up, or failed a required check.
    Failed,
    /// The deployment that boots next would not be deployed today.
    Distrusted,
    /// The merge of `/etc` left conflicts.
    EtcConflict,
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
        let deployments = deployments.collect::<Result<Vec<_>, _>>()?;
        let is_there = |commit: &CommitId| state.deployments.iter().any(|found| found.origin.commit == *commit);
        let avoided = state.failures.iter().filter(|(commit, _)| !is_there(commit));
        let temporary = sysroot.leftovers()?.into_iter().map(|path| {
            let reason = "it is being created or removed, or could not be removed: 'sapwood cleanup' tries again";
            Leftover { path, reason: reason.to_owned() }
        });
        Ok(Self {
            bootloader: sysroot.loader().kind,
            problems: find_problems(sysroot, state, &deployments)?,
            leftovers: temporary.chain(state.unreadable.iter().cloned()).collect(),
            left: state
                .left
                .iter()
                .map(|(commit, left)| LeftCommitStatus {
                    commit: *commit,
                    deployment: left.deployment.clone(),
                    time: left.time,
                })
                .collect(),
            deployments,
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

/// Returns the reasons why something else boots than the first entry of the menu.
///
/// # Errors
/// When the files of the boot loader cannot be read.
pub(crate) fn find_menu_problems(sysroot: &Sysroot, state: &State) -> Result<Vec<MenuProblem>, BootError> {
    boot::find_problems(&state.menu, &sysroot.config().id)
}

/// Collects what should be looked at, the most important first.
fn find_problems(
    sysroot: &Sysroot,
    state: &State,
    deployments: &[DeploymentStatus],
) -> Result<Vec<Problem>, DeployError> {
    let mut found = Vec::new();
    let mut add = |kind, message: String, remedy: &str| {
        found.push(Problem { kind: ProblemKind::Deployments(kind), message, remedy: remedy.to_owned() });
    };
    if state.default().is_none() {
        let remedy = match deployments.is_empty() {
            true => "'sapwood deploy REMOTE:REF' deploys something",
            false => "'sapwood sysroot write-menu' writes the menu anew, from the deployments there are",
        };
        add(DeploymentProblem::NothingBoots, "the boot menu has no deployment".to_owned(), remedy);
    }
    if state.has_no_loader() {
        let remedy = "install one, or name it: bootloader in config.toml of the sysroot";
        add(DeploymentProblem::NoLoader, "no boot loader was found that reads the menu".to_owned(), remedy);
    }
    if let Some(failure) = &state.finalise_failure {
        let message = format!("the update to {} could not be finished: {}", failure.deployment, failure.reason);
        add(DeploymentProblem::FinaliseFailed, message, "'sapwood upgrade --finalise-now' tries again");
    }
    for deployment in deployments {
        let id = &deployment.id;
        let matters = deployment
            .roles
            .iter()
            .any(|role| matches!(role, DeploymentRole::Booted | DeploymentRole::Default | DeploymentRole::Staged));
        if !matters {
            continue;
        }
        if let Some(reason) = &deployment.failed {
            add(DeploymentProblem::Failed, format!("{id} failed: {reason}"), "'sapwood rollback' boots the one before");
        }
        if let Some(reason) = &deployment.distrusted {
            let message = format!("{id} would not be deployed today: {reason}");
            add(
                DeploymentProblem::Distrusted,
                message,
                "add the key with 'sapwood remote add --replace', or deploy another",
            );
        }
        if !deployment.etc_conflicts.is_empty() {
            let count = deployment.etc_conflicts.len();
            let message = format!("/etc of {id} has {count} conflicts of the last merge");
            add(
                DeploymentProblem::EtcConflict,
                message,
                "'sapwood etc status' lists them, 'sapwood etc settle' ends one",
            );
        }
    }
    let menu = find_menu_problems(sysroot, state)?.into_iter();
    let menu =
        menu.map(|MenuProblem { kind, message, remedy }| Problem { kind: ProblemKind::Menu(kind), message, remedy });
    Ok(menu.chain(found).collect())
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
