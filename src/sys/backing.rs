//! Registers files that the kernel reads by itself on behalf of a FUSE connection (passthrough).
//!
//! *Invariants*: a registration has a number that belongs to the connection and not to the process that made it, so the next
//! process that serves the connection may go on using it.
//!
//! *Used by* `fuse`.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};

/// `_IOW(229, 2, u32)`: ends a registration.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::c_ulong = 1 << 30 | 4 << 16 | 229 << 8 | 2;

/// Registers `file` on the connection `device`.
///
/// # Errors
/// Those of `FUSE_DEV_IOC_BACKING_OPEN`.
pub(crate) fn open_backing(device: impl AsFd, file: impl AsFd) -> io::Result<NonZeroU32> {
    let number = BackingId::create_raw(device, file)?;
    NonZeroU32::new(number).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Ends the registration `number` of the connection `device`. Files that are already open are not affected.
///
/// # Errors
/// Those of `FUSE_DEV_IOC_BACKING_CLOSE`.
#[expect(unsafe_code, reason = "ioctl")]
pub(crate) fn close_backing(device: impl AsFd, number: NonZeroU32) -> io::Result<()> {
    let number = number.get();
    // SAFETY: reads one u32 through the pointer.
    match unsafe { libc::ioctl(device.as_fd().as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Answers an open request with the registered file `number`.
#[expect(unsafe_code, reason = "a registration that outlives the reply")]
pub(crate) fn reply_with_backing(reply: ReplyOpen, number: NonZeroU32) {
    // SAFETY: the number is wrapped only until the reply is sent; `into_raw` keeps the registration open.
    let backing = unsafe { reply.wrap_backing(number.get()) };
    reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &backing);
    let _number: u32 = backing.into_raw();
}
