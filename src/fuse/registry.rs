//! The list of running mounts: a small file for each, and a socket that answers with figures.
//!
//! ```text
//! DIR/<pid>-<device>.json    what is mounted where; its process holds a lock on it for as long as it lives
//! DIR/<pid>-<device>.sock    answers questions, see `control`
//! ```
//!
//! Invariant: an entry whose lock can be taken belongs to nobody and is removed by whoever notices. So there is nothing
//! to clean up after `kill -9`, and a reused process number deceives nobody. The daemon reaches its own entry through an
//! open directory, since its paths may mean nothing any more after the initramfs has been left.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, flock, renameat, unlinkat};

use super::control::{Answer, Question, Told, answer_all, ask};
use super::counters::Figures;
use super::options::Mode;
use crate::cache::LazyFigures;
use crate::model::CommitId;

/// How often a wait for the end of a daemon looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

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

/// A mount as its daemon announced it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunningMount {
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
}

/// A mount with its figures.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// The mount.
    #[serde(flatten)]
    pub mount: RunningMount,
    /// What its daemon has done so far; absent when it does not answer.
    pub figures: Option<Figures>,
    /// How much of the commit is here, when parts of it may not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lazy: Option<LazyFigures>,
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

    /// Enters a mount and answers questions about it until the registration is dropped.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn register(&self, mount: RunningMount, told: Told) -> Result<Registration, RegistryError> {
        let at = |source: io::Error| RegistryError::Io { path: self.directory.clone(), source };
        self.prepare_directory()?;
        let stem = format!("{}-{}", mount.pid, mount.device.replace(':', "-"));
        let directory: OwnedFd = File::open(&self.directory).map_err(at)?.into();
        let socket = self.directory.join(format!("{stem}.sock"));
        remove_if_there(&directory, &format!("{stem}.sock")).map_err(at)?;
        let listener = UnixListener::bind(&socket).map_err(at)?;
        let entry = self.write_entry(&directory, &stem, &mount).map_err(at)?;
        thread::Builder::new().name("control".to_owned()).spawn(move || answer_all(&listener, &told)).map_err(at)?;
        Ok(Registration { directory, stem, _lock: entry })
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

    /// Locked under another name first: nobody ever sees it unlocked and takes it for a leftover.
    fn write_entry(&self, directory: &OwnedFd, stem: &str, mount: &RunningMount) -> io::Result<File> {
        let (new, name) = (format!("{stem}.new"), format!("{stem}.json"));
        remove_if_there(directory, &new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(self.directory.join(&new))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(&serde_json::to_vec(mount)?)?;
        renameat(directory, &new, directory, &name)?;
        Ok(file)
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
        for entry in entries {
            let path = entry.map_err(at)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                mounts.extend(read_entry(&path)?);
            }
        }
        mounts.sort_by(|one, two| (&one.mountpoint, &one.since).cmp(&(&two.mountpoint, &two.since)));
        Ok(mounts)
    }

    /// A mount with its figures, which its daemon is asked for.
    #[must_use]
    pub fn status(&self, mount: &RunningMount) -> Status {
        let (figures, lazy) = match self.ask(mount, Question::Figures) {
            Ok(Answer::Figures { kernel, lazy }) => (Some(kernel), lazy.map(|lazy| *lazy)),
            Ok(_) | Err(_) => (None, None),
        };
        Status { mount: mount.clone(), figures, lazy }
    }

    /// Asks the daemon of a mount.
    ///
    /// # Errors
    /// [`RegistryError::Io`] when it does not answer.
    pub fn ask(&self, mount: &RunningMount, question: Question) -> Result<Answer, RegistryError> {
        let socket = self.file_of(mount, "sock");
        ask(&socket, question).map_err(|source| RegistryError::Io { path: socket, source })
    }

    /// Waits until the daemon of `mount` has gone; says whether it has.
    #[must_use]
    pub fn wait_gone(&self, mount: &RunningMount, patience: Duration) -> bool {
        let path = self.file_of(mount, "json");
        let start = Instant::now();
        loop {
            if matches!(read_entry(&path), Ok(None)) {
                return true;
            }
            if start.elapsed() > patience {
                return false;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn file_of(&self, mount: &RunningMount, extension: &str) -> PathBuf {
        self.directory.join(format!("{}-{}.{extension}", mount.pid, mount.device.replace(':', "-")))
    }
}

/// The entry at `path` if its daemon lives; removed if not.
fn read_entry(path: &Path) -> Result<Option<RunningMount>, RegistryError> {
    let at = |source: io::Error| RegistryError::Io { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(at)?,
    };
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        // Removing fails for another user's entry and for one removed a moment ago: it is stale all the same.
        for leftover in [path.to_owned(), path.with_extension("sock")] {
            if let Err(error) = fs::remove_file(&leftover) {
                tracing::debug!("{}: {error}", leftover.display());
            }
        }
        return Ok(None);
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(at)?;
    let mount = serde_json::from_slice(&text);
    mount.map(Some).map_err(|source| RegistryError::Format { path: path.to_owned(), source })
}

fn remove_if_there(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A mount that is on the list. Dropping it takes it off.
pub struct Registration {
    directory: OwnedFd,
    stem: String,
    _lock: File,
}

impl Drop for Registration {
    fn drop(&mut self) {
        for extension in ["json", "sock"] {
            if let Err(error) = remove_if_there(&self.directory, &format!("{}.{extension}", self.stem)) {
                tracing::warn!("remove the mount from the list: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use super::*;
    use crate::fuse::{Counters, Opcode};

    fn example(device: &str) -> RunningMount {
        RunningMount {
            mountpoint: "/mnt".to_owned(),
            source: "main".to_owned(),
            repo: "/sapwood/repo".to_owned(),
            commit: CommitId::of(b"commit"),
            mode: Mode::Cached,
            pid: std::process::id(),
            worker_pid: std::process::id(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            device: device.to_owned(),
        }
    }

    #[test]
    fn a_mount_is_listed_while_it_is_registered_and_tells_its_figures() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let registry = Registry::new(directory.path().join("mounts"));
        assert_eq!(registry.list().expect("empty"), []);
        let counters = Arc::new(Counters::default());
        let told = Told { counters: Arc::clone(&counters), lazy: Weak::new(), recording: None };
        let registration = registry.register(example("0:41"), told).expect("registers");
        counters.count(Opcode::Read);
        assert_eq!(registry.list().expect("lists"), [example("0:41")]);
        assert_eq!(registry.status(&example("0:41")).figures, Some(counters.figures()));
        let refused = registry.ask(&example("0:41"), Question::StartRecording).expect("answers");
        assert!(matches!(refused, Answer::Refused(_)), "{refused:?}");
        assert!(!registry.wait_gone(&example("0:41"), Duration::ZERO));
        drop(registration);
        assert!(registry.wait_gone(&example("0:41"), Duration::ZERO));
        assert_eq!(registry.list().expect("empty"), []);
    }

    #[test]
    fn what_a_killed_daemon_left_behind_is_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let registry = Registry::new(directory.path().to_owned());
        let stale = directory.path().join("1-0-9.json");
        File::create(&stale).expect("creates");
        File::create(stale.with_extension("sock")).expect("creates");
        assert_eq!(registry.list().expect("lists"), []);
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 0);
    }
}
