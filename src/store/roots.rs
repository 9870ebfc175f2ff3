//! Registers running mounts as roots for garbage collection.
//!
//! *Invariants*: each mount has a file that names its commit and is locked as long as the mounting process runs. A file that is
//! not locked is a leftover of an ended process and not a root.
//!
//! *Used by* `cli`, which registers mounts, and by `store::gc`, `store::evict` and `store::former_packs`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::layout::StoreLayout;
use super::open::Store;
use crate::disk::{Lock, LockError, TemporaryFile, Wait};
use crate::model::CommitId;

/// A registered mount: as long as this value exists, the objects of its commit are not collected.
#[derive(Debug)]
pub(crate) struct MountRoot {
    path: PathBuf,
    file: Option<File>,
}

impl MountRoot {
    /// Returns the registration for other processes: it lasts as long as any process has the descriptor. The name is for
    /// [`remove_root`].
    pub(crate) fn hand_over(mut self) -> Option<(OwnedFd, OsString)> {
        Some((self.file.take()?.into(), self.path.file_name()?.to_owned()))
    }
}

impl Store {
    /// Protects `commit` from collection as long as the returned value exists. Waits while a collection runs; the caller then
    /// has to check that the commit still exists.
    ///
    /// # Errors
    /// [`LockError`] when the repository cannot be written: nothing is protected then.
    pub(crate) fn register_mount(&self, commit: CommitId) -> Result<MountRoot, LockError> {
        let _guard = self.block_removal(Wait::Announced(&|_| {}))?;
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

    /// Returns whether a mount of this repository is running.
    pub(super) fn has_running_mount(&self) -> Result<bool, LockError> {
        let directory = self.layout().mounts();
        let io_error = |source| LockError::Io { path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(io_error)? {
            match Lock::shared(&entry.map_err(io_error)?.path(), Wait::No) {
                Ok(_) => {}
                Err(LockError::Held { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Returns the commits of running mounts, and removes the files of ended ones. The caller must hold the removal lock
    /// exclusively.
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

/// Removes the file of a mount that has ended, in the repository with this open directory. A file that stays is removed by the next
/// collection.
pub(crate) fn remove_root(repository: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let path = Path::new(StoreLayout::MOUNTS).join(name);
    Ok(rustix::fs::unlinkat(repository, path, rustix::fs::AtFlags::empty())?)
}

impl Drop for MountRoot {
    fn drop(&mut self) {
        if self.file.is_none() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the root; the next collection does");
        }
    }
}
