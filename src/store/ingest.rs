//! From bytes to objects: hash them, keep them once, say what they are called.
//!
//! Called by many threads at once. Small contents are read whole and go into the current pack; larger ones are hashed
//! while they are copied, or cloned where the filesystem can share extents.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::pack::start_write_back;
use super::write::{StoreWriter, WriteError};
use crate::disk::{self, TemporaryFile};
use crate::model::{Content, ContentHasher, Extent, LARGE_OBJECT, ObjectId};

/// Bytes read, hashed and written at a time. 256 KiB stays in the second-level cache between the three.
const CHUNK: usize = 256 << 10;

/// Zeros that are hashed for a hole, and compared with. They are part of the program, so they are few.
static ZEROS: [u8; 4096] = [0; 4096];

impl StoreWriter {
    /// Stores a content of `size` bytes that comes from a stream.
    ///
    /// # Errors
    /// [`WriteError::Length`] when the stream is shorter or longer, otherwise as the reading or writing fails.
    pub fn put(&self, size: u64, reader: &mut dyn Read) -> Result<Content, WriteError> {
        if self.is_small(size) {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
            reader.take(size + 1).read_to_end(&mut bytes).map_err(WriteError::Read)?;
            return self.put_small(size, &bytes);
        }
        let mut object = LargeObject::create(self, size)?;
        let mut chunk = vec![0; CHUNK];
        while object.position <= size {
            let length = read_chunk(reader, &mut chunk).map_err(WriteError::Read)?;
            if length == 0 {
                break;
            }
            object.data(&chunk[..length])?;
        }
        object.finish()
    }

    /// Stores the content of an open file of `size` bytes, whose holes are known: `extents` as in [`Content::extents`].
    ///
    /// # Errors
    /// [`WriteError::Length`] when the file is shorter or longer, otherwise as the reading or writing fails.
    pub fn put_file(&self, file: &File, size: u64, extents: Option<Vec<Extent>>) -> Result<Content, WriteError> {
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

    /// Packed objects never have blocks of their own, so the limit of packs ends where large objects begin.
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
        let mut object = LargeObject::create(self, size)?;
        if rustix::fs::ioctl_ficlone(object.file.file(), file).is_err() {
            // Another filesystem, or one that shares no extents: do not ask for each file.
            self.reflink_works.store(false, Ordering::Relaxed);
            return self.copy(file, size, None);
        }
        // Hash the clone, not the original: what is hashed can no longer change.
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
        let mut object = LargeObject::create(self, size)?;
        let mut chunk = vec![0; CHUNK];
        let whole = [Extent { offset: 0, length: size }];
        for extent in extents.unwrap_or(&whole) {
            object.hole(extent.offset.saturating_sub(object.position));
            let end = extent.offset + extent.length;
            while object.position < end {
                let room = usize::try_from(end - object.position).map_or(CHUNK, |room| room.min(CHUNK));
                let length = disk::read_from(file, object.position, &mut chunk[..room]).map_err(WriteError::Read)?;
                if length == 0 {
                    return Err(WriteError::Length { expected: size, found: object.position });
                }
                object.data(&chunk[..length])?;
            }
        }
        object.hole(size.saturating_sub(object.position));
        if disk::read_from(file, size, &mut chunk[..1]).map_err(WriteError::Read)? != 0 {
            return Err(WriteError::Length { expected: size, found: size + 1 });
        }
        object.finish()
    }
}

/// A large object on its way into a file.
struct LargeObject<'a> {
    writer: &'a StoreWriter,
    file: TemporaryFile,
    hasher: ContentHasher,
    expected: u64,
    position: u64,
}

impl<'a> LargeObject<'a> {
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

    fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        // Long runs of zeros need no room on disk, whether or not the original had a hole there.
        if bytes.len() < CHUNK || bytes.chunks(ZEROS.len()).any(|part| part != &ZEROS[..part.len()]) {
            self.file.file().write_all_at(bytes, self.position).map_err(|source| self.write_error(source))?;
            start_write_back(self.file.file(), self.position);
        }
        self.hash(bytes);
        Ok(())
    }

    fn hole(&mut self, mut length: u64) {
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

/// Fills as much of `buffer` as the stream has.
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
