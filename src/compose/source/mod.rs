//! Where trees come from: one file for each kind.

mod directory;
mod progress;
mod tar;

pub use directory::{DirectoryError, DirectoryOptions, Imported, read_directory};
pub use progress::Progress;
pub use tar::{
    EntryError, FormatError, HeaderError, PaxError, SparseError, TarError, TarOptions, UnknownCompression, read_tar,
};
