//! Errors of a pull.

use crate::model::{CommitId, ImagePath};
use crate::remote::client::RemoteError;
use crate::remote::fetch::{FetchPlanError, ObjectFetchError};
use crate::remote::remotes::RemotesError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, RefError, WriteError};

/// The reason why a pull failed. The local ref is unchanged then.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The remote has no such ref, or its answer is not trusted.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// What was seen of the remote could not be recorded.
    #[error(transparent)]
    Remotes(#[from] RemotesError),
    /// The remote did not answer, or sent something else.
    #[error("{url}")]
    Transport {
        /// The remote.
        url: Box<str>,
        /// The cause.
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
        source: FetchPlanError,
    },
    /// Objects could not be fetched.
    #[error(transparent)]
    Fetch(#[from] ObjectFetchError),
    /// The commit does not have a requested path.
    #[error("there is no {path} in commit {commit}")]
    NoPath {
        /// The path.
        path: ImagePath,
        /// The commit.
        commit: CommitId,
    },
    /// There is not enough disk space.
    #[error("{needed} bytes are needed in the repository and {available} are free")]
    Space {
        /// Bytes needed.
        needed: u64,
        /// Bytes free for this user.
        available: u64,
    },
    /// The free disk space could not be determined.
    #[error("cannot find out how much disk space the repository has")]
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
