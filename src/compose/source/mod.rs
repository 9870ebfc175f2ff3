//! Where trees come from: one file for each kind.

mod directory;
mod error;
mod mounted;
mod progress;
mod tar;
pub(super) mod walk;

pub(super) use directory::extents_of;
pub use directory::{DirectoryOptions, Imported, read_directory};
pub use error::DirectoryError;
pub use mounted::MountedImage;
pub use progress::Progress;
pub use tar::{
    EntryError, FormatError, HeaderError, PaxError, SparseError, TarError, TarOptions, UnknownCompression, read_tar,
};
