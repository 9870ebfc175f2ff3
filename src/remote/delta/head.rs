//! The head of a delta: the image's delta, the list of objects, and the positions of the batches.
//!
//! *Not here*: the contents of batches (`streams`). The format is in the module's documentation.
//!
//! *Invariants*: no count or length of a head is used for an allocation before it was checked against the bound that
//! the caller gives.
//!
//! *Used by* `write`, `remote::fetch` and `remote::pull`.

use super::error::DeltaError;
use super::predecessor::ObjectPair;

const MAGIC: [u8; 8] = *b"SAPWDLT\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 24;
const ZSTD_LEVEL: i32 = 19;

/// Bytes of a row of either table: the objects and the batches.
const ROW_SIZE: usize = 8;

/// Bytes of the number of batches, which comes before the rows.
const COUNT_SIZE: usize = 4;

/// The largest head that is read, in bytes.
pub(crate) const DELTA_HEAD_MAX: u64 = 256 << 20;

/// The most objects, and the most batches, of a delta.
const ROWS_MAX: usize = 1 << 24;

/// A batch of pieces that are compressed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRef {
    /// Number of pieces. Batches take the pieces of all objects in order.
    pub pieces: u32,
    /// The first byte of the batch in the delta's file.
    pub offset: u64,
    /// Length of the compressed batch in bytes.
    pub length: u32,
}

/// The head of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaHead {
    image_delta: Vec<u8>,
    objects: Vec<ObjectPair>,
    batches: Vec<BatchRef>,
    length: u64,
}

impl DeltaHead {
    /// Returns the bytes that make the new image from the old one, see `format::wire`.
    #[must_use]
    pub fn image_delta(&self) -> &[u8] {
        &self.image_delta
    }

    /// Returns the objects, in the order of their pieces.
    #[must_use]
    pub fn objects(&self) -> &[ObjectPair] {
        &self.objects
    }

    /// Returns the batches, in file order.
    #[must_use]
    pub fn batches(&self) -> &[BatchRef] {
        &self.batches
    }

    /// Returns the length of the head in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Reads a head that has at most `pieces_max` pieces; bytes after the head are ignored. The bound follows from the
    /// commit that the delta leads to, see [`super::max_pieces`]. A head that announces more is refused before anything
    /// is decompressed.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn parse(bytes: &[u8], pieces_max: u64) -> Result<Self, DeltaError> {
        let (fixed, rest) = bytes.split_at_checked(HEADER_SIZE).ok_or(DeltaError::Magic)?;
        if fixed[..8] != MAGIC {
            return Err(DeltaError::Magic);
        }
        if number(fixed, 8) != VERSION {
            return Err(DeltaError::TooNew(number(fixed, 8)));
        }
        let (image, rest) = rest.split_at_checked(number(fixed, 12) as usize).ok_or(DeltaError::Length)?;
        let (index, _) = rest.split_at_checked(number(fixed, 16) as usize).ok_or(DeltaError::Length)?;
        let count = number(fixed, 20) as usize;
        let length = (HEADER_SIZE + image.len() + index.len()) as u64;
        let pieces_max = usize::try_from(pieces_max).unwrap_or(ROWS_MAX).min(ROWS_MAX);
        if count > pieces_max {
            return Err(DeltaError::Length);
        }
        let (objects, batches) = unpack(index, count, pieces_max, length)?;
        Ok(Self { image_delta: image.to_vec(), objects, batches, length })
    }

    /// Returns the bytes that [`Self::parse`] reads. The offsets in `batches` are not used: they follow from the
    /// lengths.
    pub(super) fn encode(
        image_delta: &[u8],
        objects: &[ObjectPair],
        batches: &[BatchRef],
    ) -> Result<Vec<u8>, DeltaError> {
        let narrow = |length: usize| u32::try_from(length).map_err(|_| DeltaError::Length);
        let mut raw = narrow(batches.len())?.to_le_bytes().to_vec();
        put_column(&mut raw, objects.iter().map(|pair| pair.new));
        put_column(&mut raw, objects.iter().map(|pair| pair.old));
        put_column(&mut raw, batches.iter().map(|batch| batch.pieces));
        put_column(&mut raw, batches.iter().map(|batch| batch.length));
        let index = zstd::bulk::compress(&raw, ZSTD_LEVEL)?;
        let mut bytes = MAGIC.to_vec();
        for value in [VERSION, narrow(image_delta.len())?, narrow(index.len())?, narrow(objects.len())?] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(image_delta);
        bytes.extend_from_slice(&index);
        Ok(bytes)
    }
}

/// Reads the number at a position that the caller knows to exist.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Adds a column of numbers: each value becomes the difference to the value before it, and the bytes of the differences
/// are stored in planes.
fn put_column(raw: &mut Vec<u8>, values: impl Iterator<Item = u32>) {
    let mut last = 0;
    let differences: Vec<[u8; 4]> =
        values.map(|value| value.wrapping_sub(std::mem::replace(&mut last, value)).to_le_bytes()).collect();
    (0..4).for_each(|plane| raw.extend(differences.iter().map(|bytes| bytes[plane])));
}

/// Takes a column of `count` values from the start of `raw`, which must be long enough.
fn take_column(raw: &mut &[u8], count: usize) -> Vec<u32> {
    let (planes, rest) = raw.split_at(4 * count);
    *raw = rest;
    let mut sum = 0_u32;
    let value = |row: usize| {
        let bytes = [planes[row], planes[count + row], planes[2 * count + row], planes[3 * count + row]];
        sum = sum.wrapping_add(u32::from_le_bytes(bytes));
        sum
    };
    (0..count).map(value).collect()
}

/// Decompresses the index: `count` objects and at most `batches_max` batches, the first of which begins at `offset`.
fn unpack(
    index: &[u8],
    count: usize,
    batches_max: usize,
    mut offset: u64,
) -> Result<(Vec<ObjectPair>, Vec<BatchRef>), DeltaError> {
    use std::io::Read as _;
    let limit = COUNT_SIZE + (count + batches_max) * ROW_SIZE;
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::with_buffer(index)?.take(limit as u64 + 1).read_to_end(&mut raw)?;
    let (header, mut rows) = raw.split_at_checked(COUNT_SIZE).ok_or(DeltaError::Length)?;
    let batches = number(header, 0) as usize;
    if batches > batches_max || rows.len() != (count + batches) * ROW_SIZE {
        return Err(DeltaError::Length);
    }
    let (new, old) = (take_column(&mut rows, count), take_column(&mut rows, count));
    let (pieces, lengths) = (take_column(&mut rows, batches), take_column(&mut rows, batches));
    let batch = |(pieces, length): (u32, u32)| {
        let batch = BatchRef { pieces, offset, length };
        offset += u64::from(length);
        batch
    };
    let objects = new.into_iter().zip(old).map(|(new, old)| ObjectPair { new, old }).collect();
    Ok((objects, pieces.into_iter().zip(lengths).map(batch).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_round_trips_and_damaged_heads_are_refused() {
        let objects: Vec<ObjectPair> =
            (0..500).map(|number| ObjectPair { new: number, old: number * 7 % 311 }).collect();
        let batch = |number: u32| BatchRef { pieces: 200 + number, offset: 0, length: 1 << 20 | number };
        let batches: Vec<BatchRef> = (0..3).map(batch).collect();
        let bytes = DeltaHead::encode(b"image", &objects, &batches).expect("memory");
        let head = DeltaHead::parse(&bytes, 500).expect("own bytes");
        assert_eq!((head.image_delta(), head.length()), (&b"image"[..], bytes.len() as u64));
        assert_eq!(head.objects(), objects);
        let mut offset = bytes.len() as u64;
        for (found, batch) in head.batches().iter().zip(&batches) {
            assert_eq!(*found, BatchRef { offset, ..*batch });
            offset += u64::from(batch.length);
        }
        for length in 0..bytes.len() {
            assert!(DeltaHead::parse(&bytes[..length], 500).is_err(), "{length} bytes");
        }
        for at in 12..24 {
            let mut greedy = bytes.clone();
            greedy[at] = 0xff;
            assert!(DeltaHead::parse(&greedy, u64::MAX).is_err(), "byte {at}");
        }
        assert!(matches!(DeltaHead::parse(&bytes, 499), Err(DeltaError::Length)));
    }
}
