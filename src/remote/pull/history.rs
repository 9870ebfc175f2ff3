//! Which commits are wanted: the newest of a ref and some before it.

use bytes::Bytes;

use super::error::PullError;
use crate::model::{Commit, CommitId, RefName};
use crate::remote::client::{Remote, RemoteError, Tip};
use crate::remote::format::Placement;
use crate::store::Store;
use crate::trust::{Envelope, Verified};

/// A commit that is to be here.
pub(super) struct Target {
    pub id: CommitId,
    pub commit: Verified<Commit>,
    /// The commit as it was published.
    pub envelope: Bytes,
    /// Where its parts are, if that is known already.
    pub placement: Option<Placement>,
}

/// What `name` names now, and the commits wanted with it, oldest first. History ends where the remote has no more.
pub(super) fn targets(
    store: &Store,
    remote: &Remote,
    name: &RefName,
    depth: u64,
) -> Result<(Tip, Vec<Target>), PullError> {
    let tip = remote.tip(name)?;
    let newest = Target {
        id: tip.record.commit,
        commit: tip.commit.clone(),
        envelope: tip.envelope.clone(),
        placement: Some(tip.placement.clone()),
    };
    let mut targets = vec![newest];
    for _ in 0..depth {
        let Some(child) = targets.last() else { break };
        let Some(id) = child.commit.parent else { break };
        let (commit, envelope) = match parent(store, remote, child, id) {
            Err(PullError::Remote(RemoteError::NoSuchCommit { url, id })) => {
                tracing::warn!("history ends before commit {}: {url} does not have it", id.short());
                break;
            }
            other => match other? {
                Some(parent) => parent,
                None => break,
            },
        };
        targets.push(Target { id, commit, envelope, placement: None });
    }
    targets.reverse();
    Ok((tip, targets))
}

/// The parent of `child`, from here if it is here.
fn parent(
    store: &Store,
    remote: &Remote,
    child: &Target,
    id: CommitId,
) -> Result<Option<(Verified<Commit>, Bytes)>, PullError> {
    if let Ok(record) = store.commit(id) {
        let kept = std::fs::read(store.layout().commit_signatures(id));
        let envelope = kept.unwrap_or_else(|_| Envelope::unsigned(record.encode()).encode());
        // The id is in the child, which was verified: what has it is the parent, wherever it comes from.
        if let Ok(Some(commit)) = child.commit.parent(&envelope) {
            return Ok(Some((commit, envelope.into())));
        }
    }
    Ok(remote.parent(&child.commit)?)
}
