//! Published contents that are packed again: from the local repository if they are there, else from the packs they are in.
//!
//! What comes from packs is copied to a scratch file first, in few long requests, since it is read in another order.
//! Invariant: nothing is given out that is not what the image says.

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
use super::repack::runs;
use crate::disk::TemporaryFile;
use crate::image::Image;
use crate::model::{BLOCK_SIZE, BlockId, LARGE_OBJECT, ObjectId, PackId};
use crate::remote::format::{Frame, PackRef, decode_frame};
use crate::remote::layout;
use crate::remote::transport::Transport;
use crate::store::{ObjectSource, ReadError, Store};

/// Unpacked frames that are held: what is small is read in the order of the image, and lies in a few frames at a time.
const UNPACKED: NonZeroUsize = NonZeroUsize::new(64).expect("not 0");

/// An object and where it is published.
pub(super) struct Located {
    /// Its number in the image.
    pub number: u32,
    pub id: ObjectId,
    pub size: u64,
    pub frames: Vec<(PackRef, Frame)>,
    /// Where it begins in the first frame.
    pub offset: u32,
}

/// Contents of one image.
pub(super) struct PublishedContents<'a> {
    store: Option<&'a Store>,
    image: &'a Image,
    objects: HashMap<ObjectId, Located>,
    scratch: File,
    /// Where the frames of packs are in it.
    copied: HashMap<(PackId, u32), u64>,
    unpacked: Mutex<LruCache<(PackId, u32), Arc<Vec<u8>>>>,
}

impl<'a> PublishedContents<'a> {
    /// Has the frames of `wanted` copied into a file in the directory `scratch`, but for what is in the local repository.
    pub(super) fn copy(
        transport: &Transport,
        store: Option<&'a Store>,
        image: &'a Image,
        wanted: Vec<Located>,
        scratch: &Path,
        progress: &PruneProgress,
    ) -> Result<Self, PruneError> {
        let mut frames: BTreeMap<PackId, BTreeMap<u32, Frame>> = BTreeMap::new();
        for object in wanted.iter().filter(|object| store.is_none_or(|store| !store.has_object(object.id))) {
            for (pack, frame) in &object.frames {
                frames.entry(pack.id).or_default().insert(frame.offset, *frame);
            }
        }
        let total = frames.values().flat_map(BTreeMap::values).map(|frame| u64::from(frame.length)).sum();
        progress.total.fetch_add(total, Ordering::Relaxed);
        // No name is needed: it goes when it is closed.
        let scratch = TemporaryFile::create(scratch)?.file().try_clone()?;
        let (mut copied, mut end) = (HashMap::new(), 0);
        for (pack, frames) in frames {
            let frames: Vec<Frame> = frames.into_values().collect();
            for run in runs(&frames) {
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
        let unpacked = Mutex::new(LruCache::new(UNPACKED));
        Ok(Self { store, image, objects, scratch, copied, unpacked })
    }

    fn frame(&self, pack: PackRef, frame: Frame) -> io::Result<Arc<Vec<u8>>> {
        let key = (pack.id, frame.offset);
        if let Some(bytes) = self.unpacked.lock().get(&key) {
            return Ok(Arc::clone(bytes));
        }
        let start = self.copied.get(&key).ok_or(io::ErrorKind::NotFound)?;
        let mut packed = vec![0; frame.length as usize];
        self.scratch.read_exact_at(&mut packed, *start)?;
        let damaged = |error| io::Error::other(format!("pack {} at byte {}: {error}", pack.id, frame.offset));
        let bytes = Arc::new(decode_frame(&packed, frame.raw_length).map_err(damaged)?);
        self.unpacked.lock().put(key, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn read_published(&self, object: &Located, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
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

    /// Returns whether these are the bytes of an object from `offset` on: all of a small one, or a block.
    fn is_right(&self, object: &Located, offset: u64, bytes: &[u8]) -> bool {
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
        if self.is_right(object, offset, &buffer[..length]) {
            Ok(length)
        } else {
            Err(ReadError::Damaged { id, block: None })
        }
    }

    fn backing_file(&self, _: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        Ok(None)
    }
}
