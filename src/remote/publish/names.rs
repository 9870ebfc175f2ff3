//! Writes names: commits with signatures, placements, keys, refs. This is the last step of publishing, and the only one
//! under the lease.
//!
//! *Invariants*: every file that a name leads to exists when the name is written, and stays: while the lease is held no
//! other process removes files, and before it is released the marks of these files have been removed.
//!
//! *Used by* `apply`.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::error::PublishError;
use super::existing::Survey;
use super::options::PublishOptions;
use super::plan::{CommitPublishPlan, PublishPlan, RefPlan};
use crate::model::{Commit, CommitId, PackId};
use crate::remote::format::Placement;
use crate::remote::layout;
use crate::remote::lease::Lease;
use crate::remote::published::{self, PublishedRef};
use crate::remote::transport::{Transport, TransportError, WriteCondition};
use crate::trust::{
    Binding, CommitOrigin, ENVELOPE_SIZE_MAX, Envelope, KEY_CHAIN_SIZE_MAX, KeyChain, PublicKey, RefRecord, SecretKey,
    SignaturePurpose,
};

/// The placements and packs that are to be named.
pub(super) struct NameTargets {
    pub(crate) placements: HashMap<CommitId, Placement>,
    /// The packs that the locators lead to.
    pub(crate) packs: HashSet<PackId>,
}

/// Writes the names of everything in `plan`, refs last.
pub(super) fn publish_names(
    transport: &Transport,
    survey: &Survey,
    plan: &PublishPlan,
    targets: &NameTargets,
    options: &PublishOptions,
) -> Result<(), PublishError> {
    let lease = Lease::acquire(transport, options.lease, &*options.announce)?;
    let needed = needed(transport, survey, plan, targets)?;
    check_present(transport, &needed)?;
    remove_marks(transport, &lease, &needed)?;
    for commit in &plan.commits {
        lease.ensure_held()?;
        put_commit(transport, commit, &options.signers)?;
        if let Some(placement) = targets.placements.get(&commit.id) {
            lease.ensure_held()?;
            transport.put(&layout::placement(commit.id), placement.render().into(), &WriteCondition::Overwrite)?;
        }
    }
    put_key_chain(transport, &options.key_chain)?;
    for reference in &plan.refs {
        let commit = plan.commits.iter().find(|commit| commit.id == reference.commit).map(|commit| &commit.commit);
        if let (Some(commit), Some(placement)) = (commit, targets.placements.get(&reference.commit)) {
            lease.ensure_held()?;
            put_ref(transport, survey, reference, (commit, placement), options)?;
        }
    }
    Ok(())
}

/// Returns the files that the new names lead to.
fn needed(
    transport: &Transport,
    survey: &Survey,
    plan: &PublishPlan,
    targets: &NameTargets,
) -> Result<HashSet<String>, PublishError> {
    let mut needed = HashSet::new();
    for commit in &plan.commits {
        needed.extend([layout::commit(commit.id), layout::placement(commit.id), layout::image(commit.commit.image)]);
        if let Some(placement) = targets.placements.get(&commit.id) {
            needed.insert(layout::locator(placement.locator.id));
            needed.extend(placement.profile.map(|profile| layout::profile(profile.id)));
            needed.extend(placement.deltas.iter().map(|delta| layout::delta(delta.id)));
        }
        let is_named = survey.refs.values().any(|published| published.record.commit == commit.id);
        if let Some(placement) = commit.placement.as_ref().filter(|_| !is_named) {
            let packs = published::read_packs(transport, &commit.commit, placement)?;
            needed.extend(packs.iter().map(|pack| layout::pack(pack.id)));
        }
    }
    needed.extend(targets.packs.iter().map(|pack| layout::pack(*pack)));
    Ok(needed)
}

/// Checks that all files to be named exist. They existed a moment ago, but a prune may have removed files that were not
/// needed then.
fn check_present(transport: &Transport, needed: &HashSet<String>) -> Result<(), PublishError> {
    let mut missing: HashSet<&str> = needed.iter().map(String::as_str).collect();
    // Commits and placements are written in the next step.
    missing.retain(|path| !path.starts_with("commits/") && !path.starts_with("placements/"));
    for directory in ["deltas", "profiles", "locators", "images", "packs"] {
        if missing.iter().any(|path| path.starts_with(directory)) {
            for listed in transport.list(directory)? {
                missing.remove(listed.path.as_str());
            }
        }
    }
    match missing.iter().min() {
        Some(path) => Err(PublishError::Pruned { path: (*path).to_owned() }),
        None => Ok(()),
    }
}

/// Removes the marks of files that are about to be needed.
fn remove_marks(transport: &Transport, lease: &Lease<'_>, needed: &HashSet<String>) -> Result<(), PublishError> {
    for mark in transport.list(layout::SUPERSEDED)? {
        let path = mark.path.strip_prefix(layout::SUPERSEDED).and_then(|path| path.strip_prefix('/'));
        if path.is_some_and(|path| needed.contains(path)) {
            lease.ensure_held()?;
            transport.delete(&mark.path)?;
        }
    }
    Ok(())
}

/// Writes a commit with its signatures, keeping those that are published.
fn put_commit(transport: &Transport, plan: &CommitPublishPlan, signers: &[SecretKey]) -> Result<(), PublishError> {
    let path = layout::commit(plan.id);
    let published = transport.get(&path, ENVELOPE_SIZE_MAX as u64)?;
    let known = published.as_ref().and_then(|(bytes, _)| Envelope::parse(bytes).ok()).map(|(envelope, _)| envelope);
    let known = known.filter(|envelope| CommitId::of(envelope.payload()) == plan.id);
    let signed_by: Vec<PublicKey> = known.iter().flat_map(Envelope::claimed_signers).collect();
    if known.is_some() && signers.iter().all(|signer| signed_by.contains(&signer.public())) {
        return Ok(());
    }
    let envelope = known.unwrap_or_else(|| Envelope::unsigned(plan.commit.encode()));
    let envelope = signers.iter().fold(envelope, |envelope, signer| envelope.signed(SignaturePurpose::Commit, signer));
    transport.put(&path, envelope.encode().into(), &WriteCondition::Overwrite)?;
    Ok(())
}

/// Publishes which key replaced which, for clients that know only older keys.
pub(super) fn put_key_chain(transport: &Transport, chain: &KeyChain) -> Result<(), PublishError> {
    let bytes = Bytes::from(chain.encode());
    if !bytes.is_empty()
        && transport.get(layout::KEY_CHAIN, KEY_CHAIN_SIZE_MAX)?.is_none_or(|(found, _)| found != bytes)
    {
        transport.put(layout::KEY_CHAIN, bytes, &WriteCondition::Overwrite)?;
    }
    Ok(())
}

/// Returns the record that makes `commit` the newest of a ref. Its sequence is larger than that of the published record, if that
/// names another commit. The published record counts only if a signer whose key was not replaced signed it: who can write to
/// the destination must not choose the sequence.
fn new_record(
    plan: &RefPlan,
    commit: &Commit,
    published: Option<&PublishedRef>,
    options: &PublishOptions,
) -> RefRecord {
    let keys = options.current_keys();
    let after = published.filter(|published| published.is_own(&keys)).map_or(0, |published| {
        let is_same = published.record.commit == plan.commit;
        published.record.sequence.saturating_add(u64::from(!is_same))
    });
    let is_bound = options.repository.is_some();
    let sequence = if is_bound { commit.sequence.max(after) } else { commit.sequence };
    let is_for_this_ref = commit.ref_name == plan.name && commit.sequence == sequence;
    let origin = if is_for_this_ref { CommitOrigin::ThisRef } else { CommitOrigin::AnyRef };
    let binding = options.binding(origin);
    RefRecord { name: plan.name.clone(), sequence, binding, ..RefRecord::of(commit, options.now) }
}

/// Returns whether a published record says the same as a new one, and is no newer and expires no later.
fn says_no_more(found: &RefRecord, record: &RefRecord) -> bool {
    let expires = |record: &RefRecord| record.binding.and_then(|binding| binding.expires).unwrap_or(i64::MAX);
    let says = |record: &RefRecord| {
        let binding =
            record.binding.map(|Binding { repository, generation, origin, .. }| (repository, generation, origin));
        (record.name.clone(), record.commit, record.sequence, binding)
    };
    says(found) == says(record) && found.timestamp <= record.timestamp && expires(found) <= expires(record)
}

/// Writes a ref, if it is unchanged since the survey.
fn put_ref(
    transport: &Transport,
    survey: &Survey,
    plan: &RefPlan,
    (commit, placement): (&Commit, &Placement),
    options: &PublishOptions,
) -> Result<(), PublishError> {
    let signers = &options.signers;
    let published = survey.refs.get(&plan.name);
    let record = new_record(plan, commit, published, options);
    // The same commit is published by another signer: the published signatures are kept if the record says no more than this
    // one. Any other could have been written by a stranger, and must not be signed.
    let envelope = match published {
        Some(published) if says_no_more(&published.record, &record) => published.envelope.clone(),
        _ => Envelope::unsigned(record.encode()),
    };
    let envelope = signers.iter().fold(envelope, |envelope, signer| envelope.signed(SignaturePurpose::Ref, signer));
    let mut bytes = envelope.encode();
    bytes.extend_from_slice(&placement.render());
    let mode =
        published.map_or(WriteCondition::IfAbsent, |published| WriteCondition::IfVersion(published.version.clone()));
    let path = layout::reference(&plan.name);
    match transport.put(&path, bytes.clone().into(), &mode) {
        Err(TransportError::Exists { .. } | TransportError::Changed { .. }) => {}
        other => return Ok(other.map(drop)?),
    }
    let found = published::read_ref(transport, &plan.name)?;
    let keys: Vec<PublicKey> = signers.iter().map(SecretKey::public).collect();
    match (published, found) {
        // This process may have written it (when an answer is lost, the request is sent again), or another one wrote
        // the same.
        (_, Some(found)) if found.record.commit == plan.commit && found.is_signed_by(&keys) => Ok(()),
        // A prune changed only the placement of its commit.
        (Some(seen), Some(found)) if found.envelope == seen.envelope => {
            Ok(transport.put(&path, bytes.into(), &WriteCondition::IfVersion(found.version)).map(drop)?)
        }
        _ => Err(PublishError::RefChanged { name: plan.name.clone() }),
    }
}
