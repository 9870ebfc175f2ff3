//! Errors of pruning.

use std::io;

use crate::model::{CommitId, PackId, RefName};
use crate::remote::format::FrameError;
use crate::remote::lease::LeaseError;
use crate::remote::publish::PublishError;
use crate::remote::published::PublishedError;
use crate::remote::transport::TransportError;

/// The reason why a published repository was not pruned. All needed files are complete in any case.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PruneError {
    /// The server failed or was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A needed file cannot be read, so the set of needed files is unknown.
    #[error("nothing was removed, since not everything that is needed can be read")]
    Unreadable(#[from] PublishedError),
    /// A ref names a commit that does not exist.
    #[error("nothing was removed, since ref '{name}' names commit {commit}, which is missing")]
    NoCommit {
        name: RefName,
        /// The commit that it names.
        commit: CommitId,
    },
    /// A ref was written by a process without the lease.
    #[error("nothing was removed, since ref '{0}' was written by somebody else meanwhile")]
    RefChanged(RefName),
    /// The lease was not obtained, or was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A frame that was to be copied is damaged.
    #[error("pack {pack} is damaged at byte {offset}: nothing was removed; publish its commits to another place")]
    Frame {
        pack: PackId,
        /// Position of the frame in the pack.
        offset: u32,
        source: FrameError,
    },
    /// The newest commit of a ref could not be packed again.
    #[error("nothing was removed, since the newest commit of a ref could not be packed again")]
    Regroup(#[from] Box<PublishError>),
    /// There was no space for a pack, or no memory.
    #[error("cannot write a pack")]
    Pack(#[from] io::Error),
}

impl From<PublishError> for PruneError {
    fn from(error: PublishError) -> Self {
        Self::Regroup(Box::new(error))
    }
}
