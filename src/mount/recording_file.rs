//! Records the reads of a running mount into a file: `mount -o profile-record=FILE`.
//!
//! The worker writes the file, and a later worker continues it. A worker that is killed, or replaced in an exchange of
//! the program, loses the reads since it wrote the file last.
//!
//! *Not here*: recording in memory (`fuse::recording`).
//!
//! *Used by* `start` and `processes::worker`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};

use super::error::ProcessError;
use crate::disk;
use crate::error::chain;
use crate::fuse::Recording;
use crate::remote::format::ProfileText;
use crate::vfs::Recorder;

/// Interval at which the file is written, if there were new reads.
const WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// A recording that is written to a file until this is dropped.
pub(crate) struct RecordingFile {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct ProfileWriter {
    recording: Recording,
    recorder: Arc<Recorder>,
    /// An open descriptor, since the path may be gone after the initramfs has been left.
    directory: OwnedFd,
    name: OsString,
    /// The lines that earlier workers wrote.
    earlier: ProfileText,
    written_count: usize,
}

/// Opens the directory of a file that is to be written, and returns it with the file's name.
///
/// # Errors
/// When there is no such directory.
pub(crate) fn open_parent(path: &Path) -> Result<(OwnedFd, OsString), ProcessError> {
    let name = path.file_name().ok_or_else(|| ProcessError::NoFileName(path.to_owned()))?.to_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let directory =
        File::open(parent).map_err(|source| ProcessError::File { action: "open", path: parent.to_owned(), source })?;
    Ok((directory.into(), name))
}

impl RecordingFile {
    /// Starts a recording. An empty file is written at once, so that an unusable path is an error now.
    ///
    /// # Errors
    /// When the mount cannot be recorded, or the file cannot be written.
    pub(crate) fn start(recording: &Recording, directory: OwnedFd, name: OsString) -> Result<Self, ProcessError> {
        let recorder = recording.start()?;
        Self::spawn(ProfileWriter::new(recording, recorder, directory, name, ProfileText::default()))
    }

    /// Continues a file that an earlier worker of the mount began.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub(crate) fn resume(recording: &Recording, directory: OwnedFd, name: OsString) -> Result<Self, ProcessError> {
        let recorder = recording.resume()?;
        let earlier = read_profile(&directory, &name).unwrap_or_default();
        Self::spawn(ProfileWriter::new(recording, recorder, directory, name, earlier))
    }

    fn spawn(mut writer: ProfileWriter) -> Result<Self, ProcessError> {
        writer.write()?;
        let (stop, stopped) = channel();
        let run = move || {
            while stopped.recv_timeout(WRITE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                writer.write_or_log();
            }
            writer.write_or_log();
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

fn read_profile(directory: &OwnedFd, name: &OsString) -> Result<ProfileText, ProcessError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut text = Vec::new();
    File::from(openat(directory, name, flags, Mode::empty()).map_err(io::Error::from)?).read_to_end(&mut text)?;
    Ok(ProfileText::parse(&text)?)
}

impl ProfileWriter {
    fn new(
        recording: &Recording,
        recorder: Arc<Recorder>,
        directory: OwnedFd,
        name: OsString,
        earlier: ProfileText,
    ) -> Self {
        Self { recording: recording.clone(), recorder, directory, name, earlier, written_count: usize::MAX }
    }

    /// Returns the lines of earlier workers, followed by this worker's new ones.
    fn profile(&self) -> Result<ProfileText, ProcessError> {
        let new = self.recording.profile(&self.recorder)?;
        let known: HashSet<_> = self.earlier.lines.iter().collect();
        let added = new.lines.into_iter().filter(|line| !known.contains(line));
        Ok(ProfileText { lines: self.earlier.lines.iter().cloned().chain(added).collect() })
    }

    fn write(&mut self) -> Result<(), ProcessError> {
        let count = self.recorder.count();
        if count != self.written_count {
            let profile = self.profile()?;
            disk::replace_in(&self.directory, &self.name, &profile.render()).map_err(|source| ProcessError::File {
                action: "write",
                path: self.name.clone().into(),
                source,
            })?;
            self.written_count = count;
        }
        Ok(())
    }

    fn write_or_log(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!("{}", chain(&error));
        }
    }
}
