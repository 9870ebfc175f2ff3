//! Checks the signature of the commit that is to be deployed, and makes the [`ChosenCommit`].
//!
//! *Not here*: fetching a commit, and which keys are trusted for a remote (`remote`, `trust`).
//!
//! *Invariants*: a [`ChosenCommit`] holds a [`Verified`] commit, so only a commit that was checked is deployed.
//!
//! *Used by* `upgrade` and `cli`, by `boot` for the commit that is mounted, and by `status` to check deployed commits once more.

use std::fs;
use std::io;

use super::origin::{SignedBy, Upstream};
use crate::model::{Commit, CommitId};
use crate::remote::{Remotes, RemotesError};
use crate::store::{ReadError, Store};
use crate::trust::{Envelope, Keyring, SignatureError, Trust, TrustError, Verified};

/// Whether a commit without a signature by a trusted key is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsigned {
    /// The commit is refused.
    Refused,
    /// The commit is accepted, since the user asked for it.
    Accepted,
}

/// Why a commit cannot be chosen for deployment.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChooseError {
    /// The commit cannot be read from the repository.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The configuration of the remotes cannot be read.
    #[error(transparent)]
    Remotes(#[from] RemotesError),
    /// The signatures of the commit cannot be read.
    #[error("cannot read the signatures of commit {id}")]
    Signatures { id: CommitId, source: io::Error },
    /// The remote's keys did not sign the commit, or its signature is wrong.
    #[error("commit {id} is refused")]
    Refused { id: CommitId, source: TrustError },
    /// No trusted key signed the commit.
    #[error("no key that this machine trusts signed commit {0}")]
    Unsigned(CommitId),
}

/// A commit to deploy, with the reason why it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChosenCommit {
    pub(crate) id: CommitId,
    /// The record of the commit.
    pub(crate) commit: Verified<Commit>,
    /// Why the commit is trusted.
    pub(crate) signed_by: SignedBy,
    /// The remote ref from which upgrades come.
    pub(crate) upstream: Option<Upstream>,
}

/// Chooses a commit that was pulled from `upstream`, checked against the keys that are trusted for that remote now.
pub(crate) fn choose_pulled(store: &Store, id: CommitId, upstream: Upstream) -> Result<ChosenCommit, ChooseError> {
    let trust = Remotes::of(store).read(&upstream.remote)?.trust()?;
    let kept = stored_envelope(store, id)?;
    let commit = trust.accept_stored_commit(&kept, id, Some(&upstream.name));
    let commit = commit.map_err(|source| ChooseError::Refused { id, source })?;
    let signed_by = commit.signer().map_or(SignedBy::InsecureRemote, SignedBy::Key);
    Ok(ChosenCommit { id, commit, signed_by, upstream: Some(upstream) })
}

/// Chooses a commit of this machine's repository: one that a key of a configured remote signed, or any other commit if
/// `unsigned` accepts it.
pub(crate) fn choose_local(store: &Store, id: CommitId, unsigned: Unsigned) -> Result<ChosenCommit, ChooseError> {
    let record = store.commit(id)?;
    let kept = stored_envelope(store, id)?;
    let remotes = Remotes::of(store);
    for name in remotes.names()? {
        let Ok(trust @ Trust::Keys(_)) = remotes.read(&name)?.trust() else { continue };
        match trust.accept_stored_commit(&kept, id, None) {
            Ok(commit) => {
                let signed_by = commit.signer().map_or(SignedBy::Local, SignedBy::Key);
                return Ok(ChosenCommit { id, commit, signed_by, upstream: None });
            }
            // A commit with a forged signature is refused even where unsigned commits are accepted.
            Err(source @ TrustError::Signature(SignatureError::Forged { .. })) => {
                return Err(ChooseError::Refused { id, source });
            }
            Err(_) => {}
        }
    }
    match unsigned {
        Unsigned::Refused => Err(ChooseError::Unsigned(id)),
        Unsigned::Accepted => {
            Ok(ChosenCommit { id, commit: Verified::made_locally(record), signed_by: SignedBy::Local, upstream: None })
        }
    }
}

/// Returns a commit of this machine's repository if one of these keys signed it.
pub(crate) fn verify_signed_by(store: &Store, id: CommitId, keys: Keyring) -> Result<Verified<Commit>, ChooseError> {
    let kept = stored_envelope(store, id)?;
    Trust::Keys(keys).accept_stored_commit(&kept, id, None).map_err(|source| ChooseError::Refused { id, source })
}

/// Reads the signed envelope of the commit as it was published. For a commit without stored signatures, which was made on this
/// machine, returns an unsigned envelope.
fn stored_envelope(store: &Store, id: CommitId) -> Result<Vec<u8>, ChooseError> {
    match fs::read(store.layout().commit_signatures(id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Envelope::unsigned(store.commit(id)?.encode()).encode())
        }
        Err(source) => Err(ChooseError::Signatures { id, source }),
        Ok(bytes) => Ok(bytes),
    }
}
