//! Where everything is in a published repository. The only place that spells the names of its directories.
//!
//! ```text
//! refs/NAME             a signed ref record and, unsigned, the placement of its commit. Changes.
//! placements/COMMIT     where the parts of a commit are, for those that are no ref's newest. Changes when repacked.
//! commits/COMMIT        a commit record and its signatures
//! images/IMAGE          an image in compressed frames
//! locators/LOCATOR      which frame of which pack holds each object of an image
//! packs/PACK.pack       zstd frames
//! deltas/DELTA          the way from one commit to another
//! profiles/PROFILE      what a boot reads, in order
//! keys/KEY              a new key, announced by an old one
//! ```
//!
//! Paths are relative to the repository's URL and have no leading slash. Everything but refs, placements and keys is
//! immutable and may be cached for ever: its name tells its content. (A commit's record never changes, but it may gain
//! signatures.)

use crate::model::{CommitId, DeltaId, ImageId, LocatorId, PackId, ProfileId, RefName};

/// The directory of refs, for listing.
pub const REFS: &str = "refs";

/// Whether a file may be replaced by another of the same name.
#[must_use]
pub fn may_change(path: &str) -> bool {
    // A commit's signatures grow when another key signs it.
    ["refs/", "placements/", "commits/", "keys/"].iter().any(|directory| path.starts_with(directory))
}

/// The file that holds a ref record.
#[must_use]
pub fn reference(name: &RefName) -> String {
    format!("{REFS}/{name}")
}

/// The file that says where the parts of a commit are.
#[must_use]
pub fn placement(id: CommitId) -> String {
    format!("placements/{id}")
}

/// The file of a commit record with its signatures.
#[must_use]
pub fn commit(id: CommitId) -> String {
    format!("commits/{id}")
}

/// The file of a published image.
#[must_use]
pub fn image(id: ImageId) -> String {
    format!("images/{id}")
}

/// The file of a locator.
#[must_use]
pub fn locator(id: LocatorId) -> String {
    format!("locators/{id}")
}

/// The file of a pack.
#[must_use]
pub fn pack(id: PackId) -> String {
    format!("packs/{id}.pack")
}

/// The file of a delta.
#[must_use]
pub fn delta(id: DeltaId) -> String {
    format!("deltas/{id}")
}

/// The file of a boot profile.
#[must_use]
pub fn profile(id: ProfileId) -> String {
    format!("profiles/{id}")
}

/// The file that announces a key, by the key's own name.
#[must_use]
pub fn key(name: &str) -> String {
    format!("keys/{name}")
}
