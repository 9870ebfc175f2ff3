//! Which open files the kernel reads from their objects by itself, and which it reads through us.
//!
//! The kernel allows one way per inode at a time: a cached open while a passed-through one is alive, or the reverse, fails
//! with EIO, and so do two different backing files. So the way is chosen by whoever opens an inode first and kept until
//! its last RELEASE. The kernel drops its own record before it sends RELEASE and makes its record only after our answer
//! to OPEN, so a count kept between the two covers the kernel's.
//!
//! Knows neither objects nor FUSE: how a backing file is registered is the caller's, which also makes this testable.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Who reads the bytes of an open inode.
#[derive(Debug)]
pub enum Reader<B> {
    /// The kernel, from this backing file.
    Kernel(Arc<B>),
    /// The kernel's page cache, filled by us.
    Daemon,
}

impl<B> Clone for Reader<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Kernel(backing) => Self::Kernel(Arc::clone(backing)),
            Self::Daemon => Self::Daemon,
        }
    }
}

struct Slot<B> {
    reader: Reader<B>,
    opens: u64,
}

/// The inodes that are open, each with its one reader.
pub struct OpenInodes<B>(Mutex<HashMap<u64, Slot<B>>>);

impl<B> Default for OpenInodes<B> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<B> OpenInodes<B> {
    /// Counts one more open of `node` and says who reads it. `register` is asked for a backing file only when the inode
    /// is not open; it runs without the lock, so two first openers may both register: the first to come back decides
    /// for both, and the other registration is dropped unused.
    pub fn open(&self, node: u64, register: impl FnOnce() -> Option<B>) -> Reader<B> {
        if let Some(slot) = self.0.lock().get_mut(&node) {
            slot.opens += 1;
            return slot.reader.clone();
        }
        let registered = register().map_or(Reader::Daemon, |backing| Reader::Kernel(Arc::new(backing)));
        let mut slots = self.0.lock();
        let slot = slots.entry(node).or_insert_with(|| Slot { reader: registered.clone(), opens: 0 });
        slot.opens += 1;
        let reader = slot.reader.clone();
        // Released first: dropping a superfluous registration is a system call.
        drop(slots);
        reader
    }

    /// Counts one open of `node` less; with the last, its backing file is let go.
    pub fn release(&self, node: u64) {
        let mut slots = self.0.lock();
        let Some(slot) = slots.get_mut(&node) else { return };
        slot.opens -= 1;
        let last = if slot.opens == 0 { slots.remove(&node) } else { None };
        drop(slots);
        drop(last);
    }

    /// How many inodes are open.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// What the kernel would say to an answer, as read in its source (fs/fuse/iomode.c).
    #[derive(Default)]
    struct Kernel(HashMap<u64, Vec<Option<u64>>>);

    impl Kernel {
        /// Whether the open is refused with EIO.
        fn refuses(&mut self, node: u64, backing: Option<u64>) -> bool {
            let open = self.0.entry(node).or_default();
            let refused = open.first().is_some_and(|first| *first != backing);
            open.push(backing);
            refused
        }
    }

    fn identity(reader: &Reader<u64>) -> Option<u64> {
        match reader {
            Reader::Kernel(backing) => Some(**backing),
            Reader::Daemon => None,
        }
    }

    proptest! {
        /// Any order of opens and releases, backing files coming and going in between (an object may move into a pack
        /// or out of it while it is open).
        #[test]
        fn the_kernel_never_refuses_an_open(steps in prop::collection::vec((0_u64..4, 0_u8..3), 0..200)) {
            let inodes = OpenInodes::default();
            let mut kernel = Kernel::default();
            let mut next = 0;
            for (node, step) in steps {
                if step == 0 {
                    if kernel.0.entry(node).or_default().pop().is_some() {
                        inodes.release(node);
                    }
                    continue;
                }
                next += 1;
                let reader = inodes.open(node, || (step == 1).then_some(next));
                prop_assert!(!kernel.refuses(node, identity(&reader)));
            }
            prop_assert_eq!(inodes.len(), kernel.0.values().filter(|open| !open.is_empty()).count());
        }
    }

    #[test]
    fn concurrent_first_opens_agree_and_everything_is_let_go() {
        let inodes = OpenInodes::<AtomicU64>::default();
        let registered = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..2000_u64 {
                        let node = round % 3;
                        let mixed = registered.fetch_add(1, Ordering::Relaxed);
                        let reader = inodes.open(node, || mixed.is_multiple_of(2).then(|| AtomicU64::new(mixed)));
                        let again = inodes.open(node, || Some(AtomicU64::new(u64::MAX)));
                        match (&reader, &again) {
                            (Reader::Kernel(one), Reader::Kernel(two)) => assert!(Arc::ptr_eq(one, two)),
                            (Reader::Daemon, Reader::Daemon) => {}
                            _ => panic!("two readers of one open inode"),
                        }
                        inodes.release(node);
                        inodes.release(node);
                    }
                });
            }
        });
        assert_eq!(inodes.len(), 0);
    }

    #[test]
    fn a_release_too_many_is_ignored() {
        OpenInodes::<()>::default().release(7);
    }
}
