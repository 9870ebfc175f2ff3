//! The processes that have read much of a mount whose contents are fetched as they are read.
//!
//! Purpose: name the processes that have everything fetched, also when they have ended meanwhile. Not here: counting, see
//! `read_accounting`. Invariant: a worker writes the process and its bytes, the supervisor its name: a worker sees no
//! `/proc`. Used by `read_accounting`, the supervisor and `counters`.
//!
//! ```text
//! readers: 4 × process (0: none) · bytes · name (16 bytes, ended by zeros; empty until the supervisor has looked)
//! ```

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags, openat};

use super::{Board, READERS};

const READER_WORDS: usize = 4;

/// Processes that are remembered: the last ones that read much.
pub(in crate::fuse) const READERS_MAX: usize = 4;

/// Bytes of a process's name, as the kernel cuts it.
const NAME_MAX: usize = 16;

const _: () = assert!(READERS + READERS_MAX * READER_WORDS <= super::OPENED);

/// A process that has read much.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BulkReader {
    /// The process, or the thread of it, that read.
    pub pid: u32,
    /// The name it had, without control characters; empty if it ended before it was looked up.
    pub name: String,
    /// Bytes of content that it has read of this mount.
    pub bytes: u64,
}

impl Board {
    /// Adds what a process has read. Returns whether it was not listed yet: then the supervisor has to look up its name.
    pub(in crate::fuse) fn note_reader(&self, pid: u32, bytes: u64) -> bool {
        let known = places().find(|word| self.get(*word) == u64::from(pid));
        if let Some(word) = known {
            // Atomic additions wrap, whatever a worker has left in the word.
            self.words[word + 1].fetch_add(bytes, Ordering::Relaxed);
            return false;
        }
        // The one that read least makes room.
        let Some(word) = places().min_by_key(|word| if self.get(*word) == 0 { 0 } else { self.get(*word + 1) }) else {
            return false;
        };
        self.set(word, 0);
        (2..READER_WORDS).for_each(|offset| self.set(word + offset, 0));
        self.set(word + 1, bytes);
        self.set(word, u64::from(pid));
        true
    }

    /// Looks up the names that are missing in `proc`. Allocates nothing.
    pub(in crate::fuse) fn name_readers(&self, proc: impl AsFd) {
        for word in places() {
            let pid = self.get(word);
            if pid == 0 || self.get(word + 2) != 0 {
                continue;
            }
            let (path, length) = comm_path(pid);
            let mut name = [0; NAME_MAX];
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let Ok(file) = openat(&proc, &path[..length], flags, Mode::empty()) else { continue };
            let Ok(length) = rustix::io::read(&file, &mut name) else { continue };
            let end = name[..length].iter().position(|byte| *byte == b'\n').unwrap_or(length);
            name[end..].fill(0);
            for (index, chunk) in name.chunks_exact(8).enumerate() {
                self.set(word + 2 + index, u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
            }
        }
    }

    /// The processes that have read much, the greatest first.
    pub(in crate::fuse) fn bulk_readers(&self) -> Vec<BulkReader> {
        let reader = |word| {
            let pid = u32::try_from(self.get(word)).ok().filter(|pid| *pid != 0)?;
            let name: Vec<u8> = (2..READER_WORDS).flat_map(|offset| self.get(word + offset).to_le_bytes()).collect();
            let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default());
            let name = name.chars().filter(|letter| !letter.is_control()).collect();
            Some(BulkReader { pid, name, bytes: self.get(word + 1) })
        };
        let mut readers: Vec<BulkReader> = places().filter_map(reader).collect();
        readers.sort_by_key(|reader| std::cmp::Reverse(reader.bytes));
        readers
    }
}

fn places() -> impl Iterator<Item = usize> {
    (0..READERS_MAX).map(|index| READERS + index * READER_WORDS)
}

/// `PID/comm`, and how long that is.
fn comm_path(pid: u64) -> ([u8; 32], usize) {
    let (mut path, mut length, mut divisor) = ([0; 32], 0, 1);
    while pid / divisor >= 10 {
        divisor *= 10;
    }
    while divisor > 0 {
        path[length] = b'0' + (pid / divisor % 10) as u8;
        (length, divisor) = (length + 1, divisor / 10);
    }
    path[length..length + 5].copy_from_slice(b"/comm");
    (path, length + 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_have_names_and_the_smallest_makes_room() {
        let board = Board::create().expect("memory");
        let own = std::process::id();
        assert!(board.note_reader(own, 10) && !board.note_reader(own, 20));
        board.name_readers(std::fs::File::open("/proc").expect("it is there"));
        let name = std::fs::read_to_string("/proc/self/comm").expect("it is there").trim_end().to_owned();
        assert_eq!(board.bulk_readers(), [BulkReader { pid: own, name, bytes: 30 }]);
        // Numbers that no process has.
        (1..=4).for_each(|number| assert!(board.note_reader(u32::MAX - number, 100 + u64::from(number))));
        board.name_readers(std::fs::File::open("/proc").expect("it is there"));
        let found: Vec<(u32, String, u64)> =
            board.bulk_readers().into_iter().map(|reader| (u32::MAX - reader.pid, reader.name, reader.bytes)).collect();
        let expected = [4, 3, 2, 1].map(|number| (number, String::new(), 100 + u64::from(number)));
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_are_those_of_the_kernel() {
        for pid in [1, 9, 10, 99, 4_194_304, u64::MAX] {
            let (path, length) = comm_path(pid);
            assert_eq!(&path[..length], format!("{pid}/comm").as_bytes());
        }
    }
}
