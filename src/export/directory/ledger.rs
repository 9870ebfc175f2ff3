//! The account that all threads of an export into a directory share: what was made, what the target could not take, and
//! what failed first.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::export::report::{Loss, Report, words};
use crate::image::ImageError;
use crate::store::ReadError;

/// What to do about things the target cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fidelity {
    /// Leave them out and say so in the report.
    #[default]
    BestEffort,
    /// Fail at the first one.
    Required,
}

/// What failed on the way.
#[derive(Debug, thiserror::Error)]
pub enum ExportCause {
    /// The system refused.
    #[error("cannot {action} '{path}'")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path of the image.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The content cannot be read.
    #[error("cannot read the content of '{path}'")]
    Content {
        /// The path of the image.
        path: String,
        /// Why not.
        source: ReadError,
    },
    /// The object is shorter than the image says.
    #[error("the object of '{path}' has fewer bytes than the file")]
    ShortObject {
        /// The path of the image.
        path: String,
    },
    /// The image is damaged.
    #[error("the image is damaged at '{path}'")]
    Image {
        /// The path of the image.
        path: String,
        /// What is wrong.
        source: ImageError,
    },
}

/// The account that all threads of an export share: losses, and the first failure.
pub(super) struct Ledger {
    fidelity: Fidelity,
    report: Mutex<Report>,
    failure: Mutex<Option<ExportCause>>,
    failed: AtomicBool,
}

impl Ledger {
    pub(super) fn new(fidelity: Fidelity) -> Self {
        Self { fidelity, report: Mutex::default(), failure: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Whether some thread gave up, so that the others should too.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, cause: ExportCause) {
        self.failure.lock().get_or_insert(cause);
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn count(&self, entries: u64, bytes: u64) {
        let mut report = self.report.lock();
        report.entries += entries;
        report.content_bytes += bytes;
    }

    /// Takes the result of something the target may be unable to do; returns whether it was done.
    pub(super) fn allow(
        &self,
        loss: Loss,
        action: &'static str,
        path: &[u8],
        result: Result<(), Errno>,
    ) -> Result<bool, ExportCause> {
        let Err(errno) = result else { return Ok(true) };
        let unable = match errno {
            // No privilege; an id outside the user namespace; a filesystem that has no such thing.
            Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OVERFLOW | Errno::OPNOTSUPP | Errno::NOSYS => true,
            // ext4 says "no space" of an attribute that does not fit the inode's one block.
            Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => loss == Loss::Xattr,
            _ => false,
        };
        if !unable || self.fidelity == Fidelity::Required {
            return Err(io_cause(action, path, errno));
        }
        self.lose(loss, || format!("cannot {action} '{}': {errno}", words(path)));
        Ok(false)
    }

    pub(super) fn lose(&self, loss: Loss, words: impl FnOnce() -> String) {
        self.report.lock().lose(loss, words);
    }

    pub(super) fn finish(self, walked: Result<(), ExportCause>) -> Result<Report, ExportCause> {
        // A filler's failure comes first: the walk may only have stopped because of it.
        match self.failure.into_inner() {
            Some(cause) => Err(cause),
            None => walked.map(|()| self.report.into_inner()),
        }
    }
}

pub(super) fn io_cause(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> ExportCause {
    ExportCause::Io { action, path: words(path), source: source.into() }
}

pub(super) fn image_cause(path: &[u8]) -> impl FnOnce(ImageError) -> ExportCause {
    |source| ExportCause::Image { path: words(path), source }
}
