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
//! An object of up to 1 MiB is in one frame, from its offset on. A larger one begins a frame and continues in the
//! following frames, one for each block of 256 KiB. A locator is advice about where to look: what is found there is
//! checked against the image. But a reader may rely on its numbers being within each other's bounds: [`Locator::parse`]
//! checks each once.
//!
//! *Not here*: how objects are put into frames (`publish`), and which frames are fetched (`fetch`).

use super::pack::{FRAME_RAW_MAX, PACK_HEADER_SIZE, is_in_proportion};
use crate::model::{BLOCK_SIZE, Commit, LARGE_OBJECT, PackId};

const MAGIC: [u8; 8] = *b"SAPWLOC\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 24;
const PACK_ROW_SIZE: usize = 40;
const ZSTD_LEVEL: i32 = 19;

/// The largest compressed locator in bytes. One of a million objects has about 4 MiB.
const LENGTH_MAX: u64 = 256 << 20;

/// The most bytes that a locator may decompress to.
const RAW_MAX: usize = 1 << 30;

/// A locator may list this many times as many frames as its image can need, for publishers that find that simpler.
const FRAME_SLACK_FACTOR: u64 = 4;

/// A locator may also list this many frames and packs more.
const SLACK: u64 = 1024;

/// The reason why bytes are no locator.
#[derive(Debug, thiserror::Error)]
pub enum LocatorError {
    /// The bytes do not start like a locator.
    #[error("not a locator")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("locator version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// A count is impossible, or there are fewer bytes than the counts require.
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
    /// The compressed part is damaged.
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

/// The position of a frame in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackFrame {
    /// Number of the pack in the locator.
    pub pack: u32,
    /// First byte in the pack.
    pub offset: u32,
    /// Bytes in the pack.
    pub length: u32,
    /// Bytes when decompressed, at most [`FRAME_RAW_MAX`].
    pub raw_length: u32,
}

impl PackFrame {
    /// Returns the position after the frame's last byte in the pack.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset as u64 + self.length as u64
    }
}

/// The position at which an object begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectPosition {
    /// Number of the frame in the locator.
    pub frame: u32,
    /// First byte in the decompressed frame.
    pub offset: u32,
}

/// A locator that is being put together.
#[derive(Debug, Default)]
pub struct LocatorBuilder {
    packs: Vec<PackRef>,
    frames: Vec<PackFrame>,
    positions: Vec<ObjectPosition>,
}

impl LocatorBuilder {
    /// Returns an empty locator.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pack and returns its number.
    pub fn add_pack(&mut self, id: PackId, length: u64) -> u32 {
        self.packs.push(PackRef { id, length });
        number(self.packs.len() - 1)
    }

    /// Adds a frame and returns its number. The frames of a large object are added one after the other.
    pub fn add_frame(&mut self, frame: PackFrame) -> u32 {
        self.frames.push(frame);
        number(self.frames.len() - 1)
    }

    /// Adds the position of the image's next object.
    pub fn add_object(&mut self, position: ObjectPosition) {
        self.positions.push(position);
    }

    /// Returns the locator's bytes.
    ///
    /// # Errors
    /// Errors of the compressor: no memory.
    pub fn finish(&self) -> Result<Vec<u8>, std::io::Error> {
        let mut raw = Vec::new();
        self.packs.iter().for_each(|pack| raw.extend_from_slice(pack.id.as_bytes()));
        self.packs.iter().for_each(|pack| raw.extend_from_slice(&pack.length.to_le_bytes()));
        put_column(&mut raw, &differences(self.frames.iter().map(|frame| frame.pack)));
        put_column(&mut raw, &offset_differences(&self.frames));
        put_column(&mut raw, &differences(self.frames.iter().map(|frame| frame.length)));
        put_column(&mut raw, &differences(self.frames.iter().map(|frame| frame.raw_length)));
        put_column(&mut raw, &differences(self.positions.iter().map(|position| position.frame)));
        put_column(&mut raw, &differences(self.positions.iter().map(|position| position.offset)));
        let mut bytes = MAGIC.to_vec();
        for value in [VERSION, number(self.packs.len()), number(self.frames.len()), number(self.positions.len())] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&zstd::bulk::compress(&raw, ZSTD_LEVEL)?);
        Ok(bytes)
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("an image has fewer than 2^32 entries, so no more objects or frames")
}

/// A locator that was parsed; its numbers are within each other's bounds.
#[derive(Debug, Clone)]
pub struct Locator {
    packs: Vec<PackRef>,
    frames: Vec<PackFrame>,
    positions: Vec<ObjectPosition>,
}

/// The most that the locator of an image can hold. It follows from the image or the commit, so that a reader can bound
/// the download and the memory before a byte of the locator has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocatorBound {
    /// The fewest objects.
    objects_min: u32,
    objects_max: u32,
    frames_max: u64,
}

impl LocatorBound {
    /// Returns the bound for the image whose objects have these `sizes`.
    pub fn new(sizes: impl IntoIterator<Item = u64>) -> Self {
        let (mut objects, mut frames) = (0_u32, 0_u64);
        for size in sizes {
            objects = objects.saturating_add(1);
            frames = frames.saturating_add(if size > LARGE_OBJECT { size.div_ceil(BLOCK_SIZE) } else { 1 });
        }
        Self { objects_min: objects, objects_max: objects, frames_max: frames }
    }

    /// Returns the bound for the image of a commit, without the image.
    pub(crate) fn of_commit(commit: &Commit) -> Self {
        let objects = u32::try_from(commit.entries).unwrap_or(u32::MAX);
        let frames = commit.entries.saturating_add(commit.content_bytes / BLOCK_SIZE);
        Self { objects_min: 0, objects_max: objects, frames_max: frames }
    }

    /// Returns the most bytes that such a locator has.
    pub(crate) fn max_length(&self) -> u64 {
        let rows = self
            .max_packs()
            .saturating_mul(PACK_ROW_SIZE as u64)
            .saturating_add(self.max_frames().saturating_mul(16))
            .saturating_add(u64::from(self.objects_max) * 8);
        LENGTH_MAX.min(rows.saturating_add((rows >> 7) + 1024))
    }

    const fn max_frames(&self) -> u64 {
        self.frames_max.saturating_mul(FRAME_SLACK_FACTOR).saturating_add(SLACK)
    }

    const fn max_packs(&self) -> u64 {
        self.frames_max.saturating_add(SLACK)
    }

    fn check(&self, packs: u32, frames: u32, objects: u32) -> Result<(), LocatorError> {
        if !(self.objects_min..=self.objects_max).contains(&objects) {
            return Err(LocatorError::Count { expected: self.objects_max, found: objects });
        }
        if u64::from(frames) > self.max_frames() || u64::from(packs) > self.max_packs() {
            return Err(LocatorError::TooMuch { expected: self.frames_max, frames, packs });
        }
        Ok(())
    }
}

impl Locator {
    /// Reads the locator of an image and checks all its numbers. One that announces more than `bound` is refused before
    /// anything is decompressed.
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
        let (packs, frames, positions) = (count(12)?, count(16)?, count(20)?);
        let needed = |count: usize, size: usize| count.checked_mul(size);
        let length = needed(packs, PACK_ROW_SIZE)
            .and_then(|sum| sum.checked_add(needed(frames, 16)?))
            .and_then(|sum| sum.checked_add(needed(positions, 8)?))
            .filter(|length| *length <= RAW_MAX)
            .ok_or(LocatorError::Length)?;
        let raw = unpack(packed, length)?;
        let locator = Self::from_columns(&raw, packs, frames, positions);
        locator.check()?;
        Ok(locator)
    }

    fn from_columns(raw: &[u8], packs: usize, frames: usize, positions: usize) -> Self {
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
        let (position_frames, position_offsets) = (sums(column(positions)), sums(column(positions)));
        let id = |row: &[u8]| PackId::from_slice(row).expect("rows of 32 bytes");
        let length = |row: &[u8]| u64::from(u32_at(row, 0)) | u64::from(u32_at(row, 4)) << 32;
        let packs = ids.chunks_exact(32).zip(lengths.chunks_exact(8));
        Self {
            packs: packs.map(|(row, bytes)| PackRef { id: id(row), length: length(bytes) }).collect(),
            frames: offset_sums(&pack_numbers, &offsets, &compressed, &raw_lengths),
            positions: position_frames
                .into_iter()
                .zip(position_offsets)
                .map(|(frame, offset)| ObjectPosition { frame, offset })
                .collect(),
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
        for (index, position) in self.positions.iter().enumerate() {
            if self.frame(position.frame).is_none_or(|frame| position.offset >= frame.raw_length) {
                return Err(LocatorError::Object(number(index)));
            }
        }
        Ok(())
    }

    /// Returns the packs that are needed.
    #[must_use]
    pub fn packs(&self) -> &[PackRef] {
        &self.packs
    }

    /// Returns all frames.
    #[must_use]
    pub fn frames(&self) -> &[PackFrame] {
        &self.frames
    }

    /// Returns a frame by its number.
    #[must_use]
    pub fn frame(&self, frame: u32) -> Option<PackFrame> {
        self.frames.get(frame as usize).copied()
    }

    /// Returns where an object begins, by its index in the image.
    #[must_use]
    pub fn object(&self, object: u32) -> Option<ObjectPosition> {
        self.positions.get(object as usize).copied()
    }

    /// Returns the number of objects.
    #[must_use]
    pub fn objects(&self) -> u32 {
        number(self.positions.len())
    }
}

/// Decompresses exactly `length` bytes.
fn unpack(packed: &[u8], length: usize) -> Result<Vec<u8>, LocatorError> {
    use std::io::Read as _;
    // Memory grows with the bytes that are decompressed, not with the announced length.
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

/// Returns where a frame after `before` begins if there is no gap.
fn predicted_offset(before: Option<PackFrame>, pack: u32) -> u32 {
    match before {
        Some(before) if before.pack == pack => before.offset.wrapping_add(before.length),
        _ => PACK_HEADER_SIZE,
    }
}

fn offset_differences(frames: &[PackFrame]) -> Vec<u32> {
    let mut before = None;
    let difference = |frame: &PackFrame| {
        let predicted = predicted_offset(before.replace(*frame), frame.pack);
        frame.offset.wrapping_sub(predicted)
    };
    frames.iter().map(difference).collect()
}

fn offset_sums(packs: &[u32], differences: &[u32], lengths: &[u32], raw_lengths: &[u32]) -> Vec<PackFrame> {
    let mut before = None;
    let frame = |row: usize| {
        let offset = predicted_offset(before, packs[row]).wrapping_add(differences[row]);
        let frame = PackFrame { pack: packs[row], offset, length: lengths[row], raw_length: raw_lengths[row] };
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

/// Reads the number at a position that the caller knows to exist.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> LocatorBuilder {
        let mut builder = LocatorBuilder::new();
        for pack in 0..3_u8 {
            let pack = builder.add_pack(PackId::of(&[pack]), 1 << 20);
            for index in 0..50 {
                let offset = PACK_HEADER_SIZE + index * 1000 + pack;
                let frame = builder.add_frame(PackFrame { pack, offset, length: 900 + index, raw_length: 128 << 10 });
                for object in 0..20 {
                    builder.add_object(ObjectPosition { frame, offset: object * 500 });
                }
            }
        }
        builder
    }

    const BOUND: LocatorBound = LocatorBound { objects_min: 0, objects_max: 3000, frames_max: 3000 };

    #[test]
    fn locator_round_trips_and_is_small() {
        let builder = example();
        let bytes = builder.finish().expect("memory");
        let locator = Locator::parse(&bytes, BOUND).expect("own bytes");
        assert_eq!(locator.packs, builder.packs);
        assert_eq!(locator.frames, builder.frames);
        assert_eq!(locator.positions, builder.positions);
        assert_eq!((locator.objects(), locator.object(3000)), (3000, None));
        assert!(bytes.len() < 1000, "{} bytes for 3,000 objects", bytes.len());
        let empty = LocatorBuilder::new().finish().expect("memory");
        assert_eq!(Locator::parse(&empty, LocatorBound::new([])).expect("own bytes").objects(), 0);
    }

    #[test]
    fn damaged_locators_and_numbers_out_of_bounds_are_refused() {
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
        assert!(bytes.len() as u64 <= BOUND.max_length() && BOUND.max_length() < 1 << 20);
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
        outside.positions[9].offset = 128 << 10;
        let error = Locator::parse(&outside.finish().expect("memory"), BOUND);
        assert!(matches!(error, Err(LocatorError::Object(9))), "{error:?}");
    }
}
