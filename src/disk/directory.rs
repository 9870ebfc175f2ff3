//! Listing and opening relative to an open directory, so that no path grows longer than the kernel takes and no
//! symbolic link is followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Statx, StatxFlags};

/// `STATX_MNT_ID_UNIQUE` of `linux/stat.h`, Linux 6.8.
pub(super) const MOUNT_ID_UNIQUE: u32 = 0x4000;

/// What is asked of each file: all that `stat(2)` tells, and the unique number of its mount.
const STAT: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::from_bits_retain(MOUNT_ID_UNIQUE));

/// One name in a directory and what `statx(2)` says of it.
#[derive(Debug, Clone)]
pub struct DirectoryEntry {
    /// The name, as bytes.
    pub name: Box<[u8]>,
    /// Its attributes, links not followed.
    pub stat: Statx,
}

/// Opens a directory; a symbolic link in the last place of `path` is followed.
///
/// # Errors
/// Those of `open(2)`.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens the directory `name` of `directory`; a symbolic link is not followed.
///
/// # Errors
/// Those of `openat(2)`.
pub fn open_directory_at(directory: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

/// Opens the entry `name` of `directory` for reading. Fails with `ELOOP` on a symbolic link; never blocks on a fifo.
///
/// # Errors
/// Those of `openat(2)`.
pub fn open_file_at(directory: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // Reading a tree should not rewrite its access times; the kernel allows this to owners only.
    let fd = match rustix::fs::openat(&directory, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => rustix::fs::openat(&directory, name, flags, Mode::empty())?,
        other => other?,
    };
    Ok(File::from(fd))
}

/// All entries of `directory` in ascending order of their names, `.` and `..` left out. An entry that vanishes between
/// listing and `statx` is left out too.
///
/// # Errors
/// Those of `getdents64(2)` and `statx(2)`, with the name where there is one.
pub fn list(directory: &OwnedFd) -> io::Result<Vec<DirectoryEntry>> {
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

/// Returns what the system says of an open file.
///
/// # Errors
/// Those of `statx(2)`.
pub fn stat_of(file: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, STAT)?)
}

fn stat_at(directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, STAT)
}
