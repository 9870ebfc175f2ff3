//! A file that has no lasting name yet.

#![expect(clippy::disallowed_methods, reason = "giving a temporary file its name is a rename")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix of temporary names. No ref, object or id starts with a dot, so leftovers of a crash are told from data.
const PREFIX: &str = ".tmp-";

/// An open file under a temporary name, removed on drop unless it was given its name by [`Self::persist`].
#[derive(Debug)]
pub struct TemporaryFile {
    file: File,
    path: TemporaryPath,
}

/// The temporary name of a file that is no longer open; the file is removed on drop unless persisted.
#[derive(Debug)]
pub struct TemporaryPath(Option<PathBuf>);

impl TemporaryFile {
    /// Creates an empty file of mode 0444 in `directory`, open for reading and writing.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn create(directory: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path) {
                Ok(file) => return Ok(Self { file, path: TemporaryPath(Some(path)) }),
                // A leftover of a dead process that had our pid.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Closes the file, keeping its temporary name: thousands may wait for their names without holding descriptors.
    #[must_use]
    pub fn close(self) -> TemporaryPath {
        self.path
    }

    /// Renames the file to `path`, over whatever is there. Says nothing about durability: the caller syncs.
    ///
    /// # Errors
    /// Those of `rename(2)`; the temporary file is then removed.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        self.path.persist(path)
    }

    /// Removes what crashed processes left in `directory`. Only for a holder of the lock under which such files are
    /// made.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn remove_leftovers(directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl TemporaryPath {
    /// Where it is for now.
    ///
    /// # Panics
    /// Never: it is gone only when [`Self::persist`] has consumed it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.as_deref().expect("it was not persisted")
    }

    /// Renames the file to `path`, over whatever is there.
    ///
    /// # Errors
    /// Those of `rename(2)`; the temporary file is then removed.
    pub fn persist(mut self, path: &Path) -> io::Result<()> {
        if let Some(own) = &self.0 {
            fs::rename(own, path)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for TemporaryPath {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!(path = %path.display(), %error, "cannot remove a temporary file; the next writer will");
        }
    }
}
