//! Files of which the kernel checks every page that it reads, by a tree of digests that the filesystem keeps (fs-verity:
//! ext4, f2fs, Btrfs). Such a file never changes again.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOW('f', 133, struct fsverity_enable_arg)`.
const FS_IOC_ENABLE_VERITY: libc::c_ulong = 1 << 30 | 128 << 16 | 0x66 << 8 | 133;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved: u32,
    signature: u64,
    reserved_2: [u64; 11],
}

const _: () = assert!(size_of::<Enable>() == 128, "the kernel's own");

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA_256: u32 = 1;

/// The one that every filesystem takes.
const BLOCK: u32 = 4096;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verity {
    /// The kernel checks it.
    Enabled,
    /// This kernel or this filesystem does not do that.
    Unsupported,
}

/// Has the kernel check `file`, which must be open for reading and by nobody for writing. It reads all of it for that.
///
/// # Errors
/// Those of the disk, and `ETXTBSY` while somebody may write.
#[expect(unsafe_code, reason = "ioctl")]
pub fn enable_verity(file: impl AsFd) -> io::Result<Verity> {
    let enable = Enable { version: 1, hash_algorithm: SHA_256, block_size: BLOCK, ..Enable::default() };
    // SAFETY: reads one `struct fsverity_enable_arg` through the pointer.
    let done = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_ENABLE_VERITY, &raw const enable) };
    if done == 0 {
        return Ok(Verity::Enabled);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(Verity::Enabled),
        // No such ioctl; not on this filesystem; not with this block size.
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL) => Ok(Verity::Unsupported),
        _ => Err(error),
    }
}

/// Whether the kernel checks `file`.
#[must_use]
pub fn has_verity(file: impl AsFd) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::VERITY))
}
