//! Sparse files in the four formats of archives: their maps, and reading them with their holes.
//!
//! Old GNU and PAX 0.0 and 0.1 have the map in headers; PAX 1.0 has it before the data as decimal lines padded to a
//! block. In all of them the data are the runs of the map one after another. Source: GNU tar manual, "Storing Sparse
//! Files".
//!
//! *Invariants*: the runs of a [`SparseMap`] ascend, do not overlap and end inside the file.
//!
//! *Used by* `archive` and `read_tar`.

use std::io::{self, Read};

use super::header::BLOCK;
use super::pax::SparseRecords;
use crate::model::Extent;

/// Most runs of one file. A file of 32 GiB in which every second 4 KiB block is a hole has this many.
const RUNS_MAX: usize = 4 << 20;

/// Length of the longest line in a map, newline included.
const NUMBER_LINE_MAX: usize = 21;

/// Why a map of a sparse file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SparseError {
    /// The map is not a list of numbers in the stated format, or is truncated.
    #[error("the map of the sparse file is malformed")]
    Malformed,
    /// Runs overlap or are out of order.
    #[error("the runs of the sparse file overlap or are out of order")]
    Order,
    /// A run ends after the end of the file.
    #[error("a run of the sparse file lies beyond its size")]
    BeyondSize,
    /// The archive has more or less data than the map describes.
    #[error("the data of the sparse file are not as long as its map says")]
    DataLength,
    /// The map has too many runs.
    #[error("the sparse file has more than {RUNS_MAX} runs")]
    TooMany,
    /// The sparse format is newer than 1.0.
    #[error("the sparse format {0}.{1} is not supported")]
    Version(u64, u64),
}

/// Where the data of a sparse file belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// The size with the holes.
    pub(super) size: u64,
    runs: Vec<Extent>,
}

impl SparseMap {
    /// Validates a list of runs. Empty runs, with which GNU tar marks a hole at the end, are dropped.
    pub(super) fn new(size: u64, runs: impl IntoIterator<Item = Extent>) -> Result<Self, SparseError> {
        let mut checked = Vec::new();
        let mut position = 0;
        for run in runs {
            let end = run.offset.checked_add(run.length).filter(|end| *end <= size).ok_or(SparseError::BeyondSize)?;
            if run.offset < position {
                return Err(SparseError::Order);
            }
            position = end;
            if run.length > 0 {
                push_run(&mut checked, run)?;
            }
        }
        Ok(Self { size, runs: checked })
    }

    /// Returns the map of the PAX formats 0.0 and 0.1, which is in the records, or `None` when there is none.
    pub(super) fn from_records(records: &SparseRecords) -> Option<Result<Self, SparseError>> {
        let size = records.real_size?;
        let count = records.runs?;
        let (pairs, rest) = records.map.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() as u64 != count {
            return Some(Err(SparseError::Malformed));
        }
        Some(Self::new(size, pairs.iter().map(|[offset, length]| Extent { offset: *offset, length: *length })))
    }

    /// Reads the map of PAX 1.0 from the beginning of the data.
    pub(super) fn read(size: u64, data: &mut impl Read) -> Result<Self, MapReadError> {
        let mut lines = MapLines { data, block: [0; BLOCK], at: BLOCK };
        let count = lines.number()?;
        if count > RUNS_MAX as u64 {
            return Err(SparseError::TooMany.into());
        }
        let mut runs = Vec::new();
        for _ in 0..count {
            runs.push(Extent { offset: lines.number()?, length: lines.number()? });
        }
        Ok(Self::new(size, runs)?)
    }

    /// Returns the number of data bytes that the archive has for this file.
    pub(super) fn data_length(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }

    /// Returns the map in the form of the image: adjacent runs joined, `None` when there are no holes.
    pub(super) fn extents(&self) -> Option<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            match extents.last_mut() {
                Some(last) if last.offset + last.length == run.offset => last.length += run.length,
                _ => extents.push(*run),
            }
        }
        let dense = match extents[..] {
            [] => self.size == 0,
            [Extent { offset, length }] => offset == 0 && length == self.size,
            _ => false,
        };
        (!dense).then_some(extents)
    }
}

/// Appends a run to a map that is being read, up to the limit.
pub(super) fn push_run(runs: &mut Vec<Extent>, run: Extent) -> Result<(), SparseError> {
    if runs.len() >= RUNS_MAX {
        return Err(SparseError::TooMany);
    }
    runs.push(run);
    Ok(())
}

/// Why a map could not be read from the data.
#[derive(Debug, thiserror::Error)]
pub(super) enum MapReadError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Map(#[from] SparseError),
}

/// A reader of decimal numbers, one a line, that consumes whole blocks.
struct MapLines<'a, R> {
    data: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> MapLines<'_, R> {
    fn number(&mut self) -> Result<u64, MapReadError> {
        let mut number = 0_u64;
        for position in 0..NUMBER_LINE_MAX {
            match self.byte()? {
                digit @ b'0'..=b'9' => {
                    let next = number.checked_mul(10).and_then(|number| number.checked_add(u64::from(digit - b'0')));
                    number = next.ok_or(SparseError::Malformed)?;
                }
                b'\n' if position > 0 => return Ok(number),
                _ => break,
            }
        }
        Err(SparseError::Malformed.into())
    }

    fn byte(&mut self) -> Result<u8, MapReadError> {
        if self.at == BLOCK {
            // The entry's data end before the map does, so the map is invalid even if the archive goes on.
            self.data.read_exact(&mut self.block).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => SparseError::Malformed.into(),
                _ => MapReadError::Read(error),
            })?;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}

/// A reader of the whole content of a sparse file: data where the map has them, zeros elsewhere.
pub(super) struct SparseReader<'a, R> {
    map: &'a SparseMap,
    data: R,
    /// Index of the run at or after `position`.
    next: usize,
    position: u64,
}

impl<'a, R: Read> SparseReader<'a, R> {
    pub(super) const fn new(map: &'a SparseMap, data: R) -> Self {
        Self { map, data, next: 0, position: 0 }
    }
}

impl<R: Read> Read for SparseReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let run = self.map.runs.get(self.next).copied().unwrap_or(Extent { offset: self.map.size, length: 0 });
        let in_hole = self.position < run.offset;
        let end = if in_hole { run.offset } else { run.offset + run.length };
        let room = usize::try_from(end - self.position).map_or(buffer.len(), |room| room.min(buffer.len()));
        let count = if in_hole {
            buffer[..room].fill(0);
            room
        } else {
            self.data.read(&mut buffer[..room])?
        };
        if count == 0 && room > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        if !in_hole && self.position == end {
            self.next += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn sparse_reader_puts_data_where_the_map_says() {
        let map = SparseMap::new(10, [run(2, 3), run(5, 1), run(8, 1), run(10, 0)]).expect("valid");
        assert_eq!(map.data_length(), 5);
        assert_eq!(map.extents(), Some(vec![run(2, 4), run(8, 1)]));
        let mut bytes = Vec::new();
        SparseReader::new(&map, &b"abcde"[..]).read_to_end(&mut bytes).expect("enough data");
        assert_eq!(bytes, b"\0\0abcd\0\0e\0");
    }

    #[test]
    fn map_without_holes_has_no_extents() {
        assert_eq!(SparseMap::new(4, [run(0, 2), run(2, 2), run(4, 0)]).expect("valid").extents(), None);
        assert_eq!(SparseMap::new(0, []).expect("valid").extents(), None);
        assert_eq!(SparseMap::new(4, []).expect("valid").extents(), Some(vec![]));
    }

    #[test]
    fn malformed_maps_are_refused() {
        assert_eq!(SparseMap::new(4, [run(2, 3)]), Err(SparseError::BeyondSize));
        assert_eq!(SparseMap::new(4, [run(u64::MAX, 3)]), Err(SparseError::BeyondSize));
        assert_eq!(SparseMap::new(4, [run(2, 1), run(1, 1)]), Err(SparseError::Order));
        assert_eq!(SparseMap::new(4, [run(0, 2), run(1, 1)]), Err(SparseError::Order));
        for bad in ["", "x\n", "1\n", "\n", "4294967296\n", "99999999999999999999999\n", "1\n0\n-1\n"] {
            let mut block = [0; BLOCK];
            block[..bad.len()].copy_from_slice(bad.as_bytes());
            assert!(SparseMap::read(4, &mut &block[..]).is_err(), "{bad}");
        }
        assert!(SparseMap::read(4, &mut &b"1\n0\n4\n"[..]).is_err());
    }

    #[test]
    fn map_before_the_data_may_span_blocks() {
        let count = 200_u64;
        let mut text = format!("{count}\n");
        (0..count).for_each(|index| text.push_str(&format!("{}\n1\n", index * 4096)));
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut data = &bytes[..];
        let map = SparseMap::read(4096 * count, &mut data).expect("valid");
        assert_eq!((map.data_length(), data), (count, &b""[..]));
    }
}
