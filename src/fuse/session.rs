//! A mounted filesystem, from `mount(2)` to its end.
//!
//! *Not here*: making the mount itself (`attach`); the processes that hold it (`mount`).
//!
//! *Used by* `mount`, `boot` and `cli`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::FILESYSTEM_TYPE;
use super::adapter::Adapter;
use super::attach::{self, MountError, MountRequest, Unmount, UnmountError};
use super::counters::RequestCounters;
use super::device::InitProxy;
use super::operations::Quiesce;
use super::options::MountOptions;
use super::recording::Recording;
use super::shared::SharedState;
use crate::disk::MountTable;
use crate::sys;
use crate::vfs::Vfs;

/// The kernel's readahead in KiB. With its default of 128 a file of 146 MB takes eight times as many messages.
const READ_AHEAD_KIB: u32 = 1024;

/// The kernel's readahead in KiB for a lazy mount. The kernel reads this much around each page of a program that is touched,
/// which is expensive over a network. For sequential reads the cache fetches ahead itself.
const READ_AHEAD_LAZY_KIB: u32 = 256;

/// The file that sets the kernel's readahead. It is opened before the sandbox forbids that, and written after the reply to
/// INIT, which resets the value.
pub(crate) struct KernelReadAhead(io::Result<fs::File>);

impl KernelReadAhead {
    /// Opens the file of the filesystem `device`, as `major:minor`.
    pub(crate) fn open(device: &str) -> Self {
        Self(fs::OpenOptions::new().write(true).open(format!("/sys/class/bdi/{device}/read_ahead_kb")))
    }

    /// Sets the value that suits the source of the content. Best effort: `/sys` may be read-only, or this user not root;
    /// reading is then only slower.
    pub(crate) fn set(self, kind: ContentSource) {
        let kib = match kind {
            ContentSource::Local => READ_AHEAD_KIB,
            ContentSource::Remote => READ_AHEAD_LAZY_KIB,
        };
        let raised = self.0.and_then(|mut file| io::Write::write_all(&mut file, kib.to_string().as_bytes()));
        if let Err(error) = raised {
            tracing::debug!("read_ahead_kb: {error}");
        }
    }
}

/// The source of the content of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentSource {
    /// All content is in the repository.
    Local,
    /// Some content may have to be fetched.
    Remote,
}

impl ContentSource {
    /// Returns the source of a filesystem's content.
    pub(crate) const fn of(vfs: &Vfs) -> Self {
        if vfs.fetcher().is_some() { Self::Remote } else { Self::Local }
    }
}

/// A mounted filesystem whose requests wait for [`Session::run`].
pub struct Session {
    inner: fuser::Session<Adapter>,
    counters: Arc<RequestCounters>,
    quiesce: Arc<Quiesce>,
    recording: Recording,
}

/// A handle that unmounts from any thread.
#[derive(Debug, Clone)]
pub struct Unmounter {
    mountpoint: PathBuf,
    device: String,
}

/// A mount that no process serves yet.
#[derive(Debug)]
pub(crate) struct Attached {
    /// The connection to the kernel.
    pub(crate) device: OwnedFd,
    /// The handle that unmounts it.
    pub(crate) unmounter: Unmounter,
}

impl Attached {
    /// Makes the mount. The kernel sends messages at once, and processes that access the mount wait for replies.
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub(crate) fn new(request: &MountRequest) -> Result<Self, MountError> {
        let mountpoint = attach::prepare(request)?;
        let device = attach::attach(request, &mountpoint)?;
        match device_number(&mountpoint) {
            Ok(number) => Ok(Self { device, unmounter: Unmounter { mountpoint, device: number } }),
            Err(error) => {
                Self::unmount_after_failure(&mountpoint);
                Err(error)
            }
        }
    }

    /// Unmounts after an error. An error of this is only logged: the caller returns the first one.
    fn unmount_after_failure(mountpoint: &Path) {
        if let Err(error) = attach::unmount(mountpoint, Unmount::Lazy) {
            tracing::warn!("after a failed mount: {error}");
        }
    }
}

impl Session {
    /// Mounts `vfs` to serve it from this process alone, without a supervisor. When this returns, the mount exists and the
    /// protocol is agreed with the kernel; requests wait until [`Self::run`].
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn mount(vfs: Arc<Vfs>, request: &MountRequest) -> Result<(Self, Unmounter), MountError> {
        let Attached { device, unmounter } = Attached::new(request)?;
        let shared = SharedState::create().map_err(MountError::Handshake);
        let (read_ahead, content) = (KernelReadAhead::open(&unmounter.device), ContentSource::of(&vfs));
        let start = |shared: SharedState| Self::start(vfs, &request.options, device, &shared, None);
        match shared.and_then(start) {
            Ok(session) => {
                read_ahead.set(content);
                Ok((session, unmounter))
            }
            Err(error) => {
                Attached::unmount_after_failure(&unmounter.mountpoint);
                Err(error)
            }
        }
    }

    /// Starts a session on the connection `device`: the first one, or the continuation of an earlier worker's, depending on
    /// `shared`. A byte on `wake` makes the supervisor, if there is one, read the shared pages.
    pub(crate) fn start(
        vfs: Arc<Vfs>,
        options: &MountOptions,
        device: OwnedFd,
        shared: &SharedState,
        wake: Option<OwnedFd>,
    ) -> Result<Self, MountError> {
        let counters = Arc::new(RequestCounters::of(shared));
        let device_copy = device.try_clone().map_err(MountError::Handshake)?;
        let mut config = fuser::Config::default();
        config.n_threads = Some(options.threads.get());
        // The kernel decides which users have access (allow_other); a second check would cost time on each message.
        let all_users = fuser::SessionACL::All;
        let adapter =
            Adapter::new(Arc::clone(&vfs), shared, device_copy, options, wake).map_err(MountError::Threads)?;
        let quiesce = adapter.quiesce();
        let (init_proxy, socket) = InitProxy::start(&device, shared).map_err(MountError::Handshake)?;
        let inner = fuser::Session::from_fd(adapter, socket, all_users, config).map_err(MountError::Handshake)?;
        init_proxy.finish(&device, shared, options.resend).map_err(MountError::Handshake)?;
        sys::replace_descriptor(&inner, &device).map_err(MountError::Handshake)?;
        let recording = Recording::new(vfs, inner.notifier(), options.mode);
        Ok(Self { inner, counters, quiesce, recording })
    }

    /// Returns the counters of this mount.
    #[must_use]
    pub const fn counters(&self) -> &Arc<RequestCounters> {
        &self.counters
    }

    pub(crate) fn quiesce(&self) -> Arc<Quiesce> {
        Arc::clone(&self.quiesce)
    }

    /// Returns the handle that records this mount.
    pub(crate) const fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Serves the kernel's messages until the filesystem is unmounted and no longer in use.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(self) -> io::Result<()> {
        self.inner.run()
    }
}

/// Mounts `device` in place of a mount whose connection is lost, and returns the new filesystem's `major:minor`. Needs root.
pub(crate) fn mount_replacement(
    lost: &Unmounter,
    request: &MountRequest,
    device: impl AsFd,
) -> Result<String, MountError> {
    if let Err(error) = lost.unmount(Unmount::Lazy) {
        tracing::warn!("{error}; it stays below the new mount");
    }
    attach::attach_device(request, &lost.mountpoint, device.as_fd())?;
    device_number(&lost.mountpoint)
}

impl Unmounter {
    /// Creates a handle for the filesystem `device`, as `major:minor`, on `mountpoint`.
    pub(crate) const fn new(mountpoint: PathBuf, device: String) -> Self {
        Self { mountpoint, device }
    }

    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Returns the filesystem's `major:minor`.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Unmounts, unless another filesystem has been mounted there since.
    ///
    /// # Errors
    /// [`UnmountError`], but not if the filesystem is no longer mounted.
    pub fn unmount(&self, how: Unmount) -> Result<(), UnmountError> {
        let table = MountTable::read().unwrap_or_default();
        if table.top(&self.mountpoint).is_none_or(|mount| mount.device != self.device) {
            return Ok(());
        }
        attach::unmount(&self.mountpoint, how)
    }
}

/// Returns `major:minor` of the filesystem that was just mounted on `mountpoint`.
fn device_number(mountpoint: &Path) -> Result<String, MountError> {
    // No process serves the mount yet, so statx must not cause a message: it asks for no attributes and refreshes none.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let stat = statx(CWD, mountpoint, flags, StatxFlags::empty())
        .map_err(|errno| MountError::Mountpoint { path: mountpoint.to_owned(), source: errno.into() })?;
    let device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    check_listed(&MountTable::read().map_err(MountError::Table)?, &device, mountpoint)?;
    Ok(device)
}

/// Checks that the kernel lists the filesystem `device` at the path where it was mounted, since unmounting and the list of
/// mounts rely on these paths. A faulty emulated processor can make them wrong.
fn check_listed(table: &MountTable, device: &str, mountpoint: &Path) -> Result<(), MountError> {
    let Some(first) = table.mounts_of(device).next() else {
        return Err(MountError::NotListed { mountpoint: mountpoint.to_owned(), device: device.to_owned() });
    };
    // Where mounts propagate, one filesystem has several paths.
    let listed = table.mounts_of(device).find(|mount| mount.path == mountpoint);
    match listed {
        Some(mount) if mount.filesystem == FILESYSTEM_TYPE => Ok(()),
        Some(mount) => {
            Err(MountError::Covered { mountpoint: mountpoint.to_owned(), filesystem: mount.filesystem.clone() })
        }
        None => Err(MountError::ListedElsewhere { mountpoint: mountpoint.to_owned(), listed: first.path.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_mount_listed_at_another_path_is_an_error() {
        let list = "22 1 253:0 / / rw - ext4 /dev/root rw\n";
        let listed = |path: &str| format!("{list}36 22 0:41 / {path} ro - fuse.sapwood main ro\n");
        let propagated = format!("{}37 22 0:41 / /mnt/usr ro - fuse.sapwood main ro\n", listed("/peer/usr"));
        let covered = format!("{list}36 22 0:41 / /mnt/usr rw - tmpfs tmpfs rw\n");
        let cases = [
            (listed("/mnt/usr"), ""),
            (propagated, ""),
            (list.to_owned(), "/mnt/usr was mounted, but device 0:41 is not in the kernel's list of mounts"),
            (listed("/xxxx"), "/mnt/usr was mounted, but the kernel lists it as '/xxxx', "),
            (covered, "/mnt/usr was mounted, but tmpfs has been mounted over it"),
        ];
        for (text, expected) in cases {
            let checked = check_listed(&MountTable::parse(text.as_bytes()), "0:41", Path::new("/mnt/usr"));
            let message = checked.err().map_or_else(String::new, |error| error.to_string());
            assert!(message.starts_with(expected) && message.is_empty() == expected.is_empty(), "{text}{message}");
        }
    }
}
