//! The inodes that are open in passthrough mode, and for each whether the kernel reads its object file itself or through the
//! worker.
//!
//! The kernel allows one read path per inode at a time: a cached open while a passed-through one exists, or the reverse,
//! fails with EIO, and so do two different backing files. So the first open of an inode determines the read path until the
//! last RELEASE. The kernel drops its record before it sends RELEASE and makes its record only after the reply to OPEN, so
//! a count that is increased before that reply and decreased after RELEASE covers the kernel's.
//!
//! *Not here*: objects and FUSE. The caller registers backing files, which also makes this module testable.
//!
//! *Invariants*: each change is written into a table that outlives the worker. After a crash a count may be too high (an
//! open was counted, its reply was lost, and the resent OPEN is counted again), which keeps a backing file registered until
//! the end of the mount. It is never too low, since a release is counted after its reply.
//!
//! *Used by* `adapter`.

use std::collections::HashMap;
use std::num::NonZeroU32;

use parking_lot::Mutex;

use super::shared::{OpenEntry, OpenTable};

/// The read path of an open inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadPath {
    /// The kernel reads the backing file of this number.
    Backing(NonZeroU32),
    /// The kernel fills its page cache by reading through the worker.
    Worker,
}

/// The result of an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenOutcome {
    /// The read path of the inode.
    pub(crate) read_path: ReadPath,
    /// A backing file that was registered without being needed. The caller closes it.
    pub(crate) unneeded_backing: Option<NonZeroU32>,
}

/// The error that the table of open inodes is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyOpen;

/// The open inodes, each with its read path.
pub(crate) struct OpenInodes {
    table: OpenTable,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, OpenEntry>,
    free: Vec<u32>,
    /// The first slot that was never used.
    first_unused: u32,
}

impl State {
    fn take_slot(&mut self, capacity: u32) -> Result<u32, TooManyOpen> {
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        if self.first_unused == capacity {
            return Err(TooManyOpen);
        }
        self.first_unused += 1;
        Ok(self.first_unused - 1)
    }
}

impl OpenInodes {
    /// Continues with the inodes that are open according to `table`.
    pub(crate) fn resume(table: OpenTable) -> Self {
        let entries: HashMap<u64, OpenEntry> = table.entries().into_iter().map(|entry| (entry.node, entry)).collect();
        let first_unused = table.used_slots();
        let used: std::collections::HashSet<u32> = entries.values().map(|entry| entry.slot).collect();
        let free = (0..first_unused).filter(|slot| !used.contains(slot)).collect();
        Self { table, state: Mutex::new(State { entries, free, first_unused }) }
    }

    /// Counts one more open of `node` and returns its read path. `register` is called for a backing file only when the inode
    /// is not open. It runs without the lock, so two concurrent first opens may both register: the first that takes the lock
    /// again decides for both, and the other backing file is unneeded.
    pub(crate) fn open(
        &self,
        node: u64,
        register: impl FnOnce() -> Option<NonZeroU32>,
    ) -> Result<OpenOutcome, TooManyOpen> {
        if let Some(read_path) = self.count_if_open(node) {
            return Ok(OpenOutcome { read_path, unneeded_backing: None });
        }
        let backing = register();
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.get_mut(&node) {
            return Ok(OpenOutcome { read_path: self.count_open(entry), unneeded_backing: backing });
        }
        let entry = OpenEntry { slot: state.take_slot(self.table.capacity())?, node, backing, opens: 1 };
        state.entries.insert(node, entry);
        self.table.write(entry);
        Ok(OpenOutcome { read_path: read_path(&entry), unneeded_backing: None })
    }

    fn count_if_open(&self, node: u64) -> Option<ReadPath> {
        self.state.lock().entries.get_mut(&node).map(|entry| self.count_open(entry))
    }

    fn count_open(&self, entry: &mut OpenEntry) -> ReadPath {
        entry.opens = entry.opens.saturating_add(1);
        self.table.write(*entry);
        read_path(entry)
    }

    /// Counts one open of `node` less; to be called after the reply. For the last open, returns the backing file that the
    /// caller has to close.
    pub(crate) fn release(&self, node: u64) -> Option<NonZeroU32> {
        let mut state = self.state.lock();
        let entry = state.entries.get_mut(&node)?;
        entry.opens = entry.opens.saturating_sub(1);
        if entry.opens > 0 {
            self.table.write(*entry);
            return None;
        }
        let entry = state.entries.remove(&node)?;
        self.table.free(entry.slot);
        state.free.push(entry.slot);
        entry.backing
    }

    /// Returns the number of open inodes.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().entries.len()
    }
}

const fn read_path(entry: &OpenEntry) -> ReadPath {
    match entry.backing {
        Some(number) => ReadPath::Backing(number),
        None => ReadPath::Worker,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::fuse::SharedState;

    /// A model of the kernel's reaction to a reply, after its source (fs/fuse/iomode.c).
    #[derive(Default)]
    struct KernelModel(HashMap<u64, Vec<ReadPath>>);

    impl KernelModel {
        /// Returns whether the kernel refuses the open with EIO.
        fn refuses(&mut self, node: u64, read_path: ReadPath) -> bool {
            let open = self.0.entry(node).or_default();
            let refused = open.first().is_some_and(|first| *first != read_path);
            open.push(read_path);
            refused
        }
    }

    fn table() -> (SharedState, OpenInodes) {
        let shared = SharedState::create().expect("enough memory");
        let inodes = OpenInodes::resume(shared.open_table());
        (shared, inodes)
    }

    proptest! {
        /// Any order of opens and releases, while backing files become available and unavailable (an object may move into
        /// a pack or out of it while it is open) and workers are replaced.
        #[test]
        fn kernel_never_refuses_an_open(steps in prop::collection::vec((1_u64..5, 0_u8..5), 0..200)) {
            let (shared, mut inodes) = table();
            let mut kernel = KernelModel::default();
            // Counts that are too high because a reply was lost.
            let mut lost: HashMap<u64, usize> = HashMap::new();
            for (next, (node, step)) in (1..).zip(steps) {
                let register = || NonZeroU32::new(next).filter(|_| step != 2);
                match step {
                    0 => if kernel.0.entry(node).or_default().pop().is_some() {
                        inodes.release(node);
                    },
                    // The worker is killed after it counted an open and before its reply; the next one opens again.
                    3 => {
                        inodes.open(node, register).expect("the table is not full");
                        *lost.entry(node).or_default() += 1;
                        inodes = OpenInodes::resume(shared.open_table());
                        let opened = inodes.open(node, || NonZeroU32::new(next + 1000)).expect("the table is not full");
                        prop_assert!(!kernel.refuses(node, opened.read_path));
                    }
                    // The worker is killed after its reply to a release and before it counted the release.
                    4 => if kernel.0.entry(node).or_default().pop().is_some() {
                        *lost.entry(node).or_default() += 1;
                        inodes = OpenInodes::resume(shared.open_table());
                    },
                    _ => {
                        let opened = inodes.open(node, register).expect("the table is not full");
                        prop_assert!(!kernel.refuses(node, opened.read_path));
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
    fn concurrent_first_opens_agree_and_release_everything() {
        let (shared, inodes) = table();
        let (registered, closed) = (AtomicU32::new(0), AtomicU32::new(0));
        let close = |number: Option<NonZeroU32>| _ = closed.fetch_add(u32::from(number.is_some()), Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..2000_u64 {
                        let node = 1 + round % 3;
                        let register = || NonZeroU32::new(registered.fetch_add(1, Ordering::Relaxed) + 1);
                        let one = inodes.open(node, register).expect("the table is not full");
                        let two = inodes.open(node, register).expect("the table is not full");
                        assert_eq!(one.read_path, two.read_path, "two read paths of one open inode");
                        [one.unneeded_backing, two.unneeded_backing, inodes.release(node), inodes.release(node)]
                            .into_iter()
                            .for_each(close);
                    }
                });
            }
        });
        assert_eq!(inodes.len(), 0);
        assert_eq!(shared.open_table().entries(), []);
        assert_eq!(registered.into_inner(), closed.into_inner(), "each backing file is closed once");
    }

    #[test]
    fn surplus_release_is_ignored_and_slots_are_reused() {
        let (shared, inodes) = table();
        assert_eq!(inodes.release(7), None);
        for node in 1..1000 {
            inodes.open(node, || None).expect("the table is not full");
            inodes.open(node + 1, || NonZeroU32::new(9)).expect("the table is not full");
            inodes.release(node);
        }
        let inodes = OpenInodes::resume(shared.open_table());
        assert_eq!(inodes.len(), 999);
        assert_eq!(inodes.state.lock().first_unused, 999, "one slot was used twice");
    }
}
