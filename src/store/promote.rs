//! Makes an ordinary object or image of one that was fetched in parts, and is complete now.
//!
//! *Not here*: fetching the parts (`cache`).
//!
//! *Invariants*: the file with the parts is copied, since the worker that wrote it may still change it, and the copy is verified
//! against the name before it gets the name.
//!
//! *Used by* `cache`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::partial;
use super::write::{StoreWriter, WriteError};
use crate::disk::{self, TemporaryFile};
use crate::image::Image;
use crate::model::{CommitId, ImageId, ObjectId};
use crate::sys::Mapping;

/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;

/// The outcome of an attempt to promote a partial file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promotion {
    /// The file is an ordinary object or image now.
    Promoted,
    /// The object or image existed already, or another process has promoted it.
    AlreadyPresent,
    /// The file does not have the digest of its name, since parts are missing. It stays partial.
    Incomplete,
}

impl StoreWriter {
    /// Promotes a large object that was fetched in parts for `commit`, if all its bytes are present and have the digest of its
    /// name. Durable on return. Nothing else may have been added by this writer before.
    pub(crate) fn promote_partial_object(&self, commit: CommitId, id: ObjectId) -> Result<Promotion, WriteError> {
        let path = self.store().layout().partial_of(commit).object(id);
        let Some(file) = open_if_missing(self.store().has_object(id), &path)? else {
            return Ok(Promotion::AlreadyPresent);
        };
        let error = |action| write_error(action, &path);
        let size = file.metadata().map_err(error("read"))?.len();
        let copied = self.put_file(&file, size, None)?;
        if copied.object != Some(id) {
            self.discard();
            return Ok(Promotion::Incomplete);
        }
        self.flush()?;
        disk::remove_file(&path).map_err(error("remove"))?;
        Ok(Promotion::Promoted)
    }

    /// Promotes an image that was fetched in parts for `commit`, if every block and every rule of the format is verified.
    /// Durable on return.
    pub(crate) fn promote_partial_image(&self, commit: CommitId, id: ImageId) -> Result<Promotion, WriteError> {
        let layout = self.store().layout();
        let (path, target) = (layout.partial_of(commit).image(id), layout.image(id));
        let Some(file) = open_if_missing(target.exists(), &path)? else { return Ok(Promotion::AlreadyPresent) };
        let error = |action| write_error(action, &path);
        let copy = TemporaryFile::create(&layout.temporary()).map_err(error("copy"))?;
        copy_all(&file, copy.file()).map_err(error("copy"))?;
        let mapping = Mapping::of_file(copy.file()).map_err(error("map a copy of"))?;
        let verified = Image::open(mapping).and_then(|image| image.verify().map(|()| image.id()));
        if verified != Ok(id) {
            return Ok(Promotion::Incomplete);
        }
        copy.file().sync_all().map_err(error("sync a copy of"))?;
        copy.persist(&target).map_err(error("name a copy of"))?;
        disk::sync_directory(&layout.images()).map_err(error("sync the directory for"))?;
        disk::remove_file(&path).map_err(error("remove"))?;
        Ok(Promotion::Promoted)
    }
}

/// Opens a partial file. Returns `None`, and removes the file, if its object or image is there already.
fn open_if_missing(is_present: bool, path: &Path) -> Result<Option<File>, WriteError> {
    if is_present {
        disk::remove_file(path).map_err(write_error("remove", path))?;
        return Ok(None);
    }
    partial::open_if_exists(path).map_err(write_error("open", path))
}

fn copy_all(from: &File, to: &File) -> io::Result<()> {
    let (mut position, mut chunk) = (0, vec![0; CHUNK]);
    loop {
        let length = disk::read_from(from, position, &mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        to.write_all_at(&chunk[..length], position)?;
        position += length as u64;
    }
}

fn write_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError + use<> {
    let path = path.to_owned();
    move |source| WriteError::Write { action, path, source }
}
