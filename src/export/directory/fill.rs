//! Copies contents from objects into the regular files that the walk has created, and sets their metadata.
//!
//! The kernel copies large objects, sharing extents where the filesystem can; small ones go through a buffer. Holes are
//! not written.
//!
//! *Not here*: creating the files (`walk`).
//!
//! *Used by* `export_directory`, one [`Filler`] for each thread.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crossbeam_channel::Receiver;

use super::apply::apply;
use super::state::{ExportCause, ExportState, image_cause, io_cause};
use crate::disk::EntryRef;
use crate::export::error::EntryError;
use crate::export::report::ExportProgress;
use crate::export::report::display_path;
use crate::image::{Attributes, Image};
use crate::model::{Extent, ObjectId};
use crate::store::{ObjectSource, ReadError};

/// Size of the copy buffer in bytes.
const BUFFER_SIZE: usize = 256 << 10;

/// Smallest run in bytes for which the object's backing file is opened so that the kernel copies it.
const KERNEL_COPY_MIN: u64 = 64 << 10;

/// Most bytes of one `copy_file_range` call, so that the progress display moves.
const KERNEL_COPY_STEP: usize = 64 << 20;

/// A created regular file whose content and metadata are still to be written.
pub(super) struct FillJob {
    pub(super) file: File,
    pub(super) attributes: Attributes,
    pub(super) path: Box<[u8]>,
}

/// Fills files one after another, in one thread.
pub(super) struct Filler<'a> {
    image: &'a Image,
    objects: &'a dyn ObjectSource,
    state: &'a ExportState,
    progress: &'a ExportProgress,
    buffer: Vec<u8>,
    /// Whether the kernel can copy from the store to the target; cleared by the first error.
    kernel_copies: bool,
}

impl<'a> Filler<'a> {
    pub(super) fn new(
        image: &'a Image,
        objects: &'a dyn ObjectSource,
        state: &'a ExportState,
        progress: &'a ExportProgress,
    ) -> Self {
        Self { image, objects, state, progress, buffer: vec![0; BUFFER_SIZE], kernel_copies: true }
    }

    /// Fills files until the queue is closed. After a failure in any thread it only drains the queue.
    pub(super) fn run(mut self, jobs: &Receiver<Vec<FillJob>>) {
        for job in jobs.iter().flatten() {
            // The queue is still drained: the walk would otherwise block in `send` for ever.
            if self.state.has_failed() {
                continue;
            }
            if let Err(cause) = self.fill(&job) {
                self.state.fail(cause);
            }
        }
    }

    fn fill(&mut self, job: &FillJob) -> Result<(), ExportCause> {
        let FillJob { file, attributes, path } = job;
        let ino = attributes.ino;
        let mut written = 0;
        if let Some(object) = self.image.object(ino).map_err(image_cause(path))? {
            match self.image.extents(ino).map_err(image_cause(path))? {
                None => written = self.copy(file, object, Extent { offset: 0, length: attributes.size }, path)?,
                Some(extents) => {
                    file.set_len(attributes.size).map_err(|error| io_cause("set the size of", path, error))?;
                    for extent in extents {
                        written += self.copy(file, object, extent, path)?;
                    }
                }
            }
        }
        self.state.add_made(1, written);
        let xattrs = self.image.xattrs(ino).map_err(image_cause(path))?;
        apply(self.state, EntryRef::Open(file.as_fd()), path, attributes, &xattrs)
    }

    /// Copies a run of bytes to the same offset and returns its length.
    fn copy(&mut self, file: &File, object: ObjectId, run: Extent, path: &[u8]) -> Result<u64, ExportCause> {
        let read_cause =
            |source: ReadError| ExportCause::from(EntryError::Content { path: display_path(path), source });
        let end = run.offset + run.length;
        let mut position = run.offset;
        if self.kernel_copies
            && run.length >= KERNEL_COPY_MIN
            && let Some(source) = self.objects.backing_file(object).map_err(read_cause)?
        {
            position = self.copy_in_kernel(&source, file, position, end);
        }
        while position < end {
            let room = usize::try_from(end - position).map_or(BUFFER_SIZE, |room| room.min(BUFFER_SIZE));
            let length = self.objects.read_at(object, position, &mut self.buffer[..room]).map_err(read_cause)?;
            if length == 0 {
                return Err(EntryError::ShortObject { path: display_path(path) }.into());
            }
            file.write_all_at(&self.buffer[..length], position).map_err(|error| io_cause("write", path, error))?;
            position += length as u64;
            self.progress.add_written(length as u64);
        }
        Ok(run.length)
    }

    /// Copies as far as the kernel can and returns the offset it reached. The caller copies the remainder by reading and
    /// writing; if that fails too, its error says why.
    fn copy_in_kernel(&mut self, source: &File, target: &File, start: u64, end: u64) -> u64 {
        let mut position = start;
        while position < end {
            let (mut from, mut to) = (position, position);
            let room = usize::try_from(end - position).map_or(KERNEL_COPY_STEP, |room| room.min(KERNEL_COPY_STEP));
            match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), room) {
                Ok(length) if length > 0 => {
                    position += length as u64;
                    self.progress.add_written(length as u64);
                }
                Ok(_) => break,
                Err(_) => {
                    self.kernel_copies = false;
                    break;
                }
            }
        }
        position
    }
}
