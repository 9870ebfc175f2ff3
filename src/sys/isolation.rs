//! Calls that isolate programs: inherited descriptors, mounts with mapped ids, session keyrings, the loopback interface.
//!
//! *Not here*: what is isolated, and how much (`compose/sandbox`).
//!
//! *Used by* `compose/sandbox`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The attributes that a mount gets before it is placed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttributes<'a> {
    /// No access through this mount writes.
    pub(crate) read_only: bool,
    /// The attributes are also those of the mounts below it.
    pub(crate) recursive: bool,
    /// The user namespace through whose map the mount shows the ids of its files.
    pub(crate) id_map: Option<BorrowedFd<'a>>,
}

/// Sets the attributes of a mount that was made by `open_tree` and is not placed yet. Setuid programs and device nodes have no
/// effect on it, whatever the attributes.
///
/// # Errors
/// Those of `mount_setattr(2)`; `EINVAL` when the filesystem cannot be mounted with mapped ids.
#[expect(unsafe_code, reason = "no crate here has mount_setattr")]
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: MountAttributes<'_>) -> io::Result<()> {
    let mut attr_set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if attributes.read_only {
        attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    let mut userns_fd = 0;
    if let Some(namespace) = attributes.id_map {
        attr_set |= libc::MOUNT_ATTR_IDMAP;
        userns_fd = u64::try_from(namespace.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    let request = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, and `request` is a structure of the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes all descriptors of this process but its standard input, output and error close when it starts another program.
///
/// # Errors
/// Those of `close_range(2)`.
#[expect(unsafe_code, reason = "no crate here has close_range")]
pub(crate) fn close_descriptors_on_exec() -> io::Result<()> {
    let first = libc::c_uint::try_from(libc::STDERR_FILENO + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: with this flag no descriptor is closed now, so none that is in use becomes invalid.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives this process a new session keyring, without the keys of the old one.
///
/// # Errors
/// Those of `keyctl(2)`; `ENOSYS` on a kernel without keyrings.
#[expect(unsafe_code, reason = "no crate here has keyctl")]
pub(crate) fn new_session_keyring() -> io::Result<()> {
    // SAFETY: a null pointer stands for a keyring without a name.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Switches the loopback interface of this process's network namespace on.
///
/// # Errors
/// Those of `socket(2)` and of `ioctl(2)`.
#[expect(unsafe_code, reason = "no crate here has SIOCSIFFLAGS")]
pub(crate) fn switch_loopback_on() -> io::Result<()> {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, flags, None)?;
    // SAFETY: zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, source) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = libc::c_char::from_ne_bytes([*source]);
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: the request has a name with a final zero, and the field of the flags is set.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
