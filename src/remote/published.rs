//! Reads what is published, for the processes that write there: refs, placements, commits, locators.
//!
//! A publisher and a prune trust their destination: anyone who can write there can damage it anyway, and clients check
//! everything. So signatures are not checked here, only form.
//!
//! *Used by* `publish` and `prune`.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::format::{Locator, LocatorBound, PLACEMENT_SIZE_MAX, PackRef, Placement};
use super::layout;
use super::transport::{FileVersion, Transport, TransportError};
use crate::model::{Commit, CommitId, RefName};
use crate::trust::{ENVELOPE_SIZE_MAX, Envelope, Keyring, PublicKey, RefRecord, SignaturePurpose};

/// The largest ref file in bytes.
const REF_SIZE_MAX: u64 = 1 << 20;

/// Number of small files that are read in parallel: fifty refs over a link of 20 ms then take a quarter of a second.
const PARALLEL_READS: usize = 8;

/// The reason why a published file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishedError {
    /// The server failed or was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A published file is not what it should be.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Relative to the URL.
        path: String,
        reason: String,
    },
}

impl PublishedError {
    /// Returns the error for a published file that cannot be parsed.
    pub(super) fn damaged(path: String, reason: impl std::fmt::Display) -> Self {
        Self::Damaged { path, reason: reason.to_string() }
    }
}

/// A ref as it is published.
#[derive(Debug, Clone)]
pub(crate) struct PublishedRef {
    pub(crate) record: RefRecord,
    /// The signed part of the file, unchanged.
    pub(crate) envelope: Envelope,
    /// The placement of its commit.
    pub(crate) placement: Placement,
    /// The version of the file, for replacing it.
    pub(crate) version: FileVersion,
}

impl PublishedRef {
    /// Returns whether each of these keys has signed the record.
    pub(super) fn is_signed_by(&self, keys: &[PublicKey]) -> bool {
        let has_signed = |key: PublicKey| {
            Keyring::new([key]).check(SignaturePurpose::Ref, &self.envelope, &self.record.name).is_ok()
        };
        keys.iter().all(|key| has_signed(*key))
    }

    /// Returns whether one of these keys has signed the record; any record if there are no keys.
    pub(super) fn is_own(&self, keys: &Keyring) -> bool {
        keys.keys().is_empty() || keys.check(SignaturePurpose::Ref, &self.envelope, &self.record.name).is_ok()
    }

    /// Returns the bytes of the ref's file with another placement; the signed part is unchanged.
    pub(super) fn with_placement(&self, placement: &Placement) -> Vec<u8> {
        [self.envelope.encode(), placement.render()].concat()
    }
}

/// Lists the names of all refs.
///
/// # Errors
/// [`TransportError::CannotList`] when the server has no listing.
pub(super) fn list_refs(transport: &Transport) -> Result<Vec<RefName>, TransportError> {
    let prefix = format!("{}/", layout::REFS);
    let listed = transport.list(layout::REFS)?;
    let mut names: Vec<RefName> =
        listed.iter().filter_map(|listed| listed.path.strip_prefix(&prefix)?.parse().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Lists the commits that are published.
pub(super) fn list_commits(transport: &Transport) -> Result<HashSet<CommitId>, PublishedError> {
    let listed = transport.list(layout::PLACEMENTS)?;
    let name = |path: &str| path.rsplit('/').next()?.parse().ok();
    Ok(listed.iter().filter_map(|listed| name(&listed.path)).collect())
}

/// Reads a ref; `None` when it is not published.
pub(super) fn read_ref(transport: &Transport, name: &RefName) -> Result<Option<PublishedRef>, PublishedError> {
    let path = layout::reference(name);
    let Some((bytes, version)) = transport.get(&path, REF_SIZE_MAX)? else { return Ok(None) };
    let damaged = |error: &dyn std::fmt::Display| PublishedError::damaged(path.clone(), error);
    let (envelope, rest) = Envelope::parse(&bytes).map_err(|error| damaged(&error))?;
    let record = RefRecord::parse(envelope.payload()).map_err(|error| damaged(&error))?;
    let placement = Placement::parse(rest).map_err(|error| damaged(&error))?;
    if record.name != *name {
        return Err(damaged(&format_args!("it is of the ref {}", record.name)));
    }
    Ok(Some(PublishedRef { record, envelope, placement, version }))
}

/// Reads the placement of a commit; `None` when it is not published.
pub(super) fn read_placement(transport: &Transport, id: CommitId) -> Result<Option<Placement>, PublishedError> {
    let path = layout::placement(id);
    let Some((bytes, _)) = transport.get(&path, PLACEMENT_SIZE_MAX as u64)? else { return Ok(None) };
    Placement::parse(&bytes).map(Some).map_err(|error| PublishedError::damaged(path, error))
}

/// Reads a commit's record; `None` when it is not published.
pub(super) fn read_commit(transport: &Transport, id: CommitId) -> Result<Option<Commit>, PublishedError> {
    let path = layout::commit(id);
    let Some((bytes, _)) = transport.get(&path, ENVELOPE_SIZE_MAX as u64)? else { return Ok(None) };
    let damaged = |error: &dyn std::fmt::Display| PublishedError::damaged(path.clone(), error);
    let (envelope, _) = Envelope::parse(&bytes).map_err(|error| damaged(&error))?;
    Commit::decode(envelope.payload(), id).map(Some).map_err(|error| damaged(&error))
}

/// Reads the locator of a published commit.
///
/// # Errors
/// [`PublishedError`]; also when the locator is missing.
pub(super) fn read_locator(
    transport: &Transport,
    commit: &Commit,
    placement: &Placement,
) -> Result<Locator, PublishedError> {
    let path = layout::locator(placement.locator.id);
    let bound = LocatorBound::of_commit(commit);
    match transport.get(&path, bound.max_length())? {
        Some((bytes, _)) => Locator::parse(&bytes, bound).map_err(|error| PublishedError::damaged(path, error)),
        None => Err(TransportError::Missing { path }.into()),
    }
}

/// Reads the list of packs of a published commit.
///
/// # Errors
/// As for [`read_locator`].
pub(super) fn read_packs(
    transport: &Transport,
    commit: &Commit,
    placement: &Placement,
) -> Result<Vec<PackRef>, PublishedError> {
    Ok(read_locator(transport, commit, placement)?.packs().to_vec())
}

/// Calls `work` with all `items`, several in parallel, and returns the results in their order.
pub(super) fn map_in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_READS.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { return };
                    let result = work(item);
                    results.lock()[number] = Some(result);
                }
            });
        }
    });
    results.into_inner().into_iter().map(|result| result.expect("every item was taken by some thread")).collect()
}
