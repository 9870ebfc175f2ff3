//! How much room a filesystem has.

use std::io;
use std::path::Path;

/// The room on a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this user may still write; `None` where the filesystem cannot tell, as some say they have no blocks at
    /// all.
    pub available: Option<u64>,
    /// The unit of allocation in bytes: a file takes whole ones.
    pub unit: u64,
    /// Tells filesystems apart.
    pub device: u64,
}

/// The room on the filesystem of `path`, which must exist.
///
/// # Errors
/// Those of `statvfs(3)` and `stat(2)`.
pub fn room(path: &Path) -> io::Result<Room> {
    let found = rustix::fs::statvfs(path)?;
    let device = rustix::fs::stat(path)?.st_dev;
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    Ok(Room { available: (found.f_blocks > 0).then_some(available), unit: found.f_frsize.max(512), device })
}
