//! Adds contents as objects: hashes them and stores each distinct content once.
//!
//! Small contents are read into memory and go into the current pack. Larger ones are hashed while they are copied, or cloned if
//! the filesystem can share extents.
//!
//! *Not here*: objects that arrive under a known id (`receive`).
//!
//! *Used by* `compose`, from many threads at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::pack::start_write_back;
use super::write::{StoreWriter, WriteError};
use crate::disk::{self, TemporaryFile};
use crate::model::{Content, ContentHasher, Extent, LARGE_OBJECT, ObjectId};

/// Bytes read, hashed and written at a time. 256 KiB stay in the second-level cache between the three steps.
const CHUNK: usize = 256 << 10;

/// Zeros that are hashed for a hole, and compared with data. They are part of the program's file, so there are few.
static ZEROS: [u8; 4096] = [0; 4096];

impl StoreWriter {
    /// Stores a content of `size` bytes from a stream.
    ///
    /// # Errors
    /// [`WriteError::Length`] when the stream is shorter or longer; others when reading or writing fails.
    pub fn put(&self, size: u64, reader: &mut dyn Read) -> Result<Content, WriteError> {
        if self.is_small(size) {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
            reader.take(size + 1).read_to_end(&mut bytes).map_err(WriteError::Read)?;
            return self.put_small(size, &bytes);
        }
        let mut object = LargeObjectWriter::create(self, size)?;
        let mut chunk = vec![0; CHUNK];
        while object.position <= size {
            let length = read_chunk(reader, &mut chunk).map_err(WriteError::Read)?;
            if length == 0 {
                break;
            }
            object.write_data(&chunk[..length])?;
        }
        object.finish()
    }

    /// Stores the content of an open file of `size` bytes with the given `extents`, as in [`Content::extents`].
    ///
    /// # Errors
    /// [`WriteError::Length`] when the file is shorter or longer; others when reading or writing fails.
    pub(crate) fn put_file(&self, file: &File, size: u64, extents: Option<Vec<Extent>>) -> Result<Content, WriteError> {
        let mut content = if self.is_small(size) {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0) + 1];
            let length = disk::read_from(file, 0, &mut bytes).map_err(WriteError::Read)?;
            self.put_small(size, &bytes[..length])?
        } else if extents.is_none() && self.reflink_works.load(Ordering::Relaxed) {
            self.clone_or_copy(file, size)?
        } else {
            self.copy(file, size, extents.as_deref())?
        };
        content.extents = extents;
        Ok(content)
    }

    /// Returns whether a content of `size` bytes goes into a pack. Packed objects never have blocks, so large objects do not go
    /// into packs, whatever the settings say.
    fn is_small(&self, size: u64) -> bool {
        size <= self.store().config().pack_limit.min(LARGE_OBJECT)
    }

    fn put_small(&self, expected: u64, bytes: &[u8]) -> Result<Content, WriteError> {
        let found = bytes.len() as u64;
        if found != expected {
            return Err(WriteError::Length { expected, found });
        }
        if bytes.is_empty() {
            return Ok(Content::default());
        }
        let id = ObjectId::of(bytes);
        self.stage_packed(id, bytes)?;
        Ok(Content { object: Some(id), size: found, ..Content::default() })
    }

    fn clone_or_copy(&self, file: &File, size: u64) -> Result<Content, WriteError> {
        let mut object = LargeObjectWriter::create(self, size)?;
        if rustix::fs::ioctl_ficlone(object.file.file(), file).is_err() {
            // The file is on another filesystem, or the filesystem shares no extents: do not try again for each file.
            self.reflink_works.store(false, Ordering::Relaxed);
            return self.copy(file, size, None);
        }
        // Hash the clone, not the original: the clone can no longer change.
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = disk::read_from(object.file.file(), object.position, &mut chunk).map_err(WriteError::Read)?;
            if length == 0 {
                return object.finish();
            }
            object.hash(&chunk[..length]);
        }
    }

    fn copy(&self, file: &File, size: u64, extents: Option<&[Extent]>) -> Result<Content, WriteError> {
        let mut object = LargeObjectWriter::create(self, size)?;
        let mut chunk = vec![0; CHUNK];
        let whole = [Extent { offset: 0, length: size }];
        for extent in extents.unwrap_or(&whole) {
            object.write_hole(extent.offset.saturating_sub(object.position));
            let end = extent.offset + extent.length;
            while object.position < end {
                let wanted = usize::try_from(end - object.position).map_or(CHUNK, |left| left.min(CHUNK));
                let length = disk::read_from(file, object.position, &mut chunk[..wanted]).map_err(WriteError::Read)?;
                if length == 0 {
                    return Err(WriteError::Length { expected: size, found: object.position });
                }
                object.write_data(&chunk[..length])?;
            }
        }
        object.write_hole(size.saturating_sub(object.position));
        if disk::read_from(file, size, &mut chunk[..1]).map_err(WriteError::Read)? != 0 {
            return Err(WriteError::Length { expected: size, found: size + 1 });
        }
        object.finish()
    }
}

/// A large object that is being written to a temporary file.
struct LargeObjectWriter<'a> {
    writer: &'a StoreWriter,
    file: TemporaryFile,
    hasher: ContentHasher,
    expected: u64,
    position: u64,
}

impl<'a> LargeObjectWriter<'a> {
    fn create(writer: &'a StoreWriter, size: u64) -> Result<Self, WriteError> {
        let path = writer.store().layout().temporary();
        let file = TemporaryFile::create(&path).map_err(|source| WriteError::Write {
            action: "create a file in",
            path,
            source,
        })?;
        Ok(Self { writer, file, hasher: ContentHasher::new(size), expected: size, position: 0 })
    }

    fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
    }

    fn write_data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        // Long runs of zeros become holes, whether or not the original had a hole there.
        if bytes.len() < CHUNK || bytes.chunks(ZEROS.len()).any(|part| part != &ZEROS[..part.len()]) {
            self.file.file().write_all_at(bytes, self.position).map_err(|source| self.write_error(source))?;
            start_write_back(self.file.file(), self.position);
        }
        self.hash(bytes);
        Ok(())
    }

    fn write_hole(&mut self, mut length: u64) {
        while length > 0 {
            let step = usize::try_from(length).map_or(ZEROS.len(), |length| length.min(ZEROS.len()));
            self.hash(&ZEROS[..step]);
            length -= step as u64;
        }
    }

    fn finish(self) -> Result<Content, WriteError> {
        let wrong_length = WriteError::Length { expected: self.expected, found: self.position };
        if self.position != self.expected {
            return Err(wrong_length);
        }
        self.file.file().set_len(self.position).map_err(|source| self.write_error(source))?;
        let content = self.hasher.finish().ok_or(wrong_length)?;
        if let Some(id) = content.object {
            self.writer.stage_file(id, content.size, self.file)?;
        }
        Ok(content)
    }

    fn write_error(&self, source: io::Error) -> WriteError {
        WriteError::Write { action: "write to", path: self.writer.store().layout().temporary(), source }
    }
}

/// Fills as much of `buffer` as the stream has; returns the number of bytes.
fn read_chunk(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match reader.read(&mut buffer[done..]) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
