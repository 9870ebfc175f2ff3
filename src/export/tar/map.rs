//! The map of a file in the archive: which bytes of the file are stored.
//!
//! A file with holes is written in GNU's sparse format 1.0: the map as decimal lines, padded to a block, then the runs
//! of data one after another (GNU tar manual, "Storing Sparse Files").
//!
//! *Invariants*: runs begin and end at block boundaries, except at the end of the file. GNU tar reads each run from a
//! block of its own and other readers read them back to back; with this alignment both get the same bytes. The bytes by
//! which a run is widened are zeros of the hole.
//!
//! *Used by* `export_tar`.

use super::header::BLOCK;
use crate::model::Extent;

pub(super) struct DataMap {
    size: u64,
    runs: Vec<Extent>,
    is_sparse: bool,
}

impl DataMap {
    /// Returns the map of a file without holes.
    pub(super) fn dense(size: u64) -> Self {
        Self { size, runs: vec![Extent { offset: 0, length: size }], is_sparse: false }
    }

    /// Returns the map of a file whose data are in `extents`, which must ascend and lie inside `size`.
    pub(super) fn sparse(size: u64, extents: &[Extent]) -> Self {
        let block = BLOCK as u64;
        let mut runs: Vec<Extent> = Vec::with_capacity(extents.len());
        for extent in extents {
            let start = extent.offset - extent.offset % block;
            let end = (extent.offset + extent.length).checked_next_multiple_of(block).map_or(size, |end| end.min(size));
            match runs.last_mut() {
                Some(last) if last.offset + last.length >= start => last.length = end - last.offset,
                _ => runs.push(Extent { offset: start, length: end - start }),
            }
        }
        Self { size, runs, is_sparse: true }
    }

    pub(super) fn runs(&self) -> &[Extent] {
        &self.runs
    }

    /// Returns the number of data bytes in the archive.
    pub(super) fn data_length(&self) -> u64 {
        self.runs.iter().map(|run| run.length).sum()
    }

    /// Returns the text that precedes the data of a sparse file, or `None` for a file without holes.
    pub(super) fn render(&self) -> Option<Vec<u8>> {
        if !self.is_sparse {
            return None;
        }
        // GNU tar takes the size from the last run, so a file that ends in a hole gets an empty run at its end.
        let end = self.runs.last().map_or(0, |run| run.offset + run.length);
        let mark = (end < self.size).then_some(Extent { offset: self.size, length: 0 });
        let lines = self.runs.iter().chain(&mark).flat_map(|run| [run.offset, run.length]);
        let count = self.runs.len() as u64 + u64::from(mark.is_some());
        let mut text = String::new();
        for number in std::iter::once(count).chain(lines) {
            text.push_str(&number.to_string());
            text.push('\n');
        }
        let mut text = text.into_bytes();
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn runs_are_widened_to_blocks_and_joined() {
        let map = DataMap::sparse(5000, &[run(1, 10), run(600, 10), run(1500, 10), run(4900, 100)]);
        assert_eq!(map.runs(), [run(0, 1536), run(4608, 392)]);
        let map = DataMap::sparse(1000, &[run(0, 1)]);
        let text = map.render().expect("sparse");
        assert_eq!(text.len(), BLOCK);
        assert!(text.starts_with(b"2\n0\n512\n1000\n0\n\0"), "{}", text.escape_ascii());
        assert!(DataMap::sparse(1000, &[]).render().is_some_and(|text| text.starts_with(b"1\n1000\n0\n\0")));
        assert_eq!(DataMap::dense(7).render(), None);
    }
}
