//! The locator: which frame of which pack holds each object of one image.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWLOC\0"
//!      8    4  version = 1
//!     12    4  packs
//!     16    4  frames
//!     20    4  objects
//!     24       one zstd frame of: pack ids (32 B each) · pack lengths (u64 each) ·
//!              frames: pack · offset · length · raw length (u32 columns) · objects: frame · offset (u32 columns)
//! ```
//!
//! A column of u32 is stored as differences to a prediction, split into four planes of bytes, lowest first: what is
//! regular becomes zeros. The prediction of a frame's offset is where the frame before it ends (the pack's first byte
//! after its header, if that is of another pack); of everything else, the value before.
//!
//! An object of up to 1 MiB lies in one frame, from its offset on. A larger one begins a frame and goes on in the
//! frames after it, one for each block of 256 KiB. A locator is advice about where to look: what is found there is
//! checked against the image. But a reader may rely on its numbers being within each other's bounds: [`Locator::parse`]
//! looks at each once.

use super::pack::{FRAME_RAW_MAX, PACK_HEADER_SIZE, is_in_proportion};
use crate::model::{BLOCK_SIZE, Commit, LARGE_OBJECT, PackId};

const MAGIC: [u8; 8] = *b"SAPWLOC\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 24;
const PACK_ROW: usize = 40;
const LEVEL: i32 = 19;

/// Largest locator in bytes, packed. One of a million objects has about 4 MiB.
const LENGTH_MAX: u64 = 256 << 20;

/// Most bytes that a locator may unpack to.
const RAW_MAX: usize = 1 << 30;

/// A locator may list so many times as many frames as its image can need: some publisher may find that simpler.
const SUPERFLUOUS: u64 = 4;

/// And so many frames and packs more.
const SPARE: u64 = 1024;

/// Why bytes are no locator.
#[derive(Debug, thiserror::Error)]
pub enum LocatorError {
    /// The bytes do not start like a locator.
    #[error("not a locator")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("locator version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// Counts that cannot be, or fewer bytes than they need.
    #[error("the locator has a bad length")]
    Length,
    /// It is for another image.
    #[error("the locator is for {found} objects, the image has {expected}")]
    Count {
        /// Objects of the image.
        expected: u32,
        /// Objects of the locator.
        found: u32,
    },
    /// It announces more than the image can need.
    #[error("the locator announces {frames} frames in {packs} packs, the image needs at most {expected} frames")]
    TooMuch {
        /// Frames that the image can need.
        expected: u64,
        /// Frames announced.
        frames: u32,
        /// Packs announced.
        packs: u32,
    },
    /// Not what the compressor made.
    #[error("the locator cannot be unpacked")]
    Compression(#[source] std::io::Error),
    /// A frame that is not inside its pack, or too large.
    #[error("frame {0} of the locator is out of bounds")]
    Frame(u32),
    /// An object that is not inside its frame.
    #[error("object {0} of the locator is out of bounds")]
    Object(u32),
}

/// A pack and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRef {
    /// Its name.
    pub id: PackId,
    /// Its length in bytes.
    pub length: u64,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Number of the pack in the locator.
    pub pack: u32,
    /// First byte in the pack.
    pub offset: u32,
    /// Bytes in the pack.
    pub length: u32,
    /// Bytes when unpacked, at most [`FRAME_RAW_MAX`].
    pub raw_length: u32,
}

impl Frame {
    /// The byte after its last in the pack.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset as u64 + self.length as u64
    }
}

/// Where an object begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spot {
    /// Number of the frame in the locator.
    pub frame: u32,
    /// First byte in the unpacked frame.
    pub offset: u32,
}

/// Gathers what a locator says.
#[derive(Debug, Default)]
pub struct LocatorBuilder {
    packs: Vec<PackRef>,
    frames: Vec<Frame>,
    spots: Vec<Spot>,
}

impl LocatorBuilder {
    /// An empty locator.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pack and returns its number.
    pub fn pack(&mut self, id: PackId, length: u64) -> u32 {
        self.packs.push(PackRef { id, length });
        number(self.packs.len() - 1)
    }

    /// Adds a frame and returns its number. The frames of a large object are added one after the other.
    pub fn frame(&mut self, frame: Frame) -> u32 {
        self.frames.push(frame);
        number(self.frames.len() - 1)
    }

    /// Adds the place of the image's next object.
    pub fn object(&mut self, spot: Spot) {
        self.spots.push(spot);
    }

    /// The locator's bytes.
    ///
    /// # Errors
    /// Those of the compressor: no memory.
    pub fn finish(&self) -> Result<Vec<u8>, std::io::Error> {
        let mut raw = Vec::new();
        self.packs.iter().for_each(|pack| raw.extend_from_slice(pack.id.as_bytes()));
        self.packs.iter().for_each(|pack| raw.extend_from_slice(&pack.length.to_le_bytes()));
        put_column(&mut raw, &differences(self.frames.iter().map(|frame| frame.pack)));
        put_column(&mut raw, &offset_differences(&self.frames));
        put_column(&mut raw, &differences(self.frames.iter().map(|frame| frame.length)));
        put_column(&mut raw, &differences(self.frames.iter().map(|frame| frame.raw_length)));
        put_column(&mut raw, &differences(self.spots.iter().map(|spot| spot.frame)));
        put_column(&mut raw, &differences(self.spots.iter().map(|spot| spot.offset)));
        let mut bytes = MAGIC.to_vec();
        for value in [VERSION, number(self.packs.len()), number(self.frames.len()), number(self.spots.len())] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&zstd::bulk::compress(&raw, LEVEL)?);
        Ok(bytes)
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("an image has fewer than 2^32 entries, so no more objects or frames")
}

/// A locator whose numbers fit each other.
#[derive(Debug, Clone)]
pub struct Locator {
    packs: Vec<PackRef>,
    frames: Vec<Frame>,
    spots: Vec<Spot>,
}

/// What the locator of an image can hold at most. Whoever knows the image knows that before a byte of the locator has come,
/// and need not hold more in memory than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatorBound {
    /// At least so many objects.
    least: u32,
    objects: u32,
    frames: u64,
}

impl LocatorBound {
    /// Of the image whose objects have these `sizes`.
    pub fn new(sizes: impl IntoIterator<Item = u64>) -> Self {
        let (mut objects, mut frames) = (0_u32, 0_u64);
        for size in sizes {
            objects = objects.saturating_add(1);
            frames = frames.saturating_add(if size > LARGE_OBJECT { size.div_ceil(BLOCK_SIZE) } else { 1 });
        }
        Self { least: objects, objects, frames }
    }

    /// Of the image of a commit, for whoever does not have the image.
    #[must_use]
    pub fn of_commit(commit: &Commit) -> Self {
        let objects = u32::try_from(commit.entries).unwrap_or(u32::MAX);
        let frames = commit.entries.saturating_add(commit.content_bytes / BLOCK_SIZE);
        Self { least: 0, objects, frames }
    }

    /// Bytes that such a locator has at most.
    #[must_use]
    pub fn length(&self) -> u64 {
        let rows = self
            .most_packs()
            .saturating_mul(PACK_ROW as u64)
            .saturating_add(self.most_frames().saturating_mul(16))
            .saturating_add(u64::from(self.objects) * 8);
        LENGTH_MAX.min(rows.saturating_add((rows >> 7) + 1024))
    }

    const fn most_frames(&self) -> u64 {
        self.frames.saturating_mul(SUPERFLUOUS).saturating_add(SPARE)
    }

    const fn most_packs(&self) -> u64 {
        self.frames.saturating_add(SPARE)
    }

    fn check(&self, packs: u32, frames: u32, objects: u32) -> Result<(), LocatorError> {
        if !(self.least..=self.objects).contains(&objects) {
            return Err(LocatorError::Count { expected: self.objects, found: objects });
        }
        if u64::from(frames) > self.most_frames() || u64::from(packs) > self.most_packs() {
            return Err(LocatorError::TooMuch { expected: self.frames, frames, packs });
        }
        Ok(())
    }
}

impl Locator {
    /// Reads the locator of an image and checks all its numbers. One that announces more than `bound` is refused before
    /// anything is unpacked.
    ///
    /// # Errors
    /// [`LocatorError`].
    pub fn parse(bytes: &[u8], bound: LocatorBound) -> Result<Self, LocatorError> {
        let (header, packed) = bytes.split_at_checked(HEADER_SIZE).ok_or(LocatorError::Magic)?;
        if header[..8] != MAGIC {
            return Err(LocatorError::Magic);
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(LocatorError::TooNew(version));
        }
        bound.check(u32_at(header, 12), u32_at(header, 16), u32_at(header, 20))?;
        let count = |at| usize::try_from(u32_at(header, at)).map_err(|_| LocatorError::Length);
        let (packs, frames, spots) = (count(12)?, count(16)?, count(20)?);
        let needed = |count: usize, size: usize| count.checked_mul(size);
        let length = needed(packs, PACK_ROW)
            .and_then(|sum| sum.checked_add(needed(frames, 16)?))
            .and_then(|sum| sum.checked_add(needed(spots, 8)?))
            .filter(|length| *length <= RAW_MAX)
            .ok_or(LocatorError::Length)?;
        let raw = unpack(packed, length)?;
        let locator = Self::from_columns(&raw, packs, frames, spots);
        locator.check()?;
        Ok(locator)
    }

    fn from_columns(raw: &[u8], packs: usize, frames: usize, spots: usize) -> Self {
        let (ids, rest) = raw.split_at(packs * 32);
        let (lengths, mut rest) = rest.split_at(packs * 8);
        let mut column = |count: usize| {
            let (column, after) = rest.split_at(count * 4);
            rest = after;
            get_column(column, count)
        };
        let pack_numbers = sums(column(frames));
        let offsets = column(frames);
        let (compressed, raw_lengths) = (sums(column(frames)), sums(column(frames)));
        let (spot_frames, spot_offsets) = (sums(column(spots)), sums(column(spots)));
        let id = |row: &[u8]| PackId::from_slice(row).expect("rows of 32 bytes");
        let length = |row: &[u8]| u64::from(u32_at(row, 0)) | u64::from(u32_at(row, 4)) << 32;
        let packs = ids.chunks_exact(32).zip(lengths.chunks_exact(8));
        Self {
            packs: packs.map(|(row, bytes)| PackRef { id: id(row), length: length(bytes) }).collect(),
            frames: offset_sums(&pack_numbers, &offsets, &compressed, &raw_lengths),
            spots: spot_frames.into_iter().zip(spot_offsets).map(|(frame, offset)| Spot { frame, offset }).collect(),
        }
    }

    fn check(&self) -> Result<(), LocatorError> {
        for (index, frame) in self.frames.iter().enumerate() {
            let pack = self.packs.get(frame.pack as usize);
            let is_inside = pack.is_some_and(|pack| frame.end() <= pack.length);
            let has_sound_length = (1..=FRAME_RAW_MAX).contains(&(frame.raw_length as usize))
                && is_in_proportion(frame.length, frame.raw_length);
            if !is_inside || !has_sound_length {
                return Err(LocatorError::Frame(number(index)));
            }
        }
        for (index, spot) in self.spots.iter().enumerate() {
            if self.frame(spot.frame).is_none_or(|frame| spot.offset >= frame.raw_length) {
                return Err(LocatorError::Object(number(index)));
            }
        }
        Ok(())
    }

    /// The packs that are needed.
    #[must_use]
    pub fn packs(&self) -> &[PackRef] {
        &self.packs
    }

    /// All frames.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// One frame, by its number.
    #[must_use]
    pub fn frame(&self, frame: u32) -> Option<Frame> {
        self.frames.get(frame as usize).copied()
    }

    /// Where an object begins, by its index in the image.
    #[must_use]
    pub fn object(&self, object: u32) -> Option<Spot> {
        self.spots.get(object as usize).copied()
    }

    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> u32 {
        number(self.spots.len())
    }
}

/// Unpacks exactly `length` bytes.
fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, LocatorError> {
    use std::io::Read as _;
    // Grows with what really comes out, not with what the header promises.
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(LocatorError::Compression)?;
    let mut raw = Vec::new();
    decoder.take(length as u64 + 1).read_to_end(&mut raw).map_err(LocatorError::Compression)?;
    if raw.len() == length { Ok(raw) } else { Err(LocatorError::Length) }
}

fn differences(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut last = 0_u32;
    values.map(|value| value.wrapping_sub(std::mem::replace(&mut last, value))).collect()
}

fn sums(differences: Vec<u32>) -> Vec<u32> {
    let mut sum = 0_u32;
    let add = |difference: u32| {
        sum = sum.wrapping_add(difference);
        sum
    };
    differences.into_iter().map(add).collect()
}

/// Where a frame after `before` begins if nothing lies between.
fn predicted_offset(before: Option<Frame>, pack: u32) -> u32 {
    match before {
        Some(before) if before.pack == pack => before.offset.wrapping_add(before.length),
        _ => PACK_HEADER_SIZE,
    }
}

fn offset_differences(frames: &[Frame]) -> Vec<u32> {
    let mut before = None;
    let difference = |frame: &Frame| {
        let predicted = predicted_offset(before.replace(*frame), frame.pack);
        frame.offset.wrapping_sub(predicted)
    };
    frames.iter().map(difference).collect()
}

fn offset_sums(packs: &[u32], differences: &[u32], lengths: &[u32], raw_lengths: &[u32]) -> Vec<Frame> {
    let mut before = None;
    let frame = |row: usize| {
        let offset = predicted_offset(before, packs[row]).wrapping_add(differences[row]);
        let frame = Frame { pack: packs[row], offset, length: lengths[row], raw_length: raw_lengths[row] };
        before = Some(frame);
        frame
    };
    (0..packs.len()).map(frame).collect()
}

fn put_column(raw: &mut Vec<u8>, values: &[u32]) {
    for plane in 0..4 {
        raw.extend(values.iter().map(|value| value.to_le_bytes()[plane]));
    }
}

fn get_column(planes: &[u8], count: usize) -> Vec<u32> {
    let byte = |plane: usize, row: usize| planes[plane * count + row];
    (0..count).map(|row| u32::from_le_bytes([byte(0, row), byte(1, row), byte(2, row), byte(3, row)])).collect()
}

/// The number at a position that the caller knows to exist.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> LocatorBuilder {
        let mut builder = LocatorBuilder::new();
        for pack in 0..3_u8 {
            let pack = builder.pack(PackId::of(&[pack]), 1 << 20);
            for index in 0..50 {
                let offset = PACK_HEADER_SIZE + index * 1000 + pack;
                let frame = builder.frame(Frame { pack, offset, length: 900 + index, raw_length: 128 << 10 });
                for object in 0..20 {
                    builder.object(Spot { frame, offset: object * 500 });
                }
            }
        }
        builder
    }

    const BOUND: LocatorBound = LocatorBound { least: 0, objects: 3000, frames: 3000 };

    #[test]
    fn a_locator_survives_and_is_small() {
        let builder = example();
        let bytes = builder.finish().expect("memory");
        let locator = Locator::parse(&bytes, BOUND).expect("own bytes");
        assert_eq!(locator.packs, builder.packs);
        assert_eq!(locator.frames, builder.frames);
        assert_eq!(locator.spots, builder.spots);
        assert_eq!((locator.objects(), locator.object(3000)), (3000, None));
        assert!(bytes.len() < 1000, "{} bytes for 3,000 objects", bytes.len());
        let empty = LocatorBuilder::new().finish().expect("memory");
        assert_eq!(Locator::parse(&empty, LocatorBound::new([])).expect("own bytes").objects(), 0);
    }

    #[test]
    fn ruins_are_errors_and_numbers_stay_in_bounds() {
        let bytes = example().finish().expect("memory");
        for length in 0..bytes.len() {
            assert!(Locator::parse(&bytes[..length], BOUND).is_err(), "{length} bytes");
        }
        for at in 12..24 {
            let mut greedy = bytes.clone();
            greedy[at] = 0xff;
            assert!(Locator::parse(&greedy, BOUND).is_err(), "byte {at}");
        }
        let few = LocatorBound::new([1; 2999]);
        assert!(matches!(Locator::parse(&bytes, few), Err(LocatorError::Count { expected: 2999, found: 3000 })));
        let mut greedy = bytes.clone();
        greedy[16..20].copy_from_slice(&(4 * 3000 + 1025_u32).to_le_bytes());
        assert!(matches!(Locator::parse(&greedy, BOUND), Err(LocatorError::TooMuch { .. })));
        assert!(bytes.len() as u64 <= BOUND.length() && BOUND.length() < 1 << 20);
        let mut outside = example();
        outside.frames[7].offset = 1 << 20;
        let error = Locator::parse(&outside.finish().expect("memory"), BOUND);
        assert!(matches!(error, Err(LocatorError::Frame(7))), "{error:?}");
        let mut outside = example();
        outside.packs[0].length = 1 << 30;
        outside.frames[7].length = 1 << 29;
        let error = Locator::parse(&outside.finish().expect("memory"), BOUND);
        assert!(matches!(error, Err(LocatorError::Frame(7))), "half a gigabyte to decode 128 KiB: {error:?}");
        let mut outside = example();
        outside.spots[9].offset = 128 << 10;
        let error = Locator::parse(&outside.finish().expect("memory"), BOUND);
        assert!(matches!(error, Err(LocatorError::Object(9))), "{error:?}");
    }
}
