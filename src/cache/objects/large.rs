//! Incomplete large objects: a sparse file for each, in which every block is verified before it is used.
//!
//! The file is its own record of which blocks are present. After a restart, or when another process fills the same file, the
//! state of a block is unknown: the block is compared with the digest in the image, once in the life of a process, and
//! fetched if it differs. A crash therefore costs at most a block, and no sync is needed.
//!
//! *Not here*: complete objects (`store`), small objects (`write_back`).
//!
//! *Used by* `object_cache`, `execute` and `evictor`.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::cache::objects::quota::Quota;
use crate::cache::objects::write_back::{BufferKey, WriteBack};
use crate::disk::read_from;
use crate::error::chain;
use crate::image::{Image, ImageError, ObjectRef};
use crate::model::{BLOCK_SIZE, BlockId, ObjectId};
use crate::store::{Absent, CheckedStore, DamagedPart, PartialLayout, ReadError, Store, Verify};

/// The number of incomplete large objects whose files are kept open. The blocks of a closed one are verified again after it
/// is opened.
const OPEN_FILES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The state of a block.
const UNKNOWN: u8 = 0;
const ABSENT: u8 = 1;
const PRESENT: u8 = 2;

/// One incomplete large object.
struct PartialObject {
    object: ObjectRef,
    /// `None` if the file cannot be created; blocks are then kept in memory only.
    file: Option<File>,
    blocks: Box<[AtomicU8]>,
    missing: AtomicU32,
}

/// The incomplete large objects of one image.
pub(in crate::cache) struct LargeObjects {
    store: Store,
    partial: PartialLayout,
    checked: Arc<CheckedStore>,
    image: Image,
    write_back: Arc<WriteBack>,
    quota: Arc<Quota>,
    open: Mutex<LruCache<ObjectId, Arc<PartialObject>>>,
}

impl LargeObjects {
    pub(crate) fn new(
        image: &Image,
        checked: &Arc<CheckedStore>,
        write_back: &Arc<WriteBack>,
        quota: &Arc<Quota>,
        partial: PartialLayout,
    ) -> Self {
        let open = Mutex::new(LruCache::new(OPEN_FILES_MAX));
        let (store, checked) = (write_back.store().clone(), Arc::clone(checked));
        Self {
            store,
            partial,
            checked,
            image: image.clone(),
            write_back: Arc::clone(write_back),
            quota: Arc::clone(quota),
            open,
        }
    }

    /// Closes evicted files: they use disk space while they are open, and data written to them is lost.
    pub(crate) fn close_removed(&self) {
        let is_removed = |large: &PartialObject| {
            let file = large.file.as_ref();
            file.is_some_and(|file| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0))
        };
        let mut open = self.open.lock();
        let removed: Vec<ObjectId> = open.iter().filter(|(_, large)| is_removed(large)).map(|(id, _)| *id).collect();
        removed.iter().for_each(|id| _ = open.pop(id));
    }

    /// Reads like [`crate::store::ObjectSource::read_object`] an object that is not in the store, or whose blocks are to be
    /// verified one by one.
    pub(crate) fn read(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let wanted = object.size.saturating_sub(offset).min(buffer.len() as u64);
        let end = offset + wanted;
        let (large, mut at) = (self.open_existing(object), offset);
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

    /// Returns whether a block is present, in memory or in the file.
    pub(crate) fn has(&self, object: &ObjectRef, block: u32) -> bool {
        self.write_back.get(BufferKey::Block(object.id, block)).is_some()
            || self.open_existing(object).is_some_and(|large| matches!(self.check_block(&large, block), Ok(true)))
    }

    /// Stores a block if it matches its digest in the image; returns whether it does.
    pub(crate) fn put(&self, object: &ObjectRef, block: u32, bytes: &Bytes) -> Result<bool, ImageError> {
        if self.image.block_of_object(object.index, block)? != Some(BlockId::of(bytes)) {
            return Ok(false);
        }
        if self.store.has_object(object.id) {
            self.write_back.repair_block(DamagedPart { object: object.id, block: Some(block) }, bytes);
            return Ok(true);
        }
        let large = self.open_or_create(object);
        let file = large.file.as_ref().filter(|_| self.quota.reserve(bytes.len() as u64));
        let written = file.map(|file| file.write_all_at(bytes, u64::from(block) * BLOCK_SIZE));
        match written {
            Some(Ok(())) => large.note_block(block, &self.write_back),
            Some(Err(error)) => {
                tracing::debug!(object = %object.id.short(), block, %error, "a block stays in memory");
                self.write_back.buffer_block(object.id, block, bytes);
            }
            None => self.write_back.buffer_block(object.id, block, bytes),
        }
        Ok(true)
    }

    fn read_block(
        &self,
        object: &ObjectRef,
        large: Option<&PartialObject>,
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
            && self.check_block(large, block)?
            && let Some(file) = &large.file
        {
            let failed = |source| ReadError::Object { id: object.id, source };
            return Ok(read_from(file, at, part).map_err(failed)? == part.len());
        }
        let Some(bytes) = self.write_back.get(BufferKey::Block(object.id, block)) else { return Ok(false) };
        let start = index(at - u64::from(block) * BLOCK_SIZE);
        let Some(found) = bytes.get(start..start + part.len()) else { return Ok(false) };
        part.copy_from_slice(found);
        Ok(true)
    }

    /// Returns whether the file has the block; verifies the block if its state is unknown.
    fn check_block(&self, large: &PartialObject, block: u32) -> Result<bool, ReadError> {
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
            large.note_block(block, &self.write_back);
            return Ok(true);
        }
        // Changed only from unknown: another thread may have written the block meanwhile.
        Ok(state.compare_exchange(UNKNOWN, ABSENT, Ordering::AcqRel, Ordering::Acquire) == Err(PRESENT))
    }

    /// Returns the object if it has a file; does not create one.
    fn open_existing(&self, object: &ObjectRef) -> Option<Arc<PartialObject>> {
        if let Some(large) = self.open.lock().get(&object.id) {
            return Some(Arc::clone(large));
        }
        self.partial.object(object.id).exists().then(|| self.open_or_create(object))
    }

    fn open_or_create(&self, object: &ObjectRef) -> Arc<PartialObject> {
        if let Some(large) = self.open.lock().get(&object.id) {
            return Arc::clone(large);
        }
        let created = Arc::new(self.create(object));
        let mut open = self.open.lock();
        // Two threads may have created it at the same time; the first one is used by both.
        Arc::clone(open.get_or_insert(object.id, || created))
    }

    fn create(&self, object: &ObjectRef) -> PartialObject {
        let count = u32::try_from(object.size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
        let (file, state) = match self.open_file(object) {
            Ok((file, PartialFile::Created)) => (Some(file), ABSENT),
            Ok((file, PartialFile::Existing)) => (Some(file), UNKNOWN),
            Err(error) => {
                tracing::warn!("large objects are not stored for now: {}", chain(&error));
                (None, ABSENT)
            }
        };
        let blocks = (0..count).map(|_| AtomicU8::new(state)).collect();
        PartialObject { object: *object, file, blocks, missing: AtomicU32::new(count) }
    }

    fn open_file(&self, object: &ObjectRef) -> io::Result<(File, PartialFile)> {
        let path = self.partial.object(object.id);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let (file, found) = match options.clone().create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (options.open(&path)?, PartialFile::Existing),
            other => (other?, PartialFile::Created),
        };
        if file.metadata()?.len() != object.size {
            file.set_len(object.size)?;
        }
        Ok((file, found))
    }
}

enum PartialFile {
    Created,
    Existing,
}

impl PartialObject {
    /// Records that the file has the block. The last missing block starts the promotion to an ordinary object.
    fn note_block(&self, block: u32, write_back: &WriteBack) {
        let Some(state) = self.blocks.get(block as usize) else { return };
        if state.swap(PRESENT, Ordering::AcqRel) != PRESENT && self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            write_back.promote(self.object.id);
        }
    }
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("positions inside a buffer or a block")
}
