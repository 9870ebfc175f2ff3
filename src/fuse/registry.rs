//! The list of running mounts: a few small files for each, and a socket that answers with figures.
//!
//! ```text
//! DIR/<name>.lock    locked for as long as any process of the mount lives
//! DIR/<name>.json    what is mounted where, and who serves it; replaced by each worker
//! DIR/<name>.sock    answers questions, see `control`
//! DIR/<name>.ctl     takes orders for the supervisor
//! ```
//!
//! Invariant: an entry whose lock can be taken belongs to nobody and is removed by whoever notices. So there is nothing
//! to clean up after `kill -9`, and a reused process number deceives nobody. Whoever mounts reserves a name; lock and
//! sockets are handed on as open descriptors, and workers reach their own entry through an open directory, since paths may
//! mean nothing any more after the initramfs has been left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, FlockOperation, Mode as FileMode, OFlags, flock, openat, renameat, unlinkat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::board::Health;
use super::control::{Answer, Question, Told, answer_all, ask};
use super::counters::Figures;
use super::options::Mode;
use crate::cache::LazyFigures;
use crate::model::CommitId;

/// Why the list of mounts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file or socket of the list.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory belongs to somebody else, who could deceive us through it.
    #[error("{} belongs to another user", .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// The entry is not what we write.
    #[error("{} is not an entry of the list of mounts", .path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// A mount as its worker announced it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunningMount {
    /// What its files in the list are called.
    pub name: String,
    /// Where; bytes that are no UTF-8 are escaped.
    pub mountpoint: String,
    /// What, as the user named it.
    pub source: String,
    /// The repository.
    pub repo: String,
    /// The commit it was when mounted.
    pub commit: CommitId,
    /// How contents are read.
    pub mode: Mode,
    /// The process that holds the mount.
    pub pid: u32,
    /// The process that answers the kernel.
    pub worker_pid: u32,
    /// When it was mounted, in RFC 3339.
    pub since: String,
    /// `major:minor` of the filesystem.
    pub device: String,
    /// The version of the program that serves it.
    pub version: String,
    /// The version of what its processes hand on to one another.
    pub handoff: u32,
}

/// The processes of a mount, to see them end. Not by number, which may be another's by then.
pub struct Processes(Vec<OwnedFd>);

impl RunningMount {
    /// Reads the file of a mount in the list.
    ///
    /// # Errors
    /// When it is none.
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

    /// Its processes; those that have ended are not among them.
    #[must_use]
    pub fn processes(&self) -> Processes {
        let open = |number: u32| {
            let pid = Pid::from_raw(number.cast_signed())?;
            pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        Processes([self.pid, self.worker_pid].into_iter().filter_map(open).collect())
    }
}

impl Processes {
    /// Waits until they have ended; says whether they have.
    #[must_use]
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        self.0.iter().all(|process| {
            let rest = end.saturating_duration_since(Instant::now()).as_millis();
            let timeout = PollTimeout::try_from(i32::try_from(rest).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ended| ended > 0)
        })
    }
}

/// A mount with its figures.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// The mount.
    #[serde(flatten)]
    pub mount: RunningMount,
    /// What was done so far; absent when nobody answers.
    pub figures: Option<Figures>,
    /// How its workers fared; absent when nobody answers.
    #[serde(default)]
    pub health: Option<Health>,
    /// How much of the commit is here, when parts of it may not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lazy: Option<LazyFigures>,
}

/// A name in the list, with what is handed on from process to process.
#[derive(Debug)]
pub struct Reserved {
    /// The name.
    pub name: String,
    /// The directory of the list.
    pub directory: OwnedFd,
    /// The lock.
    pub lock: OwnedFd,
    /// Where figures are asked for.
    pub figures: OwnedFd,
    /// Where orders come in.
    pub orders: OwnedFd,
}

/// How a path is written into the list.
#[must_use]
pub fn path_text(path: &Path) -> String {
    path.to_str().map_or_else(|| path.as_os_str().as_bytes().escape_ascii().to_string(), str::to_owned)
}

/// The directory of the list.
#[derive(Debug, Clone)]
pub struct Registry {
    directory: PathBuf,
}

impl Registry {
    /// The list in `directory`, which is made when something is entered.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes a name that nobody has, for the mount of the filesystem `device`.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn reserve(&self, device: &str) -> Result<Reserved, RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        self.prepare_directory()?;
        let name = format!("{}-{}", std::process::id(), device.replace(':', "-"));
        let directory: OwnedFd = File::open(&self.directory).map_err(at)?.into();
        remove_entry(&directory, &name).map_err(at)?;
        let lock = self.lock(&directory, &name).map_err(at)?.into();
        let figures = UnixListener::bind(self.file_of(&name, "sock")).map_err(at)?.into();
        let orders = self.listen_for_orders(&name).map_err(|errno| at(errno.into()))?;
        Ok(Reserved { name, directory, lock, figures, orders })
    }

    /// Locked under another name first: nobody ever sees it unlocked and takes it for a leftover.
    fn lock(&self, directory: &OwnedFd, name: &str) -> io::Result<File> {
        let (new, name) = (format!("{name}.new"), format!("{name}.lock"));
        remove_if_there(directory, &new)?;
        let file = OpenOptions::new().write(true).create_new(true).open(self.directory.join(&new))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        renameat(directory, &new, directory, &name)?;
        Ok(file)
    }

    fn listen_for_orders(&self, name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(self.orders_socket(name))?)?;
        listen(&socket, 8)?;
        Ok(socket)
    }

    /// Where orders for the mount of this name are taken.
    #[must_use]
    pub fn orders_socket(&self, name: &str) -> PathBuf {
        self.file_of(name, "ctl")
    }

    fn prepare_directory(&self) -> Result<(), RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        let mode = if nix::unistd::geteuid().is_root() { 0o755 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(&self.directory).map_err(at)?;
        let metadata = fs::symlink_metadata(&self.directory).map_err(at)?;
        if metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw() {
            return Ok(());
        }
        Err(RegistryError::Foreign { path: self.directory.clone() })
    }

    /// The mounts whose daemons live; entries of dead ones are removed on the way.
    ///
    /// # Errors
    /// [`RegistryError`] when the directory or a living entry cannot be read.
    pub fn list(&self) -> Result<Vec<RunningMount>, RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at)?,
        };
        let mut mounts = Vec::new();
        let directory: OwnedFd = File::open(&self.directory).map_err(at)?.into();
        for entry in entries {
            let path = entry.map_err(at)?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == "lock") {
                mounts.extend(self.read_entry(&directory, name)?);
            }
        }
        mounts.sort_by(|one, two| (&one.mountpoint, &one.since).cmp(&(&two.mountpoint, &two.since)));
        Ok(mounts)
    }

    /// A mount with its figures, which its worker is asked for.
    #[must_use]
    pub fn status(&self, mount: &RunningMount) -> Status {
        let (figures, health, lazy) = match self.ask(mount, Question::Figures) {
            Ok(Answer::Figures { kernel, health, lazy }) => (Some(kernel), health, lazy.map(|lazy| *lazy)),
            Ok(_) => (None, None, None),
            Err(error) => {
                tracing::debug!("{}: {error}", mount.name);
                (None, None, None)
            }
        };
        Status { mount: mount.clone(), figures, health, lazy }
    }

    /// Asks the worker of a mount.
    ///
    /// # Errors
    /// [`RegistryError::Io`] when it does not answer.
    pub fn ask(&self, mount: &RunningMount, question: Question) -> Result<Answer, RegistryError> {
        let socket = self.file_of(&mount.name, "sock");
        ask(&socket, question).map_err(|source| RegistryError::Io { path: socket, source })
    }

    fn file_of(&self, name: &str, extension: &str) -> PathBuf {
        self.directory.join(format!("{name}.{extension}"))
    }

    /// The entry `name` if any of its processes lives and it is announced; removed if not.
    fn read_entry(&self, directory: &OwnedFd, name: &str) -> Result<Option<RunningMount>, RegistryError> {
        let path = self.file_of(name, "json");
        let at = |source: io::Error| RegistryError::Io { path: path.clone(), source };
        let lock = match File::open(self.file_of(name, "lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock.map_err(at)?,
        };
        if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
            // Removing fails for another user's entry and for one removed a moment ago: it is stale all the same.
            if let Err(error) = remove_entry(directory, name) {
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
}

/// The lock last: an entry without one is nobody's to remove.
fn remove_entry(directory: &OwnedFd, name: &str) -> io::Result<()> {
    ["json", "sock", "ctl", "lock"].iter().try_for_each(|kind| remove_if_there(directory, &format!("{name}.{kind}")))
}

fn remove_if_there(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A mount on the list, as its worker has it.
pub struct Registration {
    directory: OwnedFd,
    name: String,
}

impl Registration {
    /// Announces who serves the mount whose name `directory` has, and answers questions about it.
    ///
    /// # Errors
    /// Those of writing the entry.
    pub fn announce(directory: OwnedFd, figures: OwnedFd, mount: &RunningMount, told: Told) -> io::Result<Self> {
        let registration = Self { directory, name: mount.name.clone() };
        registration.write(mount)?;
        let listener = UnixListener::from(figures);
        thread::Builder::new().name("control".to_owned()).spawn(move || answer_all(&listener, &told))?;
        Ok(registration)
    }

    fn write(&self, mount: &RunningMount) -> io::Result<()> {
        let (new, name) = (format!("{}.new", self.name), format!("{}.json", self.name));
        remove_if_there(&self.directory, &new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, &new, flags, FileMode::from_raw_mode(0o644))?);
        file.write_all(&mount.encode()?)?;
        Ok(renameat(&self.directory, &new, &self.directory, &name)?)
    }

    /// Takes the mount off the list: there is nothing left to serve.
    pub fn end(&self) {
        if let Err(error) = remove_entry(&self.directory, &self.name) {
            tracing::warn!("remove the mount from the list: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::fuse::{Board, Counters, Opcode};

    fn example(name: &str) -> RunningMount {
        RunningMount {
            name: name.to_owned(),
            mountpoint: "/mnt".to_owned(),
            source: "main".to_owned(),
            repo: "/sapwood/repo".to_owned(),
            commit: CommitId::of(b"commit"),
            mode: Mode::Cached,
            pid: std::process::id(),
            worker_pid: std::process::id(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            device: "0:41".to_owned(),
            version: "1".to_owned(),
            handoff: 1,
        }
    }

    #[test]
    fn a_mount_is_listed_while_any_of_its_processes_lives_and_tells_its_figures() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let registry = Registry::new(directory.path().join("mounts"));
        assert_eq!(registry.list().expect("empty"), []);
        let board = Board::create().expect("memory");
        let reserved = registry.reserve("0:41").expect("registers");
        assert_eq!(registry.list().expect("lists"), [], "not announced yet");
        let mount = example(&reserved.name);
        for (worker_pid, messages) in [(1, 1), (2, 2)] {
            let again = |descriptor: &OwnedFd| descriptor.try_clone().expect("descriptors are not exhausted");
            let told = Told { board: board.clone(), lazy: Weak::new(), recording: None };
            let mount = RunningMount { worker_pid, ..mount.clone() };
            let registration =
                Registration::announce(again(&reserved.directory), again(&reserved.figures), &mount, told);
            registration.expect("announces");
            Counters::of(&board).count(Opcode::Read);
            assert_eq!(registry.list().expect("lists"), std::slice::from_ref(&mount));
            let figures = registry.status(&mount).figures.expect("answers");
            assert_eq!(figures.messages, messages, "whoever serves, the counts go on");
            let refused = registry.ask(&mount, Question::StartRecording).expect("answers");
            assert!(matches!(refused, Answer::Refused(_)), "{refused:?}");
        }
        drop(reserved);
        assert_eq!(registry.list().expect("empty"), []);
        assert_eq!(fs::read_dir(registry.directory()).expect("lists").count(), 0);
    }

    #[test]
    fn what_a_killed_daemon_left_behind_is_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let registry = Registry::new(directory.path().to_owned());
        for kind in ["json", "sock", "ctl", "lock"] {
            File::create(directory.path().join(format!("1-0-9.{kind}"))).expect("creates");
        }
        assert_eq!(registry.list().expect("lists"), []);
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 0);
    }
}
