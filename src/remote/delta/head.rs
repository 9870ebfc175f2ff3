//! The head of a delta: the image's delta and the list of pieces.

use super::error::DeltaError;

const MAGIC: [u8; 8] = *b"SAPWDLT\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 24;
const LEVEL: i32 = 19;
const COLUMNS: usize = 3;

/// Largest head in bytes.
pub const DELTA_HEAD_MAX: u64 = 256 << 20;

/// Most pieces of a delta.
const PIECES_MAX: usize = 1 << 24;

/// A patch: one piece of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index of the object in the new image. The pieces of an object follow each other.
    pub new: u32,
    /// Index in the old image of the object it is said in terms of.
    pub old: u32,
    /// First byte of the patch in the delta's file.
    pub offset: u64,
    /// Bytes of the patch.
    pub length: u32,
}

/// The head of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaHead {
    image_delta: Vec<u8>,
    pieces: Vec<Piece>,
    length: u64,
}

impl DeltaHead {
    /// The way from the old image to the new one.
    #[must_use]
    pub fn image_delta(&self) -> &[u8] {
        &self.image_delta
    }

    /// The patches, in file order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
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
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        if number(8) != VERSION {
            return Err(DeltaError::TooNew(number(8)));
        }
        let (image, rest) = rest.split_at_checked(number(12) as usize).ok_or(DeltaError::Length)?;
        let (index, _) = rest.split_at_checked(number(16) as usize).ok_or(DeltaError::Length)?;
        let count = number(20) as usize;
        let length = (HEADER_SIZE + image.len() + index.len()) as u64;
        if count > PIECES_MAX || count as u64 > most {
            return Err(DeltaError::Length);
        }
        Ok(Self { image_delta: image.to_vec(), pieces: unpack(index, count, length)?, length })
    }

    /// The bytes that [`Self::parse`] reads; of `pieces`, the offsets do not matter.
    pub(super) fn encode(image_delta: &[u8], pieces: &[Piece]) -> Result<Vec<u8>, DeltaError> {
        let columns: [fn(&Piece) -> u32; COLUMNS] = [|piece| piece.new, |piece| piece.old, |piece| piece.length];
        let mut raw = Vec::new();
        for column in columns {
            let mut last = 0;
            let difference = |piece: &Piece| column(piece).wrapping_sub(std::mem::replace(&mut last, column(piece)));
            let differences: Vec<[u8; 4]> = pieces.iter().map(difference).map(u32::to_le_bytes).collect();
            (0..4).for_each(|plane| raw.extend(differences.iter().map(|bytes| bytes[plane])));
        }
        let index = zstd::bulk::compress(&raw, LEVEL)?;
        let mut bytes = MAGIC.to_vec();
        let narrow = |length: usize| u32::try_from(length).map_err(|_| DeltaError::Length);
        for value in [VERSION, narrow(image_delta.len())?, narrow(index.len())?, narrow(pieces.len())?] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(image_delta);
        bytes.extend_from_slice(&index);
        Ok(bytes)
    }
}

fn unpack(index: &[u8], count: usize, mut offset: u64) -> Result<Vec<Piece>, DeltaError> {
    use std::io::Read as _;
    let length = count * COLUMNS * 4;
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::with_buffer(index)?.take(length as u64 + 1).read_to_end(&mut raw)?;
    if raw.len() != length {
        return Err(DeltaError::Length);
    }
    let column = |number: usize| {
        let planes = &raw[number * count * 4..][..count * 4];
        let mut sum = 0_u32;
        let value = |row: usize| {
            let bytes = [planes[row], planes[count + row], planes[2 * count + row], planes[3 * count + row]];
            sum = sum.wrapping_add(u32::from_le_bytes(bytes));
            sum
        };
        (0..count).map(value).collect::<Vec<u32>>()
    };
    let (new, old, lengths) = (column(0), column(1), column(2));
    let piece = |row: usize| {
        let piece = Piece { new: new[row], old: old[row], offset, length: lengths[row] };
        offset += u64::from(piece.length);
        piece
    };
    Ok((0..count).map(piece).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_and_its_ruins_are_errors() {
        let piece = |number: u32| Piece { new: number, old: number + 3, offset: 0, length: number % 7 + 1 };
        let pieces: Vec<Piece> = (0..500).map(piece).collect();
        let bytes = DeltaHead::encode(b"image", &pieces).expect("memory");
        let head = DeltaHead::parse(&bytes, 500).expect("own bytes");
        assert_eq!((head.image_delta(), head.length()), (&b"image"[..], bytes.len() as u64));
        let mut offset = bytes.len() as u64;
        for (found, piece) in head.pieces().iter().zip(&pieces) {
            assert_eq!(*found, Piece { offset, ..*piece });
            offset += u64::from(piece.length);
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
