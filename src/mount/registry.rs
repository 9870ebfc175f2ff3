//! The list of running mounts: for each a directory with a few small files, a control socket and an exchange socket.
//!
//! ```text
//! DIR/<name>/<name>.lock    locked for as long as any process of the mount lives
//! DIR/<name>/<name>.json    the mount and the worker that serves it; replaced by each worker
//! DIR/<name>/<name>.sock    the control socket of the worker, see `control`
//! DIR/<name>/<name>.ctl     the exchange socket of the supervisor, see `supervisor::exchange`
//! ```
//!
//! The process that mounts reserves a name. Lock and sockets are handed on as open descriptors, and workers reach their entry
//! through an open directory, since its path may be gone after the initramfs has been left. A worker can write to its entry and
//! to no other. The files of mounts that earlier versions made are in DIR itself.
//!
//! *Invariant*: an entry whose lock can be taken is stale and is removed by the process that reads it. So nothing has to be
//! cleaned up after `kill -9`, and a reused process number causes no confusion.
//!
//! *Used by* `cli`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, FlockOperation, Mode as FileMode, OFlags, flock, openat, renameat, unlinkat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::control::{ControlRequest, ControlResponse, ControlState, send_request, serve_requests};
use crate::cache::LazyFigures;
use crate::disk::{self, is_own_directory};
use crate::fuse::{Health, MountMode, RequestFigures};
use crate::model::CommitId;

/// An error of the list of mounts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// A file or socket of the list cannot be used.
    #[error("cannot use {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another user could put false entries into the directory.
    #[error("{} is not a directory that only this user can change", .path.display())]
    OtherOwner { path: PathBuf },
    /// The entry has an unknown format.
    #[error("{} is not an entry of the list of mounts", .path.display())]
    Format { path: PathBuf, source: serde_json::Error },
}

/// A running mount as its worker announced it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunningMount {
    /// The name of its files in the list.
    pub(crate) name: String,
    /// The mountpoint; bytes that are no UTF-8 are escaped.
    pub(crate) mountpoint: String,
    /// The source as the user gave it.
    pub(crate) source: String,
    /// The path of the repository.
    pub(crate) repo: String,
    /// The mounted commit.
    pub(crate) commit: CommitId,
    /// The way in which the kernel reads contents.
    pub(crate) mode: MountMode,
    /// The process number of the supervisor.
    pub(crate) pid: u32,
    /// The process number of the worker.
    pub(crate) worker_pid: u32,
    /// The time of mounting in RFC 3339.
    pub(crate) since: String,
    /// `major:minor` of the filesystem.
    pub(crate) device: String,
    /// The version of the worker's program.
    pub(crate) version: String,
    /// The version of the hand-over between its processes.
    pub(crate) handoff: u32,
}

/// Handles of the processes of a mount that wait for their end. Process numbers might be reused meanwhile.
pub(crate) struct MountProcesses(Vec<OwnedFd>);

impl RunningMount {
    /// Parses the file of a mount in the list.
    ///
    /// # Errors
    /// When the text is no such file.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// Returns the text that [`Self::parse`] reads.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Opens the processes of the mount, without those that have ended.
    pub(crate) fn processes(&self) -> MountProcesses {
        let open = |number: u32| {
            let pid = Pid::from_raw(number.cast_signed())?;
            pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        MountProcesses([self.pid, self.worker_pid].into_iter().filter_map(open).collect())
    }
}

impl MountProcesses {
    /// Waits until all have ended, at most for `timeout`, and returns whether they have.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        self.0.iter().all(|process| {
            let remaining = end.saturating_duration_since(Instant::now()).as_millis();
            let timeout =
                PollTimeout::try_from(i32::try_from(remaining).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ended| ended > 0)
        })
    }
}

/// A mount with its figures.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct MountStatus {
    #[serde(flatten)]
    pub(crate) mount: RunningMount,
    /// The counts of the kernel's messages; absent when the worker does not respond.
    pub(crate) figures: Option<RequestFigures>,
    /// The state of the workers; absent when the worker does not respond.
    #[serde(default)]
    pub(crate) health: Option<Health>,
    /// The figures of fetching, for a lazy mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lazy: Option<LazyFigures>,
}

/// A reserved name in the list, with the descriptors that are handed on from process to process.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) name: String,
    /// The directory of the entry.
    pub(crate) directory: OwnedFd,
    pub(crate) lock: OwnedFd,
    /// The control socket.
    pub(crate) control_socket: OwnedFd,
    /// The socket of the supervisor for exchanges of the program.
    pub(crate) exchange_socket: OwnedFd,
}

/// Returns a path as it is written into the list.
pub(crate) fn path_text(path: &Path) -> String {
    path.to_str().map_or_else(|| path.as_os_str().as_bytes().escape_ascii().to_string(), str::to_owned)
}

/// The list of running mounts.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    directory: PathBuf,
}

impl Registry {
    /// Creates a handle of the list in `directory`, which is made when the first entry is.
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Reserves a unique name for the mount of the filesystem `device`.
    pub(crate) fn reserve(&self, device: &str) -> Result<Reservation, RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        self.prepare_directory()?;
        let name = format!("{}-{}", std::process::id(), device.replace(':', "-"));
        let (entry, new) = (self.directory.join(&name), self.directory.join(format!(".{name}")));
        for leftover in [&entry, &new] {
            disk::remove_directory(leftover).map_err(at)?;
        }
        fs::create_dir(&new).map_err(at)?;
        let path = |extension: &str| new.join(format!("{name}.{extension}"));
        let lock = OpenOptions::new().write(true).create_new(true).open(path("lock")).map_err(at)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| at(errno.into()))?;
        let control_socket = UnixListener::bind(path("sock")).map_err(at)?.into();
        let exchange_socket = bind_exchange_socket(&path("ctl")).map_err(|errno| at(errno.into()))?;
        // It gets its name when it is locked, so that no process takes it for a stale one.
        disk::rename_directory(&new, &entry).map_err(at)?;
        let directory = File::open(&entry).map_err(at)?.into();
        Ok(Reservation { name, directory, lock: lock.into(), control_socket, exchange_socket })
    }

    /// Returns the path of the exchange socket of the mount with this name.
    pub(crate) fn exchange_socket_path(&self, name: &str) -> PathBuf {
        self.entry_path(name, "ctl")
    }

    fn prepare_directory(&self) -> Result<(), RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        let mode = if nix::unistd::geteuid().is_root() { 0o755 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(&self.directory).map_err(at)?;
        self.check_owner()
    }

    /// Fails if another user can put false entries into the directory, or put another directory in its place.
    fn check_owner(&self) -> Result<(), RegistryError> {
        for path in [self.directory.parent(), Some(&*self.directory)].into_iter().flatten() {
            match is_own_directory(path) {
                Ok(true) => {}
                Ok(false) => return Err(RegistryError::OtherOwner { path: path.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RegistryError::Io { path: path.to_owned(), source }),
            }
        }
        Ok(())
    }

    /// Returns the running mounts, and removes stale entries.
    ///
    /// # Errors
    /// [`RegistryError`] when the directory or the entry of a running mount cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<RunningMount>, RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at)?,
        };
        self.check_owner()?;
        let mut mounts = Vec::new();
        for entry in entries {
            let path = entry.map_err(at)?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let is_entry = if path.is_dir() {
                !name.starts_with('.')
            } else {
                path.extension().is_some_and(|extension| extension == "lock")
            };
            if is_entry {
                mounts.extend(self.read_entry(name)?);
            }
        }
        mounts.sort_by(|one, two| (&one.mountpoint, &one.since).cmp(&(&two.mountpoint, &two.since)));
        Ok(mounts)
    }

    /// Returns a mount with its figures, which are requested from its worker.
    pub(crate) fn status(&self, mount: &RunningMount) -> MountStatus {
        let (figures, health, lazy) = match self.request(mount, ControlRequest::Figures) {
            Ok(ControlResponse::Figures { kernel, health, lazy }) => (Some(kernel), health, lazy.map(|lazy| *lazy)),
            Ok(_) => (None, None, None),
            Err(error) => {
                tracing::debug!("{}: {error}", mount.name);
                (None, None, None)
            }
        };
        MountStatus { mount: mount.clone(), figures, health, lazy }
    }

    /// Sends a request to the worker of a mount and returns its response.
    ///
    /// # Errors
    /// [`RegistryError::Io`] when it does not respond.
    pub(crate) fn request(
        &self,
        mount: &RunningMount,
        request: ControlRequest,
    ) -> Result<ControlResponse, RegistryError> {
        let socket = self.entry_path(&mount.name, "sock");
        send_request(&socket, request).map_err(|source| RegistryError::Io { path: socket, source })
    }

    fn entry_path(&self, name: &str, extension: &str) -> PathBuf {
        self.entry_directory(name).join(format!("{name}.{extension}"))
    }

    /// Returns the directory with the files of an entry.
    fn entry_directory(&self, name: &str) -> PathBuf {
        let own = self.directory.join(name);
        if own.is_dir() { own } else { self.directory.clone() }
    }

    /// Returns the entry `name` if one of its processes lives and it is announced. Removes it if no process lives.
    fn read_entry(&self, name: &str) -> Result<Option<RunningMount>, RegistryError> {
        let path = self.entry_path(name, "json");
        let at = |source: io::Error| RegistryError::Io { path: path.clone(), source };
        let lock = match File::open(self.entry_path(name, "lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Its worker has removed the files. The directory goes, too, if it is empty.
                let _ = fs::remove_dir(self.directory.join(name));
                return Ok(None);
            }
            lock => lock.map_err(at)?,
        };
        if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
            // Removing fails for another user's entry and for one removed meanwhile. Both are stale in any case.
            if let Err(error) = self.remove_stale(name) {
                tracing::debug!("{name}: {error}");
            }
            return Ok(None);
        }
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(at)?,
        };
        RunningMount::parse(&text).map(Some).map_err(|source| RegistryError::Format { path, source })
    }

    fn remove_stale(&self, name: &str) -> io::Result<()> {
        let directory = self.entry_directory(name);
        remove_entry(&File::open(&directory)?.into(), name)?;
        if directory == self.directory { Ok(()) } else { fs::remove_dir(directory) }
    }
}

fn bind_exchange_socket(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 8)?;
    Ok(socket)
}

/// Removes the files of an entry, the lock last: an entry without a lock is not found, and so never removed.
fn remove_entry(directory: &OwnedFd, name: &str) -> io::Result<()> {
    ["json", "sock", "ctl", "lock"].iter().try_for_each(|kind| remove_if_exists(directory, &format!("{name}.{kind}")))
}

fn remove_if_exists(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The entry of a mount in the list, held by its worker.
pub(crate) struct Registration {
    directory: OwnedFd,
    name: String,
}

impl Registration {
    /// Writes the entry of `mount` into `directory` and starts a thread that serves the control socket.
    ///
    /// # Errors
    /// Those of writing the entry.
    pub(crate) fn announce(
        directory: OwnedFd,
        control_socket: OwnedFd,
        mount: &RunningMount,
        state: ControlState,
    ) -> io::Result<Self> {
        let registration = Self { directory, name: mount.name.clone() };
        registration.write(mount)?;
        let listener = UnixListener::from(control_socket);
        thread::Builder::new().name("control".to_owned()).spawn(move || serve_requests(&listener, &state))?;
        Ok(registration)
    }

    fn write(&self, mount: &RunningMount) -> io::Result<()> {
        let (new, name) = (format!("{}.new", self.name), format!("{}.json", self.name));
        remove_if_exists(&self.directory, &new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, &new, flags, FileMode::from_raw_mode(0o644))?);
        file.write_all(&mount.encode()?)?;
        Ok(renameat(&self.directory, &new, &self.directory, &name)?)
    }

    /// Removes the mount from the list when it has ended.
    pub(crate) fn remove(&self) {
        if let Err(error) = remove_entry(&self.directory, &self.name) {
            tracing::warn!("cannot remove the mount from the list: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::fuse::{Opcode, RequestCounters, SharedState};

    fn example(name: &str) -> RunningMount {
        RunningMount {
            name: name.to_owned(),
            mountpoint: "/mnt".to_owned(),
            source: "main".to_owned(),
            repo: "/sapwood/repo".to_owned(),
            commit: CommitId::of(b"commit"),
            mode: MountMode::Cached,
            pid: std::process::id(),
            worker_pid: std::process::id(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            device: "0:41".to_owned(),
            version: "1".to_owned(),
            handoff: 1,
        }
    }

    #[test]
    fn mount_is_listed_with_figures_while_a_process_lives() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let registry = Registry::new(directory.path().join("mounts"));
        assert_eq!(registry.list().expect("empty"), []);
        let shared = SharedState::create().expect("enough memory");
        let reserved = registry.reserve("0:41").expect("registers");
        assert_eq!(registry.list().expect("lists"), [], "not announced yet");
        let mount = example(&reserved.name);
        for (worker_pid, messages) in [(1, 1), (2, 2)] {
            let duplicate = |descriptor: &OwnedFd| descriptor.try_clone().expect("descriptors are not exhausted");
            let state = ControlState { shared: shared.clone(), lazy: Weak::new(), recording: None };
            let mount = RunningMount { worker_pid, ..mount.clone() };
            let registration = Registration::announce(
                duplicate(&reserved.directory),
                duplicate(&reserved.control_socket),
                &mount,
                state,
            );
            registration.expect("announces");
            RequestCounters::of(&shared).count(Opcode::Read);
            assert_eq!(registry.list().expect("lists"), std::slice::from_ref(&mount));
            let figures = registry.status(&mount).figures.expect("answers");
            assert_eq!(figures.messages, messages, "the counts continue in the next worker");
            let refused = registry.request(&mount, ControlRequest::StartRecording).expect("answers");
            assert!(matches!(refused, ControlResponse::Refused(_)), "{refused:?}");
        }
        drop(reserved);
        assert_eq!(registry.list().expect("empty"), []);
        assert_eq!(fs::read_dir(registry.directory).expect("lists").count(), 0);
    }

    #[test]
    fn entry_of_a_killed_mount_is_removed() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let directory = temporary.path().join("mounts");
        fs::create_dir(&directory).expect("writable");
        let registry = Registry::new(directory.clone());
        for kind in ["json", "sock", "ctl", "lock"] {
            File::create(directory.join(format!("1-0-9.{kind}"))).expect("creates");
        }
        assert_eq!(registry.list().expect("lists"), []);
        assert_eq!(fs::read_dir(&directory).expect("lists").count(), 0);
    }
}
