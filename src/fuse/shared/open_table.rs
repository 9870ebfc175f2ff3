//! The table of the inodes that are open in passthrough mode, each with its backing file, so that the next worker replies to
//! an open with the same read path: the kernel refuses any other.
//!
//! *Not here*: the choice of the read path (`passthrough`).
//!
//! *Invariant*: an entry becomes valid, and invalid, by a single store of its inode; in between it changes by a single store.
//!
//! *Used by* `passthrough`.
//!
//! ```text
//! inode (0: free) · number of the backing file (0: none, the page cache) << 32 | number of opens
//! ```

use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::sys::SharedWords;

pub(super) const ENTRY_WORDS: usize = 2;

/// The table of open inodes. One process writes it at a time, except while one worker drains and the next one serves.
pub(crate) struct OpenTable {
    words: SharedWords,
    range: Range<usize>,
}

/// One open inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenEntry {
    pub(crate) slot: u32,
    pub(crate) node: u64,
    pub(crate) backing: Option<NonZeroU32>,
    pub(crate) opens: u32,
}

impl OpenTable {
    pub(super) const fn new(words: SharedWords, range: Range<usize>) -> Self {
        Self { words, range }
    }

    /// Returns the largest number of entries.
    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.range.len() / ENTRY_WORDS).unwrap_or(u32::MAX)
    }

    /// Returns how many slots were ever used: they are taken in order, and a used one never becomes all zero again.
    pub(crate) fn used_slots(&self) -> u32 {
        (0..self.capacity()).take_while(|slot| self.read(*slot) != (0, 0)).count() as u32
    }

    pub(crate) fn entries(&self) -> Vec<OpenEntry> {
        let entry = |slot| match self.read(slot) {
            (0, _) => None,
            (node, value) => {
                let (backing, opens) = (NonZeroU32::new((value >> 32) as u32), value as u32);
                Some(OpenEntry { slot, node, backing, opens })
            }
        };
        (0..self.used_slots()).filter_map(entry).collect()
    }

    fn read(&self, slot: u32) -> (u64, u64) {
        (self.word(slot, 0).load(Ordering::Acquire), self.word(slot, 1).load(Ordering::Acquire))
    }

    /// Writes a new or changed entry.
    pub(crate) fn write(&self, entry: OpenEntry) {
        let backing = entry.backing.map_or(0, NonZeroU32::get);
        self.word(entry.slot, 1).store(u64::from(backing) << 32 | u64::from(entry.opens), Ordering::Release);
        self.word(entry.slot, 0).store(entry.node, Ordering::Release);
    }

    /// Frees a slot. Its second word marks it as used before.
    pub(crate) fn free(&self, slot: u32) {
        self.word(slot, 0).store(0, Ordering::Release);
        self.word(slot, 1).store(u64::MAX, Ordering::Release);
    }

    /// Frees all slots.
    pub(super) fn clear(&self) {
        for entry in self.entries() {
            self.free(entry.slot);
        }
    }

    fn word(&self, slot: u32, word: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[self.range.start + slot as usize * ENTRY_WORDS + word]
    }
}
