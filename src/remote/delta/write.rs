//! Makes a delta from the contents of two commits.
//!
//! *Not here*: when a delta is made and where it is uploaded (`publish`).
//!
//! *Invariants*: memory is bounded by the number of threads, not by the sizes of files. Equal input makes an equal
//! delta.
//!
//! *Used by* `publish`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::DeltaError;
use super::head::{BatchRef, DeltaHead};
use super::pieces::{PIECE_SIZE, base_range, piece_count, piece_range};
use super::predecessor::{ObjectPair, find_pairs};
use super::streams::{BATCH_SIZE, Streams};
use crate::disk::TemporaryFile;
use crate::image::Image;
use crate::model::{DeltaId, ObjectId};
use crate::remote::format::run_in_order;
use crate::store::ObjectSource;

/// Number of pieces that may wait for each thread.
const QUEUE_LENGTH: usize = 1;

/// A piece goes into the delta only if it saves at least one in this many of the bytes that it takes in a pack. The
/// share is so small because content that is unlike its predecessor may be like its neighbours in the batch: the same
/// changelog in six packages takes the space of one.
const SAVING_DIVISOR: usize = 200;

/// Options for making a delta.
#[derive(Debug, Clone, Copy)]
pub struct DeltaOptions {
    /// Number of worker threads; each needs some 20 MiB.
    pub threads: usize,
}

/// A description of the delta that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DeltaSummary {
    /// The name of the delta.
    pub(crate) id: DeltaId,
    /// Length of the file in bytes.
    pub(crate) length: u64,
    /// Length of the head in bytes.
    pub(crate) head: u64,
    /// Number of objects in it.
    pub(crate) objects: u64,
    /// Bytes of content of those.
    pub(crate) content_bytes: u64,
}

/// A commit's image with the source of its contents.
#[derive(Clone, Copy)]
pub struct DeltaSide<'a> {
    /// The image.
    pub image: &'a Image,
    /// Where the contents are read from.
    pub objects: &'a dyn ObjectSource,
}

/// The identity of a piece.
#[derive(Debug, Clone, Copy)]
struct PiecePosition {
    pair: ObjectPair,
    piece: u64,
    /// Bytes of content.
    length: u64,
}

/// The work for one thread: the old and new bytes of one piece.
struct PieceJob {
    old: Vec<u8>,
    new: Vec<u8>,
    /// Whether the piece goes into the delta whatever it saves.
    is_decided: bool,
}

/// A delta that has been prepared and can be written.
pub struct Delta<'a> {
    jobs: PieceJobs<'a>,
}

impl<'a> Delta<'a> {
    /// Finds the contents of `new` that have a predecessor in `old`.
    ///
    /// # Errors
    /// [`DeltaError`] when either image is damaged.
    pub fn new(old: DeltaSide<'a>, new: DeltaSide<'a>) -> Result<Self, DeltaError> {
        Ok(Self { jobs: PieceJobs::new(old, new)? })
    }

    /// Returns how many objects have a predecessor.
    pub(crate) fn objects(&self) -> u64 {
        self.jobs.pairs.len() as u64
    }

    /// Returns the bytes of content of those objects.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.jobs.pairs.as_slice().iter().map(|pair| self.jobs.new_objects[pair.new as usize].1).sum()
    }

    /// Estimates the bytes of the delta without its head, from pieces of about `sample` bytes of content in all.
    pub(crate) fn estimate(&self, sample: u64) -> Result<u64, DeltaError> {
        let (mut streams, mut seen) = (Streams::default(), 0);
        let total = self.content_bytes();
        let every = (total / sample.max(1)).max(1);
        // The first object of each share of the content is sampled.
        let (mut position, mut next) = (0, 0);
        for pair in self.jobs.pairs.as_slice() {
            if position >= next {
                next += every.saturating_mul(PIECE_SIZE);
                let job = PieceJob { is_decided: false, ..self.jobs.job(*pair, 0)? };
                streams.append(&job.run()?.unwrap_or_default());
                seen += piece_range(0, self.jobs.new_objects[pair.new as usize].1).end;
            }
            position += self.jobs.new_objects[pair.new as usize].1;
        }
        let packed = streams.pack()?.len() as u64;
        let scaled = u128::from(packed) * u128::from(total) / u128::from(seen.max(1));
        Ok(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    /// Makes the delta. `image_delta` makes one image from the other. The delta is returned as an unnamed file on the
    /// filesystem of `scratch`; `progress` is called with the bytes of content that each step adds.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn write(
        mut self,
        image_delta: &[u8],
        options: DeltaOptions,
        scratch: &Path,
        progress: &dyn Fn(u64),
    ) -> Result<(File, DeltaSummary), DeltaError> {
        let mut batches = BatchWriter::new(scratch)?;
        run_in_order(
            options.threads,
            QUEUE_LENGTH,
            || |job: PieceJob| job.run(),
            || self.jobs.next(),
            |place: PiecePosition, streams: Option<Streams>| {
                progress(place.length);
                streams.map_or(Ok(()), |streams| batches.add(place, &streams))
            },
        )?;
        batches.close_batch()?;
        let head = DeltaHead::encode(image_delta, &batches.objects, &batches.batch_refs)?;
        let (file, id, length) = assemble(&head, batches.batches, scratch)?;
        let (head, objects, content_bytes) = (head.len() as u64, batches.objects.len() as u64, batches.content_bytes);
        Ok((file, DeltaSummary { id, length, head, objects, content_bytes }))
    }
}

impl PieceJob {
    /// Encodes the piece; `None` when it takes about as few bytes in a pack.
    fn run(&self) -> io::Result<Option<Streams>> {
        let streams = Streams::of_piece(&self.old, &self.new);
        let is_wanted = self.is_decided || estimate_saving(&streams, &self.new)? > 0;
        Ok(is_wanted.then_some(streams))
    }
}

/// Estimates how many bytes fewer the piece takes than in a pack, minus the least that must be saved.
fn estimate_saving(streams: &Streams, new: &[u8]) -> io::Result<i64> {
    let packed = zstd::bulk::compress(new, 3)?.len();
    Ok((packed - packed / SAVING_DIVISOR) as i64 - streams.estimate()? as i64)
}

/// The batch that is being filled, and the finished batches.
struct BatchWriter {
    batches: File,
    objects: Vec<ObjectPair>,
    batch_refs: Vec<BatchRef>,
    streams: Streams,
    pieces: u32,
    content_bytes: u64,
}

impl BatchWriter {
    fn new(scratch: &Path) -> io::Result<Self> {
        let batches = TemporaryFile::create(scratch)?.file().try_clone()?;
        let (objects, rows) = (Vec::new(), Vec::new());
        Ok(Self { batches, objects, batch_refs: rows, streams: Streams::default(), pieces: 0, content_bytes: 0 })
    }

    fn add(&mut self, position: PiecePosition, streams: &Streams) -> Result<(), DeltaError> {
        if position.piece == 0 {
            self.objects.push(position.pair);
        }
        self.streams.append(streams);
        self.pieces += 1;
        self.content_bytes += position.length;
        if self.streams.len() >= BATCH_SIZE { self.close_batch() } else { Ok(()) }
    }

    fn close_batch(&mut self) -> Result<(), DeltaError> {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces > 0 {
            let packed = std::mem::take(&mut self.streams).pack()?;
            let length = u32::try_from(packed.len()).map_err(|_| DeltaError::Length)?;
            self.batch_refs.push(BatchRef { pieces, offset: 0, length });
            self.batches.write_all(&packed)?;
        }
        Ok(())
    }
}

/// An iterator over the pieces to be made.
struct PieceJobs<'a> {
    old: DeltaSide<'a>,
    new: DeltaSide<'a>,
    old_objects: Vec<(ObjectId, u64)>,
    new_objects: Vec<(ObjectId, u64)>,
    pairs: std::vec::IntoIter<ObjectPair>,
    current: Option<(ObjectPair, u64)>,
}

impl<'a> PieceJobs<'a> {
    fn new(old: DeltaSide<'a>, new: DeltaSide<'a>) -> Result<Self, DeltaError> {
        let pairs = find_pairs(old.image, new.image)?.into_iter();
        let old_objects = old.image.objects_with_sizes()?.collect::<Result<_, _>>()?;
        let new_objects = new.image.objects_with_sizes()?.collect::<Result<_, _>>()?;
        Ok(Self { old, new, old_objects, new_objects, pairs, current: None })
    }

    /// Returns the next piece and its bytes.
    fn next(&mut self) -> Result<Option<(PiecePosition, PieceJob)>, DeltaError> {
        loop {
            let Some((pair, piece)) = self.current.take().or_else(|| Some((self.pairs.next()?, 0))) else {
                return Ok(None);
            };
            let count = piece_count(self.new_objects[pair.new as usize].1);
            // An object in several pieces needs all of them in the delta or none. One that was compressed before it
            // came here, such as an initramfs, is left to the packs at once.
            if piece == 0 && count > 1 && !self.is_worthwhile(pair, count)? {
                continue;
            }
            if piece + 1 < count {
                self.current = Some((pair, piece + 1));
            }
            let job = self.job(pair, piece)?;
            return Ok(Some((PiecePosition { pair, piece, length: job.new.len() as u64 }, job)));
        }
    }

    /// Returns whether an object of `count` pieces is worth having in the delta, judged by two of its pieces.
    fn is_worthwhile(&self, pair: ObjectPair, count: u64) -> Result<bool, DeltaError> {
        let mut sum = 0;
        for piece in [0, count / 2] {
            let job = self.job(pair, piece)?;
            sum += estimate_saving(&Streams::of_piece(&job.old, &job.new), &job.new)?;
        }
        Ok(sum > 0)
    }

    fn job(&self, pair: ObjectPair, piece: u64) -> Result<PieceJob, DeltaError> {
        let (old_id, old_size) = self.old_objects[pair.old as usize];
        let (new_id, new_size) = self.new_objects[pair.new as usize];
        let old = read(self.old.objects, old_id, base_range(piece, new_size, old_size))?;
        let new = read(self.new.objects, new_id, piece_range(piece, new_size))?;
        Ok(PieceJob { old, new, is_decided: piece_count(new_size) > 1 })
    }
}

fn read(objects: &dyn ObjectSource, id: ObjectId, range: std::ops::Range<u64>) -> Result<Vec<u8>, DeltaError> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|_| DeltaError::Length)?];
    let found = objects.read_at(id, range.start, &mut bytes)?;
    if found == bytes.len() { Ok(bytes) } else { Err(DeltaError::Length) }
}

/// Writes the head and the batches to one file and returns it with its name and length.
fn assemble(head: &[u8], mut batches: File, scratch: &Path) -> Result<(File, DeltaId, u64), DeltaError> {
    let mut file = TemporaryFile::create(scratch)?.file().try_clone()?;
    let mut digest = Sha256::new();
    file.write_all(head)?;
    digest.update(head);
    let mut length = head.len() as u64;
    batches.rewind()?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = batches.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read])?;
        digest.update(&buffer[..read]);
        length += read as u64;
    }
    file.rewind()?;
    Ok((file, DeltaId::from_bytes(digest.finalize().into()), length))
}
