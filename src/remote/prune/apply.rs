//! The second look, under the lease, and what follows from it.

use std::collections::HashMap;
use std::time::SystemTime;

use super::error::PruneError;
use super::inventory::{Inventory, Known};
use super::plan::{self, PlannedFile, PrunePlan, RepackPlan};
use super::regroup::{self, Act};
use super::repack;
use super::{PruneOptions, PruneProgress};
use crate::model::{LocatorId, RefName};
use crate::remote::format::{FileRef, Placement};
use crate::remote::layout;
use crate::remote::lease::{self, Lease};
use crate::remote::published::{self, PublishedRef};
use crate::remote::transport::{Put, Traffic, Transport, TransportError};

/// New locators by the names of those whose places they take.
type Rewritten = HashMap<LocatorId, FileRef<LocatorId>>;

/// What a mark says to people; what counts is when it was written.
const MARK: &str =
    "no published ref needs this file since this mark was written; 'sapwood publish --prune' removes it in time\n";

/// A file that is written to learn the time by the clock of the other side.
const CLOCK: &str = "superseded/clock";

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PruneReport {
    /// What was found and decided.
    #[serde(flatten)]
    pub plan: PrunePlan,
    /// Packs made of what was packed again or lived in those that were copied.
    pub new_packs: usize,
    /// Bytes of those.
    pub new_pack_bytes: u64,
    /// What went over the line.
    pub traffic: Traffic,
}

/// Prunes what is published.
///
/// # Errors
/// [`PruneError`]; what is needed is whole, and running again goes on where this stopped.
pub fn prune(
    transport: &Transport,
    options: &PruneOptions,
    progress: &PruneProgress,
) -> Result<PruneReport, PruneError> {
    lease::prove_conditions(transport)?;
    let mut known = Known::default();
    let mut first = Inventory::read_names(transport, options.keep, &mut known)?;
    let mut regrouped = regroup::newest(transport, &first, &mut known, options, progress, Act::Upload)?;
    first.relocate(&regrouped.locators);
    first.read_locators(transport, &mut known)?;
    let chosen = plan::packs_to_copy(&known.live, &known.of_newest, options.pack_size);
    let moved = repack::copy(transport, &chosen, options, progress)?;
    let pending = std::mem::take(&mut regrouped.pending);
    let copied = repack::rewrite_locators(transport, &first, &mut known, &chosen, &moved, pending)?;
    let rewritten = one_after_the_other(&regrouped.locators, copied);
    drop(first);
    let held = Lease::take(transport, options.lease, &*options.announce)?;
    let now = now(transport)?;
    let mut inventory = Inventory::read(transport, options.keep, &mut known)?;
    rewrite_placements(transport, &held, &mut inventory, &rewritten)?;
    let mut plan = plan::plan(&inventory, &known, &[], options.grace, now);
    each(&held, &plan.restore, |path| transport.delete(&layout::superseded(path)))?;
    each(&held, &plan.supersede, |file| {
        transport.put(&layout::superseded(&file.path), MARK.into(), &Put::Overwrite).map(drop)
    })?;
    remove(transport, &held, &plan)?;
    drop(held);
    plan.repack = regrouped.left.iter().cloned().chain(chosen.iter().map(RepackPlan::of)).collect();
    let new_packs = regrouped.packs().len() + moved.packs();
    let new_pack_bytes = regrouped.packs().iter().map(|pack| pack.length).sum::<u64>() + moved.bytes();
    plan.regroup = regrouped.plans;
    Ok(PruneReport { plan, new_packs, new_pack_bytes, traffic: transport.counters().traffic() })
}

/// The locators that take the places of others: what `first` says, unless `then` says more.
fn one_after_the_other(first: &Rewritten, then: Rewritten) -> Rewritten {
    let last = |file: &FileRef<LocatorId>| then.get(&file.id).copied().unwrap_or(*file);
    let mut all: Rewritten = first.iter().map(|(old, file)| (*old, last(file))).collect();
    all.extend(then);
    all
}

/// The time by the clock that writes the times of marks.
fn now(transport: &Transport) -> Result<SystemTime, PruneError> {
    transport.put(CLOCK, "the time of writing this is the time by which marks are judged\n".into(), &Put::Overwrite)?;
    let listed = transport.list(layout::SUPERSEDED)?;
    let clock = listed.iter().find(|listed| listed.path == CLOCK);
    Ok(clock.ok_or_else(|| TransportError::Missing { path: CLOCK.to_owned() })?.modified)
}

/// Does something with all of `items`, some at once, each only while the lease is held.
fn each<T: Sync>(
    lease: &Lease<'_>,
    items: &[T],
    work: impl Fn(&T) -> Result<(), TransportError> + Sync,
) -> Result<(), PruneError> {
    let done = published::at_once(items, |item| {
        lease.check()?;
        Ok::<_, PruneError>(work(item)?)
    });
    done.into_iter().collect()
}

/// Removes what is to be removed: names before what they lead to, each file before its mark.
fn remove(transport: &Transport, lease: &Lease<'_>, plan: &PrunePlan) -> Result<(), PruneError> {
    let directory = |file: &PlannedFile| file.path.split('/').next().map(str::to_owned);
    for of_one_kind in plan.remove.chunk_by(|a, b| directory(a) == directory(b)) {
        each(lease, of_one_kind, |file| {
            transport.delete(&file.path)?;
            transport.delete(&layout::superseded(&file.path))
        })?;
    }
    each(lease, &plan.stale_marks, |path| transport.delete(&layout::superseded(path)))
}

/// Writes where the moved frames of each kept commit are.
fn rewrite_placements(
    transport: &Transport,
    lease: &Lease<'_>,
    inventory: &mut Inventory,
    rewritten: &Rewritten,
) -> Result<(), PruneError> {
    let moved = |placement: &Placement| {
        let locator = *rewritten.get(&placement.locator.id)?;
        Some(Placement { locator, ..placement.clone() })
    };
    for (name, reference) in &inventory.refs {
        if let Some(placement) = moved(&reference.placement) {
            lease.check()?;
            rewrite_ref(transport, name, reference, &placement)?;
        }
    }
    for (id, kept) in &mut inventory.commits {
        let own = kept.own.as_ref();
        let corrected = own.filter(|_| kept.is_behind).cloned();
        if let Some(placement) = own.and_then(moved).or(corrected) {
            lease.check()?;
            transport.put(&layout::placement(*id), placement.render().into(), &Put::Overwrite)?;
            kept.own = Some(placement);
        }
        kept.named = kept.named.take().map(|placement| moved(&placement).unwrap_or(placement));
    }
    Ok(())
}

fn rewrite_ref(
    transport: &Transport,
    name: &RefName,
    reference: &PublishedRef,
    placement: &Placement,
) -> Result<(), PruneError> {
    let bytes = reference.with_placement(placement);
    let mode = Put::IfVersion(reference.version.clone());
    match transport.put(&layout::reference(name), bytes.clone().into(), &mode) {
        // Perhaps it was us: an answer that is lost makes a request be sent again.
        Err(TransportError::Changed { .. }) => {
            let there = published::read_ref(transport, name)?;
            let is_ours = there.is_some_and(|there| there.with_placement(&there.placement) == bytes);
            if is_ours { Ok(()) } else { Err(PruneError::Raced(name.clone())) }
        }
        other => Ok(other.map(drop)?),
    }
}
