//! Opens the files of a repository, and keeps files open that are read repeatedly.
//!
//! *Not here*: what the files mean (`read`, `pack`).
//!
//! *Invariants*: every file is opened relative to the repository's directory. At most a quarter of the process's descriptors is
//! kept, the least recently used one is closed first, and all of them are closed before an open fails for lack of a descriptor.
//! The lock is never held during I/O: callers get a reference-counted file.
//!
//! *Used by* everything in `store` that reads objects.

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

use super::layout::StoreLayout;
use crate::disk;
use crate::model::ObjectId;

/// Most files that are kept open, however high the limit of descriptors is: more would only avoid opening them again.
const OPEN_FILES_MAX: usize = 256;

/// Most files that are kept open, as one part in this many of the limit of descriptors.
const DESCRIPTOR_SHARE: u64 = 4;

/// The content of a file that is kept open.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum OpenFileKey {
    Object(ObjectId),
    Pack(Arc<str>),
}

/// The repository's directory, and its files that are kept open. Shared between threads.
pub(super) struct OpenFiles {
    /// Files are opened relative to this directory and never by an absolute path, so that a daemon started in an initramfs
    /// keeps working after the root directory has changed.
    directory: OwnedFd,
    kept: Mutex<LruCache<OpenFileKey, Arc<File>>>,
}

impl OpenFiles {
    pub(super) fn new(directory: OwnedFd) -> Self {
        let share = usize::try_from(disk::descriptor_limit() / DESCRIPTOR_SHARE).unwrap_or(OPEN_FILES_MAX);
        let capacity = NonZeroUsize::new(share.min(OPEN_FILES_MAX)).unwrap_or(NonZeroUsize::MIN);
        Self { directory, kept: Mutex::new(LruCache::new(capacity)) }
    }

    /// Returns the repository's directory.
    pub(super) const fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Opens the file at `path`, relative to the repository, without keeping it open for later.
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
                // Files that are kept open for later are closed in favour of the one that is needed now.
                Err(Errno::MFILE | Errno::NFILE) if self.close_half() => {}
                opened => return Ok(opened?),
            }
        }
    }

    /// Returns the file of one object.
    pub(super) fn object(&self, id: ObjectId) -> io::Result<Arc<File>> {
        self.get_or_open(OpenFileKey::Object(id), || self.open(&StoreLayout::object_relative(id)))
    }

    /// Returns the file of one pack.
    pub(super) fn pack(&self, name: &Arc<str>) -> io::Result<Arc<File>> {
        self.get_or_open(OpenFileKey::Pack(Arc::clone(name)), || {
            self.open(&Path::new(StoreLayout::PACKS).join(&**name))
        })
    }

    fn get_or_open(&self, key: OpenFileKey, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        if let Some(file) = self.kept.lock().get(&key) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(open()?);
        self.kept.lock().put(key, Arc::clone(&file));
        Ok(file)
    }

    /// Closes files that another process has removed, so that their space becomes free.
    pub(super) fn close_removed(&self) {
        let mut kept = self.kept.lock();
        let removed: Vec<OpenFileKey> =
            kept.iter().filter(|(_, file)| is_removed(file)).map(|(key, _)| key.clone()).collect();
        removed.iter().for_each(|key| _ = kept.pop(key));
    }

    /// Closes half of the files; returns whether there was any.
    fn close_half(&self) -> bool {
        let mut kept = self.kept.lock();
        let half = kept.len().div_ceil(2);
        (0..half).for_each(|_| _ = kept.pop_lru());
        half > 0
    }

    /// Closes the file of one object, which was replaced.
    pub(super) fn close_object(&self, id: ObjectId) {
        self.kept.lock().pop(&OpenFileKey::Object(id));
    }

    /// Closes the file of a pack that was removed.
    pub(super) fn close_pack(&self, name: &Arc<str>) {
        self.kept.lock().pop(&OpenFileKey::Pack(Arc::clone(name)));
    }

    /// Closes all files.
    pub(super) fn close_all(&self) {
        self.kept.lock().clear();
    }
}

/// Returns whether an open file has no name any more, so that it takes space only as long as it is open.
fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Returns whether an error only means that the process or machine has no descriptors or memory left, and says nothing about
/// the file.
pub(super) fn is_resource_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
