//! Carries out a prune: repacks without the lease, then takes the lease, reads everything again, and marks and removes
//! files.
//!
//! *Not here*: what to do with which file (`plan`), and the copying of contents (`regroup`, `repack`).
//!
//! *Invariants*: nothing is marked or removed without the lease, and each step calls `Lease::ensure_held` first.
//!
//! *Used by* `cli`.

use std::collections::HashMap;
use std::time::SystemTime;

use super::error::PruneError;
use super::inventory::{Inventory, PruneIndex};
use super::plan::{self, PlannedFile, PrunePlan, RepackPlan};
use super::regroup::{self, RegroupMode};
use super::repack;
use super::{PruneOptions, PruneProgress};
use crate::model::{LocatorId, RefName};
use crate::remote::format::{FileRef, Placement};
use crate::remote::layout;
use crate::remote::lease::{self, Lease};
use crate::remote::published::{self, PublishedRef};
use crate::remote::transport::{Traffic, Transport, TransportError, WriteCondition};

/// New locators by the ids of those that they replace.
type LocatorReplacements = HashMap<LocatorId, FileRef<LocatorId>>;

/// The text of a mark, for people. Its meaning is in the time at which it was written.
const MARK_TEXT: &str =
    "no published ref needs this file since this mark was written; 'sapwood publish --prune' removes it in time\n";

/// A file that is written to read the server's clock.
const CLOCK_FILE: &str = "superseded/clock";

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct PruneReport {
    /// The plan.
    #[serde(flatten)]
    pub(crate) plan: PrunePlan,
    /// Number of packs made, of contents packed again and of needed frames of copied packs.
    pub(crate) new_packs: usize,
    /// Bytes of the new packs.
    pub(crate) new_pack_bytes: u64,
    /// The network traffic.
    pub(crate) traffic: Traffic,
}

/// Prunes a published repository.
///
/// # Errors
/// [`PruneError`]. All needed files are complete then, and another run continues where this one stopped.
pub(crate) fn prune(
    transport: &Transport,
    options: &PruneOptions,
    progress: &PruneProgress,
) -> Result<PruneReport, PruneError> {
    lease::verify_conditional_writes(transport)?;
    let mut known = PruneIndex::default();
    let mut first = Inventory::read_names(transport, options.keep, &mut known)?;
    let mut regrouped = regroup::regroup_newest(transport, &first, &mut known, options, progress, RegroupMode::Upload)?;
    first.replace_locators(&regrouped.replacements);
    first.read_locators(transport, &mut known)?;
    let chosen = plan::packs_to_copy(&known.live, &known.of_newest, options.pack_size);
    let moved = repack::copy_packs(transport, &chosen, options, progress)?;
    let pending = std::mem::take(&mut regrouped.pending);
    let copied = repack::rewrite_locators(transport, &first, &mut known, &chosen, &moved, pending)?;
    let rewritten = chain_replacements(&regrouped.replacements, copied);
    drop(first);
    let lease = Lease::acquire(transport, options.lease, &*options.announce)?;
    let now = read_remote_clock(transport)?;
    let mut inventory = Inventory::read(transport, options.keep, &mut known)?;
    rewrite_placements(transport, &lease, &mut inventory, &rewritten)?;
    let mut plan = plan::plan(&inventory, &known, &[], options.grace, now);
    for_each_in_parallel(&lease, &plan.restore, |path| transport.delete(&layout::superseded_mark(path)))?;
    for_each_in_parallel(&lease, &plan.supersede, |file| {
        transport.put(&layout::superseded_mark(&file.path), MARK_TEXT.into(), &WriteCondition::Overwrite).map(drop)
    })?;
    remove_files(transport, &lease, &plan)?;
    drop(lease);
    plan.repack = regrouped.sources.iter().cloned().chain(chosen.iter().map(RepackPlan::of)).collect();
    let new_packs = regrouped.packs().len() + moved.packs();
    let new_pack_bytes = regrouped.packs().iter().map(|pack| pack.length).sum::<u64>() + moved.bytes();
    plan.regroup = regrouped.plans;
    Ok(PruneReport { plan, new_packs, new_pack_bytes, traffic: transport.counters().traffic() })
}

/// Chains two sets of replacements: the result of `first` is replaced by what `then` says.
fn chain_replacements(first: &LocatorReplacements, then: LocatorReplacements) -> LocatorReplacements {
    let last = |file: &FileRef<LocatorId>| then.get(&file.id).copied().unwrap_or(*file);
    let mut all: LocatorReplacements = first.iter().map(|(old, file)| (*old, last(file))).collect();
    all.extend(then);
    all
}

/// Returns the time by the server's clock, which also sets the times of marks.
fn read_remote_clock(transport: &Transport) -> Result<SystemTime, PruneError> {
    transport.put(
        CLOCK_FILE,
        "the time of writing this is the time by which marks are judged\n".into(),
        &WriteCondition::Overwrite,
    )?;
    let listed = transport.list(layout::SUPERSEDED)?;
    let clock = listed.iter().find(|listed| listed.path == CLOCK_FILE);
    Ok(clock.ok_or_else(|| TransportError::Missing { path: CLOCK_FILE.to_owned() })?.modified)
}

/// Calls `work` with all `items`, several in parallel, each only while the lease is held.
fn for_each_in_parallel<T: Sync>(
    lease: &Lease<'_>,
    items: &[T],
    work: impl Fn(&T) -> Result<(), TransportError> + Sync,
) -> Result<(), PruneError> {
    let done = published::map_in_parallel(items, |item| {
        lease.ensure_held()?;
        Ok::<_, PruneError>(work(item)?)
    });
    done.into_iter().collect()
}

/// Removes the planned files: names before the files they lead to, each file before its mark.
fn remove_files(transport: &Transport, lease: &Lease<'_>, plan: &PrunePlan) -> Result<(), PruneError> {
    let directory = |file: &PlannedFile| file.path.split('/').next().map(str::to_owned);
    for of_one_kind in plan.remove.chunk_by(|a, b| directory(a) == directory(b)) {
        for_each_in_parallel(lease, of_one_kind, |file| {
            transport.delete(&file.path)?;
            transport.delete(&layout::superseded_mark(&file.path))
        })?;
    }
    for_each_in_parallel(lease, &plan.stale_marks, |path| transport.delete(&layout::superseded_mark(path)))
}

/// Writes the placements and refs of all kept commits whose locators were replaced.
fn rewrite_placements(
    transport: &Transport,
    lease: &Lease<'_>,
    inventory: &mut Inventory,
    rewritten: &LocatorReplacements,
) -> Result<(), PruneError> {
    let moved = |placement: &Placement| {
        let locator = *rewritten.get(&placement.locator.id)?;
        Some(Placement { locator, ..placement.clone() })
    };
    for (name, reference) in &inventory.refs {
        if let Some(placement) = moved(&reference.placement) {
            lease.ensure_held()?;
            rewrite_ref(transport, name, reference, &placement)?;
        }
    }
    for (id, kept) in &mut inventory.commits {
        let own = kept.own.as_ref();
        let corrected = own.filter(|_| kept.is_behind).cloned();
        if let Some(placement) = own.and_then(moved).or(corrected) {
            lease.ensure_held()?;
            transport.put(&layout::placement(*id), placement.render().into(), &WriteCondition::Overwrite)?;
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
    let mode = WriteCondition::IfVersion(reference.version.clone());
    match transport.put(&layout::reference(name), bytes.clone().into(), &mode) {
        // This process may have written it: when an answer is lost, the request is sent again.
        Err(TransportError::Changed { .. }) => {
            let current = published::read_ref(transport, name)?;
            let is_same = current.is_some_and(|current| current.with_placement(&current.placement) == bytes);
            if is_same { Ok(()) } else { Err(PruneError::RefChanged(name.clone())) }
        }
        other => Ok(other.map(drop)?),
    }
}
