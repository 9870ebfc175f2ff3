//! Replaces and creates entries of an open directory, for trees in which no symbolic link may be followed.
//!
//! *Invariants*: an entry appears under its final name only when it is complete.
//!
//! *Used by* `deploy`, which merges `/etc`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// The name of an entry until it is complete. One name is enough, because a process changes such a tree only while it holds the
/// tree's lock.
pub(crate) const TEMPORARY_NAME: &[u8] = b".tmp-sapwood";

/// Replaces the entry `name` of `directory` by the one that `make` creates, in one step: `make` creates it under the temporary
/// name that it is given, and an existing entry keeps its name until the rename. Syncs a regular file before the rename, but
/// does not sync the directory.
///
/// # Errors
/// Those of the system calls and of `make`.
pub(crate) fn replace_at<E: From<io::Error>>(
    directory: impl AsFd,
    name: &[u8],
    make: impl FnOnce(&[u8]) -> Result<Option<File>, E>,
) -> Result<(), E> {
    match rustix::fs::unlinkat(&directory, TEMPORARY_NAME, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    if let Some(file) = make(TEMPORARY_NAME)? {
        file.sync_all()?;
    }
    let renamed = rustix::fs::renameat(&directory, TEMPORARY_NAME, &directory, name);
    renamed.map_err(|errno| io::Error::from(errno).into())
}

/// Creates the file `name` of `directory`, which must not exist yet, with a mode that lets only this user read and write it.
///
/// # Errors
/// Those of `openat(2)`.
pub(crate) fn create_file_at(directory: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?))
}
