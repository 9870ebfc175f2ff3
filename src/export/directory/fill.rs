//! Contents of regular files: from objects into files that the walk has made.
//!
//! Large objects are copied by the kernel, which shares the extents where the filesystem can; small ones go through a
//! buffer. Holes are stepped over.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crossbeam_channel::Receiver;

use super::apply::apply;
use super::ledger::{ExportCause, Ledger, image_cause, io_cause};
use crate::disk::Entry;
use crate::export::report::Progress;
use crate::export::report::words;
use crate::image::{Attributes, Image};
use crate::model::{Extent, ObjectId};
use crate::store::{ObjectSource, ReadError};

/// Bytes read and written at a time.
const BUFFER: usize = 256 << 10;

/// Contents from this size on are worth opening the object's own file for.
const KERNEL_COPY_MIN: u64 = 64 << 10;

/// Bytes the kernel copies at a time, so that progress is seen.
const KERNEL_COPY_STEP: usize = 64 << 20;

/// A regular file to fill and finish.
pub(super) struct Job {
    pub(super) file: File,
    pub(super) attributes: Attributes,
    pub(super) path: Box<[u8]>,
}

/// Fills files, one after the other.
pub(super) struct Filler<'a> {
    image: &'a Image,
    objects: &'a dyn ObjectSource,
    ledger: &'a Ledger,
    progress: &'a Progress,
    buffer: Vec<u8>,
    /// Whether the kernel can copy from the store to the target.
    kernel_copies: bool,
}

impl<'a> Filler<'a> {
    pub(super) fn new(
        image: &'a Image,
        objects: &'a dyn ObjectSource,
        ledger: &'a Ledger,
        progress: &'a Progress,
    ) -> Self {
        Self { image, objects, ledger, progress, buffer: vec![0; BUFFER], kernel_copies: true }
    }

    /// Fills files until there are no more, or until one cannot be filled.
    pub(super) fn run(mut self, jobs: &Receiver<Vec<Job>>) {
        for job in jobs.iter().flatten() {
            // Jobs are still taken from the queue, else the walk would wait for ever.
            if self.ledger.has_failed() {
                continue;
            }
            if let Err(cause) = self.fill(&job) {
                self.ledger.fail(cause);
            }
        }
    }

    fn fill(&mut self, job: &Job) -> Result<(), ExportCause> {
        let Job { file, attributes, path } = job;
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
        self.ledger.count(1, written);
        let xattrs = self.image.xattrs(ino).map_err(image_cause(path))?;
        apply(self.ledger, Entry::Open(file.as_fd()), path, attributes, &xattrs)
    }

    /// Copies a run of bytes to the same place; returns how many.
    fn copy(&mut self, file: &File, object: ObjectId, run: Extent, path: &[u8]) -> Result<u64, ExportCause> {
        let read_cause = |source: ReadError| ExportCause::Content { path: words(path), source };
        let end = run.offset + run.length;
        let mut position = run.offset;
        if self.kernel_copies
            && run.length >= KERNEL_COPY_MIN
            && let Some(source) = self.objects.backing_file(object).map_err(read_cause)?
        {
            position = self.copy_in_kernel(&source, file, position, end);
        }
        while position < end {
            let room = usize::try_from(end - position).map_or(BUFFER, |room| room.min(BUFFER));
            let length = self.objects.read_at(object, position, &mut self.buffer[..room]).map_err(read_cause)?;
            if length == 0 {
                return Err(ExportCause::ShortObject { path: words(path) });
            }
            file.write_all_at(&self.buffer[..length], position).map_err(|error| io_cause("write", path, error))?;
            position += length as u64;
            self.progress.written(length as u64);
        }
        Ok(run.length)
    }

    /// Copies as far as the kernel can; returns where it stopped. What failed is tried again by reading and writing,
    /// which says why.
    fn copy_in_kernel(&mut self, source: &File, target: &File, start: u64, end: u64) -> u64 {
        let mut position = start;
        while position < end {
            let (mut from, mut to) = (position, position);
            let room = usize::try_from(end - position).map_or(KERNEL_COPY_STEP, |room| room.min(KERNEL_COPY_STEP));
            match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), room) {
                Ok(length) if length > 0 => {
                    position += length as u64;
                    self.progress.written(length as u64);
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
