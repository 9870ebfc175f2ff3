//! The few ways in which Sapwood touches a disk: durable replacement, temporary files, locks, directory listings,
//! attributes, holes, mounts.
//!
//! Knows nothing of repositories. Whatever fsyncs or renames lives here. Used by `store`, `compose`, `export` and
//! `deploy`.

mod at;
mod descriptors;
mod directory;
mod entry;
mod extents;
mod instance;
mod lock;
mod mountinfo;
mod positioned;
mod replace;
mod room;
mod temporary;
mod xattr;

pub use at::{TEMPORARY, create_file_at, replace_at};
pub use descriptors::{descriptor_limit, raise_descriptor_limit};
pub use directory::{DirectoryEntry, list, open_directory, open_directory_at, open_file_at, stat_of};
pub use entry::Entry;
pub use extents::data_extents;
pub use instance::{Instance, Instances};
pub use lock::{Lock, LockError, Wait};
pub use mountinfo::{MountPoint, MountTable};
pub use positioned::read_from;
pub use replace::{
    append, install, make_directories, promote, remove_directory, remove_file, rename_directory, replace, replace_in,
    replace_on_fat, sync_directory, sync_filesystem,
};
pub use room::{Room, room};
pub use temporary::{TemporaryFile, TemporaryPath};
pub use xattr::{XattrPair, read_xattrs};
