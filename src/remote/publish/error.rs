//! Errors of publishing.

use std::io;

use crate::image::ImageError;
use crate::model::{CommitId, ImageId, ObjectId, RefName};
use crate::remote::delta::DeltaError;
use crate::remote::format::wire::WireError;
use crate::remote::lease::LeaseError;
use crate::remote::published::PublishedError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, RefError};

/// The reason why commits were not published. The refs are unchanged then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// There is no such ref in the local repository.
    #[error("there is no ref '{0}' in this repository")]
    NoSuchRef(RefName),
    /// A local ref could not be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The local repository could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A commit was made for another ref; clients would refuse it under this one.
    #[error("commit {commit} of ref '{name}' was made for ref '{made_for}'")]
    OtherRef {
        commit: CommitId,
        /// The local ref that names it.
        name: RefName,
        /// The ref in its record.
        made_for: RefName,
    },
    /// The published ref has diverged: another process, or another repository, published a different history.
    #[error("the published '{name}' is at {theirs} (sequence {sequence}), which is no ancestor of {ours}")]
    Diverged {
        name: RefName,
        /// The published commit, shortened.
        theirs: String,
        sequence: u64,
        /// The local commit, shortened.
        ours: String,
    },
    /// The ref was changed after this process had read it.
    #[error("'{name}' was published by somebody else meanwhile")]
    RefChanged { name: RefName },
    /// A prune removed a file that was not needed until now.
    #[error("{path} was removed by a prune while this was being published")]
    Pruned {
        /// Relative to the URL.
        path: String,
    },
    /// The server failed or was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A published file cannot be read.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// The lease was not obtained, or was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// An object is in no known pack, though it was published when this run began.
    #[error("object {id} is in no pack")]
    NotPacked { id: ObjectId },
    /// An object is shorter than its image says.
    #[error("object {id} has {found} bytes where its image says {expected}")]
    ObjectLength {
        id: ObjectId,
        /// In the image.
        expected: u64,
        /// In the repository.
        found: u64,
    },
    /// The local image is damaged.
    #[error("image {id} is damaged")]
    Image { id: ImageId, source: ImageError },
    /// An image could not be encoded.
    #[error("cannot pack image {id}")]
    Wire { id: ImageId, source: WireError },
    /// A delta could not be made.
    #[error("cannot make a delta")]
    Delta(#[from] DeltaError),
    /// There was no space for a pack, or no memory to compress.
    #[error("cannot write a pack")]
    Pack(#[from] io::Error),
}
