//! Replacing entries of an open directory, for trees in which no symbolic link may be followed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// What an entry is called until it is whole. One at a time: whoever changes such a tree holds its lock.
pub const TEMPORARY: &[u8] = b".tmp-sapwood";

/// Makes the entry `name` of `directory` what `make` makes under the name it is given, in one step: until then, whatever
/// has the name keeps it. Syncs a regular file before, and not the directory.
///
/// # Errors
/// Those of the system calls and of `make`.
pub fn replace_at<E: From<io::Error>>(
    directory: impl AsFd,
    name: &[u8],
    make: impl FnOnce(&[u8]) -> Result<Option<File>, E>,
) -> Result<(), E> {
    match rustix::fs::unlinkat(&directory, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    if let Some(file) = make(TEMPORARY)? {
        file.sync_all()?;
    }
    let renamed = rustix::fs::renameat(&directory, TEMPORARY, &directory, name);
    renamed.map_err(|errno| io::Error::from(errno).into())
}

/// Creates the file `name` of `directory`, which must not be there, for this user alone.
///
/// # Errors
/// Those of `openat(2)`.
pub fn create_file_at(directory: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?))
}
