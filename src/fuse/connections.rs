//! The kernel's own count of the requests that wait for an answer: the only one that includes those which a process has
//! taken and not yet looked at.
//!
//! It is in a filesystem of its own, which systemd mounts on `/sys/fs/fuse/connections`. Root needs no such path.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Where it is mounted, if it is.
const PATH: &CStr = c"/sys/fs/fuse/connections";

/// Room for a device's minor number and `/waiting`.
const NAME_MAX: usize = 32;

/// Opens the directory of all connections.
///
/// # Errors
/// When it is not mounted, and this process cannot mount it out of sight.
pub fn open_connections() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match mount_out_of_sight() {
        Ok(mount) => Ok(rustix::fs::openat(mount, c".", flags, Mode::empty())?),
        Err(error) => {
            let found = rustix::fs::open(PATH, flags, Mode::empty())?;
            // An empty directory is what is there when nothing is mounted on it.
            if rustix::fs::fstatfs(&found)?.f_type == FUSE_CTL_SUPER_MAGIC { Ok(found) } else { Err(error.into()) }
        }
    }
}

/// What `statfs(2)` says of this filesystem.
const FUSE_CTL_SUPER_MAGIC: rustix::fs::FsWord = 0x6573_5543;

fn mount_out_of_sight() -> rustix::io::Result<OwnedFd> {
    let context = fsopen(c"fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// How many requests to the filesystem with this minor device number wait for an answer; none if that cannot be known.
/// Allocates nothing.
pub(super) fn waiting(connections: impl AsFd, minor: u32) -> Option<u64> {
    let mut name = [0; NAME_MAX];
    let file =
        rustix::fs::openat(connections, render(minor, &mut name)?, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let mut text = [0; NAME_MAX];
    let length = rustix::io::read(file.ok()?, &mut text).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim_end().parse().ok()
}

/// `41/waiting`
fn render(minor: u32, name: &mut [u8; NAME_MAX]) -> Option<&CStr> {
    use std::io::Write as _;
    let mut rest = &mut name[..];
    write!(rest, "{minor}/waiting\0").ok()?;
    CStr::from_bytes_until_nul(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rendered_within_their_room() {
        let mut name = [0; NAME_MAX];
        assert_eq!(render(41, &mut name), Some(c"41/waiting"));
        assert_eq!(render(u32::MAX, &mut name), Some(c"4294967295/waiting"));
    }
}
