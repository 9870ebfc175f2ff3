//! Files that the kernel reads by itself on behalf of a FUSE connection, by number: a number belongs to the connection and
//! not to the process that asked for it, so whoever serves the connection next may go on using it.

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
pub fn open_backing(device: impl AsFd, file: impl AsFd) -> io::Result<NonZeroU32> {
    let number = BackingId::create_raw(device, file)?;
    NonZeroU32::new(number).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Ends the registration `number` of the connection `device`. Files that are open keep what they have.
///
/// # Errors
/// Those of `FUSE_DEV_IOC_BACKING_CLOSE`.
#[expect(unsafe_code, reason = "ioctl")]
pub fn close_backing(device: impl AsFd, number: NonZeroU32) -> io::Result<()> {
    let number = number.get();
    // SAFETY: reads one u32 through the pointer.
    match unsafe { libc::ioctl(device.as_fd().as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const number) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Answers an open with a registered file.
#[expect(unsafe_code, reason = "a registration that outlives the reply")]
pub fn reply_with_backing(reply: ReplyOpen, number: NonZeroU32) {
    // SAFETY: wrapped for the length of the reply only; `into_raw` keeps the registration open.
    let backing = unsafe { reply.wrap_backing(number.get()) };
    reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &backing);
    let _number: u32 = backing.into_raw();
}
