//! Which parts of which files are read, in the order of the first time: what a profile is made of.
//!
//! Only what reaches the filesystem is seen. What the kernel has in its cache is read without a word, so that whoever
//! records begins with an empty cache.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::image::{Image, ImageError, Ino};
use crate::model::{BLOCK_SIZE, LARGE_OBJECT};
use crate::remote::format::{ProfileLine, ProfileText};

/// What was read so far.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    seen: HashSet<(Ino, u32)>,
    /// In order; of small files all, of large ones blocks.
    reads: Vec<Read>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read {
    ino: Ino,
    first: u32,
    /// 0 for all of it.
    blocks: u32,
}

impl Recorder {
    /// Notes a read of `length` bytes at `offset` of a file with `size` bytes.
    pub(super) fn note(&self, ino: Ino, size: u64, offset: u64, length: u64) {
        let mut state = self.0.lock();
        if size <= LARGE_OBJECT {
            if state.seen.insert((ino, 0)) {
                state.reads.push(Read { ino, first: 0, blocks: 0 });
            }
            return;
        }
        let block = |at: u64| u32::try_from(at / BLOCK_SIZE).unwrap_or(u32::MAX);
        for block in block(offset)..=block((offset + length).saturating_sub(1)) {
            if !state.seen.insert((ino, block)) {
                continue;
            }
            match state.reads.last_mut() {
                Some(last) if last.ino == ino && last.first + last.blocks == block => last.blocks += 1,
                _ => state.reads.push(Read { ino, first: block, blocks: 1 }),
            }
        }
    }

    /// How many different things were read. Grows with each.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().seen.len()
    }

    /// The profile so far. Files that are read as a whole, if in pieces, are lines of their blocks.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged, or what is needed of it is not here.
    pub fn profile(&self, image: &Image) -> Result<ProfileText, ImageError> {
        let reads = self.0.lock().reads.clone();
        let line = |read: Read| Ok(ProfileLine { path: image.path(read.ino)?, first: read.first, blocks: read.blocks });
        Ok(ProfileText { lines: reads.into_iter().map(line).collect::<Result<_, ImageError>>()? })
    }
}
