//! The workspace of a compose: a temporary directory, and namespaces in which the whole compose runs.
//!
//! The process that the user started is the watcher. It makes the directory, enters a user namespace as root if it is not
//! root, and starts this program again as process 1 of a new pid namespace: the worker, which has mounts of its own. In
//! whatever way the worker ends (success, failure, Ctrl-C, kill), every process it started ends with it, no mount is left,
//! and the watcher removes the directory. If the watcher is killed, so is the worker, and the next compose removes the
//! directory.
//!
//! For an ordinary user the ids of `/etc/subuid` stand for the users of the composed root, so that the root looks exactly as
//! it would to root.
//!
//! *Not here*: the isolation of a single program. `sandbox` runs one command of a package or treefile in narrower namespaces
//! *inside* this workspace.
//!
//! *Used by* `cli/compose`.

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
use nix::unistd::{Uid, getegid, geteuid};

use crate::disk::{self, Lock, LockError, Wait};

/// The prefix of the names of workspace directories.
const DIRECTORY_PREFIX: &str = "sapwood-compose.";

/// The lock file in each workspace; locked for as long as the compose runs.
const LOCK_FILE: &str = "lock";

/// The file that marks a workspace that must not be removed.
const KEEP_FILE: &str = "keep";

/// The name under which the worker runs, as `ps` shows it.
const WORKER_NAME: &str = "sapwood-compose-worker";

/// The number of ids that a root needs: 0 to 65535.
const ID_COUNT: u32 = 65_536;

/// Why a workspace or its namespaces cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkspaceError {
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
    /// The directory cannot be made, listed or marked.
    #[error("cannot {action} {}", .path.display())]
    Directory { action: &'static str, path: PathBuf, source: io::Error },
    /// The workspace cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// User namespaces are not allowed for this user.
    #[error(
        "ordinary users may not make user namespaces on this machine ({0}): compose as root, or ask for user namespaces"
    )]
    NoNamespaces(Errno),
    /// The user has no range of subordinate ids.
    #[error(
        "{file} gives {user} no range of {ID_COUNT} ids: compose as root, or have one added (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user})"
    )]
    NoIds {
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The user's name.
        user: String,
    },
    /// `newuidmap` or `newgidmap` failed or is missing.
    #[error(
        "cannot map the ids of the user namespace: newuidmap and newgidmap are needed (Debian: apt install uidmap)"
    )]
    Map,
}

fn system_error<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> WorkspaceError {
    move |source| WorkspaceError::System { action, source: source.into() }
}

/// The temporary directory of one compose. Dropping it removes the directory unless [`Workspace::keep`] marked it.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    _lock: Lock,
}

/// How the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerExit {
    /// The worker ended by itself with this status.
    Status(ExitStatus),
    /// The watcher received this signal and killed the worker.
    Interrupted(Signal),
}

/// Becomes root of a new user namespace unless this process is root already. The process must not have started any thread
/// yet.
///
/// # Errors
/// [`WorkspaceError`], which says what has to be allowed or installed.
pub(crate) fn become_root() -> Result<(), WorkspaceError> {
    if geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    let user = disk::user_name(uid.as_raw()).ok().flatten().unwrap_or_else(|| uid.to_string());
    let uids = first_subordinate_id("/etc/subuid", &user, uid)?;
    let gids = first_subordinate_id("/etc/subgid", &user, uid)?;
    // newuidmap must be started outside of the namespace, and can do its work only when the namespace exists.
    let own = std::process::id();
    let script = format!(
        "read go && newuidmap {own} 0 {uid} 1 1 {uids} {} && newgidmap {own} 0 {gid} 1 1 {gids} {}",
        ID_COUNT - 1,
        ID_COUNT - 1
    );
    let mut mapper = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(system_error("start a shell"))?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(WorkspaceError::NoNamespaces)?;
    if let Some(mut pipe) = mapper.stdin.take() {
        pipe.write_all(b"go\n").map_err(system_error("write to a pipe"))?;
    }
    let status = mapper.wait().map_err(system_error("wait for newuidmap"))?;
    if status.success() { Ok(()) } else { Err(WorkspaceError::Map) }
}

/// Returns the first id of a range in `file` that belongs to the user and is large enough.
fn first_subordinate_id(file: &'static str, user: &str, uid: Uid) -> Result<u32, WorkspaceError> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let uid = uid.to_string();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        ((name == user || name == uid) && count >= ID_COUNT - 1).then_some(first)
    });
    found.ok_or_else(|| WorkspaceError::NoIds { file, user: user.to_owned() })
}

impl Workspace {
    /// Makes a directory in `parent`, and removes those there that killed composes left behind.
    pub(crate) fn create(parent: &Path) -> Result<Self, WorkspaceError> {
        let error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| WorkspaceError::Directory { action, path, source }
        };
        fs::create_dir_all(parent).map_err(error("make", parent))?;
        let parent = parent.canonicalize().map_err(error("find", parent))?;
        for entry in fs::read_dir(&parent).map_err(error("list", &parent))?.flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX) && !path.join(KEEP_FILE).exists() {
                remove_if_abandoned(&path);
            }
        }
        let mut number = 0;
        loop {
            let path = parent.join(format!("{DIRECTORY_PREFIX}{}.{number}", std::process::id()));
            // Other users must not reach a root under construction: it contains setuid programs.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let lock = Lock::exclusive(&path.join(LOCK_FILE), Wait::No)?;
                    return Ok(Self { path, _lock: lock });
                }
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(error("make", &path)(source)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts this program again with `arguments` as the worker, and waits for it. Ctrl-C (and SIGTERM, SIGHUP, SIGQUIT)
    /// kills the worker.
    pub(crate) fn run_worker(&self, arguments: &[OsString]) -> Result<WorkerExit, WorkspaceError> {
        let mut signals = SigSet::empty();
        let ending_signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
        ending_signals.into_iter().chain([Signal::SIGCHLD]).for_each(|signal| signals.add(signal));
        signals.thread_block().map_err(system_error("wait for signals"))?;
        unshare(CloneFlags::CLONE_NEWPID).map_err(system_error("make a pid namespace"))?;
        let mut worker = Command::new("/proc/self/exe")
            .arg0(WORKER_NAME)
            .args(arguments)
            .spawn()
            .map_err(system_error("start the worker"))?;
        loop {
            match signals.wait() {
                Ok(Signal::SIGCHLD) => {
                    if let Some(status) = worker.try_wait().map_err(system_error("wait for the worker"))? {
                        return Ok(WorkerExit::Status(status));
                    }
                }
                Ok(signal) => {
                    kill_worker(&mut worker)?;
                    return Ok(WorkerExit::Interrupted(signal));
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(system_error("wait for signals")(errno)),
            }
        }
    }

    /// Marks a workspace so that its directory is not removed when the [`Workspace`] is dropped.
    ///
    /// # Errors
    /// [`WorkspaceError`] if the mark cannot be written.
    pub(crate) fn keep(directory: &Path) -> Result<(), WorkspaceError> {
        disk::replace(&directory.join(KEEP_FILE), b"").map_err(|source| WorkspaceError::Directory {
            action: "keep",
            path: directory.to_owned(),
            source,
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.path.join(KEEP_FILE).exists()
            && let Err(error) = disk::remove_directory(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn kill_worker(worker: &mut Child) -> Result<(), WorkspaceError> {
    // When process 1 of a pid namespace ends, the kernel kills every process in it.
    let _ = worker.kill();
    worker.wait().map(drop).map_err(system_error("wait for the worker"))
}

fn remove_if_abandoned(path: &Path) {
    // Another user may have made a directory with such a name in the same place.
    let is_own = path.symlink_metadata().is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0
    });
    // A workspace without a lock file is just being made.
    if !is_own || path.join(LOCK_FILE).symlink_metadata().is_err() {
        return;
    }
    if let Ok(_lock) = Lock::exclusive(&path.join(LOCK_FILE), Wait::No)
        && let Err(error) = disk::remove_directory(path)
    {
        tracing::debug!("cannot remove {}, which a killed compose left behind: {error}", path.display());
    }
}

/// Prepares the worker: it is killed when its parent ends, and gets mounts, IPC and a host name of its own.
pub(crate) fn isolate_worker() -> Result<(), WorkspaceError> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system_error("set the parent death signal"))?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
        .map_err(system_error("make namespaces"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(system_error("keep mounts private"))?;
    // The mounted `/proc` must show the process ids of the new namespace.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(system_error("mount /proc"))?;
    super::sandbox::make_settings_read_only(Path::new("/proc"))
        .map_err(system_error("make the machine's settings in /proc read-only"))
}

impl WorkerExit {
    /// Returns the exit status for this program: that of the worker, or 128 plus the number of the signal, as shells do.
    pub(crate) fn exit_code(self) -> u8 {
        let number = match self {
            Self::Status(status) => status.code().or_else(|| status.signal().map(|signal| 128 + signal)),
            Self::Interrupted(signal) => Some(128 + signal as i32),
        };
        number.and_then(|number| u8::try_from(number).ok()).unwrap_or(1)
    }
}
