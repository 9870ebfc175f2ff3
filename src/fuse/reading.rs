//! Which process reads much of a mount whose contents are fetched as they are read.
//!
//! Purpose: tell a process that reads everything, as a search index or a backup does, from those that run programs. Not here:
//! what becomes of it, see `board::readers`. Invariant: constant memory, whatever number of processes read. Used by `answers`.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;

use super::board::Board;

/// A process that has read so many bytes is one that reads much.
const MUCH: u64 = 32 << 20;

/// Processes whose bytes are counted: the last ones that read.
const RECENT_MAX: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Recent {
    pid: u32,
    bytes: u64,
}

/// Counts what processes read.
#[derive(Debug)]
pub(super) struct Reading {
    /// The last that read is first.
    recent: Mutex<Vec<Recent>>,
    board: Board,
    /// Where the supervisor is told to look at the board.
    wake: Option<OwnedFd>,
}

impl Reading {
    pub(super) fn new(board: &Board, wake: Option<OwnedFd>) -> Self {
        Self { recent: Mutex::new(Vec::with_capacity(RECENT_MAX)), board: board.clone(), wake }
    }

    /// Notes that a process has read so many bytes. The kernel reads ahead for none, which is 0.
    pub(super) fn note(&self, pid: u32, bytes: usize) {
        if pid == 0 {
            return;
        }
        let mut recent = self.recent.lock();
        let place = recent.iter().position(|reader| reader.pid == pid).unwrap_or_else(|| {
            recent.truncate(RECENT_MAX - 1);
            recent.push(Recent { pid, bytes: 0 });
            recent.len() - 1
        });
        recent[..=place].rotate_right(1);
        recent[0].bytes += bytes as u64;
        let bytes = recent[0].bytes;
        drop(recent);
        if bytes >= MUCH && self.board.note_reader(pid, bytes) {
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
        let reading = Reading::new(&board, None);
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
}
