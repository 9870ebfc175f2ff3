//! Objects whose bytes are compared with their names when they are read, not only when they come.
//!
//! A small object is hashed as a whole, of a large one the blocks that are read. What is not what it should be is
//! [`ReadError::Damaged`], never bytes, and counts as absent from then on. What the kernel checks by itself (fs-verity) is hashed
//! once; after that every page is compared by the kernel with what was hashed.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::damage::DamagedPart;
use super::open::Store;
use super::read::Place;
use super::source::{Absent, ObjectSource, ReadError};
use crate::image::{Image, ImageError, ObjectRef};
use crate::model::{BLOCK_SIZE, BlockId, LARGE_OBJECT, ObjectId};
use crate::sys;

/// When bytes are compared with their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// When they enter the repository.
    #[default]
    OnEntry,
    /// Also when they are read for the first time.
    OnOpen,
    /// Whenever they are read.
    Always,
}

/// A repository, read with suspicion on behalf of one image.
pub struct CheckedStore {
    store: Store,
    image: Image,
    verify: Verify,
    objects: Bits,
    /// Blocks of large objects that were found sound: number of the object, of the block.
    blocks: RwLock<HashSet<(u32, u32)>>,
    lent: RwLock<HashSet<ObjectId>>,
}

impl CheckedStore {
    /// The objects of `image` in `store`.
    #[must_use]
    pub fn new(store: &Store, image: &Image, verify: Verify) -> Self {
        let objects = Bits::new(if verify == Verify::OnEntry { 0 } else { image.object_count() });
        Self {
            store: store.clone(),
            image: image.clone(),
            verify,
            objects,
            blocks: RwLock::default(),
            lent: RwLock::default(),
        }
    }

    /// When bytes are compared.
    #[must_use]
    pub const fn verify(&self) -> Verify {
        self.verify
    }

    /// Reads a small object.
    fn read_small(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let part = DamagedPart { object: object.id, block: None };
        if self.objects.has(object.index) {
            return self.read_sound(part, offset, buffer);
        }
        let bytes = match self.store.read_whole(object.id, object.size) {
            Ok(bytes) if ObjectId::of(&bytes) == object.id => bytes,
            Err(error) if !is_damage(&error) => return Err(error),
            Ok(_) | Err(_) => return Err(self.condemn(part)),
        };
        if self.is_remembered(object.id) {
            self.objects.set(object.index);
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    /// Reads bytes of block `block` of a large object that is here, from `at` of the object on.
    ///
    /// # Errors
    /// [`ReadError::Damaged`], [`ReadError::Absent`] when the digest of the block is not here.
    pub fn read_block(&self, object: &ObjectRef, block: u32, at: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let part = DamagedPart { object: object.id, block: Some(block) };
        if self.store.is_condemned(part) {
            return Err(ReadError::Damaged { id: object.id, block: Some(block) });
        }
        let known = self.verify == Verify::OnEntry || self.blocks.read().contains(&(object.index, block));
        if known {
            return self.read_sound(part, at, buffer);
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
            Ok(_) | Err(_) => return Err(self.condemn(part)),
        }
        if self.is_remembered(object.id) {
            self.blocks.write().insert((object.index, block));
        }
        let found = bytes.get(index(at.saturating_sub(start))..).unwrap_or_default();
        let length = found.len().min(buffer.len());
        buffer[..length].copy_from_slice(&found[..length]);
        Ok(length)
    }

    /// Reads what was found sound before. The disk, or the kernel that checks (fs-verity), may say otherwise by now.
    fn read_sound(&self, part: DamagedPart, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let read = self.store.read_at(part.object, offset, buffer);
        read.map_err(|error| if is_damage(&error) { self.condemn(part) } else { error })
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
                return Err(self.condemn(DamagedPart { object: object.id, block: Some(block) }));
            }
            at = block_end;
        }
        Ok(index(end.saturating_sub(offset)))
    }

    fn condemn(&self, part: DamagedPart) -> ReadError {
        if self.store.condemn(part) {
            tracing::error!(object = %part.object, block = part.block, "damage: the bytes are not those of the name");
        }
        ReadError::Damaged { id: part.object, block: part.block }
    }

    /// Whether what was found sound needs no second look.
    fn is_remembered(&self, id: ObjectId) -> bool {
        match self.verify {
            Verify::OnEntry | Verify::OnOpen => true,
            Verify::Always => match self.store.place(id) {
                Ok(Place::File(file) | Place::Packed { file, .. }) => sys::has_verity(&*file),
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
                if self.store.is_condemned(DamagedPart { object: object.id, block: None }) {
                    return Err(ReadError::Damaged { id: object.id, block: None });
                }
                self.read_small(object, offset, buffer)
            }
        }
    }

    /// What the kernel reads by itself has to be sound as a whole before, and to be watched by the kernel if it is always to be
    /// checked.
    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        let Some(file) = self.store.backing_file(id)? else { return Ok(None) };
        match self.verify {
            Verify::OnEntry => Ok(Some(file)),
            Verify::Always if !sys::has_verity(&*file) => Ok(None),
            Verify::OnOpen | Verify::Always => {
                if self.lent.read().contains(&id) {
                    return Ok(Some(file));
                }
                // Otherwise it is read through us, which finds the damaged blocks, and only they are errors.
                let is_sound = self.store.has_digest(id)?;
                Ok(is_sound.then(|| {
                    self.lent.write().insert(id);
                    file
                }))
            }
        }
    }
}

/// Some numbers below a bound.
#[derive(Debug)]
struct Bits(Box<[AtomicU64]>);

impl Bits {
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

/// Whether a failure is the disk's, as opposed to one of this process that passes.
fn is_damage(error: &ReadError) -> bool {
    let ReadError::Object { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::UnexpectedEof || source.raw_os_error() == Some(libc::EIO)
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("positions inside a buffer or a block")
}
