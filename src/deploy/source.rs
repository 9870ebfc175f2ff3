//! Which commit is to be deployed, and who vouches for it. Nothing else makes a [`Chosen`].

use std::fs;
use std::io;

use super::origin::{Upstream, Voucher};
use crate::model::{Commit, CommitId};
use crate::remote::{Remotes, RemotesError};
use crate::store::{ReadError, Store};
use crate::trust::{Envelope, Keyring, SignatureError, Trust, TrustError, Verified};

/// Whether a commit that nobody signed is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// It is not.
    Refused,
    /// The user said that it is meant.
    Accepted,
}

/// Why a commit is not deployed.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// It is not here.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The remotes cannot be read.
    #[error(transparent)]
    Remotes(#[from] RemotesError),
    /// Its signatures cannot be read.
    #[error("cannot read the signatures of commit {id}")]
    Signatures {
        /// The commit.
        id: CommitId,
        /// What the system said.
        source: io::Error,
    },
    /// It is refused.
    #[error("commit {id} is refused")]
    Refused {
        /// The commit.
        id: CommitId,
        /// The reason.
        source: TrustError,
    },
    /// Nobody vouches for it.
    #[error("nobody whom this machine trusts vouches for commit {0}")]
    Unsigned(CommitId),
}

/// A commit to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub id: CommitId,
    /// Its record.
    pub commit: Verified<Commit>,
    /// Who vouches for it.
    pub voucher: Voucher,
    /// Where upgrades come from.
    pub upstream: Option<Upstream>,
}

/// A commit that was pulled from `upstream`, checked against whom that remote trusts now.
///
/// # Errors
/// [`ChooseError`].
pub fn pulled(store: &Store, id: CommitId, upstream: Upstream) -> Result<Chosen, ChooseError> {
    let trust = Remotes::of(store).read(&upstream.remote)?.trust()?;
    let kept = kept(store, id)?;
    let commit = trust.accept_kept(&kept, id).map_err(|source| ChooseError::Refused { id, source })?;
    let voucher = commit.signer().map_or(Voucher::InsecureRemote, Voucher::Signed);
    Ok(Chosen { id, commit, voucher, upstream: Some(upstream) })
}

/// A commit of this machine's repository: one that some configured remote's keys signed, or any other if that is accepted.
///
/// # Errors
/// [`ChooseError`].
pub fn local(store: &Store, id: CommitId, unsigned: Unsigned) -> Result<Chosen, ChooseError> {
    let record = store.commit(id)?;
    let kept = kept(store, id)?;
    let remotes = Remotes::of(store);
    for name in remotes.names()? {
        let Ok(trust @ Trust::Keys(_)) = remotes.read(&name)?.trust() else { continue };
        match trust.accept_kept(&kept, id) {
            Ok(commit) => {
                let voucher = commit.signer().map_or(Voucher::Local, Voucher::Signed);
                return Ok(Chosen { id, commit, voucher, upstream: None });
            }
            // A forged signature is no lack of one.
            Err(source @ TrustError::Signature(SignatureError::Forged { .. })) => {
                return Err(ChooseError::Refused { id, source });
            }
            Err(_) => {}
        }
    }
    match unsigned {
        Unsigned::Refused => Err(ChooseError::Unsigned(id)),
        Unsigned::Accepted => {
            Ok(Chosen { id, commit: Verified::made_here(record), voucher: Voucher::Local, upstream: None })
        }
    }
}

/// A commit of this machine's repository, if one of these keys signed it.
///
/// # Errors
/// [`ChooseError`].
pub fn signed_by(store: &Store, id: CommitId, keys: Keyring) -> Result<Verified<Commit>, ChooseError> {
    let kept = kept(store, id)?;
    Trust::Keys(keys).accept_kept(&kept, id).map_err(|source| ChooseError::Refused { id, source })
}

/// The commit as it was published; as nobody signed it, for one that was made here.
fn kept(store: &Store, id: CommitId) -> Result<Vec<u8>, ChooseError> {
    match fs::read(store.layout().commit_signatures(id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Envelope::unsigned(store.commit(id)?.encode()).encode())
        }
        Err(source) => Err(ChooseError::Signatures { id, source }),
        Ok(bytes) => Ok(bytes),
    }
}
