//! The few ways in which Sapwood touches a disk: durable replacement, temporary files, locks, directory listings,
//! attributes, holes.
//!
//! Knows nothing of repositories. Whatever fsyncs or renames lives here. Used by `store`, `compose`, `export` and
//! `deploy`.

mod directory;
mod extents;
mod lock;
mod positioned;
mod replace;
mod temporary;
mod xattr;

pub use directory::{DirectoryEntry, list, open_directory, open_file_at};
pub use extents::data_extents;
pub use lock::{Lock, LockError, Wait};
pub use positioned::read_from;
pub use replace::{promote, remove_directory, replace, replace_in, sync_directory, sync_filesystem};
pub use temporary::{TemporaryFile, TemporaryPath};
pub use xattr::{XattrPair, read_xattrs, write_xattr};
