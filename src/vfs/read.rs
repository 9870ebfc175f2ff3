//! Reads the content of files, with holes as zeros, and finds data and holes.

use super::{FsError, Vfs};
use crate::image::{ImageError, Ino, ObjectRef};
use crate::model::Extent;
use crate::store::Absent;

/// What `lseek(2)` looks for: the two values of its `whence` argument that reach a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whence {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

impl Whence {
    /// Converts the argument of `lseek(2)`. The kernel handles all other values itself.
    pub(crate) const fn from_raw(whence: i32) -> Result<Self, FsError> {
        match whence {
            libc::SEEK_DATA => Ok(Self::Data),
            libc::SEEK_HOLE => Ok(Self::Hole),
            _ => Err(FsError::BadSeek),
        }
    }
}

impl Vfs {
    /// Fills `buffer` with the bytes at `offset` and returns their number, which is less than asked for only at the end of the
    /// file.
    ///
    /// # Errors
    /// [`FsError::Object`] when the content is missing or damaged, [`FsError::ShortObject`] when it is too short.
    pub(crate) fn read(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, FsError> {
        let ino = self.ino(node)?;
        let size = self.regular(ino)?.size;
        let wanted = size.saturating_sub(offset).min(buffer.len() as u64);
        let wanted = usize::try_from(wanted).expect("at most the length of the buffer");
        let Some(object) = self.content(ino, size, offset..offset + wanted as u64)?.filter(|_| wanted > 0) else {
            return Ok(0);
        };
        if let Some(recorder) = &*self.recorder.read() {
            recorder.note(ino, size, offset, wanted as u64);
        }
        let buffer = &mut buffer[..wanted];
        match self.image.extents(ino)? {
            None => self.read_data(&object, offset, buffer)?,
            Some(extents) => self.read_sparse(&object, &extents, offset, buffer)?,
        }
        Ok(wanted)
    }

    /// Returns the object of a file. If its id is absent, the error names the wanted bytes, so that the caller fetches the id
    /// and the bytes at the same time.
    fn content(&self, ino: Ino, size: u64, wanted: std::ops::Range<u64>) -> Result<Option<ObjectRef>, FsError> {
        match self.image.object_ref(ino) {
            Err(absent @ ImageError::Absent { .. }) => match self.image.object_index(ino)? {
                Some(index) => {
                    let (offset, length) = (wanted.start, wanted.end - wanted.start);
                    Err(FsError::Absent(Absent::Content { index, size, offset, length }))
                }
                None => Err(absent.into()),
            },
            found => Ok(found?),
        }
    }

    /// Reads the extents of data that overlap `buffer` and fills the holes between them with zeros.
    fn read_sparse(
        &self,
        object: &ObjectRef,
        extents: &[Extent],
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), FsError> {
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        let first = extents.partition_point(|extent| extent_end(extent) <= offset);
        for extent in extents[first..].iter().take_while(|extent| extent.offset < end) {
            let data_start = extent.offset.max(at);
            let data_end = extent_end(extent).min(end);
            span(buffer, offset, at, data_start).fill(0);
            self.read_data(object, data_start, span(buffer, offset, data_start, data_end))?;
            at = data_end;
        }
        span(buffer, offset, at, end).fill(0);
        Ok(())
    }

    fn read_data(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<(), FsError> {
        let read = self.objects.read_object(object, offset, buffer)?;
        if read < buffer.len() {
            return Err(FsError::ShortObject { object: object.id, end: offset + read as u64, size: object.size });
        }
        Ok(())
    }

    /// Returns where the next data or the next hole at or after `offset` begins. The end of the file counts as a hole.
    ///
    /// # Errors
    /// [`FsError::NoSuchPosition`] at or after the end, or when data is wanted and only a hole follows;
    /// [`FsError::Unsupported`] when no file of the image has holes, since the kernel then answers by itself.
    pub(crate) fn seek(&self, node: u64, offset: i64, whence: Whence) -> Result<i64, FsError> {
        if !self.image.has_holes() {
            return Err(FsError::Unsupported);
        }
        let ino = self.ino(node)?;
        let size = self.regular(ino)?.size;
        let offset = u64::try_from(offset).map_err(|_| FsError::NoSuchPosition)?;
        if offset >= size {
            return Err(FsError::NoSuchPosition);
        }
        let found = self.seek_within(ino, offset, size, whence)?;
        i64::try_from(found).map_err(|_| FsError::BadSeek)
    }

    fn seek_within(&self, ino: Ino, offset: u64, size: u64, whence: Whence) -> Result<u64, FsError> {
        let Some(extents) = self.image.extents(ino)? else {
            return Ok(if whence == Whence::Data { offset } else { size });
        };
        let next = extents[extents.partition_point(|extent| extent_end(extent) <= offset)..].first();
        match (whence, next) {
            (Whence::Data, Some(extent)) => Ok(extent.offset.max(offset)),
            (Whence::Data, None) => Err(FsError::NoSuchPosition),
            (Whence::Hole, Some(extent)) if extent.offset <= offset => Ok(extent_end(extent).min(size)),
            (Whence::Hole, Some(_) | None) => Ok(offset),
        }
    }
}

const fn extent_end(extent: &Extent) -> u64 {
    extent.offset.saturating_add(extent.length)
}

/// Returns the part of `buffer` that holds the bytes `from..to` of the file; `base` is the file offset of its first byte.
fn span(buffer: &mut [u8], base: u64, from: u64, to: u64) -> &mut [u8] {
    let index = |at: u64| usize::try_from(at - base).expect("positions inside the buffer");
    &mut buffer[index(from)..index(to.max(from))]
}
