//! What outlives the process that answers the kernel: a few pages that the supervisor and each of its workers map.
//!
//! Here is the layout; what the words mean is in the files beside this one. Whoever writes may be killed after any store, so
//! nothing here takes more than one store to become true, and no lock lives here. The layout is versioned, since a new
//! program may take a running mount over from an old one, or the reverse: words are added at the end of their group and
//! never change their meaning within a version.
//!
//! ```text
//! word 0        magic and version
//! words 8..     the connection: its filesystem's device number, the kernel's first message
//! words 32..    the workers: who serves, how the others ended
//! words 64..    counters, by kind of message; histograms
//! words 256..   requests that ended a worker
//! words 288..   requests under way
//! words 1056..  processes that read much
//! words 1088..  inodes that are open in passthrough mode
//! ```

mod flights;
mod health;
mod opened;
mod readers;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

pub use flights::{Flight, Subject, Ticket};
pub use health::{Death, Health, Service};
pub(super) use opened::{OpenEntry, OpenTable};
pub use readers::BulkReader;

use crate::sys::Words;

/// `SAPW` and the version. Only words with another meaning make another version.
const MAGIC: u64 = 0x5341_5057_0000_0001;

const DEVICE: usize = 8;
const INIT_LENGTH: usize = 9;
const RESENDS: usize = 10;
const INIT: usize = 12;
const HEALTH: usize = 32;
const COUNTERS: usize = 64;
const SUSPECTS: usize = 256;
const FLIGHTS: usize = 288;
const READERS: usize = 1056;
const OPENED: usize = 1088;

/// Inodes that can be open at once in passthrough mode; memory is used for those that are.
const OPENED_MAX: usize = 1 << 18;

/// The kernel's first message: a header of 40 bytes and 64 of what it offers.
const INIT_WORDS: usize = 16;

/// The shared pages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    words: Words,
}

impl Board {
    /// A new one, for a new mount.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn create() -> io::Result<Self> {
        let words = Words::create("sapwood-mount", OPENED + OPENED_MAX * opened::WORDS)?;
        words[0].store(MAGIC, Ordering::Relaxed);
        Ok(Self { words })
    }

    /// The one behind a descriptor that was inherited.
    ///
    /// # Errors
    /// `InvalidData` when it is none, or of a version that this program does not know.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let words = Words::open(file)?;
        let is_known = words.len() >= OPENED + OPENED_MAX * opened::WORDS && words[0].load(Ordering::Relaxed) == MAGIC;
        if is_known { Ok(Self { words }) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    }

    fn get(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Acquire)
    }

    fn set(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
    }

    /// The words of the counters.
    pub(super) fn counters(&self) -> (Words, usize) {
        (self.words.clone(), COUNTERS)
    }

    /// The table of open inodes.
    pub(super) fn opened(&self) -> OpenTable {
        OpenTable::new(self.words.clone(), OPENED..OPENED + OPENED_MAX * opened::WORDS)
    }

    /// Remembers which filesystem is mounted, as `major:minor`.
    pub fn set_device(&self, device: &str) {
        let (major, minor) = device.split_once(':').unwrap_or_default();
        let number = |text: &str| text.parse::<u32>().map_or(0, u64::from);
        self.set(DEVICE, number(major) << 32 | number(minor));
    }

    /// Which filesystem is mounted, as `major:minor`.
    #[must_use]
    pub fn device(&self) -> String {
        let device = self.get(DEVICE);
        format!("{}:{}", device >> 32, device & u64::from(u32::MAX))
    }

    /// The second half of it. Allocates nothing.
    pub(super) fn minor(&self) -> u32 {
        self.get(DEVICE) as u32
    }

    /// Remembers the kernel's first message.
    pub(super) fn set_init(&self, message: &[u8]) {
        for (index, chunk) in message.chunks(8).enumerate().take(INIT_WORDS) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.set(INIT + index, u64::from_le_bytes(bytes));
        }
        self.set(RESENDS, u64::from(offers_resending(message)));
        // Last: whoever sees a length sees the message.
        self.set(INIT_LENGTH, message.len().min(INIT_WORDS * 8) as u64);
    }

    /// Whether the kernel has had the answer to its first message: the connection is taken over then, not begun.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.get(INIT_LENGTH) > 0
    }

    /// The kernel's first message, once it has been answered.
    #[must_use]
    pub fn init(&self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.get(INIT_LENGTH)).ok().filter(|length| *length > 0)?;
        let bytes = (0..INIT_WORDS).flat_map(|index| self.get(INIT + index).to_le_bytes());
        Some(bytes.take(length).collect())
    }

    /// Whether the kernel sends again what a dead worker had in hand (Linux 6.9).
    #[must_use]
    pub fn resends(&self) -> bool {
        self.get(RESENDS) != 0
    }

    /// As on a kernel that does not.
    pub(super) fn forbid_resending(&self) {
        self.set(RESENDS, 0);
    }

    /// Forgets what belonged to a connection that is no more.
    pub fn reset_connection(&self) {
        self.set(INIT_LENGTH, 0);
        self.opened().clear();
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

fn offers_resending(init: &[u8]) -> bool {
    /// `FUSE_HAS_RESEND`, bit 39 of the flags, in the second word of them.
    const HAS_RESEND: u32 = 1 << 7;
    /// Where that word is: after a header of 40 bytes, the version, the read-ahead and the first word.
    const FLAGS_2: std::ops::Range<usize> = 56..60;
    init.get(FLAGS_2).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_ne_bytes) & HAS_RESEND != 0
}

/// Milliseconds since the machine started, suspended time left out: the same for all processes.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(board: &Board) -> Board {
        Board::open(board.as_fd().try_clone_to_owned().expect("descriptors are not exhausted")).expect("is one")
    }

    #[test]
    fn what_is_written_is_there_for_the_next() {
        let board = Board::create().expect("memory");
        assert_eq!(board.init(), None);
        board.set_device("0:41");
        let mut message = vec![3; 104];
        message[56..60].fill(0);
        board.set_init(&message);
        let next = again(&board);
        assert_eq!(
            (next.device().as_str(), next.init().as_deref(), next.resends()),
            ("0:41", Some(&message[..]), false)
        );
        message[56] = 0x80;
        board.set_init(&message);
        assert!(next.resends());
        board.forbid_resending();
        assert!(!next.resends());
        board.reset_connection();
        assert_eq!(next.init(), None);
    }

    #[test]
    fn another_version_is_refused() {
        let board = Board::create().expect("memory");
        board.set(0, MAGIC + 1);
        let file = board.as_fd().try_clone_to_owned().expect("descriptors are not exhausted");
        assert!(Board::open(file).is_err());
    }
}
