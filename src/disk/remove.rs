//! Removes files and directories durably, also those that are marked immutable or append-only (`chattr +i`, `chattr +a`).
//!
//! *Not here*: deciding what may be removed: what a caller names is the program's own.
//!
//! *Invariants*: nothing is removed, and no mark is cleared, while something is mounted at or below a directory. Symbolic links
//! are removed and never followed.
//!
//! *Used by* every layer that removes files.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, IFlags, RenameFlags, ioctl_getflags, ioctl_setflags, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::replace::{parent_of, sync_directory};
use super::{MountTable, list, open_directory, open_directory_at, open_file_at};

/// The marks with which the kernel refuses to remove or rename a file, also for root.
const PROTECTION: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// Removes a file, durably; a missing file is no error.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match without_protection(path, || fs::remove_file(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(&parent_of(path)?),
    }
}

/// Removes a directory and everything in it; a missing directory is no error, and a file or a link in its place is removed.
/// Nothing is removed while something is mounted at or below it.
///
/// # Errors
/// Those of the system calls; `ResourceBusy`, with the mount point, if something is mounted there.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    if let Some(mounted) = mount_below(path) {
        let message = format!("{} is mounted", mounted.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    match without_protection(path, || remove_tree(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A file, or a link.
        Err(error)
            if matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOTDIR | Errno::LOOP)) =>
        {
            remove_file(path)
        }
        other => other,
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let directory = open_directory_at(rustix::fs::CWD, path.as_os_str().as_bytes())?;
    empty_directory(&directory).and_then(|()| fs::remove_dir(path))
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
            let directory = open_directory_at(top, &name)?;
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
    let directory = open_directory_at(directory, b".")?;
    Ok(list(&directory)?.into_iter().map(|entry| entry.name).collect())
}

/// Clears the marks of a file, or of a directory and everything in it. A filesystem without marks has none to clear.
///
/// # Errors
/// Those of the system calls; some marks may then be cleared.
pub(crate) fn clear_protection(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name().filter(|_| mount_below(path).is_none()) else { return Ok(()) };
    clear_below(&open_directory(&parent_of(path)?)?, name.as_encoded_bytes())
}

/// Runs a removal once more, without the marks, if it is not permitted.
fn without_protection(path: &Path, remove: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match remove() {
        // If the marks cannot be cleared either, the first error says what is not permitted.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            clear_protection(path).map_err(|_| error).and_then(|()| remove())
        }
        other => other,
    }
}

fn clear_below(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let kind = FileType::from_raw_mode(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    // Links, devices, sockets and FIFOs have no marks.
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(());
    }
    let file = OwnedFd::from(open_file_at(directory, name)?);
    match ioctl_getflags(&file) {
        Ok(marks) if marks.intersects(PROTECTION) => ioctl_setflags(&file, marks.difference(PROTECTION))?,
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    if kind == FileType::Directory {
        list(&file)?.iter().try_for_each(|entry| clear_below(&file, &entry.name))?;
    }
    Ok(())
}

/// Returns a mount point at or below `path`, if this process sees one.
fn mount_below(path: &Path) -> Option<PathBuf> {
    // Only the directory above is resolved: a link in the last place is not followed.
    let path = parent_of(path).ok()?.canonicalize().ok()?.join(path.file_name()?);
    let table = MountTable::read().ok()?;
    table.all().iter().map(|mount| &mount.path).find(|point| point.starts_with(&path)).cloned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn remove_directory_fails_when_something_is_mounted_in_it() {
        let error = remove_directory(Path::new("/proc")).expect_err("it is mounted");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    }

    #[test]
    fn remove_takes_whatever_has_the_name_and_follows_no_link() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("tree/deep")).expect("made");
        crate::disk::replace(&at("tree/deep/file"), b"x").expect("written");
        crate::disk::replace(&at("file"), b"x").expect("written");
        symlink("/proc", at("link")).expect("made");
        for name in ["tree", "file", "link", "tree"] {
            remove_directory(&at(name)).expect("removed, or gone already");
        }
        crate::disk::replace(&at("file"), b"x").expect("written");
        remove_file(&at("file")).expect("removed");
        remove_file(&at("file")).expect("gone already");
        assert_eq!(fs::read_dir(directory.path()).expect("listable").count(), 0);
    }

    #[test]
    fn remove_directory_needs_no_descriptor_for_each_level() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let top = directory.path().join("top");
        fs::create_dir(&top).expect("made");
        let mut at = open_directory(&top).expect("there");
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).expect("made");
            rustix::fs::symlinkat("/etc", &at, "link").expect("made");
            at = open_directory_at(&at, b"d").expect("there");
        }
        fs::create_dir_all(top.join(".removed-0/x")).expect("made");
        remove_directory(&top).expect("removed");
        assert!(!top.exists() && Path::new("/etc").exists());
        remove_directory(&top).expect("gone already");
        std::os::unix::fs::symlink("/etc", &top).expect("made");
        remove_directory(&top).expect("only the link is removed");
        assert!(Path::new("/etc").exists());
    }
}
