//! Recording of the reads of a running mount.
//!
//! A recording starts with an empty page cache: the kernel is asked to drop the pages of all files, because it reads cached
//! pages without a message. In passthrough mode the kernel reads files itself, so there is nothing to record.
//!
//! *Not here*: the recorder (`vfs`); writing a recording to a file (`mount::recording_file`).
//!
//! *Used by* `session`, `mount::control` and `mount::recording_file`.

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use super::options::MountMode;
use crate::image::{ImageError, Ino};
use crate::model::FileKind;
use crate::remote::format::ProfileText;
use crate::vfs::{Recorder, Vfs};

/// An error of starting or stopping a recording.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordingError {
    /// The mount is in passthrough mode.
    #[error("a mount with 'passthrough' cannot be recorded: the kernel reads its files by itself. Mount it without")]
    Passthrough,
    /// A recording is running.
    #[error("this mount is being recorded already")]
    AlreadyRecording,
    /// No recording is running.
    #[error("this mount is not being recorded")]
    NotRecording,
    /// The paths of the files cannot be read from the image.
    #[error("cannot find out what was read")]
    Image(#[from] ImageError),
}

/// A handle that starts and stops recordings of a mount.
#[derive(Clone)]
pub(crate) struct Recording {
    vfs: Arc<Vfs>,
    notifier: Notifier,
    mode: MountMode,
}

impl Recording {
    pub(super) const fn new(vfs: Arc<Vfs>, notifier: Notifier, mode: MountMode) -> Self {
        Self { vfs, notifier, mode }
    }

    /// Starts a recording with an empty page cache.
    pub(crate) fn start(&self) -> Result<Arc<Recorder>, RecordingError> {
        let recorder = self.resume()?;
        self.drop_cached_pages();
        Ok(recorder)
    }

    /// Continues the recording of an earlier worker. The page cache stays: this worker does not serve yet, and dropping pages
    /// that are being read would wait for them.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub(crate) fn resume(&self) -> Result<Arc<Recorder>, RecordingError> {
        if self.mode == MountMode::Passthrough {
            return Err(RecordingError::Passthrough);
        }
        let recorder = Arc::<Recorder>::default();
        if let Some(before) = self.vfs.set_recorder(Some(Arc::clone(&recorder))) {
            self.vfs.set_recorder(Some(before));
            return Err(RecordingError::AlreadyRecording);
        }
        Ok(recorder)
    }

    /// Stops the recording and returns it as a profile.
    pub(crate) fn stop(&self) -> Result<ProfileText, RecordingError> {
        let recorder = self.vfs.set_recorder(None).ok_or(RecordingError::NotRecording)?;
        self.profile(&recorder)
    }

    /// Returns the reads so far as a profile.
    pub(crate) fn profile(&self, recorder: &Recorder) -> Result<ProfileText, RecordingError> {
        Ok(recorder.profile(self.vfs.image())?)
    }

    fn drop_cached_pages(&self) {
        let image = self.vfs.image();
        for number in 1..=image.inodes() {
            let Some(ino) = Ino::from_raw(number) else { break };
            // An inode whose attributes are still absent was not read.
            if !matches!(image.kind(ino), Ok(FileKind::Regular)) {
                continue;
            }
            // Offset 0 and length 0 stand for all pages. An inode that the kernel does not know has none.
            if let Err(error) = self.notifier.inval_inode(INodeNo(self.vfs.node_of(ino)), 0, 0) {
                tracing::debug!(%error, number, "pages stay in the kernel's cache");
            }
        }
    }
}
