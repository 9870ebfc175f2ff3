//! Selects the commits to pull: the newest of a ref and some of its ancestors.
//!
//! *Used by* `pull`.

use bytes::Bytes;

use super::error::PullError;
use crate::model::{Commit, CommitId, RefName};
use crate::remote::client::{Head, Remote, RemoteError};
use crate::remote::format::Placement;
use crate::store::Store;
use crate::trust::{Envelope, Verified};

/// A commit that is to be pulled.
pub(super) struct PullTarget {
    pub(crate) id: CommitId,
    pub(crate) commit: Verified<Commit>,
    /// The commit's file as it was published.
    pub(crate) envelope: Bytes,
    /// The placement, if it is known already.
    pub(crate) placement: Option<Placement>,
}

/// Fetches what `name` names now, and selects the commits to pull with it, oldest first. The history ends where the
/// remote has no more commits.
pub(super) fn read_targets(
    store: &Store,
    remote: &Remote,
    name: &RefName,
    depth: u64,
) -> Result<(Head, Vec<PullTarget>), PullError> {
    let head = remote.fetch_head(name)?;
    let newest = PullTarget {
        id: head.record.commit,
        commit: head.commit.clone(),
        envelope: head.envelope.clone(),
        placement: Some(head.placement.clone()),
    };
    let mut targets = vec![newest];
    for _ in 0..depth {
        let Some(child) = targets.last() else { break };
        let Some(id) = child.commit.parent else { break };
        let (commit, envelope) = match read_parent(store, remote, child, id) {
            Err(PullError::Remote(RemoteError::NoSuchCommit { url, id })) => {
                tracing::warn!("history ends before commit {}: {url} does not have it", id.short());
                break;
            }
            other => match other? {
                Some(parent) => parent,
                None => break,
            },
        };
        targets.push(PullTarget { id, commit, envelope, placement: None });
    }
    targets.reverse();
    Ok((head, targets))
}

/// Returns the parent of `child`, from the repository if it is there.
fn read_parent(
    store: &Store,
    remote: &Remote,
    child: &PullTarget,
    id: CommitId,
) -> Result<Option<(Verified<Commit>, Bytes)>, PullError> {
    if let Ok(record) = store.commit(id) {
        let kept = std::fs::read(store.layout().commit_signatures(id));
        let envelope = kept.unwrap_or_else(|_| Envelope::unsigned(record.encode()).encode());
        // The id is in the child, which was verified, so any content with this id is the parent.
        if let Ok(Some(commit)) = child.commit.parent(&envelope) {
            return Ok(Some((commit, envelope.into())));
        }
    }
    Ok(remote.fetch_parent(&child.commit)?)
}
