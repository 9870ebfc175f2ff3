//! Reports how much free space a filesystem has.
//!
//! *Used by* `store` and `deploy`.

use std::io;
use std::path::Path;

/// The free space on a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    /// Bytes that this user may still write; `None` for a filesystem that does not report it (some report that they have no
    /// blocks at all).
    pub(crate) available: Option<u64>,
    /// The unit of allocation in bytes: a file takes a whole number of units.
    pub(crate) allocation_unit: u64,
    /// The device number, which distinguishes filesystems.
    pub(crate) device: u64,
}

/// Returns the free space on the filesystem of `path`, which must exist.
///
/// # Errors
/// Those of `statvfs(3)` and `stat(2)`.
pub(crate) fn free_space(path: &Path) -> io::Result<FreeSpace> {
    let found = rustix::fs::statvfs(path)?;
    let device = rustix::fs::stat(path)?.st_dev;
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    Ok(FreeSpace {
        available: (found.f_blocks > 0).then_some(available),
        allocation_unit: found.f_frsize.max(512),
        device,
    })
}
