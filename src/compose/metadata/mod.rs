//! The files below `/usr/share/sapwood` that describe an image: which package owns which path, a bill of materials,
//! changelogs.
//!
//! They describe the final image, so they are made after its layout.
//!
//! *Used by* `pipeline`, `cli/whence.rs` and `cli/db`.

mod owners;
mod sbom;

pub(crate) use owners::{OWNERS_FILE, OwnerIndex, candidate_paths};
pub(crate) use sbom::{SBOM_FILE, SbomSubject, render_sbom};

/// The directory with the changelogs of packages that have none among their files.
pub(crate) const CHANGELOGS_DIRECTORY: &str = "/usr/share/sapwood/changelogs";
