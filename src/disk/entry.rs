//! Sets owner, extended attributes, mode and time of one entry, which is open or only known by its name.
//!
//! *Used by* `deploy` and `export`.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::xattr;

/// A reference to the entry whose metadata is changed.
#[derive(Clone, Copy)]
pub(crate) enum EntryRef<'a> {
    /// A regular file or a directory, by its open descriptor.
    Open(BorrowedFd<'a>),
    /// An entry that cannot be opened safely, by its name in an open directory.
    At(BorrowedFd<'a>, &'a [u8]),
}

impl EntryRef<'_> {
    /// Sets user and group.
    ///
    /// # Errors
    /// Those of `chown(2)`.
    pub(crate) fn chown(self, uid: u32, gid: u32) -> Result<(), Errno> {
        // chown(2) reads an id of all ones as "leave unchanged", so no user or group can have it.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::At(directory, name) => rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Sets one extended attribute.
    ///
    /// # Errors
    /// Those of `setxattr(2)`.
    pub(crate) fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::At(directory, entry) => {
                rustix::fs::lsetxattr(xattr::proc_path(directory, entry), name, value, XattrFlags::empty())
            }
        }
    }

    /// Removes one extended attribute.
    ///
    /// # Errors
    /// Those of `removexattr(2)`.
    pub(crate) fn remove_xattr(self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, name),
            Self::At(directory, entry) => rustix::fs::lremovexattr(xattr::proc_path(directory, entry), name),
        }
    }

    /// Sets the lower 12 bits of the mode.
    ///
    /// # Errors
    /// Those of `chmod(2)`.
    pub(crate) fn chmod(self, permissions: u16) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(permissions.into());
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            // This follows links, but the entry is a device, fifo or socket that was just made in a place which no other
            // process reaches.
            Self::At(directory, name) => rustix::fs::chmodat(directory, name, mode, AtFlags::empty()),
        }
    }

    /// Sets the modification time, in seconds and nanoseconds since 1970.
    ///
    /// # Errors
    /// Those of `utimensat(2)`.
    pub(crate) fn set_mtime(self, seconds: i64, nanoseconds: u32) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        };
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, &times),
            Self::At(directory, name) => rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}
