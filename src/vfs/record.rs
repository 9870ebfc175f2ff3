//! Records which parts of which files are read, in the order of the first read: the source of a profile.
//!
//! *Not here*: reads that the kernel answers from its page cache, which never reach the filesystem. A recording therefore has
//! to start with an empty cache.
//!
//! *Used by* `vfs`, `fuse` and `cli`.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::image::{Image, ImageError, Ino};
use crate::model::{BLOCK_SIZE, LARGE_OBJECT};
use crate::remote::format::{ProfileLine, ProfileText};

/// The reads of one filesystem so far.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    seen: HashSet<(Ino, u32)>,
    /// In the order of the first read: a small file as a whole, a large one by runs of blocks.
    reads: Vec<RecordedRead>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecordedRead {
    ino: Ino,
    first_block: u32,
    /// Number of blocks from `first` on; 0 for the whole file.
    block_count: u32,
}

impl Recorder {
    /// Records a read of `length` bytes at `offset` of a file with `size` bytes.
    pub(super) fn note(&self, ino: Ino, size: u64, offset: u64, length: u64) {
        let mut state = self.0.lock();
        if size <= LARGE_OBJECT {
            if state.seen.insert((ino, 0)) {
                state.reads.push(RecordedRead { ino, first_block: 0, block_count: 0 });
            }
            return;
        }
        let block = |at: u64| u32::try_from(at / BLOCK_SIZE).unwrap_or(u32::MAX);
        for block in block(offset)..=block((offset + length).saturating_sub(1)) {
            if !state.seen.insert((ino, block)) {
                continue;
            }
            match state.reads.last_mut() {
                Some(last) if last.ino == ino && last.first_block + last.block_count == block => last.block_count += 1,
                _ => state.reads.push(RecordedRead { ino, first_block: block, block_count: 1 }),
            }
        }
    }

    /// Returns how many different small files and blocks were read.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().seen.len()
    }

    /// Returns the profile of all reads so far. A large file is listed by its blocks, even if all of them were read.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged, or a block of it that is needed is absent.
    pub(crate) fn profile(&self, image: &Image) -> Result<ProfileText, ImageError> {
        let reads = self.0.lock().reads.clone();
        let line = |read: RecordedRead| {
            Ok(ProfileLine { path: image.path(read.ino)?, first: read.first_block, blocks: read.block_count })
        };
        Ok(ProfileText { lines: reads.into_iter().map(line).collect::<Result<_, ImageError>>()? })
    }
}
