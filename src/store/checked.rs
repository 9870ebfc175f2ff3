//! Reads objects and verifies their digests when they are read, not only when they are added.
//!
//! Of a small object the whole is hashed, of a large object the blocks that are read. A file that the kernel checks by itself
//! (fs-verity) is hashed once; after that the kernel compares every page with the bytes that were hashed.
//!
//! *Invariants*: bytes with a wrong digest are never returned, but reported as [`ReadError::Damaged`]; the object or block
//! counts as absent from then on.
//!
//! *Used by* `cache` and `cli`, for mounts with the option `verify=`.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::damage::DamagedPart;
use super::open::Store;
use super::read::LocalObject;
use super::source::{Absent, ObjectSource, ReadError};
use crate::image::{Image, ImageError, ObjectRef};
use crate::model::{BLOCK_SIZE, BlockId, LARGE_OBJECT, ObjectId};
use crate::sys;

/// When the digests of bytes are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// When the bytes are added to the repository.
    #[default]
    OnEntry,
    /// Also when the bytes are read for the first time.
    OnOpen,
    /// Whenever the bytes are read.
    Always,
}

/// The objects of one image in a repository, verified as they are read.
pub(crate) struct CheckedStore {
    store: Store,
    image: Image,
    verify: Verify,
    objects: AtomicBitmap,
    /// The blocks of large objects that were verified: the number of the object and that of the block.
    blocks: RwLock<HashSet<(u32, u32)>>,
    exported: RwLock<HashSet<ObjectId>>,
}

impl CheckedStore {
    /// Returns a reader of the objects of `image` in `store`.
    pub(crate) fn new(store: &Store, image: &Image, verify: Verify) -> Self {
        let objects = AtomicBitmap::new(if verify == Verify::OnEntry { 0 } else { image.object_count() });
        Self {
            store: store.clone(),
            image: image.clone(),
            verify,
            objects,
            blocks: RwLock::default(),
            exported: RwLock::default(),
        }
    }

    /// Returns when digests are verified.
    pub(crate) const fn verify(&self) -> Verify {
        self.verify
    }

    /// Reads bytes of a small object, which is verified as a whole.
    fn read_small(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let part = DamagedPart { object: object.id, block: None };
        if self.objects.has(object.index) {
            return self.read_verified(part, offset, buffer);
        }
        let bytes = match self.store.read_whole(object.id, object.size) {
            Ok(bytes) if ObjectId::of(&bytes) == object.id => bytes,
            Err(error) if !is_damage(&error) => return Err(error),
            Ok(_) | Err(_) => return Err(self.mark_bad(part)),
        };
        if self.stays_verified(object.id) {
            self.objects.set(object.index);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    /// Reads bytes of block `block` of a large object in the repository, from the position `at` of the object on.
    ///
    /// # Errors
    /// [`ReadError::Damaged`]; [`ReadError::Absent`] when the part of the image with the block's digest must be fetched first.
    pub(crate) fn read_block(
        &self,
        object: &ObjectRef,
        block: u32,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        let part = DamagedPart { object: object.id, block: Some(block) };
        if self.store.is_known_bad(part) {
            return Err(ReadError::Damaged { id: object.id, block: Some(block) });
        }
        let known = self.verify == Verify::OnEntry || self.blocks.read().contains(&(object.index, block));
        if known {
            return self.read_verified(part, at, buffer);
        }
        let expected = match self.image.block_of_object(object.index, block) {
            Err(ImageError::Absent { block }) => return Err(ReadError::Absent(Absent::ImageBlock(block))),
            Err(source) => return Err(ReadError::Image { id: self.image.id(), source }),
            Ok(expected) => expected,
        };
        let start = u64::from(block) * BLOCK_SIZE;
        let mut bytes = vec![0; index(object.size.saturating_sub(start).min(BLOCK_SIZE))];
        match self.store.read_at(object.id, start, &mut bytes) {
            Ok(length) if length == bytes.len() && Some(BlockId::of(&bytes)) == expected => {}
            Err(error) if !is_damage(&error) => return Err(error),
            Ok(_) | Err(_) => return Err(self.mark_bad(part)),
        }
        if self.stays_verified(object.id) {
            self.blocks.write().insert((object.index, block));
        }
        let found = bytes.get(index(at.saturating_sub(start))..).unwrap_or_default();
        let length = found.len().min(buffer.len());
        buffer[..length].copy_from_slice(&found[..length]);
        Ok(length)
    }

    /// Reads bytes that were verified before. A read error of the disk, or one of the kernel's check (fs-verity), still counts
    /// as damage.
    fn read_verified(&self, part: DamagedPart, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let read = self.store.read_at(part.object, offset, buffer);
        read.map_err(|error| if is_damage(&error) { self.mark_bad(part) } else { error })
    }

    fn read_large(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let end = offset.saturating_add(object.size.saturating_sub(offset).min(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let block = at / BLOCK_SIZE;
            let block_end = (block + 1).saturating_mul(BLOCK_SIZE).min(end);
            let part = &mut buffer[index(at - offset)..index(block_end - offset)];
            let block = u32::try_from(block).unwrap_or(u32::MAX);
            if self.read_block(object, block, at, part)? < part.len() {
                return Err(self.mark_bad(DamagedPart { object: object.id, block: Some(block) }));
            }
            at = block_end;
        }
        Ok(index(end.saturating_sub(offset)))
    }

    fn mark_bad(&self, part: DamagedPart) -> ReadError {
        if self.store.mark_bad(part) {
            tracing::error!(object = %part.object, block = part.block, "damage: the bytes have a wrong digest");
        }
        ReadError::Damaged { id: part.object, block: part.block }
    }

    /// Returns whether bytes that were verified once need not be verified again.
    fn stays_verified(&self, id: ObjectId) -> bool {
        match self.verify {
            Verify::OnEntry | Verify::OnOpen => true,
            Verify::Always => match self.store.locate(id) {
                Ok(LocalObject::File(file) | LocalObject::Packed { file, .. }) => sys::has_verity(&*file),
                Err(_) => false,
            },
        }
    }
}

impl ObjectSource for CheckedStore {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.store.read_at(id, offset, buffer)
    }

    fn read_object(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        match self.verify {
            Verify::OnEntry => self.store.read_at(object.id, offset, buffer),
            Verify::OnOpen | Verify::Always if object.size > LARGE_OBJECT => self.read_large(object, offset, buffer),
            Verify::OnOpen | Verify::Always => {
                if self.store.is_known_bad(DamagedPart { object: object.id, block: None }) {
                    return Err(ReadError::Damaged { id: object.id, block: None });
                }
                self.read_small(object, offset, buffer)
            }
        }
    }

    /// Returns the file of the object for the kernel to read by itself. The whole object must be verified first, and with
    /// [`Verify::Always`] the kernel must check the file (fs-verity).
    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        let Some(file) = self.store.backing_file(id)? else { return Ok(None) };
        match self.verify {
            Verify::OnEntry => Ok(Some(file)),
            Verify::Always if !sys::has_verity(&*file) => Ok(None),
            Verify::OnOpen | Verify::Always => {
                if self.exported.read().contains(&id) {
                    return Ok(Some(file));
                }
                // A damaged object is read through this process instead, so that only reads of the damaged blocks fail.
                let is_intact = self.store.has_digest(id)?;
                Ok(is_intact.then(|| {
                    self.exported.write().insert(id);
                    file
                }))
            }
        }
    }
}

/// A set of numbers below a bound, shared between threads.
#[derive(Debug)]
struct AtomicBitmap(Box<[AtomicU64]>);

impl AtomicBitmap {
    fn new(count: u32) -> Self {
        Self((0..count.div_ceil(u64::BITS)).map(|_| AtomicU64::new(0)).collect())
    }

    fn has(&self, number: u32) -> bool {
        let word = self.0.get((number / u64::BITS) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (number % u64::BITS)) != 0)
    }

    fn set(&self, number: u32) {
        if let Some(word) = self.0.get((number / u64::BITS) as usize) {
            word.fetch_or(1 << (number % u64::BITS), Ordering::Relaxed);
        }
    }
}

/// Returns whether an error is one of the disk, as opposed to a temporary one of this process.
fn is_damage(error: &ReadError) -> bool {
    let ReadError::Object { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::UnexpectedEof || source.raw_os_error() == Some(libc::EIO)
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("positions inside a buffer or a block")
}
