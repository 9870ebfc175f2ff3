//! Writes the files of an image into a directory or into a tar archive.
//!
//! *Not here*: commits and refs. The caller opens the image and names the entry to begin at.
//!
//! *Invariants*: everything the image holds is written; whatever the target cannot hold is counted in a [`ExportReport`] or,
//! with `Fidelity::Required`, is an error.
//!
//! *Used by* `cli`, `deploy::skeleton` and `compose::base`.

mod directory;
mod error;
mod report;
mod tar;

pub(crate) use directory::ExportDirectoryError;
pub use directory::{ExportOptions, Fidelity, TargetContents, export_directory};
pub use report::{ExportProgress, ExportReport};
pub(crate) use tar::ExportTarError;
pub use tar::export_tar;
