//! Which commits go up, which of their objects are not there yet, and which deltas: pure data, printable by `--dry-run`.

use std::collections::HashSet;

use super::error::PublishError;
use super::existing::{Survey, objects};
use super::request::{PublishRequest, history};
use super::view::{Goals, REGROUPED, View};
use crate::model::{Commit, CommitId, ObjectId, RefName};
use crate::remote::format::{Placement, ProfileText};
use crate::store::{ReadError, Store};

/// A commit that goes up, or gains something.
#[derive(Debug, Clone)]
pub struct CommitPlan {
    /// Which.
    pub id: CommitId,
    /// Its record.
    pub commit: Commit,
    /// Its objects that are to be packed, in the order in which they are, with their lengths in bytes: those that are in no pack
    /// yet, and those that are packed again.
    pub objects: Vec<(ObjectId, u64)>,
    /// Those that are packed again.
    pub again: Again,
    /// How many of them, from the first, the profile names.
    pub profiled: usize,
    /// Older commits from which a delta is to be made.
    pub deltas: Vec<CommitId>,
    /// Where its parts are, if they are there.
    pub(super) placed: Option<Placement>,
}

/// Contents that are published, and are packed again beside new ones, so that a fresh client fetches fewer packs, and less that
/// it does not need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Again {
    /// How many objects.
    pub objects: usize,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of content that later publishes may pack again; none when nothing was published of the ref before.
    #[serde(skip)]
    pub(super) left: Option<u64>,
}

impl CommitPlan {
    /// Number of objects that are in no pack yet.
    #[must_use]
    pub fn new_objects(&self) -> usize {
        self.objects.len().saturating_sub(self.again.objects)
    }

    /// Whether all of it but what it gains is there.
    #[must_use]
    pub const fn is_published(&self) -> bool {
        self.placed.is_some()
    }

    /// Bytes of content that are to be compressed.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.objects.iter().map(|(_, size)| size).sum()
    }
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
        self.commits.iter().map(CommitPlan::raw_bytes).sum()
    }

    /// Number of objects that are in no pack yet.
    #[must_use]
    pub fn new_objects(&self) -> usize {
        self.commits.iter().map(CommitPlan::new_objects).sum()
    }

    /// Bytes of content that are packed again.
    #[must_use]
    pub fn again_bytes(&self) -> u64 {
        self.commits.iter().map(|commit| commit.again.bytes).sum()
    }

    /// Number of deltas that are to be made.
    #[must_use]
    pub fn deltas(&self) -> usize {
        self.commits.iter().map(|commit| commit.deltas.len()).sum()
    }

    /// Whether everything is there already.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.refs.is_empty() && self.commits.is_empty()
    }
}

/// Compares what is here with what is there.
///
/// # Errors
/// [`PublishError::Diverged`] when history would be rewritten without being asked for; those of reading the repository.
pub fn plan(store: &Store, survey: &Survey, request: &PublishRequest) -> Result<PublishPlan, PublishError> {
    let mut plan = PublishPlan::default();
    let mut packed = HashSet::new();
    for name in &request.names {
        plan_ref(store, survey, request, name, &mut packed, &mut plan)?;
    }
    Ok(plan)
}

/// Adds what one ref needs. `packed` has the objects of the commits planned before.
fn plan_ref(
    store: &Store,
    survey: &Survey,
    request: &PublishRequest,
    name: &RefName,
    packed: &mut HashSet<ObjectId>,
    plan: &mut PublishPlan,
) -> Result<(), PublishError> {
    let history = history(store, name, request.depth)?;
    let Some(&(tip, _)) = history.first() else { return Ok(()) };
    if let Some((id, commit)) = history.iter().find(|(_, commit)| commit.ref_name != *name) {
        let (commit, made_for) = (*id, commit.ref_name.clone());
        return Err(PublishError::OtherRef { commit, name: name.clone(), made_for });
    }
    if !request.force {
        refuse_divergence(store, name, tip, survey)?;
    }
    let published = survey.refs.get(name);
    let is_named = published.is_some_and(|there| there.record.commit == tip && there.is_signed_by(&request.signers));
    let mut gains = !is_named || request.profile.is_some();
    for (id, commit) in history.into_iter().rev() {
        if plan.commits.iter().any(|planned| planned.id == id) {
            continue;
        }
        let placed = survey.placements.get(&id).cloned();
        let deltas = if id == tip {
            missing_deltas(store, survey, request.deltas, (&commit, &placed), plan)?
        } else {
            Vec::new()
        };
        let before =
            published.filter(|_| id == tip).map(|there| (there.placement.regroup.unwrap_or(0), request.pack_size));
        let (objects, profiled, again) = match placed {
            Some(_) => Default::default(),
            None => contents(store, &commit, survey, (request.profile.as_ref(), before), packed)?,
        };
        if placed.is_none() || !deltas.is_empty() || gains {
            gains |= id == tip;
            plan.commits.push(CommitPlan { id, commit, objects, again, profiled, deltas, placed });
        }
    }
    if gains {
        let replaces = published.map(|there| there.record.commit);
        plan.refs.push(RefPlan { name: name.clone(), commit: tip, replaces });
    }
    Ok(())
}

/// Ancestors among which published ones are looked for. A delta over more commits than that would save little, and a history may
/// have tens of thousands.
const DELTA_REACH: u32 = 1000;

/// Of the newest `count` ancestors of a commit that are published, or are going to be, those that no delta leads from yet.
/// An ancestor that is not here is left out: a delta is an offer.
fn missing_deltas(
    store: &Store,
    survey: &Survey,
    count: u64,
    (commit, placed): (&Commit, &Option<Placement>),
    plan: &PublishPlan,
) -> Result<Vec<CommitId>, PublishError> {
    let has_delta = |from| placed.iter().flat_map(|placed| &placed.deltas).any(|delta| delta.from == from);
    let (mut found, mut missing) = (0, Vec::new());
    if survey.commits.is_empty() && plan.commits.is_empty() {
        return Ok(missing);
    }
    let mut next = commit.parent;
    for _ in 0..DELTA_REACH {
        let Some(id) = next.filter(|_| found < count) else { break };
        let ancestor = match store.commit(id) {
            Err(ReadError::MissingCommit { .. }) => break,
            other => other?,
        };
        if survey.commits.contains(&id) || plan.commits.iter().any(|planned| planned.id == id) {
            found += 1;
            let is_here = !matches!(store.image(ancestor.image), Err(ReadError::MissingImage { .. }));
            if is_here && !has_delta(id) {
                missing.push(id);
            }
        }
        next = ancestor.parent;
    }
    Ok(missing)
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

/// The objects of a commit that are to be packed: what the profile names first, then in the order of the image; how many it
/// names; and which were published before. `packed` has those of the commits planned before. `before` has the bytes that earlier
/// publishes of the ref left to be packed again, and most bytes of a pack, if the commit is to be its newest.
fn contents(
    store: &Store,
    commit: &Commit,
    survey: &Survey,
    (profile, before): (Option<&ProfileText>, Option<(u64, u64)>),
    packed: &mut HashSet<ObjectId>,
) -> Result<(Vec<(ObjectId, u64)>, usize, Again), PublishError> {
    let image = store.image(commit.image)?;
    let all: Vec<(ObjectId, u64)> = objects(&image)?.collect();
    let damaged = |source| PublishError::Image { id: commit.image, source };
    let first = profile.map(|profile| profile.resolve(&image)).transpose().map_err(damaged)?.unwrap_or_default();
    let first = first.entries.iter().filter_map(|entry| all.get(entry.object as usize)).copied();
    let (old, again) = match before {
        Some(before) => packed_again(store, survey, &all, before),
        None => Default::default(),
    };
    let mut is_packed = |(id, _): &(ObjectId, u64)| (!survey.has(id) || old.contains(id)) && packed.insert(*id);
    let mut chosen: Vec<_> = first.filter(&mut is_packed).collect();
    let profiled = chosen.len();
    chosen.extend(all.iter().copied().filter(is_packed));
    Ok((chosen, profiled, again))
}

/// Which objects that were published before are packed again with the new ones of `all`.
fn packed_again(
    store: &Store,
    survey: &Survey,
    all: &[(ObjectId, u64)],
    (before, pack_size): (u64, u64),
) -> (HashSet<ObjectId>, Again) {
    let view = View::new(all, &[&survey.there]);
    let new: u64 = all.iter().filter(|(id, _)| !survey.has(id)).map(|(_, size)| size).sum();
    let budget = before.saturating_add(new.saturating_mul(REGROUPED));
    let is_here = |number: u32| all.get(number as usize).is_some_and(|(id, _)| store.has_object(*id));
    let chosen = view.choose(&Goals::of_publish(budget, pack_size), view.expected(new), &is_here);
    let chosen: Vec<(ObjectId, u64)> = chosen.iter().filter_map(|number| all.get(*number as usize)).copied().collect();
    let bytes: u64 = chosen.iter().map(|(_, size)| size).sum();
    let total: u64 = all.iter().map(|(_, size)| size).sum();
    // More than everything is never packed again at once.
    let left = Some(budget.saturating_sub(bytes).min(total));
    let objects = chosen.len();
    (chosen.into_iter().map(|(id, _)| id).collect(), Again { objects, bytes, left })
}
