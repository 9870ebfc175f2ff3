//! The bulk readers: processes that have read much of a lazy mount, with their names, also after they have ended.
//!
//! *Not here*: counting the bytes of each process (`read_accounting`).
//!
//! *Invariant*: a worker writes the process number and the bytes, the supervisor writes the name, because a worker cannot read
//! `/proc`.
//!
//! *Used by* `read_accounting`, the supervisor and `counters`.
//!
//! ```text
//! readers: 4 × process (0: none) · bytes · name (16 bytes, padded with zeros; empty until the supervisor has read it)
//! ```

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags, openat};

use super::{READERS, SharedState};

const READER_WORDS: usize = 4;

/// Largest number of listed processes.
pub(crate) const READERS_MAX: usize = 4;

/// Bytes of a process's name, to which the kernel truncates it.
const NAME_MAX: usize = 16;

const _: () = assert!(READERS + READERS_MAX * READER_WORDS <= super::OPEN_TABLE);

/// A process that has read much.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct BulkReader {
    /// The number of the process, or of its thread that read.
    pub(crate) pid: u32,
    /// Its name without control characters; empty if the process ended before its name was read.
    pub(crate) name: String,
    /// Bytes of content that it has read through this mount.
    pub(crate) bytes: u64,
}

impl SharedState {
    /// Adds bytes that a process has read. Returns whether the process was not listed yet, so that the supervisor has to read
    /// its name.
    pub(crate) fn add_reader_bytes(&self, pid: u32, bytes: u64) -> bool {
        let known = slots().find(|word| self.get(*word) == u64::from(pid));
        if let Some(word) = known {
            // The addition wraps, whatever value a crashed worker has left there.
            self.words[word + 1].fetch_add(bytes, Ordering::Relaxed);
            return false;
        }
        // A free slot, or else that of the process that has read least.
        let Some(word) = slots().min_by_key(|word| if self.get(*word) == 0 { 0 } else { self.get(*word + 1) }) else {
            return false;
        };
        self.set(word, 0);
        (2..READER_WORDS).for_each(|offset| self.set(word + offset, 0));
        self.set(word + 1, bytes);
        self.set(word, u64::from(pid));
        true
    }

    /// Reads missing names from the directory `proc`. Allocates nothing.
    pub(crate) fn fill_reader_names(&self, proc: impl AsFd) {
        for word in slots() {
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

    /// Returns the bulk readers, the one with the most bytes first.
    pub(crate) fn bulk_readers(&self) -> Vec<BulkReader> {
        let reader = |word| {
            let pid = u32::try_from(self.get(word)).ok().filter(|pid| *pid != 0)?;
            let name: Vec<u8> = (2..READER_WORDS).flat_map(|offset| self.get(word + offset).to_le_bytes()).collect();
            let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default());
            let name = name.chars().filter(|letter| !letter.is_control()).collect();
            Some(BulkReader { pid, name, bytes: self.get(word + 1) })
        };
        let mut readers: Vec<BulkReader> = slots().filter_map(reader).collect();
        readers.sort_by_key(|reader| std::cmp::Reverse(reader.bytes));
        readers
    }
}

fn slots() -> impl Iterator<Item = usize> {
    (0..READERS_MAX).map(|index| READERS + index * READER_WORDS)
}

/// Returns `PID/comm` and its length.
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
    fn readers_have_names_and_the_smallest_is_replaced() {
        let shared = SharedState::create().expect("enough memory");
        let own = std::process::id();
        assert!(shared.add_reader_bytes(own, 10) && !shared.add_reader_bytes(own, 20));
        shared.fill_reader_names(std::fs::File::open("/proc").expect("/proc is mounted"));
        let name = std::fs::read_to_string("/proc/self/comm").expect("/proc is mounted").trim_end().to_owned();
        assert_eq!(shared.bulk_readers(), [BulkReader { pid: own, name, bytes: 30 }]);
        // Process numbers that do not exist.
        (1..=4).for_each(|number| assert!(shared.add_reader_bytes(u32::MAX - number, 100 + u64::from(number))));
        shared.fill_reader_names(std::fs::File::open("/proc").expect("/proc is mounted"));
        let found: Vec<(u32, String, u64)> = shared
            .bulk_readers()
            .into_iter()
            .map(|reader| (u32::MAX - reader.pid, reader.name, reader.bytes))
            .collect();
        let expected = [4, 3, 2, 1].map(|number| (number, String::new(), 100 + u64::from(number)));
        assert_eq!(found, expected);
    }

    #[test]
    fn comm_path_is_rendered_for_any_pid() {
        for pid in [1, 9, 10, 99, 4_194_304, u64::MAX] {
            let (path, length) = comm_path(pid);
            assert_eq!(&path[..length], format!("{pid}/comm").as_bytes());
        }
    }
}
