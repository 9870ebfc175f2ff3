//! Advisory locks between processes, by `flock(2)` on a file that is never removed.
//!
//! *Invariants*: the kernel releases a lock when its holder ends, so a killed process leaves none behind. A lock file may be in
//! a directory that other users can write, who may have replaced it by something else. Therefore a link is not followed; only a
//! regular file with one name is locked; a file that is locked exclusively belongs to the user of this process; and no file is
//! ever truncated: the holder's name is written over an older name or into an empty file.
//!
//! *Used by* `store`, `remote`, `compose` and `deploy`, for each directory that has one writer at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The beginning of a holder's name in the lock file.
const HOLDER_PREFIX: &str = "process ";

/// Bytes of a holder's name in the lock file, padded with blanks.
const HOLDER_LENGTH: usize = 24;

/// What to do when another process holds the lock.
pub enum Wait<'a> {
    /// Fail at once.
    No,
    /// Call the function once with a description of the holder, then wait without limit.
    Announced(&'a dyn Fn(&str)),
}

/// Why a lock was not obtained.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the lock, and the caller did not want to wait.
    #[error("{} is locked by {holder}", .path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, as far as is known.
        holder: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks `path` for this process alone.
    pub(crate) fn exclusive(path: &Path, wait: Wait<'_>) -> Result<Self, LockError> {
        let io_error = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = open(path, LockAccess::Write).map_err(io_error)?;
        acquire(path, &mut file, wait, File::try_lock, File::lock)?;
        // The name is only used in messages of processes that wait, so a failure (a full disk) does not matter.
        if let Err(error) = write_holder(&file) {
            tracing::debug!(%error, "cannot note the holder of a lock");
        }
        Ok(Self { _file: file })
    }

    /// Locks `path` together with any number of other shared holders. Works on a read-only filesystem.
    pub(crate) fn shared(path: &Path, wait: Wait<'_>) -> Result<Self, LockError> {
        let io_error = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = open(path, LockAccess::Read).map_err(io_error)?;
        acquire(path, &mut file, wait, File::try_lock_shared, File::lock_shared)?;
        Ok(Self { _file: file })
    }
}

/// How often a lock is tried before it counts as held. A process that another thread is starting has the locks of this process
/// until its program runs.
const INHERITED_LOCK_ATTEMPTS: usize = 4;

/// The pause between two attempts.
const INHERITED_LOCK_PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy)]
enum LockAccess {
    Read,
    Write,
}

fn open(path: &Path, access: LockAccess) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // O_NONBLOCK: opening a pipe does not wait for its other end; check() then refuses it.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    if matches!(access, LockAccess::Write) {
        options.write(true).create(true);
    }
    match (options.open(path), access) {
        (Err(error), LockAccess::Read) if error.kind() == io::ErrorKind::NotFound => open(path, LockAccess::Write),
        (Err(error), _) if error.raw_os_error() == Some(libc::ELOOP) => Err(refusal("a symbolic link lies there")),
        (opened, _) => check(opened?, access),
    }
}

fn check(file: File, access: LockAccess) -> io::Result<File> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refusal("what lies there is not a regular file"));
    }
    if metadata.nlink() > 1 {
        return Err(refusal("the file has further names (hard links), as in a copy made with them: remove those"));
    }
    if matches!(access, LockAccess::Write) && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(refusal(format!("it belongs to user {}: run this as that user", metadata.uid())));
    }
    Ok(file)
}

fn refusal(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.into())
}

fn acquire(
    path: &Path,
    file: &mut File,
    wait: Wait<'_>,
    attempt: fn(&File) -> Result<(), TryLockError>,
    block: fn(&File) -> io::Result<()>,
) -> Result<(), LockError> {
    let io_error = |source| LockError::Io { path: path.to_owned(), source };
    for pause in [INHERITED_LOCK_PAUSE; INHERITED_LOCK_ATTEMPTS] {
        match attempt(file) {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            Err(TryLockError::Error(source)) => return Err(io_error(source)),
        }
    }
    let holder = read_holder(file);
    match wait {
        Wait::No => Err(LockError::Held { path: path.to_owned(), holder }),
        Wait::Announced(announce) => {
            announce(&holder);
            block(file).map_err(io_error)
        }
    }
}

fn write_holder(file: &File) -> io::Result<()> {
    let mut old = [0; HOLDER_LENGTH + 1];
    let length = file.read_at(&mut old, 0)?;
    let is_lock_file = length <= HOLDER_LENGTH && (length == 0 || old.starts_with(HOLDER_PREFIX.as_bytes()));
    let holder = format!("{:<HOLDER_LENGTH$}", format!("{HOLDER_PREFIX}{}", std::process::id()));
    if is_lock_file { file.write_all_at(holder.as_bytes(), 0) } else { Ok(()) }
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Ok(length) if length > 0 => text.trim_end().to_owned(),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn lock_refuses_other_file_types_and_does_not_change_them() {
        let directory = tempfile::tempdir_in(".").expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        crate::disk::replace(&at("precious"), b"do not touch").expect("writable");
        symlink(at("precious"), at("link")).expect("made");
        symlink(at("nowhere"), at("dangling")).expect("made");
        crate::disk::replace(&at("second"), b"two names").expect("writable");
        rustix::fs::link(at("second"), at("hard")).expect("made");
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("made");
        fs::create_dir(at("directory")).expect("made");
        for name in ["link", "dangling", "hard", "pipe", "directory"] {
            assert!(Lock::exclusive(&at(name), Wait::No).is_err(), "{name}");
            assert!(Lock::shared(&at(name), Wait::No).is_err(), "{name}");
        }
        assert!(!at("nowhere").exists());
        assert_eq!(fs::read_to_string(at("second")).expect("readable"), "two names");
        drop(Lock::exclusive(&at("precious"), Wait::No).expect("a regular file of this user"));
        assert_eq!(fs::read_to_string(at("precious")).expect("readable"), "do not touch");
    }

    #[test]
    fn held_error_names_the_newest_holder() {
        let directory = tempfile::tempdir_in(".").expect("a temporary directory");
        let path = directory.path().join("lock");
        crate::disk::replace(&path, b"process 4194304").expect("as older versions wrote it");
        let held = Lock::exclusive(&path, Wait::No).expect("free");
        let error = Lock::exclusive(&path, Wait::No).expect_err("held").to_string();
        assert!(error.ends_with(&format!("is locked by process {}", std::process::id())), "{error}");
        drop(held);
        drop(Lock::shared(&path, Wait::No).expect("free again"));
    }
}
