//! Running mounts as roots for garbage collection.
//!
//! Each mount has a file that names its commit, locked as long as the mounting process lives. A file nobody holds is the
//! leftover of a dead process and roots nothing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::open::Store;
use crate::disk::{Lock, LockError, TemporaryFile, Wait};
use crate::model::CommitId;

/// A registered mount: as long as this value lives, the objects of its commit stay.
#[derive(Debug)]
pub struct MountRoot {
    path: PathBuf,
    file: Option<File>,
}

impl MountRoot {
    /// Hands the registration to other processes: it lasts as long as anybody has the descriptor. The name is for
    /// [`Store::inherit_mount`].
    #[must_use]
    pub fn hand_over(mut self) -> Option<(OwnedFd, OsString)> {
        Some((self.file.take()?.into(), self.path.file_name()?.to_owned()))
    }
}

impl Store {
    /// Protects `commit` for as long as the returned value lives. Waits while a collection runs; the caller then makes
    /// sure that the commit is still there.
    ///
    /// # Errors
    /// [`LockError`] when the repository cannot be written: nothing is protected then.
    pub fn register_mount(&self, commit: CommitId) -> Result<MountRoot, LockError> {
        let _hold = self.hold(Wait::Announced(&|_| {}))?;
        let directory = self.layout().mounts();
        self.write_root(&directory, commit).map_err(|source| LockError::Io { path: directory, source })
    }

    fn write_root(&self, directory: &std::path::Path, commit: CommitId) -> io::Result<MountRoot> {
        let temporary = TemporaryFile::create(directory)?;
        let file = temporary.file().try_clone()?;
        file.lock()?;
        (&file).write_all(commit.to_string().as_bytes())?;
        let path = (0_u32..)
            .map(|number| directory.join(format!("{}-{number}", std::process::id())))
            .find(|path| !path.exists())
            .unwrap_or_else(|| directory.join("root"));
        temporary.persist(&path)?;
        Ok(MountRoot { path, file: Some(file) })
    }

    /// The registration that another process made and handed over.
    #[must_use]
    pub fn inherit_mount(&self, descriptor: OwnedFd, name: &OsStr) -> MountRoot {
        MountRoot { path: self.layout().mounts().join(name), file: Some(descriptor.into()) }
    }

    /// The commits of running mounts. Removes the files of dead ones, so only for who holds the removal lock alone.
    pub(super) fn mount_roots(&self) -> Result<Vec<CommitId>, LockError> {
        let directory = self.layout().mounts();
        let io_error = |source| LockError::Io { path: directory.clone(), source };
        let mut commits = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io_error)? {
            let path = entry.map_err(io_error)?.path();
            match Lock::shared(&path, Wait::No) {
                Ok(_) => fs::remove_file(&path).map_err(io_error)?,
                Err(LockError::Held { .. }) => {
                    let text = fs::read_to_string(&path).map_err(io_error)?;
                    let broken = |_| io_error(io::Error::from(io::ErrorKind::InvalidData));
                    commits.push(text.parse().map_err(broken)?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(commits)
    }
}

impl Drop for MountRoot {
    fn drop(&mut self) {
        if self.file.is_none() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a root stays behind; the next collection removes it");
        }
    }
}
