//! The place where a compose works: a directory that is gone afterwards, and namespaces that end with it.
//!
//! The process that was started stays outside and watches. It makes the directory, becomes root of a user namespace if it
//! is not root, and starts itself again as process 1 of a new pid namespace, the worker, which has its own mounts. However
//! the worker ends (done, failed, Ctrl-C, killed), everything it started ends with it, no mount is left, and the watcher
//! removes the directory. If the watcher itself is killed, so is the worker, and the next compose removes the directory.
//!
//! As an ordinary user the ids of `/etc/subuid` stand for the users of the root that is composed, so that it looks
//! exactly as it would to root.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Uid, User, getegid, geteuid};

use crate::disk::{self, Lock, LockError, Wait};

/// What directories of composes begin with.
const PREFIX: &str = "sapwood-compose.";

/// The lock in each; held as long as somebody works there.
const LOCK: &str = "lock";

/// In a directory that is to stay.
const KEEP: &str = "keep";

/// The name under which the worker runs, for `ps`.
const WORKER: &str = "sapwood-compose-worker";

/// Ids that a root needs: 0 to 65535.
const IDS: u32 = 65_536;

/// Why there is no place to work.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The system refused.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("cannot {action} {}", .path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock of a directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// User namespaces are not allowed.
    #[error(
        "ordinary users may not make user namespaces on this machine ({0}): compose as root, or ask for user namespaces"
    )]
    NoNamespaces(Errno),
    /// The user has no ids to hand out.
    #[error(
        "{file} gives {user} no range of {IDS} ids: compose as root, or have one added (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user})"
    )]
    NoIds {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// Whom.
        user: String,
    },
    /// The ids could not be mapped.
    #[error(
        "cannot map the ids of the user namespace: newuidmap and newgidmap are needed (Debian: apt install uidmap)"
    )]
    Map,
}

fn refused<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |source| ConfineError::System { action, source: source.into() }
}

/// A directory to work in.
#[derive(Debug)]
pub struct Workplace {
    path: PathBuf,
    _lock: Lock,
}

/// How the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this status.
    Status(ExitStatus),
    /// It was ended since this signal came.
    Interrupted(Signal),
}

/// Becomes root of a user namespace unless this process is root already. Only before any thread is started.
///
/// # Errors
/// [`ConfineError`] with what has to be allowed or installed.
pub fn become_root() -> Result<(), ConfineError> {
    if geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    let user = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let uids = range("/etc/subuid", &user, uid)?;
    let gids = range("/etc/subgid", &user, uid)?;
    // newuidmap has to be started outside, and may do its work only when the namespace is there.
    let own = std::process::id();
    let script = format!(
        "read go && newuidmap {own} 0 {uid} 1 1 {uids} {} && newgidmap {own} 0 {gid} 1 1 {gids} {}",
        IDS - 1,
        IDS - 1
    );
    let mut mapper = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(refused("start a shell"))?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(ConfineError::NoNamespaces)?;
    if let Some(mut pipe) = mapper.stdin.take() {
        pipe.write_all(b"go\n").map_err(refused("write to a pipe"))?;
    }
    let status = mapper.wait().map_err(refused("wait for newuidmap"))?;
    if status.success() { Ok(()) } else { Err(ConfineError::Map) }
}

/// The first id of a range of `file` that is the user's and large enough.
fn range(file: &'static str, user: &str, uid: Uid) -> Result<u32, ConfineError> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let uid = uid.to_string();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        ((name == user || name == uid) && count >= IDS - 1).then_some(first)
    });
    found.ok_or_else(|| ConfineError::NoIds { file, user: user.to_owned() })
}

impl Workplace {
    /// Makes a directory in `parent`, and removes those that killed composes left there.
    ///
    /// # Errors
    /// [`ConfineError`].
    pub fn make(parent: &Path) -> Result<Self, ConfineError> {
        let error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ConfineError::Directory { action, path, source }
        };
        fs::create_dir_all(parent).map_err(error("make", parent))?;
        let parent = parent.canonicalize().map_err(error("find", parent))?;
        for entry in fs::read_dir(&parent).map_err(error("list", &parent))?.flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(PREFIX) && !path.join(KEEP).exists() {
                remove_if_abandoned(&path);
            }
        }
        let mut number = 0;
        loop {
            let path = parent.join(format!("{PREFIX}{}.{number}", std::process::id()));
            // No other user looks into a root under construction: programs that give their user more rights lie in it.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let lock = Lock::exclusive(&path.join(LOCK), Wait::No)?;
                    return Ok(Self { path, _lock: lock });
                }
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(error("make", &path)(source)),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts this program again with `arguments` as the worker, and waits for it. Ctrl-C ends it.
    ///
    /// # Errors
    /// [`ConfineError`].
    pub fn watch(&self, arguments: &[OsString]) -> Result<Ending, ConfineError> {
        let mut signals = SigSet::empty();
        let ends = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
        ends.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| signals.add(signal));
        signals.thread_block().map_err(refused("wait for signals"))?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(refused("make a pid namespace"))?;
        let mut worker =
            Command::new("/proc/self/exe").arg0(WORKER).args(arguments).spawn().map_err(refused("start the worker"))?;
        loop {
            match signals.wait() {
                Ok(Signal::SIGCHLD) => {
                    if let Some(status) = worker.try_wait().map_err(refused("wait for the worker"))? {
                        return Ok(Ending::Status(status));
                    }
                }
                Ok(signal) => {
                    end(&mut worker)?;
                    return Ok(Ending::Interrupted(signal));
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(refused("wait for signals")(errno)),
            }
        }
    }

    /// Leaves the directory there when this is dropped.
    ///
    /// # Errors
    /// [`ConfineError`] when that cannot be noted.
    pub fn keep(directory: &Path) -> Result<(), ConfineError> {
        disk::replace(&directory.join(KEEP), b"").map_err(|source| ConfineError::Directory {
            action: "keep",
            path: directory.to_owned(),
            source,
        })
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if !self.path.join(KEEP).exists()
            && let Err(error) = disk::remove_directory(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn end(worker: &mut Child) -> Result<(), ConfineError> {
    // With process 1 goes everything in its namespace.
    let _ = worker.kill();
    worker.wait().map(drop).map_err(refused("wait for the worker"))
}

fn remove_if_abandoned(path: &Path) {
    // Others may make directories of this name in the same place.
    let is_ours = path.symlink_metadata().is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0
    });
    // One that has no lock yet is just being made.
    if !is_ours || path.join(LOCK).symlink_metadata().is_err() {
        return;
    }
    if let Ok(_lock) = Lock::exclusive(&path.join(LOCK), Wait::No)
        && let Err(error) = disk::remove_directory(path)
    {
        tracing::debug!("cannot remove what a killed compose left in {}: {error}", path.display());
    }
}

/// What the worker does first: it goes with its parent, and has mounts of its own.
///
/// # Errors
/// [`ConfineError`].
pub fn settle_in() -> Result<(), ConfineError> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(refused("follow the parent"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
        .map_err(refused("make namespaces"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(refused("keep mounts private"))?;
    // Ids of processes are those of the new namespace.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(refused("mount /proc"))?;
    super::sandbox::protect_settings().map_err(refused("make the machine's settings in /proc read-only"))
}

impl Ending {
    /// The exit status to end with: that of the worker, or what shells give after a signal.
    #[must_use]
    pub fn code(self) -> u8 {
        let number = match self {
            Self::Status(status) => status.code().or_else(|| status.signal().map(|signal| 128 + signal)),
            Self::Interrupted(signal) => Some(128 + signal as i32),
        };
        number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
    }
}
