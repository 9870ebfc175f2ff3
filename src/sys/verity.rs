//! Enables fs-verity: the kernel checks every page that it reads of a file by a tree of digests that the filesystem keeps
//! (ext4, f2fs, Btrfs). Such a file never changes again.
//!
//! *Used by* `store`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `_IOW('f', 133, struct fsverity_enable_arg)`.
const FS_IOC_ENABLE_VERITY: libc::c_ulong = 1 << 30 | 128 << 16 | 0x66 << 8 | 133;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Default)]
struct EnableArgument {
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

const _: () = assert!(size_of::<EnableArgument>() == 128, "the size of the kernel's structure");

/// `FS_VERITY_HASH_ALG_SHA256`.
const SHA_256: u32 = 1;

/// The only size of a verity block that every filesystem supports, in bytes.
const VERITY_BLOCK_SIZE: u32 = 4096;

/// The outcome of [`enable_verity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verity {
    /// The kernel checks the file.
    Enabled,
    /// This kernel or this filesystem does not support fs-verity.
    Unsupported,
}

/// Makes the kernel check `file`, which must be open for reading and which no process may have open for writing. The kernel
/// reads the whole file to compute the digests.
///
/// # Errors
/// Those of the disk, and `ETXTBSY` while a process has the file open for writing.
#[expect(unsafe_code, reason = "ioctl")]
pub(crate) fn enable_verity(file: impl AsFd) -> io::Result<Verity> {
    let enable = EnableArgument {
        version: 1,
        hash_algorithm: SHA_256,
        block_size: VERITY_BLOCK_SIZE,
        ..EnableArgument::default()
    };
    // SAFETY: the kernel reads one `struct fsverity_enable_arg` through the pointer.
    let done = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_ENABLE_VERITY, &raw const enable) };
    if done == 0 {
        return Ok(Verity::Enabled);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(Verity::Enabled),
        // The kernel has no such ioctl; the filesystem does not support it; it does not support this block size.
        Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL) => Ok(Verity::Unsupported),
        _ => Err(error),
    }
}

/// Returns whether the kernel checks `file` by fs-verity.
#[must_use]
pub fn has_verity(file: impl AsFd) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::VERITY))
}
