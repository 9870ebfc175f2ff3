//! Replaces, renames and removes files durably.
//!
//! *Invariants*: after a crash a replaced file has its old bytes or its new ones, never a mixture, and never none.
//!
//! *Used by* every layer that writes files.

#![expect(clippy::disallowed_methods, reason = "this is the one door for renames")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::TemporaryFile;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

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

/// Removes a file, durably; a missing file is no error.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(&parent_of(path)?),
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

/// Removes a directory and everything in it; a missing directory is no error. Nothing is removed while something is mounted at
/// or below it.
///
/// # Errors
/// Those of the system calls; `ResourceBusy`, with the mount point, if something is mounted there.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    if let Some(mounted) = mount_below(path) {
        let message = format!("{} is mounted", mounted.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    match super::open_directory_at(rustix::fs::CWD, path.as_os_str().as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => empty_directory(&opened?).and_then(|()| fs::remove_dir(path)),
    }
}

/// Removes everything in a directory. Directories with something in them are moved up into `top` first, so that this takes two
/// descriptors and little memory however deep the tree is.
fn empty_directory(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let names = names_in(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if remove_entry(top, &name)? {
                continue;
            }
            let directory = super::open_directory_at(top, &name)?;
            for inner in names_in(&directory)? {
                if !remove_entry(&directory, &inner)? {
                    move_up(&directory, &inner, top, &mut moved)?;
                }
            }
            remove_entry(top, &name)?;
        }
    }
}

/// Moves a directory into `top`, under a name that is free there.
fn move_up(directory: &OwnedFd, name: &[u8], top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        let free = format!(".removed-{moved}");
        *moved += 1;
        match renameat_with(directory, name, top, free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

/// Removes a file or an empty directory; returns whether it is gone. A directory with something in it stays.
fn remove_entry(directory: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    let removed = match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(directory, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn names_in(directory: &OwnedFd) -> io::Result<Vec<Box<[u8]>>> {
    // The descriptor may have been read to its end before.
    let directory = super::open_directory_at(directory, b".")?;
    Ok(super::list(&directory)?.into_iter().map(|entry| entry.name).collect())
}

/// Returns a mount point at or below `path`, if this process sees one.
fn mount_below(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let table = fs::read(MOUNT_TABLE).ok()?;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescape).find(|point| point.starts_with(&path))
}

/// Undoes the octal escapes `\ooo` by which the mount table writes blanks and backslashes.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
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
    fn remove_directory_fails_when_something_is_mounted_in_it() {
        assert_eq!(unescape(b"/a\\040b\\134"), Path::new("/a b\\"));
        let error = remove_directory(Path::new("/proc")).expect_err("it is mounted");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    }

    #[test]
    fn remove_directory_needs_no_descriptor_for_each_level() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let top = directory.path().join("top");
        make_directories(&top).expect("made");
        let mut at = super::super::open_directory(&top).expect("there");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).expect("made");
            rustix::fs::symlinkat("/etc", &at, "link").expect("made");
            at = super::super::open_directory_at(&at, b"d").expect("there");
        }
        make_directories(&top.join(".removed-0/x")).expect("made");
        remove_directory(&top).expect("removed");
        assert!(!top.exists() && Path::new("/etc").exists());
        remove_directory(&top).expect("gone already");
        std::os::unix::fs::symlink("/etc", &top).expect("made");
        assert!(remove_directory(&top).is_err(), "a link");
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
        remove_file(&deep.join("log")).expect("removed");
        remove_file(&deep.join("log")).expect("gone already");
        rename_directory(&deep, &directory.path().join("c")).expect("renamed");
        assert!(directory.path().join("c").is_dir());
    }
}
