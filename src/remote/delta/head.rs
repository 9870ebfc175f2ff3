//! The head of a delta: the image's delta, which objects it has, and where the batches are.

use super::error::DeltaError;
use super::predecessor::Pair;

const MAGIC: [u8; 8] = *b"SAPWDLT\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 24;
const LEVEL: i32 = 19;

/// Bytes of a row of either table.
const ROW: usize = 8;

/// Bytes before the rows.
const COUNT: usize = 4;

/// Largest head in bytes.
pub const DELTA_HEAD_MAX: u64 = 256 << 20;

/// Most objects, and most batches, of a delta.
const ROWS_MAX: usize = 1 << 24;

/// Some pieces packed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRef {
    /// How many pieces: the next ones of all the pieces of all objects in order.
    pub pieces: u32,
    /// First byte in the delta's file.
    pub offset: u64,
    /// Bytes of it.
    pub length: u32,
}

/// The head of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaHead {
    image_delta: Vec<u8>,
    objects: Vec<Pair>,
    batches: Vec<BatchRef>,
    length: u64,
}

impl DeltaHead {
    /// The way from the old image to the new one.
    #[must_use]
    pub fn image_delta(&self) -> &[u8] {
        &self.image_delta
    }

    /// The objects, in the order of their pieces.
    #[must_use]
    pub fn objects(&self) -> &[Pair] {
        &self.objects
    }

    /// The batches, in file order.
    #[must_use]
    pub fn batches(&self) -> &[BatchRef] {
        &self.batches
    }

    /// Bytes of the head.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Reads a head of at most `most` pieces; what follows it is ignored. Whoever knows the commit it leads to knows how many
    /// that can be, see [`super::most_pieces`]; one that announces more is refused before anything is unpacked.
    ///
    /// # Errors
    /// [`DeltaError`].
    pub fn parse(bytes: &[u8], most: u64) -> Result<Self, DeltaError> {
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
        let most = usize::try_from(most).unwrap_or(ROWS_MAX).min(ROWS_MAX);
        if count > most {
            return Err(DeltaError::Length);
        }
        let (objects, batches) = unpack(index, count, most, length)?;
        Ok(Self { image_delta: image.to_vec(), objects, batches, length })
    }

    /// The bytes that [`Self::parse`] reads; of `batches`, the offsets do not matter.
    pub(super) fn encode(image_delta: &[u8], objects: &[Pair], batches: &[BatchRef]) -> Result<Vec<u8>, DeltaError> {
        let narrow = |length: usize| u32::try_from(length).map_err(|_| DeltaError::Length);
        let mut raw = narrow(batches.len())?.to_le_bytes().to_vec();
        put_column(&mut raw, objects.iter().map(|pair| pair.new));
        put_column(&mut raw, objects.iter().map(|pair| pair.old));
        put_column(&mut raw, batches.iter().map(|batch| batch.pieces));
        put_column(&mut raw, batches.iter().map(|batch| batch.length));
        let index = zstd::bulk::compress(&raw, LEVEL)?;
        let mut bytes = MAGIC.to_vec();
        for value in [VERSION, narrow(image_delta.len())?, narrow(index.len())?, narrow(objects.len())?] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(image_delta);
        bytes.extend_from_slice(&index);
        Ok(bytes)
    }
}

/// The number at a position that the caller knows to exist.
fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Adds a column: differences to the value before, in planes of bytes.
fn put_column(raw: &mut Vec<u8>, values: impl Iterator<Item = u32>) {
    let mut last = 0;
    let differences: Vec<[u8; 4]> =
        values.map(|value| value.wrapping_sub(std::mem::replace(&mut last, value)).to_le_bytes()).collect();
    (0..4).for_each(|plane| raw.extend(differences.iter().map(|bytes| bytes[plane])));
}

/// Takes a column of `count` values off the start of `raw`, which is long enough.
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

/// The rows of the index: `count` objects and at most `most` batches, the first of which begins at `offset`.
fn unpack(index: &[u8], count: usize, most: usize, mut offset: u64) -> Result<(Vec<Pair>, Vec<BatchRef>), DeltaError> {
    use std::io::Read as _;
    let limit = COUNT + (count + most) * ROW;
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::with_buffer(index)?.take(limit as u64 + 1).read_to_end(&mut raw)?;
    let (header, mut rows) = raw.split_at_checked(COUNT).ok_or(DeltaError::Length)?;
    let batches = number(header, 0) as usize;
    if batches > most || rows.len() != (count + batches) * ROW {
        return Err(DeltaError::Length);
    }
    let (new, old) = (take_column(&mut rows, count), take_column(&mut rows, count));
    let (pieces, lengths) = (take_column(&mut rows, batches), take_column(&mut rows, batches));
    let batch = |(pieces, length): (u32, u32)| {
        let batch = BatchRef { pieces, offset, length };
        offset += u64::from(length);
        batch
    };
    let objects = new.into_iter().zip(old).map(|(new, old)| Pair { new, old }).collect();
    Ok((objects, pieces.into_iter().zip(lengths).map(batch).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_and_its_ruins_are_errors() {
        let objects: Vec<Pair> = (0..500).map(|number| Pair { new: number, old: number * 7 % 311 }).collect();
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
