//! Counts the bytes that each process reads of a mount whose contents are fetched as they are read.
//!
//! Purpose: find the processes that read everything, as a search index or a backup does. Not here: the list of them, which
//! outlives workers, see `board::readers`. Invariant: constant memory, whatever the number of processes. Used by `answers`.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use super::board::Board;

/// A process that has read so many bytes is one that reads much.
const MUCH: u64 = 32 << 20;

/// Processes whose bytes are counted: the last ones that read.
const RECENT_MAX: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Reader {
    pid: u32,
    /// Since this worker began, or since the process was forgotten for others.
    bytes: u64,
}

/// The bytes that the last processes have read.
#[derive(Debug)]
pub(super) struct ReadAccounting {
    /// The process that read last is first.
    recent: Mutex<Vec<Reader>>,
    board: Board,
    /// Where the supervisor is told to look at the board.
    wake: Option<OwnedFd>,
}

impl ReadAccounting {
    pub(super) fn new(board: &Board, wake: Option<OwnedFd>) -> Self {
        Self { recent: Mutex::new(Vec::with_capacity(RECENT_MAX)), board: board.clone(), wake }
    }

    /// Notes that a process has read so many bytes. Reads ahead of the kernel's own have the process 0 and count for none.
    pub(super) fn note(&self, pid: u32, bytes: usize) {
        if pid == 0 {
            return;
        }
        let mut recent = self.recent.lock();
        let place = recent.iter().position(|reader| reader.pid == pid).unwrap_or_else(|| {
            recent.truncate(RECENT_MAX - 1);
            recent.push(Reader { pid, bytes: 0 });
            recent.len() - 1
        });
        recent[..=place].rotate_right(1);
        let (before, bytes) = (recent[0].bytes, bytes as u64);
        recent[0].bytes = before + bytes;
        let total = recent[0].bytes;
        drop(recent);
        if total < MUCH {
            return;
        }
        // The list adds up what several workers counted.
        let not_listed_yet = if before < MUCH { total } else { bytes };
        if self.board.note_reader(pid, not_listed_yet) {
            // A name that is not looked up does no harm.
            let _ = self.wake.as_ref().map(|wake| rustix::io::write(wake, b"n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_reads_much_is_noted_among_many_who_read_little() {
        let board = Board::create().expect("memory");
        let reading = ReadAccounting::new(&board, None);
        for number in 0..100_000 {
            reading.note(1000 + number % 20, 1);
            reading.note(7, 4096);
            reading.note(0, 1 << 30);
        }
        let found: Vec<(u32, u64)> =
            board.bulk_readers().into_iter().map(|reader| (reader.pid, reader.bytes)).collect();
        assert_eq!(found, [(7, 409_600_000)]);
        assert!((0..1000).all(|pid| {
            reading.note(pid + 10_000, 1);
            reading.recent.lock().len() <= RECENT_MAX
        }));
    }

    #[test]
    fn what_a_former_worker_counted_is_added_up() {
        let board = Board::create().expect("memory");
        for _ in 0..3 {
            let accounting = ReadAccounting::new(&board, None);
            (0..100).for_each(|_| accounting.note(7, 1 << 20));
        }
        let bytes: Vec<u64> = board.bulk_readers().into_iter().map(|reader| reader.bytes).collect();
        assert_eq!(bytes, [300 << 20]);
    }
}
