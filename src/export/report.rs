//! What an export did, and what it had to leave out.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sentences kept of what was lost; the rest is only counted.
const EXAMPLES_MAX: usize = 20;

/// Something a target cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Owner or group; the entry belongs to whoever exports.
    Owner,
    /// Setuid and setgid, left out since the owner could not be set.
    SpecialBits,
    /// A device node, left out.
    Device,
    /// An extended attribute.
    Xattr,
    /// A socket, which tar has no type for, left out.
    Socket,
}

/// What an export did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Entries made, each name of a hard link counted.
    pub entries: u64,
    /// Bytes of content written, holes not counted.
    pub content_bytes: u64,
    /// Entries whose owner or group could not be set.
    pub owners_lost: u64,
    /// Files whose setuid or setgid bit was left out since their owner could not be set.
    pub special_bits_lost: u64,
    /// Device nodes that could not be made.
    pub devices_lost: u64,
    /// Extended attributes that could not be set.
    pub xattrs_lost: u64,
    /// Sockets left out of an archive.
    pub sockets_lost: u64,
    /// The first few losses in words, with path and reason.
    pub examples: Vec<String>,
}

impl Report {
    /// Whether everything was kept.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.owners_lost == 0
            && self.special_bits_lost == 0
            && self.devices_lost == 0
            && self.xattrs_lost == 0
            && self.sockets_lost == 0
    }

    pub(super) fn lose(&mut self, loss: Loss, words: impl FnOnce() -> String) {
        let counter = match loss {
            Loss::Owner => &mut self.owners_lost,
            Loss::SpecialBits => &mut self.special_bits_lost,
            Loss::Device => &mut self.devices_lost,
            Loss::Xattr => &mut self.xattrs_lost,
            Loss::Socket => &mut self.sockets_lost,
        };
        *counter += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(words());
        }
    }
}

/// How far an export is: counters that it raises and a display reads.
#[derive(Debug, Default)]
pub struct Progress {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    pub(super) fn entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Entries made so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes of content written so far, holes not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A path for messages: UTF-8 without control characters as it is, anything else escaped as in C.
pub(super) fn words(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}
