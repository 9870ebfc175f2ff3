//! Giving names: commits with signatures, placements, keys, refs. The last step of publishing, and the only one under the lease.
//!
//! Invariant: what a name leads to is there when the name is written, and stays: with the lease nobody removes anything, and
//! before it is given back a mark that says that a file is not needed any more has been taken away.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::error::PublishError;
use super::existing::Survey;
use super::options::PublishOptions;
use super::plan::{CommitPlan, PublishPlan, RefPlan};
use crate::model::{Commit, CommitId, PackId};
use crate::remote::format::Placement;
use crate::remote::layout;
use crate::remote::lease::Lease;
use crate::remote::published;
use crate::remote::transport::{Put, Transport, TransportError};
use crate::trust::{ENVELOPE_SIZE_MAX, Envelope, PublicKey, Purpose, RefRecord, SecretKey};

/// What is to be named.
pub(super) struct Named {
    pub placements: HashMap<CommitId, Placement>,
    /// The packs that their locators lead to.
    pub packs: HashSet<PackId>,
}

/// Names everything of `plan`, refs last.
pub(super) fn give(
    transport: &Transport,
    survey: &Survey,
    plan: &PublishPlan,
    named: &Named,
    options: &PublishOptions,
) -> Result<(), PublishError> {
    let lease = Lease::take(transport, options.lease, &*options.announce)?;
    let needed = needed(transport, survey, plan, named)?;
    require(transport, &needed)?;
    take_marks_away(transport, &lease, &needed)?;
    for commit in &plan.commits {
        lease.check()?;
        put_commit(transport, commit, &options.signers)?;
        if let Some(placement) = named.placements.get(&commit.id) {
            lease.check()?;
            transport.put(&layout::placement(commit.id), placement.render().into(), &Put::Overwrite)?;
        }
    }
    put_announcements(transport, &options.announcements)?;
    for reference in &plan.refs {
        let commit = plan.commits.iter().find(|commit| commit.id == reference.commit).map(|commit| &commit.commit);
        if let (Some(commit), Some(placement)) = (commit, named.placements.get(&reference.commit)) {
            lease.check()?;
            put_ref(transport, survey, reference, (commit, placement), &options.signers, options.now)?;
        }
    }
    Ok(())
}

/// The files that the new names lead to.
fn needed(
    transport: &Transport,
    survey: &Survey,
    plan: &PublishPlan,
    named: &Named,
) -> Result<HashSet<String>, PublishError> {
    let mut needed = HashSet::new();
    for commit in &plan.commits {
        needed.extend([layout::commit(commit.id), layout::placement(commit.id), layout::image(commit.commit.image)]);
        if let Some(placement) = named.placements.get(&commit.id) {
            needed.insert(layout::locator(placement.locator.id));
            needed.extend(placement.profile.map(|profile| layout::profile(profile.id)));
            needed.extend(placement.deltas.iter().map(|delta| layout::delta(delta.id)));
        }
        let is_named = survey.refs.values().any(|there| there.record.commit == commit.id);
        if let Some(placement) = commit.placed.as_ref().filter(|_| !is_named) {
            let packs = published::packs_of(transport, &commit.commit, placement)?;
            needed.extend(packs.iter().map(|pack| layout::pack(pack.id)));
        }
    }
    needed.extend(named.packs.iter().map(|pack| layout::pack(*pack)));
    Ok(needed)
}

/// Looks whether all that is to be named is there. It was a moment ago; but a prune may have taken what was not needed then.
fn require(transport: &Transport, needed: &HashSet<String>) -> Result<(), PublishError> {
    let mut missing: HashSet<&str> = needed.iter().map(String::as_str).collect();
    // These two are written next.
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

/// What is about to be needed again is not superseded any more.
fn take_marks_away(transport: &Transport, lease: &Lease<'_>, needed: &HashSet<String>) -> Result<(), PublishError> {
    for mark in transport.list(layout::SUPERSEDED)? {
        let path = mark.path.strip_prefix(layout::SUPERSEDED).and_then(|path| path.strip_prefix('/'));
        if path.is_some_and(|path| needed.contains(path)) {
            lease.check()?;
            transport.delete(&mark.path)?;
        }
    }
    Ok(())
}

/// Writes a commit with its signatures, keeping those that are there.
fn put_commit(transport: &Transport, plan: &CommitPlan, signers: &[SecretKey]) -> Result<(), PublishError> {
    let path = layout::commit(plan.id);
    let there = transport.get(&path, ENVELOPE_SIZE_MAX as u64)?;
    let known = there.as_ref().and_then(|(bytes, _)| Envelope::parse(bytes).ok()).map(|(envelope, _)| envelope);
    let known = known.filter(|envelope| CommitId::of(envelope.payload()) == plan.id);
    let signed_by: Vec<PublicKey> = known.iter().flat_map(Envelope::claimed_signers).collect();
    if known.is_some() && signers.iter().all(|signer| signed_by.contains(&signer.public())) {
        return Ok(());
    }
    let envelope = known.unwrap_or_else(|| Envelope::unsigned(plan.commit.encode()));
    let envelope = signers.iter().fold(envelope, |envelope, signer| envelope.signed(Purpose::Commit, signer));
    transport.put(&path, envelope.encode().into(), &Put::Overwrite)?;
    Ok(())
}

/// Announces the keys that were announced, to clients that know only older ones.
fn put_announcements(transport: &Transport, announcements: &[(PublicKey, Vec<u8>)]) -> Result<(), PublishError> {
    for (key, bytes) in announcements {
        let path = layout::key(&key.to_string());
        if transport.length(&path)?.is_none() {
            transport.put(&path, Bytes::copy_from_slice(bytes), &Put::Overwrite)?;
        }
    }
    Ok(())
}

/// Names a commit, if the ref still is what was seen.
fn put_ref(
    transport: &Transport,
    survey: &Survey,
    plan: &RefPlan,
    (commit, placement): (&Commit, &Placement),
    signers: &[SecretKey],
    now: i64,
) -> Result<(), PublishError> {
    let there = survey.refs.get(&plan.name);
    // Published once more by another signer: the signatures that are there still hold.
    let envelope = match there {
        Some(there) if there.record.commit == plan.commit => there.envelope.clone(),
        _ => Envelope::unsigned(RefRecord::of(commit, now).encode()),
    };
    let envelope = signers.iter().fold(envelope, |envelope, signer| envelope.signed(Purpose::Ref, signer));
    let mut bytes = envelope.encode();
    bytes.extend_from_slice(&placement.render());
    let mode = there.map_or(Put::IfAbsent, |there| Put::IfVersion(there.version.clone()));
    let path = layout::reference(&plan.name);
    match transport.put(&path, bytes.clone().into(), &mode) {
        Err(TransportError::Exists { .. } | TransportError::Changed { .. }) => {}
        other => return Ok(other.map(drop)?),
    }
    let found = published::read_ref(transport, &plan.name)?;
    let keys: Vec<PublicKey> = signers.iter().map(SecretKey::public).collect();
    match (there, found) {
        // Perhaps it was us: an answer that is lost makes a request be sent again. Or somebody with the same in mind.
        (_, Some(found)) if found.record.commit == plan.commit && found.is_signed_by(&keys) => Ok(()),
        // A prune only wrote where its commit is now.
        (Some(seen), Some(found)) if found.envelope == seen.envelope => {
            Ok(transport.put(&path, bytes.into(), &Put::IfVersion(found.version)).map(drop)?)
        }
        _ => Err(PublishError::Raced { name: plan.name.clone() }),
    }
}
