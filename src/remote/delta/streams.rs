//! The encoding of batches: pieces of new contents as differences to old bytes.
//!
//! A batch is one zstd frame. It decompresses to four streams, each with the parts of all its pieces, one after the
//! other:
//!
//! ```text
//! offset size
//!      0   16  lengths of the four streams (u32 each)
//!     16       copies:  for each segment  bytes similar to old ones · bytes after those · position of the old ones
//!              runs:    for each piece, alternating  bytes equal to the old ones · bytes that differ
//!              values:  the differences new - old of the bytes that differ
//!              extra:   the bytes that are similar to none
//! ```
//!
//! Numbers are LEB128. An old position is stored as the distance from the end of the previous segment's old bytes (from
//! 0 for the first segment of a piece), its sign in the lowest bit. A piece ends when its length is reached; runs begin
//! anew with each piece.
//!
//! *Not here*: which bytes are similar (`matches`), and whether the result is right: the receiver checks every object.
//!
//! *Used by* `write` and `remote::fetch`.

use std::io;

use super::matches::{Segment, find_segments};

const HEADER_SIZE: usize = 16;

/// Level of zstd. The streams are a tenth of the contents, so the highest useful level costs a second for 200 MB of
/// contents.
const ZSTD_LEVEL: i32 = 19;

/// Fewer equal bytes than this between differing ones are stored as differing: a run of their own would cost more.
const EQUAL_RUN_MIN: usize = 3;

/// Bytes of streams at which a batch is closed. A batch compresses similar files together: with 1 MiB a delta has 5 %
/// more bytes, with 16 MiB 2 % fewer at the cost of a client's memory.
pub(super) const BATCH_SIZE: usize = 6 << 20;

/// The most bytes that a batch decompresses to.
const BATCH_SIZE_MAX: usize = BATCH_SIZE + (2 << 20);

/// The most bytes of a compressed batch.
pub(crate) const BATCH_PACKED_MAX: u64 = BATCH_SIZE_MAX as u64 + (BATCH_SIZE_MAX as u64 >> 7) + 1024;

/// The four streams of a batch that is being filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Streams {
    copies: Vec<u8>,
    runs: Vec<u8>,
    values: Vec<u8>,
    extra: Vec<u8>,
}

impl Streams {
    /// Encodes one piece as differences to `old`.
    pub(super) fn of_piece(old: &[u8], new: &[u8]) -> Self {
        let found = find_segments(old, new);
        let streams = Self::of_segments(old, new, &found);
        if streams.len() <= new.len() {
            return streams;
        }
        // Never observed, but readers rely on streams not being longer than the content.
        Self::of_segments(old, new, &[Segment { new: 0..new.len(), similar: 0, old: 0 }])
    }

    fn of_segments(old: &[u8], new: &[u8], segments: &[Segment]) -> Self {
        let mut streams = Self::default();
        let mut differences = Vec::new();
        let mut end = 0;
        for segment in segments {
            let (like, extra) = new[segment.new.clone()].split_at(segment.similar);
            put_number(&mut streams.copies, segment.similar as u64);
            put_number(&mut streams.copies, extra.len() as u64);
            put_signed(&mut streams.copies, segment.old as i64 - end);
            end = (segment.old + segment.similar) as i64;
            let old = &old[segment.old..][..segment.similar];
            differences.extend(like.iter().zip(old).map(|(new, old)| new.wrapping_sub(*old)));
            streams.extra.extend_from_slice(extra);
        }
        streams.put_differences(&differences);
        streams
    }

    /// Adds the differences of a piece: long runs of zeros by their lengths only, everything else with its bytes.
    fn put_differences(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() {
            let equal = count_leading_zeros(rest);
            let mut other = 0;
            loop {
                let after = &rest[equal + other..];
                let equal_after = count_leading_zeros(after);
                if after.is_empty() || equal_after >= EQUAL_RUN_MIN || equal_after == after.len() {
                    break;
                }
                other += equal_after + after[equal_after..].iter().take_while(|byte| **byte != 0).count();
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

    /// Returns the total length in bytes.
    pub(super) fn len(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// Appends the pieces of `other`.
    pub(super) fn append(&mut self, other: &Self) {
        self.copies.extend_from_slice(&other.copies);
        self.runs.extend_from_slice(&other.runs);
        self.values.extend_from_slice(&other.values);
        self.extra.extend_from_slice(&other.extra);
    }

    fn into_bytes(self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + self.len());
        for part in self.parts() {
            let length = u32::try_from(part.len()).map_err(|_| invalid_batch())?;
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        // Each stream is freed as soon as it is copied: together they have some MiB.
        [self.copies, self.runs, self.values, self.extra].into_iter().for_each(|part| bytes.extend(part));
        Ok(bytes)
    }

    /// Compresses the pieces to a batch.
    pub(super) fn pack(self) -> io::Result<Vec<u8>> {
        use zstd::zstd_safe::CParameter;
        let bytes = self.into_bytes()?;
        let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        if bytes.len() > 1 << 20 {
            // 12 MiB of tables instead of 80, for 0.1 % more bytes.
            compressor.set_parameter(CParameter::HashLog(20))?;
            compressor.set_parameter(CParameter::ChainLog(21))?;
        }
        compressor.compress(&bytes)
    }

    /// Estimates by a fast compression how many bytes the pieces take in a batch.
    pub(super) fn estimate(&self) -> io::Result<usize> {
        Ok(zstd::bulk::compress(&self.clone().into_bytes()?, 3)?.len())
    }
}

fn count_leading_zeros(bytes: &[u8]) -> usize {
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

fn invalid_batch() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no batch of pieces")
}

/// A received batch, which is read piece by piece. The resulting pieces are not checked here.
#[derive(Debug)]
pub struct DeltaBatch {
    bytes: Vec<u8>,
    copies: StreamReader,
    runs: StreamReader,
    values: StreamReader,
    extra: StreamReader,
}

/// The part of a stream that has not been read yet.
#[derive(Debug, Clone, Copy)]
struct StreamReader {
    at: usize,
    end: usize,
}

impl StreamReader {
    /// Returns the position of the next `count` bytes.
    fn take(&mut self, count: usize) -> io::Result<std::ops::Range<usize>> {
        let start = self.at;
        let end = start.checked_add(count).filter(|end| *end <= self.end).ok_or_else(invalid_batch)?;
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
        Err(invalid_batch())
    }

    fn length(&mut self, bytes: &[u8]) -> io::Result<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| invalid_batch())
    }
}

impl DeltaBatch {
    /// Decompresses a batch of pieces that have `length` bytes together.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`], and those of the decompressor.
    pub fn unpack(packed: &[u8], length: u64) -> io::Result<Self> {
        // Copies and runs of a piece take no more bytes than its content, except for a piece of fewer than four bytes.
        let limit = length.saturating_mul(4).saturating_add(HEADER_SIZE as u64).min(BATCH_SIZE_MAX as u64);
        let limit = usize::try_from(limit).map_err(|_| invalid_batch())?;
        let bytes = zstd::bulk::decompress(packed, limit)?;
        let mut end = HEADER_SIZE;
        let mut readers = [StreamReader { at: 0, end: 0 }; 4];
        for (reader, length) in
            readers.iter_mut().zip(bytes.get(..HEADER_SIZE).ok_or_else(invalid_batch)?.chunks_exact(4))
        {
            let length = u32::from_le_bytes(length.try_into().map_err(|_| invalid_batch())?);
            let start = end;
            end = start.checked_add(length as usize).filter(|end| *end <= bytes.len()).ok_or_else(invalid_batch)?;
            *reader = StreamReader { at: start, end };
        }
        let [copies, runs, values, extra] = readers;
        Ok(Self { bytes, copies, runs, values, extra })
    }

    /// Returns the next piece, which has `length` bytes, made from the old bytes that it was compared with.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`].
    pub fn next_piece(&mut self, old: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(length);
        let mut runs = RunReader::default();
        let mut place = 0_u64;
        while piece.len() < length {
            let segment = self.segment(length - piece.len())?;
            place = place.checked_add_signed(segment.move_by).ok_or_else(invalid_batch)?;
            let start = usize::try_from(place).map_err(|_| invalid_batch())?;
            let end = start.checked_add(segment.similar).ok_or_else(invalid_batch)?;
            let at = piece.len();
            piece.extend_from_slice(old.get(start..end).ok_or_else(invalid_batch)?);
            runs.add_differences(self, &mut piece[at..])?;
            place = end as u64;
            piece.extend_from_slice(&self.bytes[self.extra.take(segment.extra)?]);
        }
        Ok(piece)
    }

    /// Skips a piece of `length` bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`].
    pub fn skip_piece(&mut self, length: usize) -> io::Result<()> {
        let mut runs = RunReader::default();
        let mut left = length;
        while left > 0 {
            let segment = self.segment(left)?;
            runs.skip(self, segment.similar)?;
            self.extra.take(segment.extra)?;
            left -= segment.similar + segment.extra;
        }
        Ok(())
    }

    /// Reads the next segment, which must have at least one byte and at most `limit` bytes.
    fn segment(&mut self, limit: usize) -> io::Result<CopySegment> {
        let like = self.copies.length(&self.bytes)?;
        let extra = self.copies.length(&self.bytes)?;
        let signed = self.copies.number(&self.bytes)?;
        let distance = i64::try_from(signed >> 1).map_err(|_| invalid_batch())?;
        let move_by = if signed & 1 == 1 { -distance } else { distance };
        match like.checked_add(extra) {
            Some(1..) if like + extra <= limit => Ok(CopySegment { similar: like, extra, move_by }),
            _ => Err(invalid_batch()),
        }
    }
}

/// A segment as a batch stores it.
struct CopySegment {
    similar: usize,
    extra: usize,
    move_by: i64,
}

/// The position in the runs of a piece.
#[derive(Default)]
struct RunReader {
    equal: usize,
    other: usize,
}

impl RunReader {
    /// Reads the next run if the current one is used up.
    fn refill(&mut self, batch: &mut DeltaBatch) -> io::Result<()> {
        if self.equal == 0 && self.other == 0 {
            self.equal = batch.runs.length(&batch.bytes)?;
            self.other = batch.runs.length(&batch.bytes)?;
            if self.equal == 0 && self.other == 0 {
                return Err(invalid_batch());
            }
        }
        Ok(())
    }

    fn add_differences(&mut self, batch: &mut DeltaBatch, mut bytes: &mut [u8]) -> io::Result<()> {
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

    fn skip(&mut self, batch: &mut DeltaBatch, mut count: usize) -> io::Result<()> {
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
        fn pieces_round_trip_for_any_old_and_new_content(
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
            let mut found = DeltaBatch::unpack(&packed, length).expect("own batch");
            prop_assert_eq!(found.next_piece(&old, new.len()).expect("own piece"), new.clone());
            prop_assert_eq!(found.next_piece(&new, old.len()).expect("own piece"), old.clone());
            found.skip_piece(inserted.len()).expect("own piece");
            prop_assert_eq!(found.next_piece(&old, new.len()).expect("own piece"), new.clone());
        }

        #[test]
        fn damaged_batches_give_errors_or_pieces_of_the_right_length(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            lengths in proptest::array::uniform4(0_u32..120),
            old in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let header: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
            let packed = zstd::bulk::compress(&[header, bytes].concat(), 1).expect("memory");
            if let Ok(mut batch) = DeltaBatch::unpack(&packed, 1000) {
                for length in [7, 0, 1 << 20, 30] {
                    if let Ok(piece) = batch.next_piece(&old, length) {
                        prop_assert_eq!(piece.len(), length);
                    }
                    let _ = batch.skip_piece(length / 2);
                }
            }
        }
    }

    #[test]
    fn batch_larger_than_its_pieces_can_need_is_refused() {
        let packed = zstd::bulk::compress(&vec![0; 100_000], 1).expect("memory");
        assert!(DeltaBatch::unpack(&packed, 10_000).is_err());
        let endless = zstd::bulk::compress(&vec![0; BATCH_SIZE_MAX + 1], 1).expect("memory");
        assert!(DeltaBatch::unpack(&endless, u64::MAX).is_err());
    }

    #[test]
    fn piece_with_few_changed_bytes_takes_few_bytes() {
        let old: Vec<u8> =
            (0..900_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let (old, mut new) = (&old[..1 << 20], old[..1 << 20].to_vec());
        (0..100).for_each(|number| new[number * 10_007] ^= 0x40);
        let packed = batch(&[(old, &new)]);
        assert!(packed.len() < 300, "{} bytes", packed.len());
    }
}
