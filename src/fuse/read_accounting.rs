//! Counts the bytes that each process reads of a lazy mount, to find processes that read everything, such as a search index
//! or a backup.
//!
//! *Not here*: the list of these processes, which outlives workers (`shared::readers`).
//!
//! *Invariant*: constant memory, whatever the number of processes.
//!
//! *Used by* `operations`.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use super::shared::SharedState;

/// A process that has read this many bytes is a bulk reader.
const BULK_READ_MIN: u64 = 32 << 20;

/// Largest number of processes whose bytes are counted: those that read last.
const RECENT_MAX: usize = 32;

#[derive(Debug, Clone, Copy)]
struct ProcessReads {
    pid: u32,
    /// Bytes since this worker started, or since the process left the list of recent ones.
    bytes: u64,
}

/// The bytes that the most recent readers have read.
#[derive(Debug)]
pub(super) struct ReadAccounting {
    /// The most recent readers; the last one is first.
    recent: Mutex<Vec<ProcessReads>>,
    shared: SharedState,
    /// The pipe on which a byte makes the supervisor read the shared pages.
    wake: Option<OwnedFd>,
}

impl ReadAccounting {
    pub(super) fn new(shared: &SharedState, wake: Option<OwnedFd>) -> Self {
        Self { recent: Mutex::new(Vec::with_capacity(RECENT_MAX)), shared: shared.clone(), wake }
    }

    /// Records that a process has read `bytes`. The kernel's own readahead has the process number 0 and is not counted.
    pub(super) fn add_read(&self, pid: u32, bytes: usize) {
        if pid == 0 {
            return;
        }
        let mut recent = self.recent.lock();
        let position = recent.iter().position(|reader| reader.pid == pid).unwrap_or_else(|| {
            recent.truncate(RECENT_MAX - 1);
            recent.push(ProcessReads { pid, bytes: 0 });
            recent.len() - 1
        });
        recent[..=position].rotate_right(1);
        let (before, bytes) = (recent[0].bytes, bytes as u64);
        recent[0].bytes = before + bytes;
        let total = recent[0].bytes;
        drop(recent);
        if total < BULK_READ_MIN {
            return;
        }
        // The list adds up the bytes that several workers counted.
        let not_listed_yet = if before < BULK_READ_MIN { total } else { bytes };
        if self.shared.add_reader_bytes(pid, not_listed_yet) {
            // Without the byte the reader only lacks a name.
            let _ = self.wake.as_ref().map(|wake| rustix::io::write(wake, b"n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bulk_readers_are_listed() {
        let shared = SharedState::create().expect("enough memory");
        let accounting = ReadAccounting::new(&shared, None);
        for number in 0..100_000 {
            accounting.add_read(1000 + number % 20, 1);
            accounting.add_read(7, 4096);
            accounting.add_read(0, 1 << 30);
        }
        let found: Vec<(u32, u64)> =
            shared.bulk_readers().into_iter().map(|reader| (reader.pid, reader.bytes)).collect();
        assert_eq!(found, [(7, 409_600_000)]);
        assert!((0..1000).all(|pid| {
            accounting.add_read(pid + 10_000, 1);
            accounting.recent.lock().len() <= RECENT_MAX
        }));
    }

    #[test]
    fn bytes_of_earlier_workers_are_added() {
        let shared = SharedState::create().expect("enough memory");
        for _ in 0..3 {
            let accounting = ReadAccounting::new(&shared, None);
            (0..100).for_each(|_| accounting.add_read(7, 1 << 20));
        }
        let bytes: Vec<u64> = shared.bulk_readers().into_iter().map(|reader| reader.bytes).collect();
        assert_eq!(bytes, [300 << 20]);
    }
}
