//! The placement of a commit: where its parts are in a published repository, and how long they are.
//!
//! JSON, since it is small, unsigned, and read by people who wonder what their bucket holds. A reader ignores keys it
//! does not know. Placement is advice about where to look: whatever is found there is checked against the commit.

use super::wire::WireImage;
use crate::model::{CommitId, DeltaId, ImageId, LocatorId, ProfileId};

/// Largest placement that is read, in bytes.
pub const PLACEMENT_SIZE_MAX: usize = 64 << 10;

/// Format version that is written and read.
const VERSION: u32 = 1;

/// Why bytes are no placement.
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
    /// Its name.
    pub id: Id,
    /// Its length in bytes.
    pub length: u64,
}

/// The published form of the commit's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageRef {
    /// Its name, so that it can be asked for together with the commit, which says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ImageId>,
    /// Bytes of the file `images/ID`.
    pub length: u64,
    /// Bytes at its start that suffice to open it and to list the top directories.
    pub prefix: u64,
    /// Bytes at its start that hold all names and attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot: Option<u64>,
}

impl ImageRef {
    /// Of the image `id`, which is published in this form.
    #[must_use]
    pub const fn new(id: ImageId, wire: &WireImage) -> Self {
        Self { id: Some(id), length: wire.bytes.len() as u64, prefix: wire.prefix, hot: Some(wire.hot) }
    }
}

/// A delta that leads to the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeltaRef {
    /// The older commit that one must have.
    pub from: CommitId,
    /// The file.
    pub id: DeltaId,
    /// Its length in bytes.
    pub length: u64,
    /// Bytes at its start that hold the image's delta and the list of objects.
    pub head: u64,
}

/// Where the parts of one commit are.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Placement {
    /// Format version.
    pub version: u32,
    /// The published image.
    pub image: ImageRef,
    /// Which frame holds each object.
    pub locator: FileRef<LocatorId>,
    /// What a boot reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<FileRef<ProfileId>>,
    /// Ways from older commits, the newest of those first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<DeltaRef>,
    /// Bytes of content that were published before and that the next publishes of the ref may pack again; clients ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regroup: Option<u64>,
}

impl Placement {
    /// A placement without profile and deltas.
    #[must_use]
    pub const fn new(image: ImageRef, locator: FileRef<LocatorId>) -> Self {
        Self { version: VERSION, image, locator, profile: None, deltas: Vec::new(), regroup: None }
    }

    /// The bytes that [`Self::parse`] reads.
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
