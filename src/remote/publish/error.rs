//! Why something was not published.

use std::io;

use crate::image::ImageError;
use crate::model::{CommitId, ImageId, ObjectId, RefName};
use crate::remote::delta::DeltaError;
use crate::remote::format::wire::WireError;
use crate::remote::lease::LeaseError;
use crate::remote::published::PublishedError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, RefError};

/// What kept commits from being published. The refs are then as they were.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no such ref here.
    #[error("there is no ref '{0}' in this repository")]
    NoSuchRef(RefName),
    /// A ref could not be read here.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// Something could not be read here.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A commit is published under the ref it was made for, or clients would refuse it.
    #[error("commit {commit} of ref '{name}' was made for ref '{made_for}'")]
    OtherRef {
        /// The commit.
        commit: CommitId,
        /// The ref that names it here.
        name: RefName,
        /// The ref in its record.
        made_for: RefName,
    },
    /// Somebody published something else meanwhile, or from another repository.
    #[error("the published '{name}' is at {theirs} (sequence {sequence}), which is no ancestor of {ours}")]
    Diverged {
        /// The ref.
        name: RefName,
        /// What is published, shortened.
        theirs: String,
        /// Its sequence.
        sequence: u64,
        /// What was to be published, shortened.
        ours: String,
    },
    /// Somebody published between our look and our write.
    #[error("'{name}' was published by somebody else meanwhile")]
    Raced {
        /// The ref.
        name: RefName,
    },
    /// A prune took what was not needed until now.
    #[error("{path} was removed by a prune while this was being published")]
    Pruned {
        /// Relative to the URL.
        path: String,
    },
    /// The other side.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// What is published cannot be read.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// The right to write names.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// An object that was published when this began is in no pack that is known.
    #[error("object {id} is in no pack")]
    NotPacked {
        /// The object.
        id: ObjectId,
    },
    /// An object is shorter than its image says.
    #[error("object {id} has {found} bytes where its image says {expected}")]
    ObjectLength {
        /// The object.
        id: ObjectId,
        /// In the image.
        expected: u64,
        /// In the repository.
        found: u64,
    },
    /// The image is damaged here.
    #[error("image {id} is damaged")]
    Image {
        /// The image.
        id: ImageId,
        /// What is wrong with it.
        source: ImageError,
    },
    /// An image could not be packed.
    #[error("cannot pack image {id}")]
    Wire {
        /// The image.
        id: ImageId,
        /// What went wrong.
        source: WireError,
    },
    /// A delta could not be made.
    #[error("cannot make a delta")]
    Delta(#[from] DeltaError),
    /// No room for a pack, or no memory to compress.
    #[error("cannot write a pack")]
    Pack(#[from] io::Error),
}
