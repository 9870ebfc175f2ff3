//! Counters of the messages that the kernel sent, by kind. They prove that reading a cached tree costs no message.
//!
//! *Invariant*: the counters are in the shared pages, so they continue when a worker is replaced.
//!
//! *Used by* `operations`, the supervisor's watchdog and `mount::control`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::shared::{BulkReader, SharedState};
use crate::sys::SharedWords;

macro_rules! opcodes {
    ($($name:ident => $word:literal),+ $(,)?) => {
        /// A kind of message from the kernel.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Opcode {
            $(#[doc = concat!("`", $word, "`")] $name),+
        }

        impl Opcode {
            /// All kinds, in the order of the counters.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the name of the kind.
            pub(crate) const fn name(self) -> &'static str {
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

// Positions of the sums, after the counters of messages.
const BYTES_READ: usize = 96;
const ERRORS: usize = 97;
const _: () = assert!(Opcode::ALL.len() <= BYTES_READ, "the sums follow the kinds; new kinds are added last");

/// The counters of a mount since it was made, over all its workers. Relaxed, since the figures need not agree with one another
/// to the message.
#[derive(Debug)]
pub struct RequestCounters {
    shared: SharedState,
    words: SharedWords,
    base: usize,
}

/// The values of the counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RequestFigures {
    /// Messages for which a process waited: all but `forget`.
    pub messages: u64,
    /// Messages by kind; only kinds that were received.
    pub by_opcode: BTreeMap<String, u64>,
    /// Bytes of content sent to the kernel.
    pub(crate) bytes_read: u64,
    /// Requests that failed with EIO.
    pub errors: u64,
    /// Processes that have read much of a lazy mount, the largest amount first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) readers: Vec<BulkReader>,
}

impl RequestCounters {
    /// Returns the counters in the pages of a mount.
    #[must_use]
    pub fn of(shared: &SharedState) -> Self {
        let (words, base) = shared.counter_words();
        Self { shared: shared.clone(), words, base }
    }

    /// Adds to a word. The addition wraps, whatever value a crashed worker has left there.
    fn add(&self, word: usize, count: u64) {
        self.words[self.base + word].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self, word: usize) -> u64 {
        self.words[self.base + word].load(Ordering::Relaxed)
    }

    /// Counts one message.
    pub(crate) fn count(&self, opcode: Opcode) {
        self.add(opcode as usize, 1);
    }

    /// Counts bytes of content sent to the kernel.
    pub(crate) fn count_bytes(&self, bytes: usize) {
        self.add(BYTES_READ, bytes as u64);
    }

    /// Counts a request that failed because content is damaged or absent.
    pub(crate) fn count_error(&self) {
        self.add(ERRORS, 1);
    }

    /// Returns the number of all messages, `forget` included. Allocates nothing.
    #[must_use]
    pub fn messages(&self) -> u64 {
        (0..Opcode::ALL.len()).map(|opcode| self.get(opcode)).fold(0, u64::saturating_add)
    }

    /// Returns the current values.
    #[must_use]
    pub fn figures(&self) -> RequestFigures {
        let counts = || Opcode::ALL.iter().map(|opcode| (*opcode, self.get(*opcode as usize)));
        RequestFigures {
            messages: counts()
                .filter(|(opcode, _)| *opcode != Opcode::Forget)
                .fold(0, |sum, (_, count)| sum.saturating_add(count)),
            by_opcode: counts()
                .filter(|(_, count)| *count > 0)
                .map(|(op, count)| (op.name().to_owned(), count))
                .collect(),
            bytes_read: self.get(BYTES_READ),
            errors: self.get(ERRORS),
            readers: self.shared.bulk_readers(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_list_received_kinds_and_sum_without_forgets() {
        let counters = RequestCounters::of(&SharedState::create().expect("enough memory"));
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
