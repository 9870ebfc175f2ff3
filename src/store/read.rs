//! Reads objects, images and commits from the local repository.
//!
//! Bytes that were read in bulk are dropped from the page cache of the repository's files, since the reader has its own copy
//! (behind a mount that of the kernel).
//!
//! *Not here*: verification of object bytes, which is done when they are added, and again by `fsck` and `checked`.
//!
//! *Invariants*: every file is opened relative to the repository's open directory.
//!
//! *Used by* every layer above.

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Advice;

use super::damage::DamagedPart;
use super::layout::StoreLayout;
use super::open::Store;
use super::pack::{Pack, PackSlot};
use super::pack_set::PackSet;
use super::source::{ObjectSource, ReadError};
use crate::disk::{Lock, LockError, Wait, read_from};
use crate::image::Image;
use crate::model::{COMMIT_SIZE_MAX, Commit, CommitId, ImageId, ObjectId};
use crate::sys::Mapping;

/// A guard that blocks garbage collection while it exists.
#[derive(Debug)]
pub(crate) struct RemovalGuard {
    _lock: Lock,
}

/// An object in the repository, with the open file that has its bytes.
pub(super) enum LocalObject {
    Packed { pack: Arc<Pack>, file: Arc<File>, slot: PackSlot },
    File(Arc<File>),
}

/// How often the packs are listed in the search for one object, if other processes replace them each time.
const LISTINGS_MAX: usize = 16;

impl Store {
    /// Blocks garbage collection until the returned guard is dropped. Needed while a process relies on things that no ref
    /// protects.
    ///
    /// # Errors
    /// [`LockError`] when the lock file cannot be used.
    pub(crate) fn block_removal(&self, wait: Wait<'_>) -> Result<RemovalGuard, LockError> {
        Ok(RemovalGuard { _lock: Lock::shared(&self.layout().removal_lock(), wait)? })
    }

    /// Opens the image `id`. Its blocks were verified when it was added; every access checks bounds again.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn image(&self, id: ImageId) -> Result<Image, ReadError> {
        let mapping = Mapping::of_file(&self.image_file(id)?).map_err(|source| ReadError::ImageFile { id, source })?;
        let image = Image::open(mapping).map_err(|source| ReadError::Image { id, source })?;
        if image.id() == id { Ok(image) } else { Err(ReadError::WrongImage { id, found: image.id() }) }
    }

    /// Opens the file of the image `id`.
    pub(crate) fn image_file(&self, id: ImageId) -> Result<File, ReadError> {
        let file_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::MissingImage { id },
            _ => ReadError::ImageFile { id, source },
        };
        self.inner.files.open(&StoreLayout::image_relative(id)).map_err(file_error)
    }

    /// Reads the commit `id` and checks its digest.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn commit(&self, id: CommitId) -> Result<Commit, ReadError> {
        let file_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::MissingCommit { id },
            _ => ReadError::CommitFile { id, source },
        };
        let file = self.inner.files.open(&Path::new("commits").join(id.to_string())).map_err(file_error)?;
        let mut bytes = Vec::new();
        file.take(COMMIT_SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(file_error)?;
        Commit::decode(&bytes, id).map_err(|source| ReadError::Commit { id, source })
    }

    /// Returns whether the object's bytes are in the repository, added by this or another process. An object that was found
    /// damaged counts as absent, as does one that cannot be searched, because this process has no descriptors left.
    pub(crate) fn has_object(&self, id: ObjectId) -> bool {
        let has = |found: io::Result<bool>| {
            found
                .inspect_err(|error| tracing::debug!(object = %id, %error, "cannot search the object"))
                .unwrap_or(false)
        };
        if has(self.has_object_without_reload(id)) {
            return true;
        }
        let is_condemned = self.is_known_bad(DamagedPart { object: id, block: None });
        !is_condemned
            && (0..LISTINGS_MAX).take_while(|_| self.reload_packs_if_changed()).any(|_| has(self.is_in_pack(id)))
    }

    /// Returns whether the object's bytes are in the packs of the last listing or in a file of their own.
    pub(super) fn has_object_without_reload(&self, id: ObjectId) -> io::Result<bool> {
        if self.is_known_bad(DamagedPart { object: id, block: None }) {
            return Ok(false);
        }
        if self.is_in_pack(id)? {
            return Ok(true);
        }
        let path = StoreLayout::object_relative(id);
        Ok(rustix::fs::accessat(self.directory(), path, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
            .is_ok())
    }

    /// Returns whether the object is in a pack of the last listing.
    pub(super) fn is_in_pack(&self, id: ObjectId) -> io::Result<bool> {
        Ok(self.packs().find(&self.inner.files, &id)?.is_some())
    }

    /// Returns the packs of the last listing.
    pub(super) fn packs(&self) -> Arc<PackSet> {
        Arc::clone(&self.inner.packs.read())
    }

    /// Lists the packs again if other processes may have changed them. Returns whether they were listed again.
    pub(crate) fn reload_packs_if_changed(&self) -> bool {
        if self.packs().is_current(&self.inner.files) {
            return false;
        }
        let loaded = self.reload_packs();
        loaded.inspect_err(|error| tracing::debug!(%error, "the packs cannot be listed")).is_ok()
    }

    /// Finds an object and opens the file that it is in. Another process may merge packs meanwhile, so that a listed pack does
    /// not exist any more and its objects are in a pack that was not listed. An object is missing when no pack has it in two
    /// listings of the same packs: a single listing may lack a pack that is renamed while the directory is read.
    pub(super) fn locate(&self, id: ObjectId) -> Result<LocalObject, ReadError> {
        let failed = |source| ReadError::Object { id, source };
        let mut packs = self.packs();
        for _ in 0..LISTINGS_MAX {
            let found = packs.find(&self.inner.files, &id).map_err(failed)?;
            let is_found = found.is_some();
            if let Some((pack, slot)) = found {
                match self.inner.files.pack(&pack.name) {
                    Ok(file) => return Ok(LocalObject::Packed { pack, file, slot }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(failed(source)),
                }
            } else {
                match self.inner.files.object(id) {
                    Ok(file) => return Ok(LocalObject::File(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(failed(source)),
                }
            }
            self.reload_packs().map_err(failed)?;
            let now = self.packs();
            if !is_found && !packs.has_missing_pack() && packs.has_same_names(&now) {
                break;
            }
            packs = now;
        }
        Err(ReadError::MissingObject { id })
    }

    /// Lists the packs again.
    pub(super) fn reload_packs(&self) -> io::Result<()> {
        let before = self.packs();
        let now = Arc::new(PackSet::load(&self.inner.files, Some(&before))?);
        before.names().filter(|name| !now.has_name(name)).for_each(|name| self.inner.files.close_pack(name));
        *self.inner.packs.write() = now;
        Ok(())
    }

    /// Closes files that another process has removed: they take space as long as they are open or mapped.
    ///
    /// # Errors
    /// Those of listing the packs.
    pub(crate) fn close_removed(&self) -> io::Result<()> {
        self.inner.files.close_removed();
        if self.packs().is_current(&self.inner.files) { Ok(()) } else { self.reload_packs() }
    }

    /// Closes all files that are kept open, after some were removed.
    pub(crate) fn forget_open_files(&self) {
        self.inner.files.close_all();
    }
}

/// Reads of a large object below this many bytes count as random. The kernel requests 128 KiB and more as soon as it detects a
/// sequence of reads, and less only for reads that it was told or found not to be sequential.
const BULK_READ_MIN: usize = 128 << 10;

/// Bytes that are read ahead around a random read, since the next one is often near: as many as the kernel itself reads ahead.
const RANDOM_READ_WINDOW: u64 = 128 << 10;

impl ObjectSource for Store {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let object_error = |source| ReadError::Object { id, source };
        match self.locate(id)? {
            LocalObject::Packed { file, slot, .. } => {
                let rest = u64::from(slot.length).saturating_sub(offset);
                let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
                let start = slot.offset + offset.min(u64::from(slot.length));
                let read = read_from(&file, start, &mut buffer[..length]).map_err(object_error)?;
                advise(&file, start, read as u64, Advice::DontNeed);
                Ok(read)
            }
            LocalObject::File(file) if buffer.len() < BULK_READ_MIN => {
                advise(&file, offset / RANDOM_READ_WINDOW * RANDOM_READ_WINDOW, RANDOM_READ_WINDOW, Advice::WillNeed);
                read_from(&file, offset, buffer).map_err(object_error)
            }
            LocalObject::File(file) => {
                let read = read_from(&file, offset, buffer).map_err(object_error)?;
                advise(&file, offset, read as u64, Advice::DontNeed);
                Ok(read)
            }
        }
    }

    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        match self.locate(id)? {
            LocalObject::Packed { .. } => Ok(None),
            LocalObject::File(file) => Ok(Some(file)),
        }
    }
}

/// Gives the kernel advice about a range of a file. Errors are ignored: a filesystem that takes no advice is only slower, or
/// keeps pages twice.
fn advise(file: &File, start: u64, length: u64, advice: Advice) {
    if let Some(length) = NonZeroU64::new(length)
        && let Err(error) = rustix::fs::fadvise(file, start, Some(length), advice)
    {
        tracing::trace!(%error, "advice refused");
    }
}
