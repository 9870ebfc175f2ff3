//! Files under temporary names, which are removed unless they get a final name.
//!
//! *Not here*: durability; callers sync.
//!
//! *Used by* `disk::replace`, `store`, `remote` and `cache`.

#![expect(clippy::disallowed_methods, reason = "giving a temporary file its name is a rename")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix of temporary names. No ref, object or id starts with a dot, so leftovers of a crash are distinguishable from data.
const PREFIX: &str = ".tmp-";

/// An open file under a temporary name, removed on drop unless [`Self::persist`] gave it its final name.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    file: File,
    path: TemporaryPath,
}

/// The temporary name of a file that is no longer open; the file is removed on drop unless persisted.
#[derive(Debug)]
pub(crate) struct TemporaryPath(Option<PathBuf>);

impl TemporaryFile {
    /// Creates an empty file of mode 0444 in `directory`, open for reading and writing.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path) {
                Ok(file) => return Ok(Self { file, path: TemporaryPath(Some(path)) }),
                // A leftover of an earlier process with the same process number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Closes the file but keeps it under its temporary name, so that thousands of files can wait for their final names without
    /// holding descriptors.
    pub(crate) fn close(self) -> TemporaryPath {
        self.path
    }

    /// Renames the file to `path`, replacing an existing file. Does not make anything durable: the caller syncs.
    ///
    /// # Errors
    /// Those of `rename(2)`; the temporary file is then removed.
    pub(crate) fn persist(self, path: &Path) -> io::Result<()> {
        self.path.persist(path)
    }

    /// Removes the temporary files that crashed processes left in `directory`. The caller must hold the lock under which such
    /// files are made.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn remove_leftovers(directory: &Path) -> io::Result<()> {
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
    /// Returns the temporary path.
    ///
    /// # Panics
    /// Never: the path is absent only after [`Self::persist`], which consumes the value.
    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().expect("it was not persisted")
    }

    /// Renames the file to `path`, replacing an existing file.
    ///
    /// # Errors
    /// Those of `rename(2)`; the temporary file is then removed.
    pub(crate) fn persist(mut self, path: &Path) -> io::Result<()> {
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
