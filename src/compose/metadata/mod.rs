//! What a commit says of itself, in files below [`DIRECTORY`]: which package owns which file, and a bill of materials.
//!
//! Both describe the image, so they are made when its layout is done.

mod owners;
mod sbom;

pub use owners::{OWNERS, Owners, OwnersError, places};
pub use sbom::{SBOM, Subject, sbom};

/// Where a commit describes itself.
pub const DIRECTORY: &str = "/usr/share/sapwood";

/// Where changes of packages are kept that have no changelog of their own among their files.
pub const CHANGELOGS: &str = "/usr/share/sapwood/changelogs";
