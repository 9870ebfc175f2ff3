//! Which commits go up, and which of their objects are not there yet: pure data, printable by `--dry-run`.

use std::collections::HashSet;

use super::error::PublishError;
use super::existing::Survey;
use crate::model::{Commit, CommitId, LARGE_OBJECT, ObjectId, RefName};
use crate::remote::format::ProfileText;
use crate::store::{ReadError, Store};
use crate::trust::PublicKey;

/// What is to be published.
#[derive(Debug, Clone, Default)]
pub struct PublishRequest {
    /// The refs.
    pub names: Vec<RefName>,
    /// How many ancestors of each besides its newest commit, as far as they are here.
    pub depth: u64,
    /// Whether a published state that is no ancestor is replaced.
    pub force: bool,
    /// Who is going to sign.
    pub signers: Vec<PublicKey>,
    /// What is read first.
    pub profile: Option<ProfileText>,
}

/// A commit that goes up.
#[derive(Debug, Clone)]
pub struct CommitPlan {
    /// Which.
    pub id: CommitId,
    /// Its record.
    pub commit: Commit,
    /// Its objects that are in no pack yet, in the order in which they are packed, with their lengths in bytes.
    pub objects: Vec<(ObjectId, u64)>,
}

/// A ref that is written.
#[derive(Debug, Clone)]
pub struct RefPlan {
    /// Which.
    pub name: RefName,
    /// What it is to name.
    pub commit: CommitId,
    /// What it names now.
    pub replaces: Option<CommitId>,
}

/// All that is to be done.
#[derive(Debug, Clone, Default)]
pub struct PublishPlan {
    /// Commits, older ones before newer ones.
    pub commits: Vec<CommitPlan>,
    /// Refs to be written after them.
    pub refs: Vec<RefPlan>,
}

impl PublishPlan {
    /// Bytes of content that are to be compressed.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.commits.iter().flat_map(|commit| &commit.objects).map(|(_, size)| size).sum()
    }

    /// Number of objects that are to be packed.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.commits.iter().map(|commit| commit.objects.len()).sum()
    }

    /// Whether everything is there already.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.refs.is_empty()
    }
}

/// Compares what is here with what is there.
///
/// # Errors
/// [`PublishError::Diverged`] when history would be rewritten without being asked for; those of reading the repository.
pub fn plan(store: &Store, survey: &Survey, request: &PublishRequest) -> Result<PublishPlan, PublishError> {
    let mut plan = PublishPlan::default();
    let mut planned = HashSet::new();
    let mut packed = HashSet::new();
    for name in &request.names {
        let tip = store.read_ref(name)?.ok_or_else(|| PublishError::NoSuchRef(name.clone()))?;
        let published = survey.refs.get(name);
        let history = history(store, tip, request.depth)?;
        for (id, commit) in &history {
            if commit.ref_name != *name {
                let made_for = commit.ref_name.clone();
                return Err(PublishError::OtherRef { commit: *id, name: name.clone(), made_for });
            }
        }
        if !request.force {
            refuse_divergence(store, name, tip, survey)?;
        }
        let is_current = published.is_some_and(|there| {
            there.record.commit == tip && there.is_signed_by(&request.signers) && request.profile.is_none()
        });
        let all_placed = history.iter().all(|(id, _)| survey.placements.contains_key(id));
        if is_current && all_placed {
            continue;
        }
        for (id, commit) in history.into_iter().rev() {
            if planned.insert(id) {
                let objects = new_objects(store, &commit, survey, request.profile.as_ref(), &mut packed)?;
                plan.commits.push(CommitPlan { id, commit, objects });
            }
        }
        let replaces = published.map(|there| there.record.commit);
        plan.refs.push(RefPlan { name: name.clone(), commit: tip, replaces });
    }
    Ok(plan)
}

/// The newest commit and up to `depth` ancestors, as far as they are here, newest first.
fn history(store: &Store, tip: CommitId, depth: u64) -> Result<Vec<(CommitId, Commit)>, PublishError> {
    let mut commits = vec![(tip, store.commit(tip)?)];
    while (commits.len() as u64) <= depth {
        let Some(parent) = commits.last().and_then(|(_, commit)| commit.parent) else { break };
        match store.commit(parent) {
            Ok(commit) => commits.push((parent, commit)),
            Err(ReadError::MissingCommit { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(commits)
}

/// What is published must be the new commit or an ancestor of it.
fn refuse_divergence(store: &Store, name: &RefName, tip: CommitId, survey: &Survey) -> Result<(), PublishError> {
    let Some(published) = survey.refs.get(name) else { return Ok(()) };
    let mut at = tip;
    while at != published.record.commit {
        let commit = match store.commit(at) {
            Err(ReadError::MissingCommit { .. }) => None,
            other => Some(other?),
        };
        let parent = commit.filter(|commit| commit.sequence > published.record.sequence).and_then(|it| it.parent);
        let Some(parent) = parent else {
            return Err(PublishError::Diverged {
                name: name.clone(),
                theirs: published.record.commit.short(),
                sequence: published.record.sequence,
                ours: tip.short(),
            });
        };
        at = parent;
    }
    Ok(())
}

/// The objects of a commit that are in no pack: what the profile names first, then in the order of the image. `packed`
/// has those of the commits planned before.
fn new_objects(
    store: &Store,
    commit: &Commit,
    survey: &Survey,
    profile: Option<&ProfileText>,
    packed: &mut HashSet<ObjectId>,
) -> Result<Vec<(ObjectId, u64)>, PublishError> {
    let image = store.image(commit.image)?;
    let damaged = |source| PublishError::Image { id: commit.image, source };
    let all = image.objects_with_sizes().map_err(damaged)?.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
    let first = profile.map(|profile| profile.resolve(&image)).transpose().map_err(damaged)?.unwrap_or_default();
    let first = first.entries.iter().filter_map(|entry| all.get(entry.object as usize)).copied();
    let mut objects = Vec::new();
    for (id, size) in first.chain(all.iter().copied()) {
        if !survey.has(&id) && packed.insert(id) {
            objects.push((id, size));
        }
    }
    Ok(objects)
}

/// Frames that an object of `size` bytes takes: one, or one for each block of a large one.
pub(super) fn frame_count(size: u64) -> usize {
    let blocks = if size > LARGE_OBJECT { size.div_ceil(crate::model::BLOCK_SIZE) } else { 1 };
    usize::try_from(blocks).unwrap_or(usize::MAX)
}
