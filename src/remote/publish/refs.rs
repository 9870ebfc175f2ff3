//! The small files that give names: commits with signatures, placements, keys, refs.

use bytes::Bytes;

use super::error::PublishError;
use super::existing::{self, Survey};
use super::plan::{CommitPlan, RefPlan};
use crate::model::{Commit, CommitId};
use crate::remote::format::Placement;
use crate::remote::layout;
use crate::remote::transport::{Put, Transport, TransportError};
use crate::trust::{ENVELOPE_SIZE_MAX, Envelope, PublicKey, Purpose, RefRecord, SecretKey};

/// Writes a commit with its signatures, keeping those that are there.
pub(super) fn put_commit(transport: &Transport, plan: &CommitPlan, signers: &[SecretKey]) -> Result<(), PublishError> {
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

/// Writes a file whose name tells its content, unless it is there. Returns the bytes that were sent.
pub(super) fn put_immutable(transport: &Transport, path: &str, bytes: Vec<u8>) -> Result<u64, PublishError> {
    let length = bytes.len() as u64;
    if transport.length(path)? == Some(length) {
        return Ok(0);
    }
    transport.put(path, bytes.into(), &Put::Overwrite)?;
    Ok(length)
}

/// Announces the keys that were announced, to clients that know only older ones.
pub(super) fn put_announcements(
    transport: &Transport,
    announcements: &[(PublicKey, Vec<u8>)],
) -> Result<(), PublishError> {
    for (key, bytes) in announcements {
        let path = layout::key(&key.to_string());
        if transport.length(&path)?.is_none() {
            transport.put(&path, Bytes::copy_from_slice(bytes), &Put::Overwrite)?;
        }
    }
    Ok(())
}

/// Writes where the parts of a commit are.
pub(super) fn put_placement(transport: &Transport, id: CommitId, placement: &Placement) -> Result<(), PublishError> {
    transport.put(&layout::placement(id), placement.render().into(), &Put::Overwrite)?;
    Ok(())
}

/// Names a commit, if the ref still is what was seen.
pub(super) fn put_ref(
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
    match transport.put(&layout::reference(&plan.name), bytes.into(), &mode) {
        Err(TransportError::Exists { .. } | TransportError::Changed { .. }) => {
            // Perhaps it was us: an answer that is lost makes a request be sent again. Or somebody with the same in mind.
            let keys: Vec<PublicKey> = signers.iter().map(SecretKey::public).collect();
            match existing::read_ref(transport, &plan.name)? {
                Some(there) if there.record.commit == plan.commit && there.is_signed_by(&keys) => Ok(()),
                _ => Err(PublishError::Raced { name: plan.name.clone() }),
            }
        }
        other => Ok(other.map(drop)?),
    }
}
