//! From an image back to files: into a directory, or into a tar archive.
//!
//! Both keep everything the image holds; what a target cannot take is counted in a [`Report`] and, if wanted, refused.
//! Nothing here knows commits or refs: the caller opens the image and names the entry to begin at. Called by `cli`.

mod directory;
mod report;
mod tar;

pub use directory::{DirectoryOptions, ExportCause, ExportDirectoryError, Fidelity, TargetContents, export_directory};
pub use report::{Loss, Progress, Report};
pub use tar::{ExportTarError, export_tar};
