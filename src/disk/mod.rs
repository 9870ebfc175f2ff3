//! Access to the disk: durable replacement, temporary files, locks, directory listings, attributes, holes, mounts.
//!
//! *Not here*: repositories, deployments or any other file format.
//!
//! *Invariants*: all code that syncs or renames files is in this folder.
//!
//! *Used by* every layer above; most by `store`, `compose`, `export` and `deploy`.

mod accounts;
mod at;
mod descriptors;
mod directory;
mod entry;
mod extents;
mod free_space;
mod instance;
mod lock;
mod mountinfo;
mod positioned;
mod remove;
mod replace;
mod temporary;
mod xattr;

pub(crate) use accounts::{group_id, user_id, user_name};
pub(crate) use at::{TEMPORARY_NAME, create_file_at, replace_at};
pub(crate) use descriptors::{descriptor_limit, raise_descriptor_limit};
pub(crate) use directory::{
    DirectoryEntry, is_own_directory, list, open_directory, open_directory_at, open_file_at, open_regular_file, stat_of,
};
pub(crate) use entry::EntryRef;
pub(crate) use extents::data_extents;
pub(crate) use free_space::{FreeSpace, free_space};
pub(crate) use instance::{FilesystemInstance, FilesystemInstances};
pub use lock::Wait;
pub(crate) use lock::{Lock, LockError};
pub(crate) use mountinfo::MountPoint;
pub use mountinfo::MountTable;
pub(crate) use positioned::read_from;
pub(crate) use remove::{clear_protection, remove_directory, remove_file};
pub(crate) use replace::{
    append, install, make_directories, promote, rename_directory, replace, replace_in, replace_on_fat, sync_directory,
    sync_filesystem,
};
pub(crate) use temporary::{TemporaryFile, TemporaryPath};
pub(crate) use xattr::read_xattrs;
