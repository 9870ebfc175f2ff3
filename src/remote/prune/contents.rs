//! The source of published contents that are packed again: the local repository if it has them, else the packs they are
//! in.
//!
//! Contents from packs are copied to a scratch file first, in few long requests, since they are read in another order.
//!
//! *Invariants*: only contents that match the image's digests are returned.
//!
//! *Used by* `regroup`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;
use parking_lot::Mutex;

use super::PruneProgress;
use super::error::PruneError;
use super::repack::group_frames;
use crate::disk::TemporaryFile;
use crate::image::Image;
use crate::model::{BLOCK_SIZE, BlockId, LARGE_OBJECT, ObjectId, PackId};
use crate::remote::format::{PackFrame, PackRef, decode_frame};
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::{ObjectSource, ReadError, Store};

/// Number of decompressed frames in memory. Small objects are read in the order of the image and lie in a few frames at
/// a time.
const UNPACKED_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not 0");

/// An object and its position in published packs.
pub(super) struct LocatedObject {
    /// The object's number in the image.
    pub(crate) number: u32,
    pub(crate) id: ObjectId,
    pub(crate) size: u64,
    pub(crate) frames: Vec<(PackRef, PackFrame)>,
    /// Position of its first byte in the first frame.
    pub(crate) offset: u32,
}

/// The published contents of one image.
pub(super) struct PublishedContents<'a> {
    store: Option<&'a Store>,
    image: &'a Image,
    objects: HashMap<ObjectId, LocatedObject>,
    scratch: File,
    /// Positions of the copied frames in the scratch file.
    frame_offsets: HashMap<(PackId, u32), u64>,
    unpacked: Mutex<LruCache<(PackId, u32), Arc<Vec<u8>>>>,
}

impl<'a> PublishedContents<'a> {
    /// Copies the frames of the `wanted` objects that are not in the local repository into a file in the directory
    /// `scratch`.
    pub(super) fn copy(
        transport: &Transport,
        store: Option<&'a Store>,
        image: &'a Image,
        wanted: Vec<LocatedObject>,
        scratch: &Path,
        progress: &PruneProgress,
    ) -> Result<Self, PruneError> {
        let mut frames: BTreeMap<PackId, BTreeMap<u32, PackFrame>> = BTreeMap::new();
        for object in wanted.iter().filter(|object| store.is_none_or(|store| !store.has_object(object.id))) {
            for (pack, frame) in &object.frames {
                frames.entry(pack.id).or_default().insert(frame.offset, *frame);
            }
        }
        let total = frames.values().flat_map(BTreeMap::values).map(|frame| u64::from(frame.length)).sum();
        progress.total.fetch_add(total, Ordering::Relaxed);
        // The file has no name, so it is removed when it is closed.
        let scratch = TemporaryFile::create(scratch)?.file().try_clone()?;
        let (mut copied, mut end) = (HashMap::new(), 0);
        for (pack, frames) in frames {
            let frames: Vec<PackFrame> = frames.into_values().collect();
            for run in group_frames(&frames) {
                let start = u64::from(run[0].offset);
                let bytes = transport.get_range(&layout::pack(pack), start..run[run.len() - 1].end())?;
                scratch.write_all_at(&bytes, end)?;
                for frame in run {
                    copied.insert((pack, frame.offset), end + u64::from(frame.offset) - start);
                    progress.copied.fetch_add(u64::from(frame.length), Ordering::Relaxed);
                }
                end += bytes.len() as u64;
            }
        }
        let objects = wanted.into_iter().map(|object| (object.id, object)).collect();
        let unpacked = Mutex::new(LruCache::new(UNPACKED_FRAMES_MAX));
        Ok(Self { store, image, objects, scratch, frame_offsets: copied, unpacked })
    }

    fn frame(&self, pack: PackRef, frame: PackFrame) -> io::Result<Arc<Vec<u8>>> {
        let key = (pack.id, frame.offset);
        if let Some(bytes) = self.unpacked.lock().get(&key) {
            return Ok(Arc::clone(bytes));
        }
        let start = self.frame_offsets.get(&key).ok_or(io::ErrorKind::NotFound)?;
        let mut packed = vec![0; frame.length as usize];
        self.scratch.read_exact_at(&mut packed, *start)?;
        let damaged = |error| io::Error::other(format!("pack {} at byte {}: {error}", pack.id, frame.offset));
        let bytes = Arc::new(decode_frame(&packed, frame.raw_length).map_err(damaged)?);
        self.unpacked.lock().put(key, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn read_published(&self, object: &LocatedObject, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (number, start) =
            if object.size > LARGE_OBJECT { (offset / BLOCK_SIZE, 0) } else { (0, u64::from(object.offset) + offset) };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let (pack, frame) = *object.frames.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = self.frame(pack, frame)?;
        let rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    /// Returns whether these are the bytes of an object from `offset` on: all of a small object, or a block.
    fn is_correct(&self, object: &LocatedObject, offset: u64, bytes: &[u8]) -> bool {
        if object.size <= LARGE_OBJECT {
            return ObjectId::of(bytes) == object.id;
        }
        let block = u32::try_from(offset / BLOCK_SIZE).unwrap_or(u32::MAX);
        self.image.block_of_object(object.number, block).is_ok_and(|id| id == Some(BlockId::of(bytes)))
    }
}

impl ObjectSource for PublishedContents<'_> {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let object = self.objects.get(&id).ok_or(ReadError::MissingObject { id })?;
        let length = match self.store.filter(|store| store.has_object(id)) {
            Some(store) => store.read_at(id, offset, buffer)?,
            None => {
                let read = self.read_published(object, offset, buffer);
                read.map_err(|source| ReadError::Object { id, source })?
            }
        };
        if self.is_correct(object, offset, &buffer[..length]) {
            Ok(length)
        } else {
            Err(ReadError::Damaged { id, block: None })
        }
    }

    fn backing_file(&self, _: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        Ok(None)
    }
}
