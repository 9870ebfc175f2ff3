//! Making and ending mounts, by `mount(2)` as root and through the setuid helper `fusermount3` otherwise, and saying in
//! plain words why it did not work.
//!
//! The device comes back as a descriptor; what is served on it is `session`'s business.

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
use super::options::{Audience, Devices, Mode, MountOptions, Programs, SetUid};
use crate::disk::MountTable;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";

/// The name of the filesystem after `fuse.`.
const SUBTYPE: &str = "sapwood";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// What to call it in the kernel's list: the text the user gave.
    pub source: String,
    /// Where.
    pub mountpoint: PathBuf,
    /// How.
    pub options: MountOptions,
}

/// Why something could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No `/dev/fuse`.
    #[error("{DEVICE} is absent, so this kernel cannot mount; as root try: modprobe fuse")]
    NoDevice,
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open {DEVICE}")]
    Device(#[source] io::Error),
    /// `/dev/fuse` is root's alone.
    #[error("{DEVICE} may not be opened by this user; distributions give it mode 0666 (as root: chmod 666 {DEVICE})")]
    DeviceDenied,
    /// Not root, and no helper.
    #[error("{HELPER} is not installed, and only root can mount without it: apt install fuse3")]
    NoHelper,
    /// The mountpoint cannot be reached.
    #[error("cannot mount on {}", .path.display())]
    Mountpoint {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mountpoint is something else.
    #[error("mountpoint {} is not a directory", .path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// One of our mounts is there.
    #[error("{source_text} is already mounted on {}; first: sapwood umount {}", .path.display(), .path.display())]
    AlreadyMounted {
        /// Where.
        path: PathBuf,
        /// What.
        source_text: String,
    },
    /// A mount whose daemon is gone.
    #[error("a mount whose daemon has died is on {}; first: umount --lazy {}", .path.display(), .path.display())]
    Dead {
        /// Where.
        path: PathBuf,
    },
    /// `allow_other` is root's to allow.
    #[error("mount option 'allow_other' needs root, or the line user_allow_other in /etc/fuse.conf")]
    AllowOther,
    /// Passthrough is root's.
    #[error("mount option 'passthrough' needs root (CAP_SYS_ADMIN in the initial user namespace)")]
    PassthroughNeedsRoot,
    /// The kernel refused.
    #[error("cannot mount on {}: {}", .path.display(), refusal(.errno))]
    Refused {
        /// Where.
        path: PathBuf,
        /// Its answer.
        errno: Errno,
    },
    /// The helper refused, in its own words.
    #[error("{0}")]
    Helper(String),
    /// The kernel and we did not agree on how to talk.
    #[error("cannot come to terms with the kernel")]
    Handshake(#[source] io::Error),
    /// Threads that wait for what is absent.
    #[error("cannot start threads")]
    Threads(#[source] io::Error),
    /// The list of mounts cannot be read.
    #[error("cannot read the list of mounts")]
    Table(#[source] io::Error),
    /// The new mount is not in the kernel's list.
    #[error("{} was mounted, but device {device} is not in the kernel's list of mounts", .mountpoint.display())]
    NotListed {
        /// As given to the kernel.
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
        /// As given to the kernel.
        mountpoint: PathBuf,
        /// As listed.
        listed: PathBuf,
    },
    /// Another filesystem was mounted over the new mount at the same time.
    #[error("{} was mounted, but {filesystem} has been mounted over it", .mountpoint.display())]
    Covered {
        /// As given to the kernel.
        mountpoint: PathBuf,
        /// The other filesystem's type.
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

/// Why something could not be unmounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// In use.
    #[error("{} is in use", .path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("{} is not mounted", .path.display())]
    NotMounted {
        /// Where.
        path: PathBuf,
    },
    /// No helper.
    #[error("{HELPER} is not installed, and only root can unmount without it: apt install fuse3")]
    NoHelper,
    /// Anything else.
    #[error("cannot unmount {}: {reason}", .path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Now, or not at all.
    Now,
    /// Out of sight now, gone when the last user is.
    Lazy,
}

/// Checks the mountpoint and makes it absolute, without symbolic links.
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
        Some(there) if there.filesystem == FILESYSTEM_TYPE => {
            Err(MountError::AlreadyMounted { path: resolved, source_text: there.source.clone() })
        }
        Some(_) | None => Ok(resolved),
    }
}

/// Mounts on `path`, which [`prepare`] has checked, and returns the device to serve.
pub(super) fn attach(request: &MountRequest, path: &Path) -> Result<OwnedFd, MountError> {
    if geteuid().is_root() {
        return attach_as_root(request, path);
    }
    if request.options.mode == Mode::Passthrough {
        return Err(MountError::PassthroughNeedsRoot);
    }
    attach_as_user(request, path)
}

fn attach_as_root(request: &MountRequest, path: &Path) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    attach_device(request, path, device.as_fd())?;
    Ok(device.into())
}

/// Mounts a connection that is open already, for root.
pub(super) fn attach_device(request: &MountRequest, path: &Path, device: BorrowedFd<'_>) -> Result<(), MountError> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid(),
        getegid()
    );
    if request.options.audience == Audience::Everybody {
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
        _ => MountError::Device(error),
    })
}

/// Read-only on the superblock, or every read would invalidate the access time and with it the cached attributes.
fn mount_flags(options: &MountOptions) -> MsFlags {
    let mut flags = MsFlags::MS_RDONLY;
    flags.set(MsFlags::MS_NOSUID, options.set_uid.unwrap_or_default() == SetUid::Ignored);
    flags.set(MsFlags::MS_NODEV, options.devices.unwrap_or_default() == Devices::Ignored);
    flags.set(MsFlags::MS_NOEXEC, options.programs.unwrap_or_default() == Programs::Refused);
    flags
}

/// `fusermount3` mounts and sends the device over the socket that is its standard input.
fn attach_as_user(request: &MountRequest, path: &Path) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Handshake)?;
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(helper_options(request)).arg("--").arg(path).env("_FUSE_COMMFD", "0").env("LC_ALL", "C");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(helper_missing)?;
    // The command keeps our copy of their end open; without it a helper that fails is seen as end of file.
    drop(command);
    let device = receive_descriptor(&ours);
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
    if options.audience == Audience::Everybody {
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
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if words.contains("user_allow_other") {
        return MountError::AllowOther;
    }
    if words.contains("fuse device not found") {
        return MountError::NoDevice;
    }
    if words.contains("failed to open /dev/fuse: Permission denied") {
        return MountError::DeviceDenied;
    }
    MountError::Helper(if words.is_empty() { format!("{HELPER} failed: {}", output.status) } else { words })
}

/// One descriptor from a socket; none if the other side closes without sending one.
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

/// Ends the mount at `path`.
///
/// # Errors
/// [`UnmountError::Busy`] unless lazy; others as they say.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), UnmountError> {
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
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if words.contains("busy") {
        return Err(UnmountError::Busy { path: path.to_owned() });
    }
    if words.contains("not found in") || words.contains("not mounted") {
        return Err(UnmountError::NotMounted { path: path.to_owned() });
    }
    Err(UnmountError::Failed { path: path.to_owned(), reason: words })
}

/// Gives the mount at `path` new flags; what `options` does not mention stays. It stays read-only in any case.
///
/// # Errors
/// [`MountError::Refused`], among others when nothing is mounted there.
pub fn remount_read_only(path: &Path, options: &MountOptions) -> Result<(), MountError> {
    let table = MountTable::read().map_err(MountError::Table)?;
    let there = table.top(path).filter(|there| there.filesystem == FILESYSTEM_TYPE);
    let there = there.ok_or_else(|| MountError::Refused { path: path.to_owned(), errno: Errno::EINVAL })?;
    let has = |flag: &str| there.flags.split(',').any(|set| set == flag);
    let mut flags = MsFlags::MS_RDONLY | MsFlags::MS_REMOUNT;
    flags.set(MsFlags::MS_NOSUID, options.set_uid.map_or(has("nosuid"), |set| set == SetUid::Ignored));
    flags.set(MsFlags::MS_NODEV, options.devices.map_or(has("nodev"), |set| set == Devices::Ignored));
    flags.set(MsFlags::MS_NOEXEC, options.programs.map_or(has("noexec"), |set| set == Programs::Refused));
    mount(Some(there.source.as_str()), path, Some(FILESYSTEM_TYPE), flags, None::<&str>)
        .map_err(|errno| MountError::Refused { path: path.to_owned(), errno })
}
