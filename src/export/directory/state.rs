//! State that all threads of a directory export share: the report with its losses, and the first failure.
//!
//! *Used by* `walk`, `fill` and `apply`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::export::error::EntryError;
use crate::export::report::{ExportReport, Loss, display_path};
use crate::image::ImageError;

/// What to do about metadata and entries that the target cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fidelity {
    /// Leave them out and count them in the report.
    #[default]
    BestEffort,
    /// Fail at the first one.
    Required,
}

/// Why an export stopped after it had begun.
#[derive(Debug, thiserror::Error)]
pub enum ExportCause {
    /// A system call failed.
    #[error("cannot {action} '{path}'")]
    Io {
        /// The action that failed, as a verb for the message.
        action: &'static str,
        /// The path in the image.
        path: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// An entry of the commit cannot be read.
    #[error("{0}")]
    Entry(#[from] EntryError),
}

/// The report and the first failure of an export, shared by its threads.
pub(super) struct ExportState {
    fidelity: Fidelity,
    report: Mutex<ExportReport>,
    failure: Mutex<Option<ExportCause>>,
    failed: AtomicBool,
}

impl ExportState {
    pub(super) fn new(fidelity: Fidelity) -> Self {
        Self { fidelity, report: Mutex::default(), failure: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Returns whether a thread has failed, so that the others should stop.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, cause: ExportCause) {
        self.failure.lock().get_or_insert(cause);
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn add_made(&self, entries: u64, bytes: u64) {
        let mut report = self.report.lock();
        report.entries += entries;
        report.content_bytes += bytes;
    }

    /// Examines the result of an operation that the target may not support. Returns whether it succeeded.
    ///
    /// # Errors
    /// [`ExportCause::Io`] for errors that do not mean "unsupported", and for all errors with [`Fidelity::Required`].
    pub(super) fn tolerate(
        &self,
        loss: Loss,
        action: &'static str,
        path: &[u8],
        result: Result<(), Errno>,
    ) -> Result<bool, ExportCause> {
        let Err(errno) = result else { return Ok(true) };
        let unable = match errno {
            // No privilege, an id outside the user namespace, or a filesystem without this feature.
            Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OVERFLOW | Errno::OPNOTSUPP | Errno::NOSYS => true,
            // ext4 answers ENOSPC when an attribute does not fit the inode's one block.
            Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => loss == Loss::Xattr,
            _ => false,
        };
        if !unable || self.fidelity == Fidelity::Required {
            return Err(io_cause(action, path, errno));
        }
        self.record_loss(loss, || format!("cannot {action} '{}': {errno}", display_path(path)));
        Ok(false)
    }

    pub(super) fn record_loss(&self, loss: Loss, describe: impl FnOnce() -> String) {
        self.report.lock().record_loss(loss, describe);
    }

    pub(super) fn finish(self, walked: Result<(), ExportCause>) -> Result<ExportReport, ExportCause> {
        // A filler's failure takes precedence: the walk may have stopped only because of it.
        match self.failure.into_inner() {
            Some(cause) => Err(cause),
            None => walked.map(|()| self.report.into_inner()),
        }
    }
}

pub(super) fn io_cause(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> ExportCause {
    ExportCause::Io { action, path: display_path(path), source: source.into() }
}

pub(super) fn image_cause(path: &[u8]) -> impl FnOnce(ImageError) -> ExportCause {
    |source| EntryError::Image { path: display_path(path), source }.into()
}
