//! The sources of trees: a directory of this machine (`directory`, `walk`, `mounted`) and a tar archive (`tar`).
//!
//! *Used by* `cli::commit` and the rest of `compose`.

mod directory;
mod error;
mod mounted;
mod progress;
mod tar;
pub(super) mod walk;

pub(super) use directory::extents_of;
pub use directory::{ImportOptions, read_directory};
pub(crate) use error::DirectoryError;
pub(crate) use mounted::MountedImage;
pub use progress::ImportProgress;
pub use tar::{TarError, TarOptions, read_tar};
