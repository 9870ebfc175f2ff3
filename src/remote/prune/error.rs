//! Why something was not pruned.

use std::io;

use crate::model::{CommitId, PackId, RefName};
use crate::remote::format::FrameError;
use crate::remote::lease::LeaseError;
use crate::remote::publish::PublishError;
use crate::remote::published::PublishedError;
use crate::remote::transport::TransportError;

/// What kept a published repository from being pruned. What is needed is whole in any case.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The other side.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Something that is needed cannot be read, so nobody knows what else is.
    #[error("nothing was removed, since not everything that is needed can be read")]
    Unreadable(#[from] PublishedError),
    /// A ref leads nowhere.
    #[error("nothing was removed, since ref '{name}' names commit {commit}, which is not there")]
    NoCommit {
        /// The ref.
        name: RefName,
        /// What it names.
        commit: CommitId,
    },
    /// Somebody wrote a ref without asking for the lease.
    #[error("nothing was removed, since ref '{0}' was written by somebody else meanwhile")]
    Raced(RefName),
    /// The right to remove files.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A frame that was to be copied is damaged.
    #[error("pack {pack} is damaged at byte {offset}: nothing was removed; publish its commits to another place")]
    Frame {
        /// The pack.
        pack: PackId,
        /// Where the frame begins.
        offset: u32,
        /// What is wrong.
        source: FrameError,
    },
    /// The newest commit of a ref could not be packed again.
    #[error("nothing was removed, since the newest commit of a ref could not be packed again")]
    Again(#[from] Box<PublishError>),
    /// No room for a pack, or no memory.
    #[error("cannot write a pack")]
    Pack(#[from] io::Error),
}

impl From<PublishError> for PruneError {
    fn from(error: PublishError) -> Self {
        Self::Again(Box::new(error))
    }
}
