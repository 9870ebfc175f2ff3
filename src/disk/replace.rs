//! Durable replacement of a small file, and the barriers behind it.
//!
//! After a crash a replaced file has its old bytes or its new ones, never a mixture, and never none.

#![expect(clippy::disallowed_methods, reason = "this is the one door for renames")]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat, renameat};

use super::TemporaryFile;

const MOUNT_TABLE: &str = "/proc/self/mountinfo";

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

/// Like [`replace`] for a filesystem without a journal, such as FAT: the old file stays open until the new name is
/// durable, so that its clusters are free only after nothing on the disk leads to them.
///
/// # Errors
/// Those of the system calls; the old file is then still there.
pub fn replace_on_fat(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    replace(path, bytes)?;
    sync_filesystem(File::open(parent_of(path)?)?)?;
    drop(old);
    Ok(())
}

/// Makes a new file at `path` with what `fill` writes, durably. Until it is whole it has another name.
///
/// # Errors
/// Those of the system calls and of `fill`.
pub fn install(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let parent = parent_of(path)?;
    let temporary = TemporaryFile::create(&parent)?;
    fill(temporary.file())?;
    temporary.file().sync_all()?;
    temporary.persist(path)?;
    sync_directory(&parent)
}

/// Gives a directory another name, durably. An empty directory at `to` is replaced, anything else is in the way.
///
/// # Errors
/// Those of the system calls.
pub fn rename_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(&parent_of(to)?)?;
    sync_directory(&parent_of(from)?)
}

/// Makes a directory and those above it, durably; one that is there is fine. New ones get mode 0755.
///
/// # Errors
/// Those of the system calls.
pub fn make_directories(path: &Path) -> io::Result<()> {
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

/// Removes a file, durably; one that is not there is fine.
///
/// # Errors
/// Those of the system calls.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(&parent_of(path)?),
    }
}

/// Adds `line` to the end of a file, durably; the file is made if there is none.
///
/// # Errors
/// Those of the system calls. Part of the line may be there then.
pub fn append(path: &Path, line: &[u8]) -> io::Result<()> {
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

/// Removes a directory and all in it; one that is not there is fine. Nothing is removed while something is mounted in it.
///
/// # Errors
/// Those of the system calls; `ResourceBusy` with the mount point.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    if let Some(mounted) = mount_below(path) {
        let message = format!("{} is mounted", mounted.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A mount point at or below `path`, if this process sees one.
fn mount_below(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let table = fs::read(MOUNT_TABLE).ok()?;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescape).find(|point| point.starts_with(&path))
}

/// The mount table writes blanks and backslashes as `\ooo`.
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
    fn replaces_and_leaves_nothing_else_behind() {
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
    fn what_holds_a_mount_is_not_removed() {
        assert_eq!(unescape(b"/a\\040b\\134"), Path::new("/a b\\"));
        let error = remove_directory(Path::new("/proc")).expect_err("it is mounted");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    }

    #[test]
    fn directories_lines_and_removals_are_durable_doors() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let deep = directory.path().join("a/b");
        make_directories(&deep).expect("made");
        make_directories(&deep).expect("there already");
        append(&deep.join("log"), b"1\n").expect("written");
        append(&deep.join("log"), b"2\n").expect("written");
        assert_eq!(fs::read(deep.join("log")).expect("readable"), b"1\n2\n");
        remove_file(&deep.join("log")).expect("removed");
        remove_file(&deep.join("log")).expect("gone already");
        rename_directory(&deep, &directory.path().join("c")).expect("renamed");
        assert!(directory.path().join("c").is_dir());
    }
}
