//! Advisory locks between processes, by `flock(2)` on a file that is never removed.
//!
//! The kernel drops a lock with its holder, so a killed process leaves none behind.
//!
//! A lock may lie in a directory that others can write, who may have put something else in its place. So a link is not
//! followed, only a regular file with one name is locked, one that is locked exclusively belongs to the user of this process,
//! and nothing is ever cut off: the holder's name is written over an older name or into an empty file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What the name of a holder begins with, and the bytes it takes, blanks at its end.
const HOLDER: &str = "process ";
const HOLDER_LENGTH: usize = 24;

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
        // Only for messages of processes that wait; so a failure (a full disk) does not matter.
        if let Err(error) = write_holder(&file) {
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
    // A pipe that lies there is opened at once, and then refused.
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    if matches!(access, Access::Write) {
        options.write(true).create(true);
    }
    match (options.open(path), access) {
        (Err(error), Access::Read) if error.kind() == io::ErrorKind::NotFound => open(path, Access::Write),
        (Err(error), _) if error.raw_os_error() == Some(libc::ELOOP) => Err(refusal("a symbolic link lies there")),
        (opened, _) => check(opened?, access),
    }
}

fn check(file: File, access: Access) -> io::Result<File> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refusal("what lies there is not a regular file"));
    }
    if metadata.nlink() > 1 {
        return Err(refusal("the file has further names (hard links), as in a copy made with them: remove those"));
    }
    if matches!(access, Access::Write) && metadata.uid() != rustix::process::geteuid().as_raw() {
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

fn write_holder(file: &File) -> io::Result<()> {
    let mut old = [0; HOLDER_LENGTH + 1];
    let length = file.read_at(&mut old, 0)?;
    let is_ours = length <= HOLDER_LENGTH && (length == 0 || old.starts_with(HOLDER.as_bytes()));
    let holder = format!("{:<HOLDER_LENGTH$}", format!("{HOLDER}{}", std::process::id()));
    if is_ours { file.write_all_at(holder.as_bytes(), 0) } else { Ok(()) }
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
    fn something_else_in_the_place_of_a_lock_is_refused_and_left_as_it_is() {
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
        drop(Lock::exclusive(&at("precious"), Wait::No).expect("a file of ours"));
        assert_eq!(fs::read_to_string(at("precious")).expect("readable"), "do not touch");
    }

    #[test]
    fn who_waits_is_told_of_the_newest_holder() {
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
