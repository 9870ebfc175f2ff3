//! The request to publish, and the commits of the repository that it covers.
//!
//! *Used by* `publish` and `cli`.

use super::error::PublishError;
use super::options::PACK_SIZE;
use crate::model::{Commit, CommitId, RefName};
use crate::remote::format::ProfileText;
use crate::store::{ReadError, Store};
use crate::trust::{PublicKey, RepositoryId};

/// What is to be published.
#[derive(Debug, Clone)]
pub(crate) struct PublishRequest {
    /// The refs.
    pub(crate) names: Vec<RefName>,
    /// Number of ancestors of each ref besides its newest commit, as far as the local repository has them.
    pub(crate) depth: u64,
    /// Number of published ancestors of each newest commit from which a delta is made.
    pub(crate) deltas: u64,
    /// Whether a published commit that is no ancestor is replaced.
    pub(crate) force: bool,
    /// The keys that will sign.
    pub(crate) signers: Vec<PublicKey>,
    /// The identity that the records of refs will name.
    pub(crate) repository: Option<RepositoryId>,
    /// The profile of what is read first.
    pub(crate) profile: Option<ProfileText>,
    /// The most bytes of a pack.
    pub(crate) pack_size: u64,
}

impl Default for PublishRequest {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            depth: 0,
            deltas: 0,
            force: false,
            signers: Vec::new(),
            repository: None,
            profile: None,
            pack_size: PACK_SIZE,
        }
    }
}

/// Returns the newest commit of a ref and up to `depth` ancestors, as far as the repository has them, newest first.
pub(super) fn read_history(store: &Store, name: &RefName, depth: u64) -> Result<Vec<(CommitId, Commit)>, PublishError> {
    let head = store.read_ref(name)?.ok_or_else(|| PublishError::NoSuchRef(name.clone()))?;
    let mut commits = vec![(head, store.commit(head)?)];
    while (commits.len() as u64) <= depth {
        let Some(parent) = commits.last().and_then(|(_, commit)| commit.parent) else { break };
        match store.commit(parent) {
            Ok(commit) => commits.push((parent, commit)),
            Err(ReadError::MissingCommit { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(commits)
}
