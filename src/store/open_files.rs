//! Purpose: opens the files of a repository, and keeps those open that are read again and again.
//!
//! Not here: what the files mean (`read`, `pack`). Invariants: every file is opened relative to the repository's directory;
//! at most a quarter of the process's descriptors is kept, the least recently used one is closed first, and all of them
//! are given up before an open fails for want of a descriptor. The lock is never held during I/O: files leave it by
//! reference count. Used by: everything in `store` that reads objects.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::layout::Layout;
use crate::disk;
use crate::model::ObjectId;

/// Files kept open at most, however high the limit of descriptors is: more would only save opening them again.
const KEPT_MAX: usize = 256;

/// A process keeps one descriptor in so many of its limit.
const SHARE: u64 = 4;

/// What a file that is kept open holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Object(ObjectId),
    Pack(Arc<str>),
}

/// The repository's directory, and files of it that are open. Shared between threads.
pub(super) struct OpenFiles {
    /// Reads go through it and never through an absolute path, so that a daemon started in an initramfs keeps working
    /// after the root directory has changed.
    directory: OwnedFd,
    kept: Mutex<LruCache<Key, Arc<File>>>,
}

impl OpenFiles {
    pub(super) fn new(directory: OwnedFd) -> Self {
        let share = usize::try_from(disk::descriptor_limit() / SHARE).unwrap_or(KEPT_MAX);
        let capacity = NonZeroUsize::new(share.min(KEPT_MAX)).unwrap_or(NonZeroUsize::MIN);
        Self { directory, kept: Mutex::new(LruCache::new(capacity)) }
    }

    /// The repository's directory.
    pub(super) const fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Opens the file at `path`, relative to the repository, and does not keep it.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        self.open_with(path, OFlags::NOFOLLOW).map(File::from)
    }

    /// Opens a directory of the repository for listing.
    pub(super) fn open_directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.open_with(Path::new(path), OFlags::DIRECTORY)
    }

    fn open_with(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        loop {
            match rustix::fs::openat(&self.directory, path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty()) {
                // What is kept open for later is in the way of what is wanted now.
                Err(Errno::MFILE | Errno::NFILE) if self.make_room() => {}
                opened => return Ok(opened?),
            }
        }
    }

    /// The file of one object.
    pub(super) fn object(&self, id: ObjectId) -> io::Result<Arc<File>> {
        self.kept(Key::Object(id), || self.open(&Layout::object_relative(id)))
    }

    /// The file of one pack.
    pub(super) fn pack(&self, name: &Arc<str>) -> io::Result<Arc<File>> {
        self.kept(Key::Pack(Arc::clone(name)), || self.open(&Path::new(Layout::PACKS).join(&**name)))
    }

    fn kept(&self, key: Key, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        if let Some(file) = self.kept.lock().get(&key) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(open()?);
        self.kept.lock().put(key, Arc::clone(&file));
        Ok(file)
    }

    /// Closes those that were removed by another process, so that their room becomes free.
    pub(super) fn close_removed(&self) {
        let mut kept = self.kept.lock();
        let removed: Vec<Key> = kept.iter().filter(|(_, file)| is_removed(file)).map(|(key, _)| key.clone()).collect();
        removed.iter().for_each(|key| _ = kept.pop(key));
    }

    /// Closes half of them; returns whether there was any.
    fn make_room(&self) -> bool {
        let mut kept = self.kept.lock();
        let half = kept.len().div_ceil(2);
        (0..half).for_each(|_| _ = kept.pop_lru());
        half > 0
    }

    /// Closes the file of one object, which was replaced.
    pub(super) fn forget(&self, id: ObjectId) {
        self.kept.lock().pop(&Key::Object(id));
    }

    /// Closes the file of a pack that is gone.
    pub(super) fn forget_pack(&self, name: &Arc<str>) {
        self.kept.lock().pop(&Key::Pack(Arc::clone(name)));
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        self.kept.lock().clear();
    }
}

/// Whether an open file has no name any more, so that it takes room only as long as it is open.
fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Whether an error is that of a process or machine that may open no more, and says nothing about the file.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
