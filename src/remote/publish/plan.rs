//! Plans a publish: which commits are uploaded, which of their objects are packed, and which deltas are made. The plan
//! is pure data, which `--dry-run` prints.
//!
//! *Not here*: which published contents are packed again (`cost`).
//!
//! *Used by* `apply`, `names`, `estimate` and `cli`.

use std::collections::HashSet;

use super::cost::{CommitLayout, REGROUP_FACTOR, RegroupGoals};
use super::error::PublishError;
use super::existing::{Survey, list_objects};
use super::request::{PublishRequest, read_history};
use crate::model::{Commit, CommitId, ObjectId, RefName};
use crate::remote::format::{Placement, ProfileText};
use crate::store::{ReadError, Store};

/// A commit that is uploaded, or gains a delta, a profile or a signature.
#[derive(Debug, Clone)]
pub(crate) struct CommitPublishPlan {
    pub(crate) id: CommitId,
    /// The commit's record.
    pub(crate) commit: Commit,
    /// The objects that are to be packed, in packing order, with their lengths in bytes: those that are in no pack yet,
    /// and those that are packed again.
    pub(crate) objects: Vec<(ObjectId, u64)>,
    /// The contents that are packed again.
    pub(crate) repacked: RepackedContents,
    /// Number of objects at the start of `objects` that the profile lists.
    pub(crate) profiled: usize,
    /// Older commits from which a delta is to be made.
    pub(crate) deltas: Vec<CommitId>,
    /// The placement of the commit, if it is published.
    pub(super) placement: Option<Placement>,
}

/// Published contents that are packed again together with new ones, so that a new client fetches from fewer packs, and
/// fewer bytes that it does not need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RepackedContents {
    /// Number of objects.
    pub(crate) objects: usize,
    /// Bytes of content.
    pub(crate) bytes: u64,
    /// Bytes of content that later publishes may pack again; `None` when nothing of the ref was published before.
    #[serde(skip)]
    pub(super) regroup_budget: Option<u64>,
}

impl CommitPublishPlan {
    /// Returns the number of objects that are in no pack yet.
    pub(crate) fn new_objects(&self) -> usize {
        self.objects.len().saturating_sub(self.repacked.objects)
    }

    /// Returns whether the commit is published already and only gains something.
    pub(crate) const fn is_published(&self) -> bool {
        self.placement.is_some()
    }

    /// Returns the bytes of content that are to be compressed.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.objects.iter().map(|(_, size)| size).sum()
    }
}

/// A ref that is written.
#[derive(Debug, Clone)]
pub(crate) struct RefPlan {
    pub(crate) name: RefName,
    /// The commit that it will name.
    pub(crate) commit: CommitId,
    /// The commit that it names now.
    pub(crate) replaces: Option<CommitId>,
}

/// The plan of a publish.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublishPlan {
    /// The commits, older ones before newer ones.
    pub(crate) commits: Vec<CommitPublishPlan>,
    /// The refs to be written after the commits.
    pub(crate) refs: Vec<RefPlan>,
}

impl PublishPlan {
    /// Returns the bytes of content that are to be compressed.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.commits.iter().map(CommitPublishPlan::raw_bytes).sum()
    }

    /// Returns the number of objects that are in no pack yet.
    pub(crate) fn new_objects(&self) -> usize {
        self.commits.iter().map(CommitPublishPlan::new_objects).sum()
    }

    /// Returns the bytes of content that are packed again.
    pub(crate) fn repacked_bytes(&self) -> u64 {
        self.commits.iter().map(|commit| commit.repacked.bytes).sum()
    }

    /// Returns the number of deltas that are to be made.
    pub(crate) fn deltas(&self) -> usize {
        self.commits.iter().map(|commit| commit.deltas.len()).sum()
    }

    /// Returns whether there is nothing to do.
    pub(crate) const fn is_empty(&self) -> bool {
        self.refs.is_empty() && self.commits.is_empty()
    }
}

/// Compares the local repository with the published one and plans what to publish.
///
/// # Errors
/// [`PublishError::Diverged`] when published history would be replaced without `force`; errors of reading the
/// repository.
pub(crate) fn plan(store: &Store, survey: &Survey, request: &PublishRequest) -> Result<PublishPlan, PublishError> {
    let mut plan = PublishPlan::default();
    let mut packed = HashSet::new();
    for name in &request.names {
        plan_ref(store, survey, request, name, &mut packed, &mut plan)?;
    }
    Ok(plan)
}

/// Adds one ref to the plan. `packed` has the objects of the commits planned before.
fn plan_ref(
    store: &Store,
    survey: &Survey,
    request: &PublishRequest,
    name: &RefName,
    packed: &mut HashSet<ObjectId>,
    plan: &mut PublishPlan,
) -> Result<(), PublishError> {
    let history = read_history(store, name, request.depth)?;
    let Some(&(head, _)) = history.first() else { return Ok(()) };
    if !request.force {
        refuse_divergence(store, name, head, survey)?;
    }
    let published = survey.refs.get(name);
    let is_named = published.is_some_and(|published_ref| {
        let is_bound = request.repository.is_none() || published_ref.record.repository() == request.repository;
        published_ref.record.commit == head && is_bound && published_ref.is_signed_by(&request.signers)
    });
    let mut has_changes = !is_named || request.profile.is_some();
    for (id, commit) in history.into_iter().rev() {
        if plan.commits.iter().any(|planned| planned.id == id) {
            continue;
        }
        let placement = survey.placements.get(&id).cloned();
        let deltas = if id == head {
            plan_deltas(store, survey, request.deltas, (&commit, &placement), plan)?
        } else {
            Vec::new()
        };
        let before = published
            .filter(|_| id == head)
            .map(|published_ref| (published_ref.placement.regroup_budget.unwrap_or(0), request.pack_size));
        let (objects, profiled, again) = match placement {
            Some(_) => Default::default(),
            None => choose_contents(store, &commit, survey, (request.profile.as_ref(), before), packed)?,
        };
        if placement.is_none() || !deltas.is_empty() || has_changes {
            has_changes |= id == head;
            plan.commits.push(CommitPublishPlan { id, commit, objects, repacked: again, profiled, deltas, placement });
        }
    }
    if has_changes {
        let replaces = published.map(|published_ref| published_ref.record.commit);
        plan.refs.push(RefPlan { name: name.clone(), commit: head, replaces });
    }
    Ok(())
}

/// The most ancestors among which published ones are searched for. A delta over more commits would save little, and a
/// history may have tens of thousands.
const DELTA_ANCESTORS_MAX: u32 = 1000;

/// Returns those of the newest `count` published (or planned) ancestors of a commit from which there is no delta yet.
/// An ancestor that is not in the local repository is left out, since a delta is optional.
fn plan_deltas(
    store: &Store,
    survey: &Survey,
    count: u64,
    (commit, placement): (&Commit, &Option<Placement>),
    plan: &PublishPlan,
) -> Result<Vec<CommitId>, PublishError> {
    let has_delta = |from| placement.iter().flat_map(|placement| &placement.deltas).any(|delta| delta.from == from);
    let (mut found, mut missing) = (0, Vec::new());
    if survey.commits.is_empty() && plan.commits.is_empty() {
        return Ok(missing);
    }
    let mut next = commit.parent;
    for _ in 0..DELTA_ANCESTORS_MAX {
        let Some(id) = next.filter(|_| found < count) else { break };
        let ancestor = match store.commit(id) {
            Err(ReadError::MissingCommit { .. }) => break,
            other => other?,
        };
        if survey.commits.contains(&id) || plan.commits.iter().any(|planned| planned.id == id) {
            found += 1;
            let is_stored = !matches!(store.image(ancestor.image), Err(ReadError::MissingImage { .. }));
            if is_stored && !has_delta(id) {
                missing.push(id);
            }
        }
        next = ancestor.parent;
    }
    Ok(missing)
}

/// Checks that the published commit is the new commit or an ancestor of it.
fn refuse_divergence(store: &Store, name: &RefName, head: CommitId, survey: &Survey) -> Result<(), PublishError> {
    let Some(published) = survey.refs.get(name) else { return Ok(()) };
    // The sequence of a ref may be ahead of that of its commit. An ancestor has a smaller sequence than its descendants.
    let oldest = match store.commit(published.record.commit) {
        Err(ReadError::MissingCommit { .. }) => 0,
        other => other?.sequence,
    };
    let mut current = head;
    while current != published.record.commit {
        let commit = match store.commit(current) {
            Err(ReadError::MissingCommit { .. }) => None,
            other => Some(other?),
        };
        let parent = commit.filter(|commit| commit.sequence > oldest).and_then(|it| it.parent);
        let Some(parent) = parent else {
            return Err(PublishError::Diverged {
                name: name.clone(),
                theirs: published.record.commit.short(),
                sequence: published.record.sequence,
                ours: head.short(),
            });
        };
        current = parent;
    }
    Ok(())
}

/// Returns the objects of a commit that are to be packed (those of the profile first, then in the order of the image),
/// how many the profile lists, and which were published before. `packed` has the objects of the commits planned before.
/// If the commit is to be the newest of its ref, `before` has the bytes that earlier publishes of the ref left to be
/// packed again, and the most bytes of a pack.
fn choose_contents(
    store: &Store,
    commit: &Commit,
    survey: &Survey,
    (profile, before): (Option<&ProfileText>, Option<(u64, u64)>),
    packed: &mut HashSet<ObjectId>,
) -> Result<(Vec<(ObjectId, u64)>, usize, RepackedContents), PublishError> {
    let image = store.image(commit.image)?;
    let all: Vec<(ObjectId, u64)> = list_objects(&image)?.collect();
    let damaged = |source| PublishError::Image { id: commit.image, source };
    let first = profile.map(|profile| profile.resolve(&image)).transpose().map_err(damaged)?.unwrap_or_default();
    let first = first.entries.iter().filter_map(|entry| all.get(entry.object as usize)).copied();
    let (repacked_ids, repacked) = match before {
        Some(before) => choose_repacked(store, survey, &all, before),
        None => Default::default(),
    };
    let mut is_packed =
        |(id, _): &(ObjectId, u64)| (!survey.has_object(id) || repacked_ids.contains(id)) && packed.insert(*id);
    let mut chosen: Vec<_> = first.filter(&mut is_packed).collect();
    let profiled = chosen.len();
    chosen.extend(all.iter().copied().filter(is_packed));
    Ok((chosen, profiled, repacked))
}

/// Chooses the published ones of `all` objects that are packed again together with the new ones.
fn choose_repacked(
    store: &Store,
    survey: &Survey,
    all: &[(ObjectId, u64)],
    (before, pack_size): (u64, u64),
) -> (HashSet<ObjectId>, RepackedContents) {
    let layout = CommitLayout::new(all, &[&survey.locations]);
    let new: u64 = all.iter().filter(|(id, _)| !survey.has_object(id)).map(|(_, size)| size).sum();
    let budget = before.saturating_add(new.saturating_mul(REGROUP_FACTOR));
    let is_stored = |number: u32| all.get(number as usize).is_some_and(|(id, _)| store.has_object(*id));
    let chosen = layout.choose(&RegroupGoals::of_publish(budget, pack_size), layout.expected_length(new), &is_stored);
    let chosen: Vec<(ObjectId, u64)> = chosen.iter().filter_map(|number| all.get(*number as usize)).copied().collect();
    let bytes: u64 = chosen.iter().map(|(_, size)| size).sum();
    let total: u64 = all.iter().map(|(_, size)| size).sum();
    // No more than everything can be packed again at once.
    let remaining = Some(budget.saturating_sub(bytes).min(total));
    let objects = chosen.len();
    (chosen.into_iter().map(|(id, _)| id).collect(), RepackedContents { objects, bytes, regroup_budget: remaining })
}
