//! Writing down, while a mount runs, what is read through it: `mount -o profile-record=FILE`.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::disk;
use crate::fuse::Recording;
use crate::vfs::Recorder;

/// How often the file is written, if anything new was read.
const INTERVAL: Duration = Duration::from_secs(5);

/// A recording that goes into a file until this is dropped.
pub struct RecordingFile {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Diary {
    recording: Recording,
    recorder: Arc<Recorder>,
    /// Open, since its path may mean nothing any more once the initramfs was left.
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
    written: usize,
}

impl RecordingFile {
    /// Begins. The file is written first with nothing in it, so that a wrong place is noticed now.
    ///
    /// # Errors
    /// When the mount cannot be recorded, or the file cannot be written.
    pub fn start(recording: &Recording, path: &Path) -> Result<Self> {
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let directory = File::open(parent).with_context(|| format!("cannot open {}", parent.display()))?.into();
        let recorder = recording.start()?;
        let (recording, path) = (recording.clone(), path.to_owned());
        let mut diary = Diary { recording, recorder, directory, name, path, written: usize::MAX };
        diary.write().with_context(|| format!("cannot write {}", diary.path.display()))?;
        let (stop, stopped) = channel();
        let run = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                diary.write_or_log();
            }
            diary.write_or_log();
        };
        let thread = std::thread::Builder::new().name("record".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for RecordingFile {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that records panicked");
        }
    }
}

impl Diary {
    fn write(&mut self) -> Result<()> {
        let count = self.recorder.count();
        if count != self.written {
            let profile = self.recording.profile(&self.recorder)?;
            disk::replace_in(&self.directory, &self.name, &profile.render())?;
            self.written = count;
        }
        Ok(())
    }

    fn write_or_log(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!("{}: {error:#}", self.path.display());
        }
    }
}
