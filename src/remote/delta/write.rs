//! Making a delta.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::DeltaError;
use super::head::{BatchRef, DeltaHead};
use super::pieces::{PIECE, base_range, piece_count, piece_range};
use super::predecessor::{Pair, pairs};
use super::streams::{BATCH, Streams};
use crate::disk::TemporaryFile;
use crate::image::Image;
use crate::model::{DeltaId, ObjectId};
use crate::remote::format::in_order;
use crate::store::ObjectSource;

/// Pieces that wait for each thread.
const QUEUE: usize = 1;

/// A piece is left to the packs if the delta does not save one in so many bytes of what it takes there. So little, since what
/// is not like its predecessor may be like its neighbours in the batch: six packages with one changelog are one.
const SAVES: usize = 200;

/// How to make a delta.
#[derive(Debug, Clone, Copy)]
pub struct DeltaOptions {
    /// Threads that work; each needs some 20 MiB.
    pub threads: usize,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DeltaSummary {
    /// Its name.
    pub id: DeltaId,
    /// Its length in bytes.
    pub length: u64,
    /// Bytes of the head.
    pub head: u64,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of those.
    pub content_bytes: u64,
}

/// A commit's image with a way to its contents.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its contents.
    pub objects: &'a dyn ObjectSource,
}

/// Which piece it is.
#[derive(Debug, Clone, Copy)]
struct Place {
    pair: Pair,
    piece: u64,
    /// Bytes of it.
    length: u64,
}

/// What a worker gets: the old and new bytes of one piece.
struct Job {
    old: Vec<u8>,
    new: Vec<u8>,
    /// Whether it was decided already that it goes into the delta.
    is_settled: bool,
}

/// A delta that can be made.
pub struct Delta<'a> {
    jobs: Jobs<'a>,
}

impl<'a> Delta<'a> {
    /// Finds out which contents of `new` have a predecessor in `old`.
    ///
    /// # Errors
    /// [`DeltaError`] when either image is damaged.
    pub fn new(old: Side<'a>, new: Side<'a>) -> Result<Self, DeltaError> {
        Ok(Self { jobs: Jobs::new(old, new)? })
    }

    /// How many objects have a predecessor.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.jobs.pairs.len() as u64
    }

    /// Bytes of those.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.jobs.pairs.as_slice().iter().map(|pair| self.jobs.new_objects[pair.new as usize].1).sum()
    }

    /// About how many bytes it will have without its head, told by pieces of about `sample` bytes of content in all.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn estimate(&self, sample: u64) -> Result<u64, DeltaError> {
        let (mut streams, mut seen) = (Streams::default(), 0);
        let total = self.content_bytes();
        let every = (total / sample.max(1)).max(1);
        // The first object of each share of the content.
        let (mut position, mut next) = (0, 0);
        for pair in self.jobs.pairs.as_slice() {
            if position >= next {
                next += every.saturating_mul(PIECE);
                let job = Job { is_settled: false, ..self.jobs.job(*pair, 0)? };
                streams.append(&job.run()?.unwrap_or_default());
                seen += piece_range(0, self.jobs.new_objects[pair.new as usize].1).end;
            }
            position += self.jobs.new_objects[pair.new as usize].1;
        }
        let packed = streams.pack()?.len() as u64;
        let scaled = u128::from(packed) * u128::from(total) / u128::from(seen.max(1));
        Ok(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    /// Makes it. `image_delta` leads from one image to the other. The delta is left in an unnamed file on the filesystem of
    /// `scratch`; `progress` hears how many more bytes of content are done.
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
        let mut filling = Filling::new(scratch)?;
        in_order(
            options.threads,
            QUEUE,
            || |job: Job| job.run(),
            || self.jobs.next(),
            |place: Place, streams: Option<Streams>| {
                progress(place.length);
                streams.map_or(Ok(()), |streams| filling.add(place, &streams))
            },
        )?;
        filling.close_batch()?;
        let head = DeltaHead::encode(image_delta, &filling.objects, &filling.rows)?;
        let (file, id, length) = assemble(&head, filling.batches, scratch)?;
        let (head, objects, content_bytes) = (head.len() as u64, filling.objects.len() as u64, filling.content_bytes);
        Ok((file, DeltaSummary { id, length, head, objects, content_bytes }))
    }
}

impl Job {
    /// The new bytes in terms of the old ones, unless packs serve them as well.
    fn run(&self) -> io::Result<Option<Streams>> {
        let streams = Streams::of_piece(&self.old, &self.new);
        let is_wanted = self.is_settled || saved(&streams, &self.new)? > 0;
        Ok(is_wanted.then_some(streams))
    }
}

/// About how many bytes fewer than in a pack, beyond the least that must be saved.
fn saved(streams: &Streams, new: &[u8]) -> io::Result<i64> {
    let packed = zstd::bulk::compress(new, 3)?.len();
    Ok((packed - packed / SAVES) as i64 - streams.estimate()? as i64)
}

/// The batch that is being filled, and those before it.
struct Filling {
    batches: File,
    objects: Vec<Pair>,
    rows: Vec<BatchRef>,
    streams: Streams,
    pieces: u32,
    content_bytes: u64,
}

impl Filling {
    fn new(scratch: &Path) -> io::Result<Self> {
        let batches = TemporaryFile::create(scratch)?.file().try_clone()?;
        let (objects, rows) = (Vec::new(), Vec::new());
        Ok(Self { batches, objects, rows, streams: Streams::default(), pieces: 0, content_bytes: 0 })
    }

    fn add(&mut self, place: Place, streams: &Streams) -> Result<(), DeltaError> {
        if place.piece == 0 {
            self.objects.push(place.pair);
        }
        self.streams.append(streams);
        self.pieces += 1;
        self.content_bytes += place.length;
        if self.streams.len() >= BATCH { self.close_batch() } else { Ok(()) }
    }

    fn close_batch(&mut self) -> Result<(), DeltaError> {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces > 0 {
            let packed = std::mem::take(&mut self.streams).pack()?;
            let length = u32::try_from(packed.len()).map_err(|_| DeltaError::Length)?;
            self.rows.push(BatchRef { pieces, offset: 0, length });
            self.batches.write_all(&packed)?;
        }
        Ok(())
    }
}

/// The pieces to be made, one after the other.
struct Jobs<'a> {
    old: Side<'a>,
    new: Side<'a>,
    old_objects: Vec<(ObjectId, u64)>,
    new_objects: Vec<(ObjectId, u64)>,
    pairs: std::vec::IntoIter<Pair>,
    current: Option<(Pair, u64)>,
}

impl<'a> Jobs<'a> {
    fn new(old: Side<'a>, new: Side<'a>) -> Result<Self, DeltaError> {
        let pairs = pairs(old.image, new.image)?.into_iter();
        let old_objects = old.image.objects_with_sizes()?.collect::<Result<_, _>>()?;
        let new_objects = new.image.objects_with_sizes()?.collect::<Result<_, _>>()?;
        Ok(Self { old, new, old_objects, new_objects, pairs, current: None })
    }

    /// The next piece and its bytes.
    fn next(&mut self) -> Result<Option<(Place, Job)>, DeltaError> {
        loop {
            let Some((pair, piece)) = self.current.take().or_else(|| Some((self.pairs.next()?, 0))) else {
                return Ok(None);
            };
            let count = piece_count(self.new_objects[pair.new as usize].1);
            // Of an object in several pieces all are needed or none: one that was packed before it came here, such as an
            // initramfs, is given up at once.
            if piece == 0 && count > 1 && !self.promises(pair, count)? {
                continue;
            }
            if piece + 1 < count {
                self.current = Some((pair, piece + 1));
            }
            let job = self.job(pair, piece)?;
            return Ok(Some((Place { pair, piece, length: job.new.len() as u64 }, job)));
        }
    }

    /// A look at two pieces: whether an object of `count` will be worth having.
    fn promises(&self, pair: Pair, count: u64) -> Result<bool, DeltaError> {
        let mut sum = 0;
        for piece in [0, count / 2] {
            let job = self.job(pair, piece)?;
            sum += saved(&Streams::of_piece(&job.old, &job.new), &job.new)?;
        }
        Ok(sum > 0)
    }

    fn job(&self, pair: Pair, piece: u64) -> Result<Job, DeltaError> {
        let (old_id, old_size) = self.old_objects[pair.old as usize];
        let (new_id, new_size) = self.new_objects[pair.new as usize];
        let old = read(self.old.objects, old_id, base_range(piece, new_size, old_size))?;
        let new = read(self.new.objects, new_id, piece_range(piece, new_size))?;
        Ok(Job { old, new, is_settled: piece_count(new_size) > 1 })
    }
}

fn read(objects: &dyn ObjectSource, id: ObjectId, range: std::ops::Range<u64>) -> Result<Vec<u8>, DeltaError> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|_| DeltaError::Length)?];
    let found = objects.read_at(id, range.start, &mut bytes)?;
    if found == bytes.len() { Ok(bytes) } else { Err(DeltaError::Length) }
}

/// Puts the head before the batches and learns the name.
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
