//! A mounted filesystem, from `mount(2)` to its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::FILESYSTEM_TYPE;
use super::adapter::Adapter;
use super::answers::Rest;
use super::attach::{self, MountError, MountRequest, Unmount, UnmountError};
use super::board::Board;
use super::counters::Counters;
use super::device::Introduction;
use super::options::MountOptions;
use super::recording::Recording;
use crate::disk::MountTable;
use crate::sys;
use crate::vfs::Vfs;

/// KiB that the kernel reads ahead. At its default of 128 a file of 146 MB takes eight times as many messages.
const READ_AHEAD_KIB: u32 = 1024;

/// The same where content is fetched as it is read: around each page of a program that is touched, the kernel reads so
/// much, and over a network that is dear. What is read in sequence is fetched ahead by us.
const READ_AHEAD_LAZY_KIB: u32 = 256;

/// How much the kernel reads ahead: a file that is opened before nothing may be opened any more, and written after the
/// kernel had the answer to its first message, which makes it forget what was there.
pub struct ReadAhead(io::Result<fs::File>);

impl ReadAhead {
    /// Of the filesystem `device`, as `major:minor`.
    #[must_use]
    pub fn open(device: &str) -> Self {
        Self(fs::OpenOptions::new().write(true).open(format!("/sys/class/bdi/{device}/read_ahead_kb")))
    }

    /// Sets it as suits what is shown. Best effort: `/sys` may be read-only or we may not be root; reading is only slower
    /// then.
    pub fn set(self, kind: Content) {
        let kib = match kind {
            Content::Here => READ_AHEAD_KIB,
            Content::Fetched => READ_AHEAD_LAZY_KIB,
        };
        let raised = self.0.and_then(|mut file| io::Write::write_all(&mut file, kib.to_string().as_bytes()));
        if let Err(error) = raised {
            tracing::debug!("read_ahead_kb: {error}");
        }
    }
}

/// Where what is shown comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// All of it is here.
    Here,
    /// Parts may have to be fetched.
    Fetched,
}

impl Content {
    /// Of this filesystem.
    #[must_use]
    pub const fn of(vfs: &Vfs) -> Self {
        if vfs.fetcher().is_some() { Self::Fetched } else { Self::Here }
    }
}

/// A filesystem that is mounted and whose kernel side is waiting for [`Session::run`].
pub struct Session {
    inner: fuser::Session<Adapter>,
    counters: Arc<Counters>,
    rest: Arc<Rest>,
    recording: Recording,
}

/// Ends a mount from any thread.
#[derive(Debug, Clone)]
pub struct Unmounter {
    mountpoint: PathBuf,
    device: String,
}

/// A mount that nobody serves yet.
#[derive(Debug)]
pub struct Attached {
    /// The connection to the kernel.
    pub device: OwnedFd,
    /// What ends it.
    pub unmounter: Unmounter,
}

impl Attached {
    /// Mounts. The kernel begins to ask at once, and whoever looks waits for an answer.
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn new(request: &MountRequest) -> Result<Self, MountError> {
        let mountpoint = attach::prepare(request)?;
        let device = attach::attach(request, &mountpoint)?;
        match device_number(&mountpoint) {
            Ok(number) => Ok(Self { device, unmounter: Unmounter { mountpoint, device: number } }),
            Err(error) => {
                Self::give_up(&mountpoint);
                Err(error)
            }
        }
    }

    /// The error that matters is the one on its way out.
    fn give_up(mountpoint: &Path) {
        if let Err(error) = attach::unmount(mountpoint, Unmount::Lazy) {
            tracing::warn!("after a failed mount: {error}");
        }
    }
}

impl Session {
    /// Mounts `vfs` and serves it from this process alone. When this returns the mount exists and the kernel has agreed on
    /// the protocol; requests wait until [`Self::run`].
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn mount(vfs: Arc<Vfs>, request: &MountRequest) -> Result<(Self, Unmounter), MountError> {
        let Attached { device, unmounter } = Attached::new(request)?;
        let board = Board::create().map_err(MountError::Handshake);
        let (read_ahead, content) = (ReadAhead::open(&unmounter.device), Content::of(&vfs));
        let begin = |board: Board| Self::begin(vfs, &request.options, device, &board, None);
        match board.and_then(begin) {
            Ok(session) => {
                read_ahead.set(content);
                Ok((session, unmounter))
            }
            Err(error) => {
                Attached::give_up(&unmounter.mountpoint);
                Err(error)
            }
        }
    }

    /// Serves the connection `device`: for the first time, or where another worker left off, as `board` says. A byte on `wake`
    /// has the supervisor, if there is one, look at the board.
    ///
    /// # Errors
    /// [`MountError::Handshake`], [`MountError::Threads`].
    pub fn begin(
        vfs: Arc<Vfs>,
        options: &MountOptions,
        device: OwnedFd,
        board: &Board,
        wake: Option<OwnedFd>,
    ) -> Result<Self, MountError> {
        let counters = Arc::new(Counters::of(board));
        let own = device.try_clone().map_err(MountError::Handshake)?;
        let mut config = fuser::Config::default();
        config.n_threads = Some(options.threads.get());
        // Who may look in is the kernel's decision (allow_other); asking twice would cost time on every message.
        let everybody = fuser::SessionACL::All;
        let adapter = Adapter::new(Arc::clone(&vfs), board, own, options, wake).map_err(MountError::Threads)?;
        let rest = adapter.rest();
        let (introduction, socket) = Introduction::begin(&device, board).map_err(MountError::Handshake)?;
        let inner = fuser::Session::from_fd(adapter, socket, everybody, config).map_err(MountError::Handshake)?;
        introduction.finish(&device, board, options.resend).map_err(MountError::Handshake)?;
        sys::replace_descriptor(&inner, &device).map_err(MountError::Handshake)?;
        let recording = Recording::new(vfs, inner.notifier(), options.mode);
        Ok(Self { inner, counters, rest, recording })
    }

    /// The counters of this mount.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    pub(super) fn rest(&self) -> Arc<Rest> {
        Arc::clone(&self.rest)
    }

    /// What records this mount.
    #[must_use]
    pub const fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Answers the kernel until the filesystem is unmounted, by anyone, and its last user is gone.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(self) -> io::Result<()> {
        self.inner.run()
    }
}

/// Mounts `device` in the place of a mount whose connection is lost, for root; returns the new filesystem's `major:minor`.
///
/// # Errors
/// [`MountError`].
pub fn mount_anew(lost: &Unmounter, request: &MountRequest, device: impl AsFd) -> Result<String, MountError> {
    if let Err(error) = lost.unmount(Unmount::Lazy) {
        tracing::warn!("{error}; it stays below the new mount");
    }
    attach::attach_device(request, &lost.mountpoint, device.as_fd())?;
    device_number(&lost.mountpoint)
}

impl Unmounter {
    /// Of the filesystem `device`, as `major:minor`, on `mountpoint`.
    #[must_use]
    pub const fn new(mountpoint: PathBuf, device: String) -> Self {
        Self { mountpoint, device }
    }

    /// Where.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// `major:minor` of the filesystem.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Unmounts, unless something else has been mounted there since.
    ///
    /// # Errors
    /// [`UnmountError`]; not being mounted any more is none.
    pub fn unmount(&self, how: Unmount) -> Result<(), UnmountError> {
        let table = MountTable::read().unwrap_or_default();
        if table.top(&self.mountpoint).is_none_or(|there| there.device != self.device) {
            return Ok(());
        }
        attach::unmount(&self.mountpoint, how)
    }
}

/// Returns `major:minor` of the filesystem that was just mounted on `mountpoint`.
fn device_number(mountpoint: &Path) -> Result<String, MountError> {
    // The kernel answers this by itself: no attribute is asked for, none is refreshed, and nobody serves the mount yet.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let stat = statx(CWD, mountpoint, flags, StatxFlags::empty())
        .map_err(|errno| MountError::Mountpoint { path: mountpoint.to_owned(), source: errno.into() })?;
    let device = format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor);
    check_listed(&MountTable::read().map_err(MountError::Table)?, &device, mountpoint)?;
    Ok(device)
}

/// Checks that the kernel's list has the filesystem `device` where it was mounted: unmounting and all that is said of
/// mounts goes by these paths. An emulated processor with a fault is enough for them to be wrong.
fn check_listed(table: &MountTable, device: &str, mountpoint: &Path) -> Result<(), MountError> {
    let Some(first) = table.mounts_of(device).next() else {
        return Err(MountError::NotListed { mountpoint: mountpoint.to_owned(), device: device.to_owned() });
    };
    // Where mounts propagate, one filesystem has several.
    let there = table.mounts_of(device).find(|mount| mount.path == mountpoint);
    match there {
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
    fn a_new_mount_that_is_listed_otherwise_is_an_error_that_says_how() {
        let list = "22 1 253:0 / / rw - ext4 /dev/root rw\n";
        let ours = |path: &str| format!("{list}36 22 0:41 / {path} ro - fuse.sapwood main ro\n");
        let propagated = format!("{}37 22 0:41 / /mnt/usr ro - fuse.sapwood main ro\n", ours("/peer/usr"));
        let covered = format!("{list}36 22 0:41 / /mnt/usr rw - tmpfs tmpfs rw\n");
        let cases = [
            (ours("/mnt/usr"), ""),
            (propagated, ""),
            (list.to_owned(), "/mnt/usr was mounted, but device 0:41 is not in the kernel's list of mounts"),
            (ours("/xxxx"), "/mnt/usr was mounted, but the kernel lists it as '/xxxx', "),
            (covered, "/mnt/usr was mounted, but tmpfs has been mounted over it"),
        ];
        for (text, expected) in cases {
            let checked = check_listed(&MountTable::parse(text.as_bytes()), "0:41", Path::new("/mnt/usr"));
            let said = checked.err().map_or_else(String::new, |error| error.to_string());
            assert!(said.starts_with(expected) && said.is_empty() == expected.is_empty(), "{text}{said}");
        }
    }
}
