//! The kernel's count of the requests without a reply, the only one that includes requests which a worker has read and not
//! yet recorded.
//!
//! The count is in a filesystem (fusectl) that systemd mounts on `/sys/fs/fuse/connections`. Root can mount it without a path.
//!
//! *Used by* the supervisor's watchdog and `start`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// The path where the filesystem is usually mounted.
const MOUNT_PATH: &CStr = c"/sys/fs/fuse/connections";

/// Space for a device's minor number and `/waiting`.
const NAME_MAX: usize = 32;

/// Opens the directory of all connections.
///
/// # Errors
/// When the filesystem is not mounted and this process cannot mount it without a path.
pub(crate) fn open_connections() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match mount_detached() {
        Ok(mount) => Ok(rustix::fs::openat(mount, c".", flags, Mode::empty())?),
        Err(error) => {
            let found = rustix::fs::open(MOUNT_PATH, flags, Mode::empty())?;
            // Without the mount this path is an empty directory of another filesystem.
            if rustix::fs::fstatfs(&found)?.f_type == FUSE_CTL_SUPER_MAGIC { Ok(found) } else { Err(error.into()) }
        }
    }
}

/// The type of the filesystem according to `statfs(2)`.
const FUSE_CTL_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5543;

fn mount_detached() -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// Returns the number of requests without a reply to the filesystem with this minor device number, or `None` if it cannot be
/// read. Allocates nothing.
pub(super) fn waiting_requests(connections: impl AsFd, minor: u32) -> Option<u64> {
    let mut name = [0; NAME_MAX];
    let file = rustix::fs::openat(
        connections,
        render_name(minor, &mut name)?,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let mut text = [0; NAME_MAX];
    let length = rustix::io::read(file.ok()?, &mut text).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim_end().parse().ok()
}

/// Returns the path of the count, such as `41/waiting`.
fn render_name(minor: u32, name: &mut [u8; NAME_MAX]) -> Option<&CStr> {
    use std::io::Write as _;
    let mut rest = &mut name[..];
    write!(rest, "{minor}/waiting\0").ok()?;
    CStr::from_bytes_until_nul(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_name_fits_its_buffer() {
        let mut name = [0; NAME_MAX];
        assert_eq!(render_name(41, &mut name), Some(c"41/waiting"));
        assert_eq!(render_name(u32::MAX, &mut name), Some(c"4294967295/waiting"));
    }
}
