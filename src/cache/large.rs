//! Large objects that are here in part: a sparse file each, in which every block is checked before it is used.
//!
//! The file is its own bitmap. After a restart, or when another process fills the same file, what a block holds is not
//! known: it is compared with the digest that the image gives, once in the life of a process, and fetched if it is
//! something else. So a crash costs at most a block, and nothing here needs a sync.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use super::room::Room;
use super::shelf::{Key, Shelf, chain};
use crate::disk::read_from;
use crate::image::{Image, ImageError, ObjectRef};
use crate::model::{BLOCK_SIZE, BlockId, ObjectId};
use crate::store::{Absent, CheckedStore, DamagedPart, ReadError, Store, Verify};

/// Large objects whose files are kept open. One that is closed is checked again when it is opened.
const OPEN_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// What is known of a block.
const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;
const PRESENT: u8 = 2;

/// One object.
struct Large {
    object: ObjectRef,
    /// None when the disk refuses: then blocks live in memory only.
    file: Option<File>,
    blocks: Box<[AtomicU8]>,
    missing: AtomicU32,
}

/// The large objects of one image.
pub(super) struct LargeObjects {
    store: Store,
    checked: Arc<CheckedStore>,
    image: Image,
    shelf: Arc<Shelf>,
    room: Arc<Room>,
    open: Mutex<LruCache<ObjectId, Arc<Large>>>,
}

impl LargeObjects {
    pub fn new(image: &Image, checked: &Arc<CheckedStore>, shelf: &Arc<Shelf>, room: &Arc<Room>) -> Self {
        let open = Mutex::new(LruCache::new(OPEN_MAX));
        let (store, checked) = (shelf.store().clone(), Arc::clone(checked));
        Self { store, checked, image: image.clone(), shelf: Arc::clone(shelf), room: Arc::clone(room), open }
    }

    /// Closes files that were evicted: they take room for as long as they are open, and what is written to them is lost.
    pub fn close_removed(&self) {
        let is_removed = |large: &Large| {
            let file = large.file.as_ref();
            file.is_some_and(|file| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0))
        };
        let mut open = self.open.lock();
        let removed: Vec<ObjectId> = open.iter().filter(|(_, large)| is_removed(large)).map(|(id, _)| *id).collect();
        removed.iter().for_each(|id| _ = open.pop(id));
    }

    /// Like [`crate::store::ObjectSource::read_object`], for an object that is not in the store, or of which each block is to be
    /// checked.
    pub fn read(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let wanted = object.size.saturating_sub(offset).min(buffer.len() as u64);
        let end = offset + wanted;
        let (large, mut at) = (self.known(object), offset);
        while at < end {
            let block = u32::try_from(at / BLOCK_SIZE).unwrap_or(u32::MAX);
            let block_end = (u64::from(block) + 1).saturating_mul(BLOCK_SIZE).min(end);
            let part = &mut buffer[index(at - offset)..index(block_end - offset)];
            if !self.read_block(object, large.as_deref(), block, at, part)? {
                return Err(ReadError::Absent(Absent::Content {
                    index: object.index,
                    size: object.size,
                    offset: at,
                    length: end - at,
                }));
            }
            at = block_end;
        }
        Ok(index(wanted))
    }

    /// Whether a block is here.
    pub fn has(&self, object: &ObjectRef, block: u32) -> bool {
        self.shelf.get(Key::Block(object.id, block)).is_some()
            || self.known(object).is_some_and(|large| matches!(self.look(&large, block), Ok(true)))
    }

    /// Keeps a block if it is what the image says; returns whether it is.
    pub fn put(&self, object: &ObjectRef, block: u32, bytes: &Bytes) -> Result<bool, ImageError> {
        if self.image.block_of_object(object.index, block)? != Some(BlockId::of(bytes)) {
            return Ok(false);
        }
        if self.store.has_object(object.id) {
            self.shelf.mend(DamagedPart { object: object.id, block: Some(block) }, bytes);
            return Ok(true);
        }
        let large = self.open(object);
        let file = large.file.as_ref().filter(|_| self.room.take(bytes.len() as u64));
        let written = file.map(|file| file.write_all_at(bytes, u64::from(block) * BLOCK_SIZE));
        match written {
            Some(Ok(())) => large.found(block, &self.shelf),
            Some(Err(error)) => {
                tracing::debug!(object = %object.id.short(), block, %error, "a block stays in memory");
                self.shelf.hold_block(object.id, block, bytes);
            }
            None => self.shelf.hold_block(object.id, block, bytes),
        }
        Ok(true)
    }

    fn read_block(
        &self,
        object: &ObjectRef,
        large: Option<&Large>,
        block: u32,
        at: u64,
        part: &mut [u8],
    ) -> Result<bool, ReadError> {
        if self.checked.verify() != Verify::OnEntry && self.store.has_object(object.id) {
            match self.checked.read_block(object, block, at, part) {
                Err(ReadError::Damaged { .. } | ReadError::MissingObject { .. }) => {}
                read => return Ok(read? == part.len()),
            }
        }
        if let Some(large) = large
            && self.look(large, block)?
            && let Some(file) = &large.file
        {
            let failed = |source| ReadError::Object { id: object.id, source };
            return Ok(read_from(file, at, part).map_err(failed)? == part.len());
        }
        let Some(bytes) = self.shelf.get(Key::Block(object.id, block)) else { return Ok(false) };
        let start = index(at - u64::from(block) * BLOCK_SIZE);
        let Some(found) = bytes.get(start..start + part.len()) else { return Ok(false) };
        part.copy_from_slice(found);
        Ok(true)
    }

    /// Whether the file has the block, which is checked when it is not known.
    fn look(&self, large: &Large, block: u32) -> Result<bool, ReadError> {
        let Some(state) = large.blocks.get(block as usize) else { return Ok(false) };
        match state.load(Ordering::Acquire) {
            PRESENT => return Ok(true),
            ABSENT => return Ok(false),
            _ => {}
        }
        let Some(file) = &large.file else { return Ok(false) };
        let expected = match self.image.block_of_object(large.object.index, block) {
            Err(ImageError::Absent { block }) => return Err(ReadError::Absent(Absent::ImageBlock(block))),
            Err(source) => return Err(ReadError::Image { id: self.image.id(), source }),
            Ok(expected) => expected,
        };
        let mut bytes = vec![0; index(BLOCK_SIZE)];
        let read = read_from(file, u64::from(block) * BLOCK_SIZE, &mut bytes);
        let length = read.map_err(|source| ReadError::Object { id: large.object.id, source })?;
        if Some(BlockId::of(&bytes[..length])) == expected {
            large.found(block, &self.shelf);
            return Ok(true);
        }
        // Only from unknown: another thread may have put it meanwhile.
        Ok(state.compare_exchange(UNKNOWN, ABSENT, Ordering::AcqRel, Ordering::Acquire) == Err(PRESENT))
    }

    /// The object if any of it has come; looking for it makes nothing.
    fn known(&self, object: &ObjectRef) -> Option<Arc<Large>> {
        if let Some(large) = self.open.lock().get(&object.id) {
            return Some(Arc::clone(large));
        }
        self.store.layout().partial_object(object.id).exists().then(|| self.open(object))
    }

    fn open(&self, object: &ObjectRef) -> Arc<Large> {
        if let Some(large) = self.open.lock().get(&object.id) {
            return Arc::clone(large);
        }
        let made = Arc::new(self.make(object));
        let mut open = self.open.lock();
        // Two may have made it; one of them is it.
        Arc::clone(open.get_or_insert(object.id, || made))
    }

    fn make(&self, object: &ObjectRef) -> Large {
        let count = u32::try_from(object.size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
        let (file, state) = match self.make_file(object) {
            Ok((file, Found::New)) => (Some(file), ABSENT),
            Ok((file, Found::Old)) => (Some(file), UNKNOWN),
            Err(error) => {
                tracing::warn!("large objects are not kept for now: {}", chain(&error));
                (None, ABSENT)
            }
        };
        let blocks = (0..count).map(|_| AtomicU8::new(state)).collect();
        Large { object: *object, file, blocks, missing: AtomicU32::new(count) }
    }

    fn make_file(&self, object: &ObjectRef) -> io::Result<(File, Found)> {
        let path = self.store.layout().partial_object(object.id);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let (file, found) = match options.clone().create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (options.open(&path)?, Found::Old),
            other => (other?, Found::New),
        };
        if file.metadata()?.len() != object.size {
            file.set_len(object.size)?;
        }
        Ok((file, found))
    }
}

enum Found {
    New,
    Old,
}

impl Large {
    /// Notes that the file has the block; the last one makes the object whole.
    fn found(&self, block: u32, shelf: &Shelf) {
        let Some(state) = self.blocks.get(block as usize) else { return };
        if state.swap(PRESENT, Ordering::AcqRel) != PRESENT && self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            shelf.promote(self.object.id);
        }
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("positions inside a buffer or a block")
}
