//! What is fetched in parts, in a directory for each lazy commit.
//!
//! ```text
//! parts/<commit>/<image>           the image's file at full length, with the blocks that were fetched
//! parts/<commit>/<image>.head      the beginning of its published form
//! parts/<commit>/<image>.locator   where its objects are
//! parts/<commit>/<object>          a large object's file at full length, with the blocks that were fetched
//! ```
//!
//! The worker of a mount writes here and nowhere else in a repository. Earlier versions had one directory, `partial`, for all
//! commits; their programs, to which a host may be rolled back, know nothing of this one.
//!
//! *Not here*: fetching the parts (`cache`), and what becomes of complete ones (`promote`).
//!
//! *Invariants*: nothing in here is trusted: each block is verified when a process first uses it. Another process may change a
//! file at any time, so a file becomes an object or an image only as a copy that was verified.
//!
//! *Used by* `store` and `cache`.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::layout::StoreLayout;
use super::open::Store;
use crate::disk;
use crate::model::{CommitId, ImageId, ObjectId};

/// The places of what is fetched in parts for one commit.
#[derive(Debug, Clone)]
pub(crate) struct PartialLayout {
    directory: PathBuf,
}

impl StoreLayout {
    /// Returns the directory of what is fetched in parts. Made when first needed.
    pub(crate) fn partial(&self) -> PathBuf {
        self.root().join("parts")
    }

    /// Returns the places of what is fetched in parts for one commit.
    pub(crate) fn partial_of(&self, commit: CommitId) -> PartialLayout {
        PartialLayout { directory: self.partial().join(commit.to_string()) }
    }

    /// Returns the places at which earlier versions kept the parts of all commits.
    fn former_partial(&self) -> PartialLayout {
        PartialLayout { directory: self.root().join("partial") }
    }
}

impl PartialLayout {
    /// Returns the directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the file of a partial image.
    pub(crate) fn image(&self, id: ImageId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// Returns the file of a partial large object.
    pub(crate) fn object(&self, id: ObjectId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// Returns the file with the beginning of the published form of a partial image, which says where its parts are.
    pub(crate) fn image_head(&self, id: ImageId) -> PathBuf {
        self.directory.join(format!("{id}.head"))
    }

    /// Returns the file with the locator of an image, as it was last fetched.
    pub(crate) fn image_locator(&self, id: ImageId) -> PathBuf {
        self.directory.join(format!("{id}.locator"))
    }
}

impl Store {
    /// Makes the directory of what is fetched in parts for `commit`, and moves there what an earlier version has fetched of its
    /// image. Returns the open directory.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn prepare_partial(&self, commit: CommitId, image: ImageId) -> io::Result<OwnedFd> {
        let (own, former) = (self.layout().partial_of(commit), self.layout().former_partial());
        // Tried first, since a worker may make no directories.
        if let Ok(directory) = disk::open_directory(own.directory()) {
            return Ok(directory);
        }
        fs::create_dir_all(own.directory())?;
        let moved = [
            (former.image(image), own.image(image)),
            (former.image_head(image), own.image_head(image)),
            (former.image_locator(image), own.image_locator(image)),
        ];
        for (from, to) in moved {
            if from.is_file() && !to.exists() {
                disk::promote(&open(&from)?, &from, &to)?;
            }
        }
        disk::open_directory(own.directory())
    }

    /// Removes what was fetched in parts for a commit. What cannot be removed is left to the next collection.
    pub(crate) fn remove_partial(&self, commit: CommitId) {
        let path = self.layout().partial_of(commit).directory;
        if let Err(error) = disk::remove_directory(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!("{}: {error}", path.display());
        }
    }

    /// Returns all files that are fetched in parts, each with its commit; `None` for those of earlier versions.
    ///
    /// # Errors
    /// Those of listing directories.
    pub(super) fn partial_files(&self) -> io::Result<Vec<(Option<CommitId>, PathBuf)>> {
        let former = entries(self.layout().former_partial().directory())?;
        let mut found: Vec<_> = former.into_iter().map(|path| (None, path)).collect();
        for path in entries(&self.layout().partial())? {
            let commit = path.file_name().and_then(|name| name.to_str()?.parse::<CommitId>().ok());
            found.extend(entries(&path)?.into_iter().map(|path| (commit, path)));
        }
        Ok(found)
    }

    /// Removes directories of commits that have no files any more.
    pub(super) fn remove_empty_partial(&self) {
        for path in entries(&self.layout().partial()).unwrap_or_default() {
            // Fails for those that are not empty.
            let _ = fs::remove_dir(path);
        }
    }
}

/// Opens a file that a worker may have written. A link is not followed.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Opens a file like [`open`]; returns `None` if it does not exist.
pub(super) fn open_if_exists(path: &Path) -> io::Result<Option<File>> {
    match open(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}
