//! Durable replacement of a small file, and the barriers behind it.
//!
//! After a crash a replaced file has its old bytes or its new ones, never a mixture, and never none.

#![expect(clippy::disallowed_methods, reason = "this is the one door for renames")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat, renameat};

use super::TemporaryFile;

/// Makes `path` hold `bytes`, durably: a temporary file beside it is written, synced, renamed over it, and the
/// directory is synced.
///
/// # Errors
/// Those of the system calls; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = parent_of(path)?;
    let temporary = TemporaryFile::create(&parent)?;
    temporary.file().write_all(bytes)?;
    temporary.file().sync_all()?;
    temporary.persist(path)?;
    sync_directory(&parent)
}

/// Like [`replace`], for the file `name` of an open directory, whose path may mean nothing any more.
///
/// # Errors
/// As for [`replace`].
pub fn replace_in(directory: &OwnedFd, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    let mut beside = name.to_owned();
    beside.push(".new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(openat(directory, &beside, flags, Mode::from(0o644))?);
    file.write_all(bytes)?;
    file.sync_all()?;
    renameat(directory, &beside, directory, name)?;
    Ok(rustix::fs::fsync(directory)?)
}

/// Gives `file`, which is at `from`, the name `to`, durably: its bytes are synced first, then it is renamed over whatever
/// is there, then the directories are synced.
///
/// # Errors
/// Those of the system calls.
pub fn promote(file: &File, from: &Path, to: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(from, to)?;
    sync_directory(&parent_of(to)?)?;
    sync_directory(&parent_of(from)?)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Those of `open(2)` and `fsync(2)`.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything written to the filesystem of `directory` durable. One call costs less than syncing more than a few
/// files one by one, since the journal is committed once.
///
/// # Errors
/// Those of `syncfs(2)`: write errors since the directory was opened among them.
pub fn sync_filesystem(directory: impl AsFd) -> io::Result<()> {
    rustix::fs::syncfs(directory).map_err(io::Error::from)
}

/// Removes a directory and all in it; one that is not there is fine.
///
/// # Errors
/// Those of the system calls.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn parent_of(path: &Path) -> io::Result<PathBuf> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Ok(parent.to_owned()),
        Some(_) => Ok(PathBuf::from(".")),
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_else_behind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ref");
        replace(&path, b"one").expect("written");
        replace(&path, b"two").expect("replaced");
        assert_eq!(fs::read(&path).expect("readable"), b"two");
        assert_eq!(fs::read_dir(directory.path()).expect("listable").count(), 1);
    }
}
