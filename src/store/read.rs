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

use rustix::fs::Advice;

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
    Packed { pack: Arc<Pack>, file: Arc<File>, slot: Slot },
    File(Arc<File>),
}

/// How often the packs are listed for one object, when each time others have replaced them meanwhile.
const LISTINGS_MAX: usize = 16;

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
        self.inner.files.open(&Layout::image_relative(id)).map_err(file_error)
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
        let file = self.inner.files.open(&Path::new("commits").join(id.to_string())).map_err(file_error)?;
        let mut bytes = Vec::new();
        file.take(COMMIT_SIZE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(file_error)?;
        Commit::decode(&bytes, id).map_err(|source| ReadError::Commit { id, source })
    }

    /// Whether the object's bytes are here, also if another process has brought them. Those that were found damaged are not,
    /// nor are those that cannot be looked for, since this process may open no more.
    #[must_use]
    pub fn has_object(&self, id: ObjectId) -> bool {
        let has = |found: io::Result<bool>| {
            found.inspect_err(|error| tracing::debug!(object = %id, %error, "it cannot be looked for")).unwrap_or(false)
        };
        if has(self.knows_object(id)) {
            return true;
        }
        let is_condemned = self.is_condemned(DamagedPart { object: id, block: None });
        !is_condemned && (0..LISTINGS_MAX).take_while(|_| self.look_for_new_packs()).any(|_| has(self.is_in_pack(id)))
    }

    /// The same without looking for packs of other processes.
    pub(super) fn knows_object(&self, id: ObjectId) -> io::Result<bool> {
        if self.is_condemned(DamagedPart { object: id, block: None }) {
            return Ok(false);
        }
        if self.is_in_pack(id)? {
            return Ok(true);
        }
        let path = Layout::object_relative(id);
        Ok(rustix::fs::accessat(self.directory(), path, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
            .is_ok())
    }

    /// Whether the object is in a pack, as far as the packs are known by now.
    pub(super) fn is_in_pack(&self, id: ObjectId) -> io::Result<bool> {
        Ok(self.packs().find(&self.inner.files, &id)?.is_some())
    }

    /// The packs as they were listed last.
    pub(super) fn packs(&self) -> Arc<PackSet> {
        Arc::clone(&self.inner.packs.read())
    }

    /// Looks at the packs that other processes have brought meanwhile; whether there may be any.
    pub fn look_for_new_packs(&self) -> bool {
        if self.packs().is_current(&self.inner.files) {
            return false;
        }
        let loaded = self.reload_packs();
        loaded.inspect_err(|error| tracing::debug!(%error, "the packs cannot be listed")).is_ok()
    }

    /// Finds an object and opens the file that it is in. Another process may merge packs meanwhile, so that a pack that was
    /// listed is gone and its objects are in one that was not. An object is missing when it is in none of the packs of two
    /// listings that show the same ones: a single listing may lack a pack that is renamed while it is read.
    pub(super) fn place(&self, id: ObjectId) -> Result<Place, ReadError> {
        let failed = |source| ReadError::Object { id, source };
        let mut packs = self.packs();
        for _ in 0..LISTINGS_MAX {
            let found = packs.find(&self.inner.files, &id).map_err(failed)?;
            let is_found = found.is_some();
            if let Some((pack, slot)) = found {
                match self.inner.files.pack(&pack.name) {
                    Ok(file) => return Ok(Place::Packed { pack, file, slot }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(failed(source)),
                }
            } else {
                match self.inner.files.object(id) {
                    Ok(file) => return Ok(Place::File(file)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(failed(source)),
                }
            }
            self.reload_packs().map_err(failed)?;
            let now = self.packs();
            if !is_found && !packs.has_missed() && packs.has_same_names(&now) {
                break;
            }
            packs = now;
        }
        Err(ReadError::MissingObject { id })
    }

    /// Looks at the packs there are now.
    pub(super) fn reload_packs(&self) -> io::Result<()> {
        let before = self.packs();
        let now = Arc::new(PackSet::load(&self.inner.files, Some(&before))?);
        before.names().filter(|name| !now.has_name(name)).for_each(|name| self.inner.files.forget_pack(name));
        *self.inner.packs.write() = now;
        Ok(())
    }

    /// Lets go of files that another process has removed: they take room for as long as they are open or mapped.
    ///
    /// # Errors
    /// Those of listing the packs.
    pub fn close_removed(&self) -> io::Result<()> {
        self.inner.files.close_removed();
        if self.packs().is_current(&self.inner.files) { Ok(()) } else { self.reload_packs() }
    }

    /// Closes the files kept open, after some were removed.
    pub(super) fn forget_open_files(&self) {
        self.inner.files.clear();
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
            Place::Packed { file, slot, .. } => {
                let rest = u64::from(slot.length).saturating_sub(offset);
                let length = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
                let start = slot.offset + offset.min(u64::from(slot.length));
                let read = read_from(&file, start, &mut buffer[..length]).map_err(object_error)?;
                advise(&file, start, read as u64, Advice::DontNeed);
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
            Place::Packed { .. } => Ok(None),
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
