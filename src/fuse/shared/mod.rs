//! `SharedState`: pages that the supervisor and its workers map, and that outlive each worker.
//!
//! *Not here*: the meaning of the groups of words, which is in the files of this folder.
//!
//! *Invariants*: a process may be killed after any store, so each change takes effect by a single store, and the pages
//! contain no lock. The layout is versioned, since a newer program may take over a running mount from an older one, or the
//! reverse: words are added at the end of their group and never change their meaning within a version.
//!
//! *Used by* the other files of `fuse`, and `mount`.
//!
//! ```text
//! word 0        magic and version
//! words 8..     the connection: its filesystem's device number, the INIT message
//! words 32..    the workers: which one serves, how earlier ones ended
//! words 64..    counters, by kind of message; histograms
//! words 256..   requests that are suspected of crashing workers
//! words 288..   pending requests
//! words 1056..  processes that have read much
//! words 1088..  inodes that are open in passthrough mode
//! ```

mod enforced;
mod health;
mod open_table;
mod readers;
mod requests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

pub(crate) use enforced::Enforced;
pub use health::Death;
pub(crate) use health::{Health, Service};
pub(in crate::fuse) use open_table::{OpenEntry, OpenTable};
pub(crate) use readers::BulkReader;
pub use requests::RequestKey;
pub(crate) use requests::RequestSlot;

use crate::sys::SharedWords;

/// `SAPW` and the version. Only a change of the meaning of words needs another version.
const MAGIC: u64 = 0x5341_5057_0000_0001;

const DEVICE: usize = 8;
const INIT_LENGTH: usize = 9;
const RESENDS: usize = 10;
const INIT: usize = 12;
const HEALTH: usize = 32;
const COUNTERS: usize = 64;
const CRASH_SUSPECTS: usize = 256;
const REQUESTS: usize = 288;
const READERS: usize = 1056;
const OPEN_TABLE: usize = 1088;

/// Largest number of inodes open at once in passthrough mode; memory is used only for those that are open.
const OPEN_INODES_MAX: usize = 1 << 18;

/// Length of the INIT message in words: a header of 40 bytes and 64 bytes of features.
const INIT_WORDS: usize = 16;

/// The shared pages of a mount. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedState {
    words: SharedWords,
}

impl SharedState {
    /// Creates the pages of a new mount.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn create() -> io::Result<Self> {
        let words = SharedWords::create("sapwood-mount", OPEN_TABLE + OPEN_INODES_MAX * open_table::ENTRY_WORDS)?;
        words[0].store(MAGIC, Ordering::Relaxed);
        Ok(Self { words })
    }

    /// Maps the pages of an inherited descriptor.
    ///
    /// # Errors
    /// `InvalidData` when they have another format, or a version that this program does not know.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let words = SharedWords::open(file)?;
        let is_known = words.len() >= OPEN_TABLE + OPEN_INODES_MAX * open_table::ENTRY_WORDS
            && words[0].load(Ordering::Relaxed) == MAGIC;
        if is_known { Ok(Self { words }) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    }

    fn get(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Acquire)
    }

    fn set(&self, word: usize, value: u64) {
        self.words[word].store(value, Ordering::Release);
    }

    /// Returns the words and the position of the counters among them.
    pub(crate) fn counter_words(&self) -> (SharedWords, usize) {
        (self.words.clone(), COUNTERS)
    }

    /// Returns the table of open inodes.
    pub(crate) fn open_table(&self) -> OpenTable {
        OpenTable::new(self.words.clone(), OPEN_TABLE..OPEN_TABLE + OPEN_INODES_MAX * open_table::ENTRY_WORDS)
    }

    /// Records the `major:minor` of the mounted filesystem.
    pub(crate) fn set_device(&self, device: &str) {
        let (major, minor) = device.split_once(':').unwrap_or_default();
        let number = |text: &str| text.parse::<u32>().map_or(0, u64::from);
        self.set(DEVICE, number(major) << 32 | number(minor));
    }

    /// Returns the `major:minor` of the mounted filesystem.
    #[must_use]
    pub fn device(&self) -> String {
        let device = self.get(DEVICE);
        format!("{}:{}", device >> 32, device & u64::from(u32::MAX))
    }

    /// Returns the minor device number of the mounted filesystem. Allocates nothing.
    pub(crate) fn device_minor(&self) -> u32 {
        self.get(DEVICE) as u32
    }

    /// Records the INIT message, after the reply to it.
    pub(crate) fn set_init_message(&self, message: &[u8]) {
        for (index, chunk) in message.chunks(8).enumerate().take(INIT_WORDS) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.set(INIT + index, u64::from_le_bytes(bytes));
        }
        self.set(RESENDS, u64::from(offers_resend(message)));
        // Stored last: a process that reads a length reads the whole message.
        self.set(INIT_LENGTH, message.len().min(INIT_WORDS * 8) as u64);
    }

    /// Returns whether the INIT message has been replied to, so that a worker takes over the connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.get(INIT_LENGTH) > 0
    }

    /// Returns the INIT message, if it has been replied to.
    #[must_use]
    pub fn init_message(&self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.get(INIT_LENGTH)).ok().filter(|length| *length > 0)?;
        let bytes = (0..INIT_WORDS).flat_map(|index| self.get(INIT + index).to_le_bytes());
        Some(bytes.take(length).collect())
    }

    /// Returns whether the kernel can resend the requests of a dead worker (Linux 6.9).
    pub(crate) fn can_resend(&self) -> bool {
        self.get(RESENDS) != 0
    }

    /// Behaves from now on as on a kernel that cannot resend requests.
    pub(crate) fn disable_resend(&self) {
        self.set(RESENDS, 0);
    }

    /// Clears the INIT message and the open inodes of a connection that has ended.
    pub fn reset_connection(&self) {
        self.set(INIT_LENGTH, 0);
        self.open_table().clear();
    }
}

impl AsFd for SharedState {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

fn offers_resend(init: &[u8]) -> bool {
    /// `FUSE_HAS_RESEND`, bit 39 of the flags, in the second word of them.
    const HAS_RESEND: u32 = 1 << 7;
    /// Position of that word: after a header of 40 bytes, the version, the readahead and the first word of flags.
    const FLAGS_2: std::ops::Range<usize> = 56..60;
    init.get(FLAGS_2).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_ne_bytes) & HAS_RESEND != 0
}

/// Returns the milliseconds since the machine started, without suspended time: the same clock for all processes.
pub(crate) fn now_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopen(shared: &SharedState) -> SharedState {
        SharedState::open(shared.as_fd().try_clone_to_owned().expect("descriptors are not exhausted"))
            .expect("has the known version")
    }

    #[test]
    fn second_mapping_reads_what_the_first_wrote() {
        let shared = SharedState::create().expect("enough memory");
        assert_eq!(shared.init_message(), None);
        shared.set_device("0:41");
        let mut message = vec![3; 104];
        message[56..60].fill(0);
        shared.set_init_message(&message);
        let next = reopen(&shared);
        assert_eq!(
            (next.device().as_str(), next.init_message().as_deref(), next.can_resend()),
            ("0:41", Some(&message[..]), false)
        );
        message[56] = 0x80;
        shared.set_init_message(&message);
        assert!(next.can_resend());
        shared.disable_resend();
        assert!(!next.can_resend());
        shared.reset_connection();
        assert_eq!(next.init_message(), None);
    }

    #[test]
    fn pages_of_another_version_are_refused() {
        let shared = SharedState::create().expect("enough memory");
        shared.set(0, MAGIC + 1);
        let file = shared.as_fd().try_clone_to_owned().expect("descriptors are not exhausted");
        assert!(SharedState::open(file).is_err());
    }
}
