//! The report of an export (entries, bytes, losses) and the counters that show its progress.
//!
//! *Used by* `export::directory` and `export::tar`, which fill them, and `cli`, which prints them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Most losses that are described in words; further ones are only counted.
const EXAMPLES_MAX: usize = 20;

/// A kind of metadata or entry that a target may be unable to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Owner or group; the entry belongs to the user who exports.
    Owner,
    /// The setuid and setgid bits, left out because the owner could not be set.
    SpecialBits,
    /// A device node, left out.
    Device,
    /// An extended attribute.
    Xattr,
    /// A socket, left out because tar has no type for it.
    Socket,
}

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ExportReport {
    /// Entries written; each name of a hard link counts.
    pub entries: u64,
    /// Bytes of content written, holes not counted.
    pub content_bytes: u64,
    /// Entries whose owner or group could not be set.
    pub owners_lost: u64,
    /// Files whose setuid or setgid bit was left out because their owner could not be set.
    pub special_bits_lost: u64,
    /// Device nodes that could not be made.
    pub devices_lost: u64,
    /// Extended attributes that could not be set.
    pub xattrs_lost: u64,
    /// Sockets left out of an archive.
    pub sockets_lost: u64,
    /// Descriptions of the first losses, at most 20, with path and reason.
    pub examples: Vec<String>,
}

impl ExportReport {
    /// Returns whether the export lost nothing.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.owners_lost == 0
            && self.special_bits_lost == 0
            && self.devices_lost == 0
            && self.xattrs_lost == 0
            && self.sockets_lost == 0
    }

    pub(super) fn record_loss(&mut self, loss: Loss, describe: impl FnOnce() -> String) {
        let counter = match loss {
            Loss::Owner => &mut self.owners_lost,
            Loss::SpecialBits => &mut self.special_bits_lost,
            Loss::Device => &mut self.devices_lost,
            Loss::Xattr => &mut self.xattrs_lost,
            Loss::Socket => &mut self.sockets_lost,
        };
        *counter += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(describe());
        }
    }
}

/// Progress counters that an export increments and a display reads.
#[derive(Debug, Default)]
pub struct ExportProgress {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl ExportProgress {
    pub(super) fn add_entry(&self) {
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_written(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the number of entries written so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Returns the bytes of content written so far, without holes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Returns a path for messages: unchanged if it is UTF-8 without control characters, otherwise escaped as in C.
pub(super) fn display_path(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}
