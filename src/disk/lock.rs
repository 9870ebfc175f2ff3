//! Advisory locks between processes, by `flock(2)` on a file that is never removed.
//!
//! The kernel drops a lock with its holder, so a killed process leaves none behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What to do when somebody else holds the lock.
pub enum Wait<'a> {
    /// Fail at once.
    No,
    /// Call the function once with a description of the holder, then wait without limit.
    Announced(&'a dyn Fn(&str)),
}

/// Why a lock was not obtained.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it and waiting was not wanted.
    #[error("{} is locked by {holder}", .path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as is known.
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
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Locks `path` for this process alone.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn exclusive(path: &Path, wait: Wait<'_>) -> Result<Self, LockError> {
        let io_error = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = open(path, Access::Write).map_err(io_error)?;
        acquire(path, &mut file, wait, File::try_lock, File::lock)?;
        // Only for messages of whoever waits; so a failure (a full disk) does not matter.
        if let Err(error) = write_holder(&mut file) {
            tracing::debug!(%error, "cannot note the holder of a lock");
        }
        Ok(Self { _file: file })
    }

    /// Locks `path` together with any number of other shared holders. Works on a read-only filesystem.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn shared(path: &Path, wait: Wait<'_>) -> Result<Self, LockError> {
        let io_error = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = open(path, Access::Read).map_err(io_error)?;
        acquire(path, &mut file, wait, File::try_lock_shared, File::lock_shared)?;
        Ok(Self { _file: file })
    }
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

fn open(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    if matches!(access, Access::Write) {
        options.write(true).create(true);
    }
    match (options.open(path), access) {
        (Err(error), Access::Read) if error.kind() == io::ErrorKind::NotFound => open(path, Access::Write),
        (other, _) => other,
    }
}

fn acquire(
    path: &Path,
    file: &mut File,
    wait: Wait<'_>,
    attempt: fn(&File) -> Result<(), TryLockError>,
    block: fn(&File) -> io::Result<()>,
) -> Result<(), LockError> {
    let io_error = |source| LockError::Io { path: path.to_owned(), source };
    match attempt(file) {
        Ok(()) => return Ok(()),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(source)) => return Err(io_error(source)),
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

fn write_holder(file: &mut File) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    write!(file, "process {}", std::process::id())
}

fn read_holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Ok(length) if length > 0 => text,
        _ => "another process".to_owned(),
    }
}
