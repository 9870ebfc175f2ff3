//! Why a pull ended.

use crate::model::{CommitId, ImagePath};
use crate::remote::client::RemoteError;
use crate::remote::fetch::{FetchError, PlanError};
use crate::remote::remotes::RemotesError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, RefError, WriteError};

/// What went wrong. The local ref is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The remote has no such ref, or is not believed.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// What was seen of the remote could not be remembered.
    #[error(transparent)]
    Remotes(#[from] RemotesError),
    /// No answer, or not what was asked for.
    #[error("{url}")]
    Transport {
        /// The remote.
        url: Box<str>,
        /// What went wrong.
        source: TransportError,
    },
    /// The locator does not lead to the objects.
    #[error("{url} does not say where the objects of commit {commit} are")]
    Plan {
        /// The remote.
        url: Box<str>,
        /// The commit.
        commit: CommitId,
        /// What is wrong with the locator.
        source: PlanError,
    },
    /// Objects could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A path was asked for that the commit does not have.
    #[error("there is no {path} in commit {commit}")]
    NoPath {
        /// The path.
        path: ImagePath,
        /// The commit.
        commit: CommitId,
    },
    /// The disk is too small.
    #[error("{needed} bytes are needed in the repository and {available} are free")]
    Space {
        /// Bytes needed.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
    },
    /// How much room there is could not be found out.
    #[error("cannot find out how much room the repository has")]
    Statvfs(#[source] std::io::Error),
    /// The local repository could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The local repository could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The local ref could not be written.
    #[error(transparent)]
    Ref(#[from] RefError),
}
