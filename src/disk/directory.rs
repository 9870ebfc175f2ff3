//! Lists and opens entries relative to an open directory, so that no path exceeds the kernel's length limit and no symbolic
//! link is followed.
//!
//! *Used by* `compose` and `deploy`, which read trees, and by `store`, `export` and `cli`, which open directories.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Statx, StatxFlags};

/// `STATX_MNT_ID_UNIQUE` of `linux/stat.h`, Linux 6.8.
pub(super) const MOUNT_ID_UNIQUE: u32 = 0x4000;

/// The attributes that are requested for each file: those of `stat(2)` and the unique number of its mount.
const STATX_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::from_bits_retain(MOUNT_ID_UNIQUE));

/// One name in a directory, with the attributes that `statx(2)` reports for it.
#[derive(Debug, Clone)]
pub(crate) struct DirectoryEntry {
    /// The name, as bytes.
    pub(crate) name: Box<[u8]>,
    /// The attributes; of a symbolic link, those of the link itself.
    pub(crate) stat: Statx,
}

/// Returns whether only this user can change what is in a directory. A link is no directory.
pub(crate) fn is_own_directory(path: &Path) -> io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o002 == 0;
    Ok(metadata.is_dir() && is_own)
}

/// Opens a directory; a symbolic link as the last component of `path` is followed.
///
/// # Errors
/// Those of `open(2)`.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens the directory `name` of `directory`; a symbolic link is not followed.
///
/// # Errors
/// Those of `openat(2)`.
pub(crate) fn open_directory_at(directory: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Opens the entry `name` of `directory` for reading. Fails with `ELOOP` on a symbolic link; never blocks on a fifo.
///
/// # Errors
/// Those of `openat(2)`.
pub(crate) fn open_file_at(directory: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // Reading a tree should not rewrite its access times; the kernel allows this to owners only.
    let fd = match rustix::fs::openat(&directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => rustix::fs::openat(&directory, name, flags, Mode::empty())?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// Opens a regular file for reading; a symbolic link is followed. Neither blocks on a fifo nor opens a device.
///
/// # Errors
/// Those of `open(2)`, and one for anything else than a regular file.
pub(crate) fn open_regular_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Returns all entries of `directory` in ascending order of their names, without `.` and `..`. An entry that is removed between
/// the listing and its `statx` is left out too.
///
/// # Errors
/// Those of `getdents64(2)` and `statx(2)`, with the name where there is one.
pub(crate) fn list(directory: &OwnedFd) -> io::Result<Vec<DirectoryEntry>> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut stream = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = stream.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        match stat_at(directory, &name) {
            Ok(stat) => entries.push(DirectoryEntry { name, stat }),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => {
                let message = format!("'{}': {}", name.escape_ascii(), io::Error::from(error));
                return Err(io::Error::new(io::Error::from(error).kind(), message));
            }
        }
    }
    Ok(entries)
}

/// Returns the attributes of an open file.
///
/// # Errors
/// Those of `statx(2)`.
pub(crate) fn stat_of(file: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, STATX_MASK)?)
}

fn stat_at(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, STATX_MASK)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn directory_that_others_can_change_is_not_used() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = directory.path();
        assert!(is_own_directory(own).expect("exists"));
        symlink(own, own.join("link")).expect("writable");
        assert!(!is_own_directory(&own.join("link")).expect("exists"));
        fs::set_permissions(own, fs::Permissions::from_mode(0o777)).expect("owned");
        assert!(!is_own_directory(own).expect("exists"));
    }
}
