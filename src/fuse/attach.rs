//! Mounts and unmounts, by `mount(2)` and `umount2(2)` as root and through the setuid helper `fusermount3` otherwise, with
//! error messages that name the cause and what to do.
//!
//! *Not here*: serving the connection, whose descriptor a mount returns (`session`).
//!
//! *Used by* `session`, `mount` and `cli`.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{getegid, geteuid};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::FILESYSTEM_TYPE;
use super::options::{AllowedUsers, DeviceNodes, MountMode, MountOptions, Programs, SetUid};
use crate::disk::MountTable;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// The name of the filesystem after `fuse.`.
const SUBTYPE: &str = "sapwood";

/// A mount to be made.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// The source in the kernel's list of mounts: the text that the user gave.
    pub source: String,
    /// The directory on which to mount.
    pub mountpoint: PathBuf,
    /// The options of the mount.
    pub options: MountOptions,
}

/// An error of mounting.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `/dev/fuse` does not exist.
    #[error("{DEVICE} is absent, so this kernel cannot mount; as root try: modprobe fuse")]
    NoDevice,
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open {DEVICE}")]
    Device(#[source] io::Error),
    /// Only root may open `/dev/fuse`.
    #[error("{DEVICE} may not be opened by this user; distributions give it mode 0666 (as root: chmod 666 {DEVICE})")]
    DeviceDenied,
    /// This user is not root, and the helper is not installed.
    #[error("{HELPER} is not installed, and only root can mount without it: apt install fuse3")]
    NoHelper,
    /// The mountpoint cannot be reached.
    #[error("cannot mount on {}", .path.display())]
    Mountpoint {
        /// The mountpoint.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The mountpoint is not a directory.
    #[error("mountpoint {} is not a directory", .path.display())]
    NotADirectory {
        /// The mountpoint.
        path: PathBuf,
    },
    /// A sapwood mount is there already.
    #[error("{source_text} is already mounted on {}; first: sapwood umount {}", .path.display(), .path.display())]
    AlreadyMounted {
        /// The mountpoint.
        path: PathBuf,
        /// The source of that mount.
        source_text: String,
    },
    /// A mount whose processes have ended is there.
    #[error("a mount whose daemon has died is on {}; first: umount --lazy {}", .path.display(), .path.display())]
    Dead {
        /// The mountpoint.
        path: PathBuf,
    },
    /// Only root may use `allow_other`, unless `/etc/fuse.conf` allows it to all users.
    #[error("mount option 'allow_other' needs root, or the line user_allow_other in /etc/fuse.conf")]
    AllowOther,
    /// Only root may use passthrough.
    #[error("mount option 'passthrough' needs root (CAP_SYS_ADMIN in the initial user namespace)")]
    PassthroughNeedsRoot,
    /// Only root may use this option: every user could become root with it.
    #[error("mount option '{0}' needs root")]
    NeedsRoot(&'static str),
    /// The kernel refused to mount.
    #[error("cannot mount on {}: {}", .path.display(), refusal(.errno))]
    Refused {
        /// The mountpoint.
        path: PathBuf,
        /// The error of the kernel.
        errno: Errno,
    },
    /// The helper refused to mount; the text is its own.
    #[error("{0}")]
    Helper(String),
    /// The FUSE handshake failed.
    #[error("cannot agree with the kernel on the FUSE protocol")]
    Handshake(#[source] io::Error),
    /// The threads on which requests wait for absent content cannot be started.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The list of mounts cannot be read.
    #[error("cannot read the list of mounts")]
    Table(#[source] io::Error),
    /// The new mount is not in the kernel's list.
    #[error("{} was mounted, but device {device} is not in the kernel's list of mounts", .mountpoint.display())]
    NotListed {
        /// The path that was given to the kernel.
        mountpoint: PathBuf,
        /// The filesystem's `major:minor`.
        device: String,
    },
    /// The kernel's list has the new mount under another path.
    #[error(
        "{} was mounted, but the kernel lists it as '{}', and mounts are found again by that list",
        .mountpoint.display(),
        .listed.display()
    )]
    ListedElsewhere {
        /// The path that was given to the kernel.
        mountpoint: PathBuf,
        /// The path in the list.
        listed: PathBuf,
    },
    /// Another filesystem was mounted over the new mount at the same time.
    #[error("{} was mounted, but {filesystem} has been mounted over it", .mountpoint.display())]
    Covered {
        /// The path that was given to the kernel.
        mountpoint: PathBuf,
        /// The type of the other filesystem.
        filesystem: String,
    },
}

fn refusal(errno: &Errno) -> String {
    match errno {
        Errno::EPERM => "not permitted: CAP_SYS_ADMIN is needed, which containers usually lack".to_owned(),
        Errno::ENODEV => "this kernel has no FUSE; try: modprobe fuse".to_owned(),
        Errno::EINVAL => "the kernel does not accept these options (is a security context among them?)".to_owned(),
        other => other.desc().to_owned(),
    }
}

/// An error of unmounting.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// The mount is in use.
    #[error("{} is in use", .path.display())]
    Busy {
        /// The mount point.
        path: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("{} is not mounted", .path.display())]
    NotMounted {
        /// The path that was given.
        path: PathBuf,
    },
    /// This user is not root, and the helper is not installed.
    #[error("{HELPER} is not installed, and only root can unmount without it: apt install fuse3")]
    NoHelper,
    /// Any other error.
    #[error("cannot unmount {}: {reason}", .path.display())]
    Failed {
        /// The mount point.
        path: PathBuf,
        /// The cause, of the system or the helper.
        reason: String,
    },
}

/// The way to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// At once, or not at all if the mount is in use.
    Now,
    /// Detached from its path at once, unmounted when it is no longer in use.
    Lazy,
}

/// Checks the mountpoint and returns its absolute path without symbolic links.
pub(super) fn prepare(request: &MountRequest) -> Result<PathBuf, MountError> {
    let path = &request.mountpoint;
    let resolved = path.canonicalize().and_then(|resolved| Ok((resolved.metadata()?.is_dir(), resolved)));
    let (is_directory, resolved) = resolved.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOTCONN) => MountError::Dead { path: path.clone() },
        _ => MountError::Mountpoint { path: path.clone(), source },
    })?;
    if !is_directory {
        return Err(MountError::NotADirectory { path: path.clone() });
    }
    let table = MountTable::read().map_err(MountError::Table)?;
    match table.top(&resolved) {
        Some(mount) if mount.filesystem == FILESYSTEM_TYPE => {
            Err(MountError::AlreadyMounted { path: resolved, source_text: mount.source.clone() })
        }
        Some(_) | None => Ok(resolved),
    }
}

/// Mounts on `path`, which [`prepare`] has checked, and returns the connection to the kernel.
pub(super) fn attach(request: &MountRequest, path: &Path) -> Result<OwnedFd, MountError> {
    if geteuid().is_root() {
        return attach_as_root(request, path);
    }
    let options = &request.options;
    if options.mode == MountMode::Passthrough {
        return Err(MountError::PassthroughNeedsRoot);
    }
    if options.set_uid == Some(SetUid::Honoured) {
        return Err(MountError::NeedsRoot("suid"));
    }
    if options.devices == Some(DeviceNodes::Honoured) {
        return Err(MountError::NeedsRoot("dev"));
    }
    attach_as_user(request, path)
}

fn attach_as_root(request: &MountRequest, path: &Path) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    attach_device(request, path, device.as_fd())?;
    Ok(device.into())
}

/// Mounts a connection that is already open. Needs root.
pub(super) fn attach_device(request: &MountRequest, path: &Path, device: BorrowedFd<'_>) -> Result<(), MountError> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid(),
        getegid()
    );
    if request.options.allowed_users == AllowedUsers::All {
        data.push_str(",allow_other");
    }
    for option in &request.options.security {
        data.push(',');
        data.push_str(option);
    }
    let flags = mount_flags(&request.options);
    mount(Some(request.source.as_str()), path, Some(FILESYSTEM_TYPE), flags, Some(data.as_str()))
        .map_err(|errno| MountError::Refused { path: path.to_owned(), errno })
}

fn open_device() -> Result<File, MountError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoDevice,
        io::ErrorKind::PermissionDenied => MountError::DeviceDenied,
        _ => MountError::Device(error),
    })
}

/// Returns the mount flags. The superblock is read-only, or each read would invalidate the access time and with it the cached
/// attributes.
fn mount_flags(options: &MountOptions) -> MsFlags {
    let mut flags = MsFlags::MS_RDONLY;
    flags.set(MsFlags::MS_NOSUID, options.set_uid.unwrap_or_default() == SetUid::Ignored);
    flags.set(MsFlags::MS_NODEV, options.devices.unwrap_or_default() == DeviceNodes::Ignored);
    flags.set(MsFlags::MS_NOEXEC, options.programs.unwrap_or_default() == Programs::Refused);
    flags
}

/// Mounts through `fusermount3`, which sends the connection over the socket that is its standard input.
fn attach_as_user(request: &MountRequest, path: &Path) -> Result<OwnedFd, MountError> {
    let (socket, helper_end) = UnixStream::pair().map_err(MountError::Handshake)?;
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(helper_options(request)).arg("--").arg(path).env("_FUSE_COMMFD", "0").env("LC_ALL", "C");
    command.stdin(OwnedFd::from(helper_end)).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(helper_missing)?;
    // Closes this process's copy of the helper's end, so that the end of a helper that fails is seen as end of file.
    drop(command);
    let device = receive_descriptor(&socket);
    let output = child.wait_with_output().map_err(MountError::Handshake)?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(helper_failed(&output)),
        Err(error) => Err(MountError::Handshake(error)),
    }
}

fn helper_options(request: &MountRequest) -> String {
    let options = &request.options;
    let escaped = request.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut text = format!("ro,nosuid,nodev,default_permissions,subtype={SUBTYPE},fsname={escaped}");
    if options.programs == Some(Programs::Refused) {
        text.push_str(",noexec");
    }
    if options.allowed_users == AllowedUsers::All {
        text.push_str(",allow_other");
    }
    text
}

fn helper_missing(error: io::Error) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::Helper(format!("run {HELPER}: {error}")),
    }
}

fn helper_failed(output: &Output) -> MountError {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.contains("user_allow_other") {
        return MountError::AllowOther;
    }
    if text.contains("fuse device not found") {
        return MountError::NoDevice;
    }
    if text.contains("failed to open /dev/fuse: Permission denied") {
        return MountError::DeviceDenied;
    }
    MountError::Helper(if text.is_empty() { format!("{HELPER} failed: {}", output.status) } else { text })
}

/// Receives one descriptor from a socket. Returns `None` if the other side closes without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8];
    let buffers = &mut [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Unmounts `path`.
///
/// # Errors
/// [`UnmountError::Busy`] unless lazy, and the other variants.
pub(crate) fn unmount(path: &Path, how: Unmount) -> Result<(), UnmountError> {
    if !geteuid().is_root() {
        return unmount_as_user(path, how);
    }
    let detach = if how == Unmount::Lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    umount2(path, detach | MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| match errno {
        Errno::EBUSY => UnmountError::Busy { path: path.to_owned() },
        Errno::EINVAL | Errno::ENOENT => UnmountError::NotMounted { path: path.to_owned() },
        other => UnmountError::Failed { path: path.to_owned(), reason: other.desc().to_owned() },
    })
}

fn unmount_as_user(path: &Path, how: Unmount) -> Result<(), UnmountError> {
    let mut command = Command::new(HELPER);
    command.arg("-u").args((how == Unmount::Lazy).then_some("-z")).arg("--").arg(path).env("LC_ALL", "C");
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => UnmountError::NoHelper,
        _ => UnmountError::Failed { path: path.to_owned(), reason: error.to_string() },
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.contains("busy") {
        return Err(UnmountError::Busy { path: path.to_owned() });
    }
    if text.contains("not found in") || text.contains("not mounted") {
        return Err(UnmountError::NotMounted { path: path.to_owned() });
    }
    Err(UnmountError::Failed { path: path.to_owned(), reason: text })
}

/// Changes the flags of the mount at `path`. Flags that `options` does not mention stay as they are, and so does read-only.
///
/// # Errors
/// [`MountError::Refused`], among others when nothing is mounted there.
pub(crate) fn remount_read_only(path: &Path, options: &MountOptions) -> Result<(), MountError> {
    let table = MountTable::read().map_err(MountError::Table)?;
    let current = table.top(path).filter(|mount| mount.filesystem == FILESYSTEM_TYPE);
    let current = current.ok_or_else(|| MountError::Refused { path: path.to_owned(), errno: Errno::EINVAL })?;
    let has = |flag: &str| current.flags.split(',').any(|set| set == flag);
    let mut flags = MsFlags::MS_RDONLY | MsFlags::MS_REMOUNT;
    flags.set(MsFlags::MS_NOSUID, options.set_uid.map_or(has("nosuid"), |set| set == SetUid::Ignored));
    flags.set(MsFlags::MS_NODEV, options.devices.map_or(has("nodev"), |set| set == DeviceNodes::Ignored));
    flags.set(MsFlags::MS_NOEXEC, options.programs.map_or(has("noexec"), |set| set == Programs::Refused));
    mount(Some(current.source.as_str()), path, Some(FILESYSTEM_TYPE), flags, None::<&str>)
        .map_err(|errno| MountError::Refused { path: path.to_owned(), errno })
}
