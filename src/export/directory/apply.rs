//! Owner, attributes, mode and time of an entry that was made.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::ledger::{ExportCause, Ledger, io_cause};
use crate::disk;
use crate::export::report::Loss;
use crate::export::report::words;
use crate::image::Attributes;
use crate::model::{FileKind, Xattrs};

/// Setuid and setgid.
const SPECIAL_BITS: u16 = 0o6000;

/// The entry to work on.
#[derive(Clone, Copy)]
pub(super) enum Entry<'a> {
    /// Open: a regular file or a directory.
    Open(BorrowedFd<'a>),
    /// Something that cannot be opened safely, by its name in a directory.
    At(BorrowedFd<'a>, &'a [u8]),
}

/// Gives an entry everything but its content. It may only be called when nothing else will change the entry.
pub(super) fn apply(
    ledger: &Ledger,
    entry: Entry<'_>,
    path: &[u8],
    attributes: &Attributes,
    xattrs: &Xattrs,
) -> Result<(), ExportCause> {
    let owned = ledger.allow(Loss::Owner, "set the owner of", path, entry.chown(attributes.uid, attributes.gid))?;
    for (name, value) in xattrs.iter() {
        let action = "set an extended attribute of";
        let result = entry.set_xattr(name, value);
        // Which one is worth knowing: add it to the path.
        let words = || [path, b" (", name, b")"].concat();
        if let Err(errno) = result {
            ledger.allow(Loss::Xattr, action, &words(), Err(errno))?;
        }
    }
    if attributes.kind != FileKind::Symlink {
        let mut permissions = attributes.permissions;
        if !owned && attributes.kind == FileKind::Regular && permissions & SPECIAL_BITS != 0 {
            // A program that would run as whoever exports, not as the owner it was made for.
            permissions &= !SPECIAL_BITS;
            ledger.lose(Loss::SpecialBits, || format!("'{}' is not setuid or setgid: its owner is wrong", words(path)));
        }
        entry.chmod(permissions).map_err(|errno| io_cause("set the mode of", path, errno))?;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: attributes.mtime.seconds, tv_nsec: attributes.mtime.nanoseconds.into() },
    };
    entry.set_times(&times).map_err(|errno| io_cause("set the time of", path, errno))
}

impl Entry<'_> {
    fn chown(self, uid: u32, gid: u32) -> Result<(), Errno> {
        // All ones stands for "leave it", so nobody can have that id.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::At(directory, name) => rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::At(directory, entry) => disk::write_xattr(directory, entry, name, value)
                .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)),
        }
    }

    fn chmod(self, permissions: u16) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(permissions.into());
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            // Follows links, but this is a device, fifo or socket made a moment ago where nobody else can reach.
            Self::At(directory, name) => rustix::fs::chmodat(directory, name, mode, AtFlags::empty()),
        }
    }

    fn set_times(self, times: &Timestamps) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::At(directory, name) => rustix::fs::utimensat(directory, name, times, AtFlags::SYMLINK_NOFOLLOW),
        }
    }
}
