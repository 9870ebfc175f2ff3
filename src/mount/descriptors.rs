//! The descriptors that the processes of a mount hand on to one another, by number.
//!
//! *Used by* the other files of this folder, and by `cli::mounts`, which hands on its program.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;

use crate::sys;

/// The type of FUSE filesystems. A program on such a filesystem is copied to memory, since it could be on the mount that it
/// serves.
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

/// Makes a descriptor inheritable by all processes that are started from now on, and returns its number. The caller must keep
/// the descriptor open.
pub(crate) fn make_inheritable(descriptor: impl AsFd) -> io::Result<i32> {
    rustix::io::fcntl_setfd(&descriptor, FdFlags::empty())?;
    Ok(descriptor.as_fd().as_raw_fd())
}

/// Takes over the inherited descriptor with this number. It is not inherited further.
///
/// # Errors
/// When there is no such descriptor.
pub(crate) fn take_fd(number: i32) -> io::Result<OwnedFd> {
    let descriptor = sys::inherited_descriptor(number)?;
    rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Returns a duplicate of the inherited descriptor with this number, which stays open.
///
/// # Errors
/// When there is no such descriptor, or too many are open.
pub(crate) fn copy_fd(number: i32) -> io::Result<OwnedFd> {
    let original = sys::inherited_descriptor(number)?;
    let copy = original.try_clone();
    let _: i32 = std::os::fd::IntoRawFd::into_raw_fd(original);
    copy
}

/// Opens this program, so that it can be started again when there may be no path to it.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn open_own_program() -> io::Result<OwnedFd> {
    let file = File::open("/proc/self/exe")?;
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    if kind as i64 == FUSE_SUPER_MAGIC { copy_to_memory(file.as_fd()) } else { Ok(file.into()) }
}

fn copy_to_memory(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut copy = File::from(rustix::fs::memfd_create("sapwood", MemfdFlags::CLOEXEC)?);
    io::copy(&mut File::from(file.try_clone_to_owned()?), &mut copy)?;
    Ok(copy.into())
}
