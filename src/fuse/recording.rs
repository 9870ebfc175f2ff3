//! Recording what is read through a running mount.
//!
//! It begins with an empty cache: the kernel is told to forget the pages of all files, since what it has it reads without
//! asking. In passthrough mode the kernel reads by itself in any case, so there is nothing to record.

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use super::options::Mode;
use crate::image::{ImageError, Ino};
use crate::model::FileKind;
use crate::remote::format::ProfileText;
use crate::vfs::{Recorder, Vfs};

/// Why reads cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The kernel reads by itself.
    #[error("a mount with 'passthrough' cannot be recorded: the kernel reads its files by itself. Mount it without")]
    Passthrough,
    /// Somebody records already.
    #[error("this mount is being recorded already")]
    Busy,
    /// Nobody records.
    #[error("this mount is not being recorded")]
    Idle,
    /// The paths cannot be found out.
    #[error("cannot find out what was read")]
    Image(#[from] ImageError),
}

/// What it takes to record a mount.
#[derive(Clone)]
pub struct Recording {
    vfs: Arc<Vfs>,
    notifier: Notifier,
    mode: Mode,
}

impl Recording {
    pub(super) const fn new(vfs: Arc<Vfs>, notifier: Notifier, mode: Mode) -> Self {
        Self { vfs, notifier, mode }
    }

    /// Begins, with an empty cache.
    ///
    /// # Errors
    /// [`RecordError::Passthrough`] or [`RecordError::Busy`].
    pub fn start(&self) -> Result<Arc<Recorder>, RecordError> {
        if self.mode == Mode::Passthrough {
            return Err(RecordError::Passthrough);
        }
        let recorder = Arc::<Recorder>::default();
        if let Some(before) = self.vfs.set_recorder(Some(Arc::clone(&recorder))) {
            self.vfs.set_recorder(Some(before));
            return Err(RecordError::Busy);
        }
        self.drop_pages();
        Ok(recorder)
    }

    /// Ends, and tells what was read.
    ///
    /// # Errors
    /// [`RecordError::Idle`] or [`RecordError::Image`].
    pub fn stop(&self) -> Result<ProfileText, RecordError> {
        let recorder = self.vfs.set_recorder(None).ok_or(RecordError::Idle)?;
        self.profile(&recorder)
    }

    /// What was read so far.
    ///
    /// # Errors
    /// [`RecordError::Image`].
    pub fn profile(&self, recorder: &Recorder) -> Result<ProfileText, RecordError> {
        Ok(recorder.profile(self.vfs.image())?)
    }

    fn drop_pages(&self) {
        let image = self.vfs.image();
        for number in 1..=image.inodes() {
            let Some(ino) = Ino::from_raw(number) else { break };
            // What is not known yet was not read yet.
            if !matches!(image.kind(ino), Ok(FileKind::Regular)) {
                continue;
            }
            // All of its pages. One that the kernel has never heard of is as good.
            if let Err(error) = self.notifier.inval_inode(INodeNo(self.vfs.node_of(ino)), 0, 0) {
                tracing::debug!(%error, number, "pages stay in the kernel's cache");
            }
        }
    }
}
