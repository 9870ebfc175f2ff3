//! What is asked for, and which commits of the repository that means.

use super::error::PublishError;
use super::options::PACK_SIZE;
use crate::model::{Commit, CommitId, RefName};
use crate::remote::format::ProfileText;
use crate::store::{ReadError, Store};
use crate::trust::PublicKey;

/// What is to be published.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// The refs.
    pub names: Vec<RefName>,
    /// How many ancestors of each besides its newest commit, as far as they are here.
    pub depth: u64,
    /// From how many published ancestors of each newest commit a delta is to lead to it.
    pub deltas: u64,
    /// Whether a published state that is no ancestor is replaced.
    pub force: bool,
    /// Who is going to sign.
    pub signers: Vec<PublicKey>,
    /// What is read first.
    pub profile: Option<ProfileText>,
    /// Most bytes of a pack.
    pub pack_size: u64,
}

impl Default for PublishRequest {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            depth: 0,
            deltas: 0,
            force: false,
            signers: Vec::new(),
            profile: None,
            pack_size: PACK_SIZE,
        }
    }
}

/// The newest commit of a ref and up to `depth` ancestors, as far as they are here, newest first.
pub(super) fn history(store: &Store, name: &RefName, depth: u64) -> Result<Vec<(CommitId, Commit)>, PublishError> {
    let tip = store.read_ref(name)?.ok_or_else(|| PublishError::NoSuchRef(name.clone()))?;
    let mut commits = vec![(tip, store.commit(tip)?)];
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
