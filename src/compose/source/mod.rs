//! The sources of trees: a directory of this machine (`directory`, `walk`, `mounted`) a tar archive (`tar`) and a
//! container image (`oci`), what is left
//! out of them (`exclude`, `foreign_xattrs`), and several over each other (`overlay`).
//!
//! *Used by* `cli::commit` and the rest of `compose`.

mod directory;
mod error;
mod exclude;
mod foreign_xattrs;
mod mounted;
mod oci;
mod overlay;
mod progress;
mod tar;
pub(super) mod walk;

pub(super) use directory::extents_of;
pub use directory::{ImportOptions, read_directory};
pub(crate) use error::DirectoryError;
pub use exclude::{Exclusions, PatternError};
pub(crate) use mounted::MountedImage;
pub(crate) use oci::{OciSource, read_oci};
pub(crate) use overlay::overlay;
pub use progress::ImportProgress;
pub(crate) use tar::TarEntryError;
pub use tar::{TarError, TarOptions, Whiteouts, read_tar};
