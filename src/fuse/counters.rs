//! How many messages the kernel sent, by kind: what proves that a warm tree costs none.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::board::{Board, BulkReader};
use crate::sys::Words;

macro_rules! opcodes {
    ($($name:ident => $word:literal),+ $(,)?) => {
        /// A kind of message from the kernel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Opcode {
            $(#[doc = concat!("`", $word, "`")] $name),+
        }

        impl Opcode {
            /// All kinds, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The kind as one word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word),+
                }
            }
        }
    };
}

opcodes! {
    Lookup => "lookup",
    Forget => "forget",
    Getattr => "getattr",
    Readlink => "readlink",
    Open => "open",
    Read => "read",
    Release => "release",
    Flush => "flush",
    Fsync => "fsync",
    Opendir => "opendir",
    Readdir => "readdir",
    Readdirplus => "readdirplus",
    Releasedir => "releasedir",
    Statfs => "statfs",
    Getxattr => "getxattr",
    Listxattr => "listxattr",
    Access => "access",
    Lseek => "lseek",
    Ioctl => "ioctl",
    Poll => "poll",
    Bmap => "bmap",
    Lock => "lock",
    Change => "change",
}

/// Where the sums stand, after the kinds of messages.
const BYTES_READ: usize = 96;
const ERRORS: usize = 97;
const _: () = assert!(Opcode::ALL.len() <= BYTES_READ, "the kinds have their room; new ones come last");

/// Counts since the mount began, whoever served it. Relaxed: the figures need not agree with one another to the message.
#[derive(Debug)]
pub struct Counters {
    board: Board,
    words: Words,
    base: usize,
}

/// The counts at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    /// Messages that somebody waited for: all but `forget`.
    pub messages: u64,
    /// Messages by kind, those that came at least once.
    pub by_opcode: BTreeMap<String, u64>,
    /// Bytes of content handed to the kernel.
    pub bytes_read: u64,
    /// Requests answered with EIO.
    pub errors: u64,
    /// Processes that have read much of a mount that is fetched as it is read, the greatest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<BulkReader>,
}

impl Counters {
    /// The counts of a mount.
    #[must_use]
    pub fn of(board: &Board) -> Self {
        let (words, base) = board.counters();
        Self { board: board.clone(), words, base }
    }

    /// Atomic additions wrap, whatever a worker has left in the word.
    fn add(&self, word: usize, count: u64) {
        self.words[self.base + word].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self, word: usize) -> u64 {
        self.words[self.base + word].load(Ordering::Relaxed)
    }

    /// One message came.
    pub fn count(&self, opcode: Opcode) {
        self.add(opcode as usize, 1);
    }

    /// Content was handed out.
    pub fn count_bytes(&self, bytes: usize) {
        self.add(BYTES_READ, bytes as u64);
    }

    /// A request failed through damage or absence.
    pub fn count_error(&self) {
        self.add(ERRORS, 1);
    }

    /// All messages so far, those included that nobody waited for. Allocates nothing.
    #[must_use]
    pub fn messages(&self) -> u64 {
        (0..Opcode::ALL.len()).map(|opcode| self.get(opcode)).fold(0, u64::saturating_add)
    }

    /// The counts now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let counts = || Opcode::ALL.iter().map(|opcode| (*opcode, self.get(*opcode as usize)));
        Figures {
            messages: counts()
                .filter(|(opcode, _)| *opcode != Opcode::Forget)
                .fold(0, |sum, (_, count)| sum.saturating_add(count)),
            by_opcode: counts()
                .filter(|(_, count)| *count > 0)
                .map(|(op, count)| (op.word().to_owned(), count))
                .collect(),
            bytes_read: self.get(BYTES_READ),
            errors: self.get(ERRORS),
            readers: self.board.bulk_readers(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_name_what_came_and_leave_forgets_out_of_the_sum() {
        let counters = Counters::of(&Board::create().expect("memory"));
        counters.count(Opcode::Lookup);
        counters.count(Opcode::Forget);
        counters.count_bytes(7);
        let figures = counters.figures();
        assert_eq!(figures.messages, 1);
        assert_eq!(figures.by_opcode, [("forget".to_owned(), 1), ("lookup".to_owned(), 1)].into());
        assert_eq!(figures.bytes_read, 7);
        counters.add(Opcode::Read as usize, u64::MAX);
        assert_eq!((counters.messages(), counters.figures().messages), (u64::MAX, u64::MAX));
    }
}
