//! Which open files the kernel reads from their objects by itself, and which it reads through us.
//!
//! The kernel allows one way per inode at a time: a cached open while a passed-through one is alive, or the reverse, fails
//! with EIO, and so do two different backing files. So the way is chosen by whoever opens an inode first and kept until
//! its last RELEASE. The kernel drops its own record before it sends RELEASE and makes its record only after our answer
//! to OPEN, so a count kept between the two covers the kernel's.
//!
//! All of it is written into a table that outlives this process. Whoever is killed may have counted an open whose answer
//! never left, and then counts it again when it comes again, but never a release twice: that one is counted after its
//! answer. So a count may be too high after a crash, which keeps a registration until the end, and never too low.
//!
//! Knows neither objects nor FUSE: how a backing file is registered is the caller's, which also makes this testable.

use std::collections::HashMap;
use std::num::NonZeroU32;

use parking_lot::Mutex;

use super::board::{OpenEntry, OpenTable};

/// Who reads the bytes of an open inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The kernel, from the backing file of this number.
    Kernel(NonZeroU32),
    /// The kernel's page cache, filled by us.
    Daemon,
}

/// What came of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Who reads.
    pub reader: Reader,
    /// A registration that turned out not to be needed and is to be ended.
    pub surplus: Option<NonZeroU32>,
}

/// More inodes are open than there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

/// The inodes that are open, each with its one reader.
pub struct OpenInodes {
    table: OpenTable,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, OpenEntry>,
    free: Vec<u32>,
    /// The first place that was never used.
    fresh: u32,
}

impl State {
    fn place(&mut self, capacity: u32) -> Result<u32, TooMany> {
        if let Some(place) = self.free.pop() {
            return Ok(place);
        }
        if self.fresh == capacity {
            return Err(TooMany);
        }
        self.fresh += 1;
        Ok(self.fresh - 1)
    }
}

impl OpenInodes {
    /// Those that `table` says are open.
    pub fn resume(table: OpenTable) -> Self {
        let entries: HashMap<u64, OpenEntry> = table.entries().into_iter().map(|entry| (entry.node, entry)).collect();
        let fresh = table.used();
        let taken: std::collections::HashSet<u32> = entries.values().map(|entry| entry.place).collect();
        let free = (0..fresh).filter(|place| !taken.contains(place)).collect();
        Self { table, state: Mutex::new(State { entries, free, fresh }) }
    }

    /// Counts one more open of `node` and says who reads it. `register` is asked for a backing file only when the inode
    /// is not open; it runs without the lock, so two first openers may both register: the first to come back decides
    /// for both, and the other registration is surplus.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn open(&self, node: u64, register: impl FnOnce() -> Option<NonZeroU32>) -> Result<Opened, TooMany> {
        if let Some(reader) = self.open_again(node) {
            return Ok(Opened { reader, surplus: None });
        }
        let backing = register();
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.get_mut(&node) {
            return Ok(Opened { reader: self.count(entry), surplus: backing });
        }
        let entry = OpenEntry { place: state.place(self.table.capacity())?, node, backing, opens: 1 };
        state.entries.insert(node, entry);
        self.table.write(entry);
        Ok(Opened { reader: reader(&entry), surplus: None })
    }

    fn open_again(&self, node: u64) -> Option<Reader> {
        self.state.lock().entries.get_mut(&node).map(|entry| self.count(entry))
    }

    fn count(&self, entry: &mut OpenEntry) -> Reader {
        entry.opens = entry.opens.saturating_add(1);
        self.table.write(*entry);
        reader(entry)
    }

    /// Counts one open of `node` less, after the kernel has its answer. With the last, returns the registration to be
    /// ended.
    pub fn release(&self, node: u64) -> Option<NonZeroU32> {
        let mut state = self.state.lock();
        let entry = state.entries.get_mut(&node)?;
        entry.opens = entry.opens.saturating_sub(1);
        if entry.opens > 0 {
            self.table.write(*entry);
            return None;
        }
        let entry = state.entries.remove(&node)?;
        self.table.free(entry.place);
        state.free.push(entry.place);
        entry.backing
    }

    /// How many inodes are open.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().entries.len()
    }
}

const fn reader(entry: &OpenEntry) -> Reader {
    match entry.backing {
        Some(number) => Reader::Kernel(number),
        None => Reader::Daemon,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::fuse::Board;

    /// What the kernel would say to an answer, as read in its source (fs/fuse/iomode.c).
    #[derive(Default)]
    struct Kernel(HashMap<u64, Vec<Reader>>);

    impl Kernel {
        /// Whether the open is refused with EIO.
        fn refuses(&mut self, node: u64, reader: Reader) -> bool {
            let open = self.0.entry(node).or_default();
            let refused = open.first().is_some_and(|first| *first != reader);
            open.push(reader);
            refused
        }
    }

    fn table() -> (Board, OpenInodes) {
        let board = Board::create().expect("memory");
        let inodes = OpenInodes::resume(board.opened());
        (board, inodes)
    }

    proptest! {
        /// Any order of opens and releases, backing files coming and going in between (an object may move into a pack
        /// or out of it while it is open), and one worker after the other.
        #[test]
        fn the_kernel_never_refuses_an_open(steps in prop::collection::vec((1_u64..5, 0_u8..5), 0..200)) {
            let (board, mut inodes) = table();
            let mut kernel = Kernel::default();
            // Counts that were too high because the answer never left.
            let mut lost: HashMap<u64, usize> = HashMap::new();
            for (next, (node, step)) in (1..).zip(steps) {
                let register = || NonZeroU32::new(next).filter(|_| step != 2);
                match step {
                    0 => if kernel.0.entry(node).or_default().pop().is_some() {
                        inodes.release(node);
                    },
                    // Killed after counting an open and before answering it; the next does it again.
                    3 => {
                        inodes.open(node, register).expect("there is room");
                        *lost.entry(node).or_default() += 1;
                        inodes = OpenInodes::resume(board.opened());
                        let opened = inodes.open(node, || NonZeroU32::new(next + 1000)).expect("there is room");
                        prop_assert!(!kernel.refuses(node, opened.reader));
                    }
                    // Killed after answering a release and before counting it.
                    4 => if kernel.0.entry(node).or_default().pop().is_some() {
                        *lost.entry(node).or_default() += 1;
                        inodes = OpenInodes::resume(board.opened());
                    },
                    _ => {
                        let opened = inodes.open(node, register).expect("there is room");
                        prop_assert!(!kernel.refuses(node, opened.reader));
                    }
                }
            }
            let open = (1..5).filter(|node| {
                !kernel.0.get(node).is_none_or(Vec::is_empty) || lost.contains_key(node)
            });
            prop_assert_eq!(inodes.len(), open.count());
        }
    }

    #[test]
    fn concurrent_first_opens_agree_and_everything_is_let_go() {
        let (board, inodes) = table();
        let (registered, ended) = (AtomicU32::new(0), AtomicU32::new(0));
        let end = |number: Option<NonZeroU32>| _ = ended.fetch_add(u32::from(number.is_some()), Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..2000_u64 {
                        let node = 1 + round % 3;
                        let register = || NonZeroU32::new(registered.fetch_add(1, Ordering::Relaxed) + 1);
                        let one = inodes.open(node, register).expect("there is room");
                        let two = inodes.open(node, register).expect("there is room");
                        assert_eq!(one.reader, two.reader, "two readers of one open inode");
                        [one.surplus, two.surplus, inodes.release(node), inodes.release(node)]
                            .into_iter()
                            .for_each(end);
                    }
                });
            }
        });
        assert_eq!(inodes.len(), 0);
        assert_eq!(board.opened().entries(), []);
        assert_eq!(registered.into_inner(), ended.into_inner(), "each registration is ended once");
    }

    #[test]
    fn a_release_too_many_is_ignored_and_places_are_used_again() {
        let (board, inodes) = table();
        assert_eq!(inodes.release(7), None);
        for node in 1..1000 {
            inodes.open(node, || None).expect("there is room");
            inodes.open(node + 1, || NonZeroU32::new(9)).expect("there is room");
            inodes.release(node);
        }
        let inodes = OpenInodes::resume(board.opened());
        assert_eq!(inodes.len(), 999);
        assert_eq!(inodes.state.lock().fresh, 999, "one place was used twice");
    }
}
