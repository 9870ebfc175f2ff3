//! The inodes that are open in passthrough mode, each with what the kernel reads it from, so that the next worker answers
//! the next open as this one would have: the kernel refuses anything else.
//!
//! ```text
//! inode (0: free) · number of the backing file (0: none, the page cache) << 32 | how often it is open
//! ```
//!
//! An entry becomes true by its inode and false by it too; in between it changes by one store.

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::sys::Words;

pub(super) const WORDS: usize = 2;

/// The entries. Written by one process at a time, except while one worker makes room for the next.
pub(in crate::fuse) struct OpenTable {
    words: Words,
    range: Range<usize>,
}

/// One inode that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) struct OpenEntry {
    pub place: u32,
    pub node: u64,
    pub backing: Option<NonZeroU32>,
    pub opens: u32,
}

impl OpenTable {
    pub(super) const fn new(words: Words, range: Range<usize>) -> Self {
        Self { words, range }
    }

    /// How many entries there is room for.
    pub fn capacity(&self) -> u32 {
        u32::try_from(self.range.len() / WORDS).unwrap_or(u32::MAX)
    }

    /// How many places were ever used: they are given out from the start, and a used one never becomes all zero again.
    pub fn used(&self) -> u32 {
        (0..self.capacity()).take_while(|place| self.read(*place) != (0, 0)).count() as u32
    }

    /// What is there.
    pub fn entries(&self) -> Vec<OpenEntry> {
        let entry = |place| match self.read(place) {
            (0, _) => None,
            (node, value) => {
                let (backing, opens) = (NonZeroU32::new((value >> 32) as u32), value as u32);
                Some(OpenEntry { place, node, backing, opens })
            }
        };
        (0..self.used()).filter_map(entry).collect()
    }

    fn read(&self, place: u32) -> (u64, u64) {
        (self.word(place, 0).load(Ordering::Acquire), self.word(place, 1).load(Ordering::Acquire))
    }

    /// Writes an entry that is new, or has changed.
    pub fn write(&self, entry: OpenEntry) {
        let backing = entry.backing.map_or(0, NonZeroU32::get);
        self.word(entry.place, 1).store(u64::from(backing) << 32 | u64::from(entry.opens), Ordering::Release);
        self.word(entry.place, 0).store(entry.node, Ordering::Release);
    }

    /// Makes a place free, and leaves a trace of its having been used.
    pub fn free(&self, place: u32) {
        self.word(place, 0).store(0, Ordering::Release);
        self.word(place, 1).store(u64::MAX, Ordering::Release);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for entry in self.entries() {
            self.free(entry.place);
        }
    }

    fn word(&self, place: u32, word: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[self.range.start + place as usize * WORDS + word]
    }
}
