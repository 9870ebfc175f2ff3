//! Errors of publishing.

use std::io;
use std::path::PathBuf;

use crate::image::ImageError;
use crate::model::{ImageId, ObjectId, RefName};
use crate::remote::delta::DeltaError;
use crate::remote::format::wire::WireError;
use crate::remote::lease::LeaseError;
use crate::remote::published::PublishedError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, RefError};
use crate::trust::{PublicKey, RepositoryId, SignatureError};

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
    /// A ref that is to be signed again is not published.
    #[error("there is no ref '{0}' at the destination")]
    NotPublished(RefName),
    /// A ref that is to be signed again was not signed by any of the keys.
    #[error("the published '{name}' is not signed again")]
    NotSigned { name: RefName, source: SignatureError },
    /// A key that is to sign was replaced.
    #[error("key {} signs no more: at the destination, key {} replaced it", .old.short(), .new.short())]
    ReplacedKey { old: PublicKey, new: PublicKey },
    /// The keys of the destination have another history than those that are to sign.
    #[error("the newest key of the destination is {}, and the keys that sign are not its successors", .found.short())]
    OtherKeys { found: PublicKey },
    /// The destination has no list of the changes of its keys.
    #[error(
        "the refs of the destination are of generation {needed} of its keys, and it does not say which key replaced which"
    )]
    NoKeyChain { needed: u64 },
    /// The destination is another repository than this one publishes.
    #[error("the destination is repository {found}, and this repository publishes as {own}")]
    OtherRepository { own: RepositoryId, found: RepositoryId },
    /// The refs at the destination are of several repositories.
    #[error("the destination has refs of repositories {0} and {1}")]
    SeveralRepositories(RepositoryId, RepositoryId),
    /// The refs at the destination say which repository it is, and none of the signers signed one of them.
    #[error("the destination has refs of repository {0}, which none of these keys signed")]
    UnsignedIdentity(RepositoryId),
    /// The identity that this repository publishes as cannot be read, or not be written.
    #[error("cannot {action} {}", .path.display())]
    Identity {
        /// The action that was tried.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
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
