//! Reading objects, images and commits out of the local repository.
//!
//! Every file is opened relative to the repository's open directory. Object bytes were verified when they entered;
//! `fsck` verifies them again. What was read in bulk is dropped from the page cache of the store, since the reader keeps its
//! own copy (the kernel's, behind a mount).

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;

use super::damage::DamagedPart;
use super::layout::Layout;
use super::open::Store;
use super::pack::{Pack, Slot};
use super::pack_set::PackSet;
use super::source::{ObjectSource, ReadError};
use crate::disk::{Lock, LockError, Wait, read_from};
use crate::image::Image;
use crate::model::{COMMIT_SIZE_MAX, Commit, CommitId, ImageId, ObjectId};
use crate::sys::Mapping;

/// Keeps garbage collection away while held.
#[derive(Debug)]
pub struct Hold {
    _lock: Lock,
}

/// Where the bytes of an object are.
pub(super) enum Place {
    Packed(Arc<Pack>, Slot),
    File(Arc<File>),
}

impl Store {
    /// Keeps garbage collection away until the returned value is dropped. Whoever reads what no ref protects for
    /// longer than a moment takes one.
    ///
    /// # Errors
    /// [`LockError`] when the lock file cannot be used.
    pub fn hold(&self, wait: Wait<'_>) -> Result<Hold, LockError> {
        Ok(Hold { _lock: Lock::shared(&self.layout().removal_lock(), wait)? })
    }

    /// The image `id`. Its blocks were verified when it entered; every access checks bounds again.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn image(&self, id: ImageId) -> Result<Image, ReadError> {
        let mapping = Mapping::of_file(&self.image_file(id)?).map_err(|source| ReadError::ImageFile { id, source })?;
        let image = Image::open(mapping).map_err(|source| ReadError::Image { id, source })?;
        if image.id() == id { Ok(image) } else { Err(ReadError::WrongImage { id, found: image.id() }) }
    }

    /// The file of the image `id`.
    ///
    /// # Errors
    /// [`ReadError::MissingImage`], [`ReadError::ImageFile`].
    pub fn image_file(&self, id: ImageId) -> Result<File, ReadError> {
        let file_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::MissingImage { id },
            _ => ReadError::ImageFile { id, source },
        };
        self.open_relative(&Path::new("images").join(id.to_string())).map_err(file_error)
    }

    /// The commit `id`, its digest checked.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn commit(&self, id: CommitId) -> Result<Commit, ReadError> {
        let file_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::MissingCommit { id },
            _ => ReadError::CommitFile { id, source },
        };
        let file = self.open_relative(&Path::new("commits").join(id.to_string())).map_err(file_error)?;
        let mut bytes = Vec::new();
        file.take(COMMIT_SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(file_error)?;
        Commit::decode(&bytes, id).map_err(|source| ReadError::Commit { id, source })
    }

    /// Whether the object's bytes are here, also if another process has brought them. Those that were found damaged are not.
    #[must_use]
    pub fn has_object(&self, id: ObjectId) -> bool {
        self.knows_object(id)
            || (!self.is_condemned(DamagedPart { object: id, block: None }) && self.has_in_new_pack(id))
    }

    /// The same without looking for packs of other processes.
    pub(super) fn knows_object(&self, id: ObjectId) -> bool {
        if self.is_condemned(DamagedPart { object: id, block: None }) {
            return false;
        }
        if self.inner.packs.read().find(&id).is_some() {
            return true;
        }
        let path = Layout::object_relative(id);
        rustix::fs::accessat(&self.inner.directory, path, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
            .is_ok()
    }

    fn has_in_new_pack(&self, id: ObjectId) -> bool {
        self.look_for_new_packs() && self.inner.packs.read().find(&id).is_some()
    }

    /// Looks at the packs that other processes have brought meanwhile; whether there may be any.
    pub fn look_for_new_packs(&self) -> bool {
        if self.inner.packs.read().is_current(&self.inner.directory) {
            return false;
        }
        let loaded = self.reload_packs();
        loaded.inspect_err(|error| tracing::debug!(%error, "the packs cannot be listed")).is_ok()
    }

    pub(super) fn place(&self, id: ObjectId) -> Result<Place, ReadError> {
        if let Some((pack, slot)) = self.inner.packs.read().find(&id) {
            return Ok(Place::Packed(Arc::clone(pack), slot));
        }
        if let Some(file) = self.inner.open_files.get(id) {
            return Ok(Place::File(file));
        }
        match self.open_relative(&Layout::object_relative(id)) {
            Ok(file) => {
                let file = Arc::new(file);
                self.inner.open_files.put(id, Arc::clone(&file));
                Ok(Place::File(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.place_in_new_pack(id),
            Err(source) => Err(ReadError::Object { id, source }),
        }
    }

    /// Another process may have moved the object into a pack since ours were loaded.
    fn place_in_new_pack(&self, id: ObjectId) -> Result<Place, ReadError> {
        self.reload_packs().map_err(|source| ReadError::Object { id, source })?;
        let packs = self.inner.packs.read();
        let (pack, slot) = packs.find(&id).ok_or(ReadError::MissingObject { id })?;
        Ok(Place::Packed(Arc::clone(pack), slot))
    }

    /// Looks at the packs there are now.
    pub(super) fn reload_packs(&self) -> io::Result<()> {
        let packs = PackSet::load(&self.inner.directory)?;
        *self.inner.packs.write() = packs;
        Ok(())
    }

    /// Lets go of files that another process has removed: they take room for as long as they are open.
    ///
    /// # Errors
    /// Those of listing the packs.
    pub fn close_removed(&self) -> io::Result<()> {
        self.inner.open_files.close_removed();
        if self.inner.packs.read().has_removed() { self.reload_packs() } else { Ok(()) }
    }

    /// Closes the object files kept open, after some were removed.
    pub(super) fn forget_open_files(&self) {
        self.inner.open_files.clear();
    }

    fn open_relative(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            match rustix::fs::openat(&self.inner.directory, path, flags, Mode::empty()) {
                // What is kept open for later is in the way of what is wanted now.
                Err(Errno::MFILE | Errno::NFILE) if self.inner.open_files.make_room() => {}
                opened => return Ok(File::from(opened?)),
            }
        }
    }
}

/// Reads of a large object below this many bytes count as random. The kernel asks for 128 KiB and more as soon as it
/// sees a sequence, and for less only where it was told or found out that there is none.
const BULK_READ: usize = 128 << 10;

/// What is fetched around a random read, since the next one is often near: as much as the kernel itself reads ahead.
const SURROUNDINGS: u64 = 128 << 10;

impl ObjectSource for Store {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let object_error = |source| ReadError::Object { id, source };
        match self.place(id)? {
            Place::Packed(pack, slot) => {
                let rest = u64::from(slot.length).saturating_sub(offset);
                let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
                let start = slot.offset + offset.min(u64::from(slot.length));
                let read = read_from(&pack.file, start, &mut buffer[..length]).map_err(object_error)?;
                advise(&pack.file, start, read as u64, Advice::DontNeed);
                Ok(read)
            }
            Place::File(file) if buffer.len() < BULK_READ => {
                advise(&file, offset / SURROUNDINGS * SURROUNDINGS, SURROUNDINGS, Advice::WillNeed);
                read_from(&file, offset, buffer).map_err(object_error)
            }
            Place::File(file) => {
                let read = read_from(&file, offset, buffer).map_err(object_error)?;
                advise(&file, offset, read as u64, Advice::DontNeed);
                Ok(read)
            }
        }
    }

    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        match self.place(id)? {
            Place::Packed(..) => Ok(None),
            Place::File(file) => Ok(Some(file)),
        }
    }
}

/// Best effort: a filesystem that takes no advice is only slower or keeps pages twice.
fn advise(file: &File, start: u64, length: u64, advice: Advice) {
    if let Some(length) = NonZeroU64::new(length)
        && let Err(error) = rustix::fs::fadvise(file, start, Some(length), advice)
    {
        tracing::trace!(%error, "advice refused");
    }
}
