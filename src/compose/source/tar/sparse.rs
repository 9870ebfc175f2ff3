//! Files with holes, in the four ways archives describe them.
//!
//! Source: GNU tar manual, "Storing Sparse Files". Old GNU and PAX 0.0, 0.1 put the map into headers, PAX 1.0 puts it
//! before the data as decimal lines padded to a block. In all of them the data are the runs of the map one after the
//! other. Invariant of [`Map`]: runs ascend, do not overlap and end inside the file.

use std::io::{self, Read};

use super::header::BLOCK;
use super::pax::SparseRecords;
use crate::model::Extent;

/// Most runs of one file: with 4 KiB blocks every second of which is a hole, a file of 32 GiB.
const RUNS_MAX: usize = 4 << 20;

/// Digits of the largest number in a map, and its newline.
const LINE_MAX: usize = 21;

/// Why a map of a sparse file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SparseError {
    /// The map is not a list of numbers in the form it claims, or is cut short.
    #[error("the map of the sparse file is malformed")]
    Malformed,
    /// Runs overlap or come out of order.
    #[error("the runs of the sparse file overlap or are out of order")]
    Order,
    /// A run ends behind the end of the file.
    #[error("a run of the sparse file lies beyond its size")]
    BeyondSize,
    /// The archive has more or less data than the map describes.
    #[error("the data of the sparse file are not as long as its map says")]
    DataLength,
    /// More runs than any file has in practice.
    #[error("the sparse file has more than {RUNS_MAX} runs")]
    TooMany,
    /// A sparse format newer than 1.0.
    #[error("the sparse format {0}.{1} is not supported")]
    Version(u64, u64),
}

/// Where the data of a sparse file belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    /// The size with the holes.
    pub(super) size: u64,
    runs: Vec<Extent>,
}

impl Map {
    /// Checks a list of runs; empty ones, with which GNU tar marks a hole at the end, are dropped.
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

    /// The map of the PAX formats 0.0 and 0.1, which is in the records; `None` when there is none.
    pub(super) fn of_records(records: &SparseRecords) -> Option<Result<Self, SparseError>> {
        let size = records.real_size?;
        let count = records.runs?;
        let (pairs, rest) = records.map.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() as u64 != count {
            return Some(Err(SparseError::Malformed));
        }
        Some(Self::new(size, pairs.iter().map(|[offset, length]| Extent { offset: *offset, length: *length })))
    }

    /// Reads the map of PAX 1.0 from the front of the data.
    pub(super) fn read(size: u64, data: &mut impl Read) -> Result<Self, MapReadError> {
        let mut lines = Lines { data, block: [0; BLOCK], at: BLOCK };
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

    /// How many bytes of data the archive has for this file.
    pub(super) fn data_length(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }

    /// The map as the image keeps it: `None` when there are no holes.
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

/// Adds a run of a map that is still being read, within the limit.
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

/// Decimal numbers, a line each, taken from whole blocks.
struct Lines<'a, R> {
    data: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, MapReadError> {
        let mut number = 0_u64;
        for position in 0..LINE_MAX {
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
            // The data end before the map does: the entry is too short, whatever the archive is.
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

/// Reads a sparse file as a program would: the data where the map has them, zeros elsewhere.
pub(super) struct SparseReader<'a, R> {
    map: &'a Map,
    data: R,
    /// The run at or behind `position`.
    next: usize,
    position: u64,
}

impl<'a, R: Read> SparseReader<'a, R> {
    pub(super) const fn new(map: &'a Map, data: R) -> Self {
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
    fn data_land_where_the_map_says() {
        let map = Map::new(10, [run(2, 3), run(5, 1), run(8, 1), run(10, 0)]).expect("legal");
        assert_eq!(map.data_length(), 5);
        assert_eq!(map.extents(), Some(vec![run(2, 4), run(8, 1)]));
        let mut bytes = Vec::new();
        SparseReader::new(&map, &b"abcde"[..]).read_to_end(&mut bytes).expect("enough data");
        assert_eq!(bytes, b"\0\0abcd\0\0e\0");
    }

    #[test]
    fn a_map_without_holes_is_no_map() {
        assert_eq!(Map::new(4, [run(0, 2), run(2, 2), run(4, 0)]).expect("legal").extents(), None);
        assert_eq!(Map::new(0, []).expect("legal").extents(), None);
        assert_eq!(Map::new(4, []).expect("legal").extents(), Some(vec![]));
    }

    #[test]
    fn bad_maps_are_refused() {
        assert_eq!(Map::new(4, [run(2, 3)]), Err(SparseError::BeyondSize));
        assert_eq!(Map::new(4, [run(u64::MAX, 3)]), Err(SparseError::BeyondSize));
        assert_eq!(Map::new(4, [run(2, 1), run(1, 1)]), Err(SparseError::Order));
        assert_eq!(Map::new(4, [run(0, 2), run(1, 1)]), Err(SparseError::Order));
        for bad in ["", "x\n", "1\n", "\n", "4294967296\n", "99999999999999999999999\n", "1\n0\n-1\n"] {
            let mut block = [0; BLOCK];
            block[..bad.len()].copy_from_slice(bad.as_bytes());
            assert!(Map::read(4, &mut &block[..]).is_err(), "{bad}");
        }
        assert!(Map::read(4, &mut &b"1\n0\n4\n"[..]).is_err());
    }

    #[test]
    fn maps_before_the_data_may_span_blocks() {
        let count = 200_u64;
        let mut text = format!("{count}\n");
        (0..count).for_each(|index| text.push_str(&format!("{}\n1\n", index * 4096)));
        let mut bytes = text.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut data = &bytes[..];
        let map = Map::read(4096 * count, &mut data).expect("legal");
        assert_eq!((map.data_length(), data), (count, &b""[..]));
    }
}
