//! Pieces of new contents, each in terms of old bytes, as bytes.
//!
//! A batch is one zstd frame. It unpacks to four streams, each with the parts of all its pieces, one after the other:
//!
//! ```text
//! offset size
//!      0   16  lengths of the four streams (u32 each)
//!     16       copies:  for each segment  bytes like old ones · bytes after those · where the old ones begin
//!              runs:    for each piece, in turn  bytes equal to the old ones · bytes that are not
//!              values:  the differences new - old of the latter
//!              extra:   the bytes like none
//! ```
//!
//! Numbers are LEB128. An old place is told from the end of the one before (0 for the first of a piece), its sign in the
//! lowest bit. A piece ends when its length is reached; runs begin anew with each piece.

use std::io;

use super::matches::{Segment, segments};

const HEADER: usize = 16;

/// Level of zstd: streams are a tenth of the contents, so the best there is costs a second for 200 MB of contents.
const LEVEL: i32 = 19;

/// So few equal bytes between differing ones count as differing: naming them would cost more.
const SHORT_RUN: usize = 3;

/// A batch is closed when its streams have so many bytes. Similar files learn from each other within a batch: 1 MiB costs 5 %
/// more bytes, 16 MiB save 2 % and take a client's memory.
pub(super) const BATCH: usize = 6 << 20;

/// Most bytes that a batch unpacks to.
const BATCH_MAX: usize = BATCH + (2 << 20);

/// Most bytes of a batch.
pub const BATCH_PACKED_MAX: u64 = BATCH_MAX as u64 + (BATCH_MAX as u64 >> 7) + 1024;

/// Pieces on their way into a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Streams {
    copies: Vec<u8>,
    runs: Vec<u8>,
    values: Vec<u8>,
    extra: Vec<u8>,
}

impl Streams {
    /// One piece, in terms of `old`.
    pub(super) fn of_piece(old: &[u8], new: &[u8]) -> Self {
        let found = segments(old, new);
        let streams = Self::of_segments(old, new, &found);
        if streams.len() <= new.len() {
            return streams;
        }
        // Never seen, but what reads this relies on it.
        Self::of_segments(old, new, &[Segment { new: 0..new.len(), like: 0, old: 0 }])
    }

    fn of_segments(old: &[u8], new: &[u8], segments: &[Segment]) -> Self {
        let mut streams = Self::default();
        let mut differences = Vec::new();
        let mut end = 0;
        for segment in segments {
            let (like, extra) = new[segment.new.clone()].split_at(segment.like);
            put_number(&mut streams.copies, segment.like as u64);
            put_number(&mut streams.copies, extra.len() as u64);
            put_signed(&mut streams.copies, segment.old as i64 - end);
            end = (segment.old + segment.like) as i64;
            let old = &old[segment.old..][..segment.like];
            differences.extend(like.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
            streams.extra.extend_from_slice(extra);
        }
        streams.put_differences(&differences);
        streams
    }

    /// Long runs of zeros as their lengths, everything else as it is.
    fn put_differences(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            let equal = zeros(rest);
            let mut other = 0;
            loop {
                let after = &rest[equal + other..];
                let here = zeros(after);
                if after.is_empty() || here >= SHORT_RUN || here == after.len() {
                    break;
                }
                other += here + after[here..].iter().take_while(|byte| **byte != 0).count();
            }
            put_number(&mut self.runs, equal as u64);
            put_number(&mut self.runs, other as u64);
            self.values.extend_from_slice(&rest[equal..equal + other]);
            rest = &rest[equal + other..];
        }
    }

    const fn parts(&self) -> [&Vec<u8>; 4] {
        [&self.copies, &self.runs, &self.values, &self.extra]
    }

    /// Bytes in all.
    pub(super) fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Adds pieces after these.
    pub(super) fn append(&mut self, other: &Self) {
        self.copies.extend_from_slice(&other.copies);
        self.runs.extend_from_slice(&other.runs);
        self.values.extend_from_slice(&other.values);
        self.extra.extend_from_slice(&other.extra);
    }

    fn into_bytes(self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(HEADER + self.len());
        for part in self.parts() {
            let length = u32::try_from(part.len()).map_err(|_| invalid())?;
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        // Each is freed at once: there are some MiB of them.
        [self.copies, self.runs, self.values, self.extra].into_iter().for_each(|part| bytes.extend(part));
        Ok(bytes)
    }

    /// The batch of these pieces.
    pub(super) fn pack(self) -> io::Result<Vec<u8>> {
        use zstd::zstd_safe::CParameter;
        let bytes = self.into_bytes()?;
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        if bytes.len() > 1 << 20 {
            // 12 MiB of tables instead of 80, for 0.1 % more bytes.
            compressor.set_parameter(CParameter::HashLog(20))?;
            compressor.set_parameter(CParameter::ChainLog(21))?;
        }
        compressor.compress(&bytes)
    }

    /// About how many bytes they take in a batch; quick.
    pub(super) fn estimate(&self) -> io::Result<usize> {
        Ok(zstd::bulk::compress(&self.clone().into_bytes()?, 3)?.len())
    }
}

fn zeros(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == 0).count()
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, number.unsigned_abs() << 1 | u64::from(number < 0));
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no batch of pieces")
}

/// A batch that was received, to be read piece by piece. What comes out is not checked here.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    copies: Reader,
    runs: Reader,
    values: Reader,
    extra: Reader,
}

/// The part of a stream that was not read yet.
#[derive(Debug, Clone, Copy)]
struct Reader {
    at: usize,
    end: usize,
}

impl Reader {
    /// The next `count` bytes.
    fn take(&mut self, count: usize) -> io::Result<std::ops::Range<usize>> {
        let start = self.at;
        let end = start.checked_add(count).filter(|end| *end <= self.end).ok_or_else(invalid)?;
        self.at = end;
        Ok(start..end)
    }

    fn number(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = bytes[self.take(1)?.start];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(invalid())
    }

    fn length(&mut self, bytes: &[u8]) -> io::Result<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| invalid())
    }
}

impl Batch {
    /// Unpacks a batch of pieces that have `length` bytes in all.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`], and those of the decompressor.
    pub fn unpack(packed: &[u8], length: u64) -> io::Result<Self> {
        // What tells where the bytes of a piece are takes no more than they, but for a piece of less than four.
        let limit = length.saturating_mul(4).saturating_add(HEADER as u64).min(BATCH_MAX as u64);
        let limit = usize::try_from(limit).map_err(|_| invalid())?;
        let bytes = zstd::bulk::decompress(packed, limit)?;
        let mut end = HEADER;
        let mut readers = [Reader { at: 0, end: 0 }; 4];
        for (reader, length) in readers.iter_mut().zip(bytes.get(..HEADER).ok_or_else(invalid)?.chunks_exact(4)) {
            let length = u32::from_le_bytes(length.try_into().map_err(|_| invalid())?);
            let start = end;
            end = start.checked_add(length as usize).filter(|end| *end <= bytes.len()).ok_or_else(invalid)?;
            *reader = Reader { at: start, end };
        }
        let [copies, runs, values, extra] = readers;
        Ok(Self { bytes, copies, runs, values, extra })
    }

    /// The next piece, of `length` bytes, made of the old bytes that it was said in terms of.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`].
    pub fn next(&mut self, old: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(length);
        let mut runs = Runs::default();
        let mut place = 0_u64;
        while piece.len() < length {
            let segment = self.segment(length - piece.len())?;
            place = place.checked_add_signed(segment.move_by).ok_or_else(invalid)?;
            let start = usize::try_from(place).map_err(|_| invalid())?;
            let end = start.checked_add(segment.like).ok_or_else(invalid)?;
            let at = piece.len();
            piece.extend_from_slice(old.get(start..end).ok_or_else(invalid)?);
            runs.add_differences(self, &mut piece[at..])?;
            place = end as u64;
            piece.extend_from_slice(&self.bytes[self.extra.take(segment.extra)?]);
        }
        Ok(piece)
    }

    /// Reads past a piece of `length` bytes that nobody wants.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`].
    pub fn skip(&mut self, length: usize) -> io::Result<()> {
        let mut runs = Runs::default();
        let mut left = length;
        while left > 0 {
            let segment = self.segment(left)?;
            runs.skip(self, segment.like)?;
            self.extra.take(segment.extra)?;
            left -= segment.like + segment.extra;
        }
        Ok(())
    }

    /// The next segment, which has at least one byte and at most `most`.
    fn segment(&mut self, most: usize) -> io::Result<Copied> {
        let like = self.copies.length(&self.bytes)?;
        let extra = self.copies.length(&self.bytes)?;
        let signed = self.copies.number(&self.bytes)?;
        let distance = i64::try_from(signed >> 1).map_err(|_| invalid())?;
        let move_by = if signed & 1 == 1 { -distance } else { distance };
        match like.checked_add(extra) {
            Some(1..) if like + extra <= most => Ok(Copied { like, extra, move_by }),
            _ => Err(invalid()),
        }
    }
}

/// A segment as a batch tells it.
struct Copied {
    like: usize,
    extra: usize,
    move_by: i64,
}

/// Where in the runs of a piece the reader is.
#[derive(Default)]
struct Runs {
    equal: usize,
    other: usize,
}

impl Runs {
    /// Goes to the next run with bytes in it.
    fn refill(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.equal == 0 && self.other == 0 {
            self.equal = batch.runs.length(&batch.bytes)?;
            self.other = batch.runs.length(&batch.bytes)?;
            if self.equal == 0 && self.other == 0 {
                return Err(invalid());
            }
        }
        Ok(())
    }

    fn add_differences(&mut self, batch: &mut Batch, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.refill(batch)?;
            let equal = self.equal.min(bytes.len());
            self.equal -= equal;
            let rest = &mut bytes[equal..];
            let other = if self.equal == 0 { self.other.min(rest.len()) } else { 0 };
            self.other -= other;
            let (changed, rest) = rest.split_at_mut(other);
            let values = batch.values.take(other)?;
            changed.iter_mut().zip(&batch.bytes[values]).for_each(|(byte, by)| *byte = byte.wrapping_add(*by));
            bytes = rest;
        }
        Ok(())
    }

    fn skip(&mut self, batch: &mut Batch, mut count: usize) -> io::Result<()> {
        while count > 0 {
            self.refill(batch)?;
            let equal = self.equal.min(count);
            self.equal -= equal;
            count -= equal;
            let other = if self.equal == 0 { self.other.min(count) } else { 0 };
            self.other -= other;
            count -= other;
            batch.values.take(other)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(pieces: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut streams = Streams::default();
        pieces.iter().for_each(|(old, new)| streams.append(&Streams::of_piece(old, new)));
        streams.pack().expect("memory")
    }

    proptest! {
        #[test]
        fn pieces_come_back_whatever_they_were_made_from(
            old in proptest::collection::vec(any::<u8>(), 0..3000),
            inserted in proptest::collection::vec(any::<u8>(), 0..300),
            at in 0_usize..3000,
            flips in proptest::collection::vec((0_usize..3000, any::<u8>()), 0..40),
        ) {
            let at = at.min(old.len());
            let mut new = [&old[..at], &inserted, &old[at..]].concat();
            for (place, by) in flips {
                if let Some(byte) = new.get_mut(place) {
                    *byte ^= by;
                }
            }
            let packed = batch(&[(&old, &new), (&new, &old), (&[], &inserted), (&old, &new)]);
            let lengths = [new.len(), old.len(), inserted.len(), new.len()];
            let length = lengths.iter().sum::<usize>() as u64;
            let mut found = Batch::unpack(&packed, length).expect("own batch");
            prop_assert_eq!(found.next(&old, new.len()).expect("own piece"), new.clone());
            prop_assert_eq!(found.next(&new, old.len()).expect("own piece"), old.clone());
            found.skip(inserted.len()).expect("own piece");
            prop_assert_eq!(found.next(&old, new.len()).expect("own piece"), new.clone());
        }

        #[test]
        fn ruins_are_errors_or_other_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            lengths in proptest::array::uniform4(0_u32..120),
            old in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let header: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
            let packed = zstd::bulk::compress(&[header, bytes].concat(), 1).expect("memory");
            if let Ok(mut batch) = Batch::unpack(&packed, 1000) {
                for length in [7, 0, 1 << 20, 30] {
                    if let Ok(piece) = batch.next(&old, length) {
                        prop_assert_eq!(piece.len(), length);
                    }
                    let _ = batch.skip(length / 2);
                }
            }
        }
    }

    #[test]
    fn a_batch_that_unpacks_to_more_than_its_pieces_can_need_is_refused() {
        let packed = zstd::bulk::compress(&vec![0; 100_000], 1).expect("memory");
        assert!(Batch::unpack(&packed, 10_000).is_err());
        let endless = zstd::bulk::compress(&vec![0; BATCH_MAX + 1], 1).expect("memory");
        assert!(Batch::unpack(&endless, u64::MAX).is_err());
    }

    #[test]
    fn few_changes_take_few_bytes() {
        let old: Vec<u8> =
            (0..900_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let (old, mut new) = (&old[..1 << 20], old[..1 << 20].to_vec());
        (0..100).for_each(|number| new[number * 10_007] ^= 0x40);
        let packed = batch(&[(old, &new)]);
        assert!(packed.len() < 300, "{} bytes", packed.len());
    }
}
