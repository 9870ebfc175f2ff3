//! A mounted filesystem, from `mount(2)` to its end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapter::Adapter;
use super::attach::{self, MountError, MountRequest, Unmount, UnmountError};
use super::counters::Counters;
use super::mountinfo::{FILESYSTEM_TYPE, MountTable};
use super::recording::Recording;
use crate::vfs::Vfs;

/// KiB that the kernel reads ahead. At its default of 128 a file of 146 MB takes eight times as many messages.
const READ_AHEAD_KIB: u32 = 1024;

/// The same where content is fetched as it is read: around each page of a program that is touched, the kernel reads so
/// much, and over a network that is dear. What is read in sequence is fetched ahead by us.
const READ_AHEAD_LAZY_KIB: u32 = 256;

/// A filesystem that is mounted and whose kernel side is waiting for [`Session::run`].
pub struct Session {
    inner: fuser::Session<Adapter>,
    unmounter: Unmounter,
    counters: Arc<Counters>,
    recording: Recording,
}

/// Ends a mount from any thread.
#[derive(Debug, Clone)]
pub struct Unmounter {
    mountpoint: PathBuf,
    device: String,
}

impl Session {
    /// Mounts `vfs`. When this returns the mount exists and the kernel has agreed on the protocol; requests wait until
    /// [`Self::run`].
    ///
    /// # Errors
    /// [`MountError`]; nothing is mounted then.
    pub fn mount(vfs: Arc<Vfs>, request: &MountRequest) -> Result<Self, MountError> {
        let mountpoint = attach::prepare(request)?;
        let device = attach::attach(request, &mountpoint)?;
        Self::shake_hands(vfs, request, &mountpoint, device).inspect_err(|_| {
            // The error that matters is the one on its way out.
            if let Err(error) = attach::unmount(&mountpoint, Unmount::Lazy) {
                tracing::warn!("after a failed mount: {error}");
            }
        })
    }

    fn shake_hands(
        vfs: Arc<Vfs>,
        request: &MountRequest,
        mountpoint: &Path,
        device: std::os::fd::OwnedFd,
    ) -> Result<Self, MountError> {
        let counters = Arc::new(Counters::default());
        let read_ahead = if vfs.fetcher().is_some() { READ_AHEAD_LAZY_KIB } else { READ_AHEAD_KIB };
        let adapter =
            Adapter::new(Arc::clone(&vfs), Arc::clone(&counters), request.options.mode).map_err(MountError::Threads)?;
        let mut config = fuser::Config::default();
        config.n_threads = Some(request.options.threads.get());
        // Who may look in is the kernel's decision (allow_other); asking twice would cost time on every message.
        let everybody = fuser::SessionACL::All;
        let inner = fuser::Session::from_fd(adapter, device, everybody, config).map_err(MountError::Handshake)?;
        let unmounter = Unmounter { mountpoint: mountpoint.to_owned(), device: device_number(mountpoint)? };
        set_read_ahead(&unmounter.device, read_ahead);
        let recording = Recording::new(vfs, inner.notifier(), request.options.mode);
        Ok(Self { inner, unmounter, counters, recording })
    }

    /// The counters of this mount.
    #[must_use]
    pub const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What records this mount.
    #[must_use]
    pub const fn recording(&self) -> &Recording {
        &self.recording
    }

    /// What ends this mount.
    #[must_use]
    pub const fn unmounter(&self) -> &Unmounter {
        &self.unmounter
    }

    /// Answers the kernel until the filesystem is unmounted, by anyone, and its last user is gone.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run(self) -> io::Result<()> {
        self.inner.run()
    }
}

impl Unmounter {
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

/// `major:minor` of the filesystem just mounted, from the list: `stat` would be a request to ourselves.
fn device_number(mountpoint: &Path) -> Result<String, MountError> {
    let table = MountTable::read().map_err(MountError::Table)?;
    let there = table.top(mountpoint).filter(|there| there.filesystem == FILESYSTEM_TYPE);
    there.map(|there| there.device.clone()).ok_or_else(|| {
        MountError::Table(io::Error::other(format!("{} vanished right after it was mounted", mountpoint.display())))
    })
}

/// Best effort: `/sys` may be read-only or we may not be root; reading is only slower then.
fn set_read_ahead(device: &str, kib: u32) {
    let path = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let raised = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, kib.to_string().as_bytes()));
    if let Err(error) = raised {
        tracing::debug!("{path}: {error}");
    }
}
