//! Making a delta.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::error::DeltaError;
use super::head::{DeltaHead, Piece};
use super::patch::{base_range, make_piece, piece_count, piece_range};
use super::predecessor::{Pair, pairs};
use crate::disk::TemporaryFile;
use crate::image::Image;
use crate::model::{DeltaId, ObjectId};
use crate::remote::format::in_order;
use crate::store::ObjectSource;

/// Pieces that wait for each thread: a few large ones are all that memory allows.
const QUEUE: usize = 1;

/// A patch is worth having if it is smaller than this part (in percent) of what level 3 makes of the piece alone.
const WORTH_PERCENT: usize = 85;

/// Level of zstd for patches. Made once, and the smallest there is: it halves the bytes of level 3.
const LEVEL: i32 = 19;

/// Level at which a large object is tried.
const PROBE_LEVEL: i32 = 3;

/// How to make a delta.
#[derive(Debug, Clone, Copy)]
pub struct DeltaOptions {
    /// Threads that work; each needs up to 64 MiB.
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

/// Which piece a patch is for.
struct Place {
    pair: Pair,
    piece: u64,
    /// Pieces of the object.
    count: u64,
}

/// What a worker gets: the old and new bytes of one piece.
type Job = (Vec<u8>, Vec<u8>);

/// Makes the delta from `old` to `new`. `image_delta` leads from one image to the other. The delta is left in an unnamed
/// file on the filesystem of `scratch`; `progress` hears how many more bytes of content are done.
///
/// # Errors
/// [`DeltaError`].
pub fn write_delta(
    old: Side<'_>,
    new: Side<'_>,
    image_delta: &[u8],
    options: DeltaOptions,
    scratch: &Path,
    progress: &dyn Fn(u64),
) -> Result<(File, DeltaSummary), DeltaError> {
    let mut jobs = Jobs::new(old, new)?;
    let mut patches = TemporaryFile::create(scratch)?.file().try_clone()?;
    let mut pieces: Vec<Piece> = Vec::new();
    let (mut objects, mut content_bytes) = (0, 0);
    in_order(
        options.threads,
        QUEUE,
        || |(base, part): Job| make_if_worth(&base, &part).map(|patch| (patch, part.len() as u64)),
        || jobs.next(),
        |Place { pair, piece, count }, (patch, raw_length): (Patch, u64)| {
            progress(raw_length);
            // Of an object in several pieces all are needed, or it cannot be put together.
            if patch.is_worth || count > 1 {
                objects += u64::from(piece == 0);
                content_bytes += raw_length;
                let length = u32::try_from(patch.bytes.len()).map_err(|_| DeltaError::Length)?;
                pieces.push(Piece { new: pair.new, old: pair.old, offset: 0, length });
                patches.write_all(&patch.bytes)?;
            }
            Ok::<_, DeltaError>(())
        },
    )?;
    let head = DeltaHead::encode(image_delta, &pieces)?;
    let (file, id, length) = assemble(&head, patches, scratch)?;
    Ok((file, DeltaSummary { id, length, head: head.len() as u64, objects, content_bytes }))
}

struct Patch {
    bytes: Vec<u8>,
    is_worth: bool,
}

fn make_if_worth(base: &[u8], part: &[u8]) -> io::Result<Patch> {
    let bytes = make_piece(base, part, LEVEL)?;
    Ok(Patch { is_worth: is_worth(&bytes, part)?, bytes })
}

fn is_worth(patch: &[u8], part: &[u8]) -> io::Result<bool> {
    Ok(patch.len() * 100 < zstd::bulk::compress(part, 3)?.len() * WORTH_PERCENT)
}

/// A quick look whether a patch will be worth having.
fn promises(base: &[u8], part: &[u8]) -> io::Result<bool> {
    is_worth(&make_piece(base, part, PROBE_LEVEL)?, part)
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
            let (old_id, old_size) = self.old_objects[pair.old as usize];
            let (new_id, new_size) = self.new_objects[pair.new as usize];
            let count = piece_count(new_size);
            let base = read(self.old.objects, old_id, base_range(piece, old_size))?;
            let part = read(self.new.objects, new_id, piece_range(piece, new_size))?;
            // Of a large object all pieces are needed or none: one that was packed before it came here, such as an
            // initramfs, is given up at once.
            if piece == 0 && count > 1 && !promises(&base, &part)? {
                continue;
            }
            if piece + 1 < count {
                self.current = Some((pair, piece + 1));
            }
            return Ok(Some((Place { pair, piece, count }, (base, part))));
        }
    }
}

fn read(objects: &dyn ObjectSource, id: ObjectId, range: std::ops::Range<u64>) -> Result<Vec<u8>, DeltaError> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|_| DeltaError::Length)?];
    let found = objects.read_at(id, range.start, &mut bytes)?;
    if found == bytes.len() { Ok(bytes) } else { Err(DeltaError::Length) }
}

/// Puts the head before the patches and learns the name.
fn assemble(head: &[u8], mut patches: File, scratch: &Path) -> Result<(File, DeltaId, u64), DeltaError> {
    let mut file = TemporaryFile::create(scratch)?.file().try_clone()?;
    let mut digest = Sha256::new();
    file.write_all(head)?;
    digest.update(head);
    let mut length = head.len() as u64;
    patches.rewind()?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = patches.read(&mut buffer)?;
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
