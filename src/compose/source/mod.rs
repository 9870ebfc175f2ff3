//! Where trees come from: one file for each kind.

mod directory;
mod progress;

pub use directory::{DirectoryError, DirectoryOptions, Imported, read_directory};
pub use progress::Progress;
