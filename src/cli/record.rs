//! Writing down, while a mount runs, what is read through it: `mount -o profile-record=FILE`.
//!
//! The worker of the mount does, and whoever takes its place goes on with the file as it is. A worker that is killed, or
//! exchanged, takes with it what was read since it wrote the file last.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags, openat};

use crate::disk;
use crate::fuse::Recording;
use crate::remote::format::ProfileText;
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
    /// What others wrote before.
    before: ProfileText,
    written: usize,
}

/// The place of a file that is to be written: its directory, open, and its name in there.
///
/// # Errors
/// When there is no such directory.
pub fn place(path: &Path) -> Result<(OwnedFd, OsString)> {
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?.to_owned();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let directory = File::open(parent).with_context(|| format!("cannot open {}", parent.display()))?.into();
    Ok((directory, name))
}

impl RecordingFile {
    /// Begins. The file is written first with nothing in it, so that a wrong place is noticed now.
    ///
    /// # Errors
    /// When the mount cannot be recorded, or the file cannot be written.
    pub fn start(recording: &Recording, directory: OwnedFd, name: OsString) -> Result<Self> {
        let recorder = recording.start()?;
        Self::keep(Diary::new(recording, recorder, directory, name, ProfileText::default()))
    }

    /// Goes on with a file that another process of the mount began.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn resume(recording: &Recording, directory: OwnedFd, name: OsString) -> Result<Self> {
        let recorder = recording.resume()?;
        let before = read(&directory, &name).unwrap_or_default();
        Self::keep(Diary::new(recording, recorder, directory, name, before))
    }

    fn keep(mut diary: Diary) -> Result<Self> {
        diary.write().with_context(|| format!("cannot write {}", diary.name.display()))?;
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

fn read(directory: &OwnedFd, name: &OsString) -> Result<ProfileText> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut text = Vec::new();
    File::from(openat(directory, name, flags, Mode::empty())?).read_to_end(&mut text)?;
    Ok(ProfileText::parse(&text)?)
}

impl Diary {
    fn new(
        recording: &Recording,
        recorder: Arc<Recorder>,
        directory: OwnedFd,
        name: OsString,
        before: ProfileText,
    ) -> Self {
        Self { recording: recording.clone(), recorder, directory, name, before, written: usize::MAX }
    }

    /// What others wrote, and what came since that they did not know.
    fn profile(&self) -> Result<ProfileText> {
        let new = self.recording.profile(&self.recorder)?;
        let known: HashSet<_> = self.before.lines.iter().collect();
        let added = new.lines.into_iter().filter(|line| !known.contains(line));
        Ok(ProfileText { lines: self.before.lines.iter().cloned().chain(added).collect() })
    }

    fn write(&mut self) -> Result<()> {
        let count = self.recorder.count();
        if count != self.written {
            let profile = self.profile()?;
            disk::replace_in(&self.directory, &self.name, &profile.render())?;
            self.written = count;
        }
        Ok(())
    }

    fn write_or_log(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!("{}: {error:#}", self.name.display());
        }
    }
}
