//! Replaces and renames files durably.
//!
//! *Not here*: removing files and directories (`remove`).
//!
//! *Invariants*: after a crash a replaced file has its old bytes or its new ones, never a mixture, and never none.
//!
//! *Used by* every layer that writes files.

#![expect(clippy::disallowed_methods, reason = "this is the one door for renames")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat, renameat};

use super::TemporaryFile;

/// Replaces the content of `path` by `bytes`, durably: writes and syncs a temporary file in the same directory, renames it to
/// `path`, and syncs the directory.
///
/// # Errors
/// Those of the system calls; the old file is then unchanged.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = parent_of(path)?;
    let temporary = TemporaryFile::create(&parent)?;
    temporary.file().write_all(bytes)?;
    temporary.file().sync_all()?;
    temporary.persist(path)?;
    sync_directory(&parent)
}

/// Replaces the content of the file `name` of an open directory like [`replace`]. The path of the directory may have become
/// invalid.
///
/// # Errors
/// As for [`replace`].
pub(crate) fn replace_in(directory: &OwnedFd, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = File::from(openat(directory, &temporary, flags, Mode::from(0o644))?);
    file.write_all(bytes)?;
    file.sync_all()?;
    renameat(directory, &temporary, directory, name)?;
    Ok(rustix::fs::fsync(directory)?)
}

/// Renames `file` from `from` to `to`, durably: syncs its bytes, renames it over an existing file, and syncs both directories.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn promote(file: &File, from: &Path, to: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(from, to)?;
    sync_directory(&parent_of(to)?)?;
    sync_directory(&parent_of(from)?)
}

/// Replaces a file like [`replace`] on a filesystem without a journal, such as FAT: the old file stays open until the new name
/// is durable, so that its clusters become free only after nothing on the disk refers to them.
///
/// # Errors
/// Those of the system calls; the old file is then unchanged.
pub(crate) fn replace_on_fat(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    replace(path, bytes)?;
    sync_filesystem(File::open(parent_of(path)?)?)?;
    drop(old);
    Ok(())
}

/// Creates the file `path` with the content that `fill` writes, durably. Until it is complete it has a temporary name.
///
/// # Errors
/// Those of the system calls and of `fill`.
pub(crate) fn install(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let parent = parent_of(path)?;
    let temporary = TemporaryFile::create(&parent)?;
    fill(temporary.file())?;
    temporary.file().sync_all()?;
    temporary.persist(path)?;
    sync_directory(&parent)
}

/// Renames a directory, durably. An empty directory at `to` is replaced; anything else there is an error.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn rename_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(&parent_of(to)?)?;
    sync_directory(&parent_of(from)?)
}

/// Creates a directory and its missing parents, durably; an existing directory is no error. New directories get mode 0755.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path)?;
    make_directories(&parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(&parent),
    }
}

/// Appends `line` to a file, durably; creates the file if it does not exist.
///
/// # Errors
/// Those of the system calls. The file may then have a part of the line.
pub(crate) fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(line)?;
    file.sync_all()?;
    if is_new { sync_directory(&parent_of(path)?) } else { Ok(()) }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Those of `open(2)` and `fsync(2)`.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything that was written to the filesystem of `directory` durable. One call costs less than syncing more than a few
/// files one by one, since the journal is committed once.
///
/// # Errors
/// Those of `syncfs(2)`, which include write errors that occurred since the directory was opened.
pub(crate) fn sync_filesystem(directory: impl AsFd) -> io::Result<()> {
    rustix::fs::syncfs(directory).map_err(io::Error::from)
}

pub(super) fn parent_of(path: &Path) -> io::Result<PathBuf> {
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
    fn replace_leaves_no_other_file_behind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ref");
        replace(&path, b"one").expect("written");
        replace(&path, b"two").expect("replaced");
        assert_eq!(fs::read(&path).expect("readable"), b"two");
        replace_on_fat(&path, b"three").expect("replaced");
        assert_eq!(fs::read(&path).expect("readable"), b"three");
        assert_eq!(fs::read_dir(directory.path()).expect("listable").count(), 1);
    }

    #[test]
    fn directories_and_lines_are_made_renamed_and_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let deep = directory.path().join("a/b");
        make_directories(&deep).expect("made");
        make_directories(&deep).expect("exists already");
        append(&deep.join("log"), b"1\n").expect("written");
        append(&deep.join("log"), b"2\n").expect("written");
        assert_eq!(fs::read(deep.join("log")).expect("readable"), b"1\n2\n");
        rename_directory(&deep, &directory.path().join("c")).expect("renamed");
        assert!(directory.path().join("c").is_dir());
    }
}
