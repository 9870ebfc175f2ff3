//! The placement of a commit: where its parts are in a published repository, and how long they are.
//!
//! It is JSON, since it is small, unsigned, and read by people who inspect a bucket. A reader ignores keys it does not
//! know.
//!
//! *Invariants*: a placement is advice about where to look: whatever is found there is checked against the commit.
//!
//! *Used by* `publish`, `prune`, `pull` and the cache.

use super::wire::WireImage;
use crate::model::{CommitId, DeltaId, ImageId, LocatorId, ProfileId};

/// The largest placement that is read, in bytes.
pub(crate) const PLACEMENT_SIZE_MAX: usize = 64 << 10;

/// The format version that is written and read.
const VERSION: u32 = 1;

/// The reason why bytes are no placement.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// More bytes than [`PLACEMENT_SIZE_MAX`].
    #[error("a placement of {0} bytes is too large")]
    TooLarge(usize),
    /// Not the expected JSON.
    #[error("not a placement")]
    Json(#[from] serde_json::Error),
    /// Written by a newer Sapwood.
    #[error("placement version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
}

/// A file named by its content, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileRef<Id> {
    /// The name of the file.
    pub id: Id,
    /// Its length in bytes.
    pub length: u64,
}

/// The published form of the commit's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageRef {
    /// The image's id, so that the image can be requested together with the commit, which names it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ImageId>,
    /// Bytes of the file `images/ID`.
    pub length: u64,
    /// Bytes at the start of the file that suffice to open the image and to list the top directories.
    pub prefix: u64,
    /// Bytes at the start of the file that hold all names and attributes.
    #[serde(rename = "hot", default, skip_serializing_if = "Option::is_none")]
    pub metadata_length: Option<u64>,
}

impl ImageRef {
    /// Returns the reference to image `id`, which is published in the form `wire`.
    #[must_use]
    pub const fn new(id: ImageId, wire: &WireImage) -> Self {
        Self {
            id: Some(id),
            length: wire.bytes.len() as u64,
            prefix: wire.prefix,
            metadata_length: Some(wire.metadata_length),
        }
    }
}

/// A delta that makes the commit from an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeltaRef {
    /// The older commit that the client must have.
    pub from: CommitId,
    /// The file.
    pub id: DeltaId,
    /// Its length in bytes.
    pub length: u64,
    /// Bytes at the start of the file that hold the image's delta and the list of objects.
    pub head: u64,
}

/// The positions of the parts of one commit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Placement {
    /// Format version.
    pub version: u32,
    /// The published image.
    pub image: ImageRef,
    /// Which frame holds each object.
    pub locator: FileRef<LocatorId>,
    /// The profile of what a boot reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<FileRef<ProfileId>>,
    /// Deltas from older commits, the newest of those first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<DeltaRef>,
    /// Bytes of content published earlier that the next publishes of the ref may pack again. Clients ignore it.
    #[serde(rename = "regroup", default, skip_serializing_if = "Option::is_none")]
    pub(crate) regroup_budget: Option<u64>,
}

impl Placement {
    /// Returns a placement without profile and deltas.
    #[must_use]
    pub const fn new(image: ImageRef, locator: FileRef<LocatorId>) -> Self {
        Self { version: VERSION, image, locator, profile: None, deltas: Vec::new(), regroup_budget: None }
    }

    /// Returns the bytes that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain fields have a JSON form")
    }

    /// Reads a placement.
    ///
    /// # Errors
    /// [`PlacementError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PlacementError> {
        if bytes.len() > PLACEMENT_SIZE_MAX {
            return Err(PlacementError::TooLarge(bytes.len()));
        }
        let placement: Self = serde_json::from_slice(bytes)?;
        if placement.version == VERSION { Ok(placement) } else { Err(PlacementError::TooNew(placement.version)) }
    }
}
