//! Cuts contents into frames.
//!
//! Contents below 64 KiB share frames of about 128 KiB, since for them the number of requests dominates. Contents up to
//! 1 MiB have a frame of their own. Of a large object each block of 256 KiB is a frame, since that is the unit of
//! verification.
//!
//! *Not here*: compression (`format`), and packs (`packs`).
//!
//! *Used by* `packs` and `estimate`.

use super::error::PublishError;
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ObjectId};
use crate::remote::format::RawFrame;
use crate::store::ObjectSource;

/// The sizes by which contents that are not large are put into frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameSizes {
    /// Contents of at least this many bytes have a frame of their own.
    pub(crate) own: u64,
    /// Shared frames are closed before they get larger than this, in bytes of content.
    pub(crate) shared: usize,
}

impl Default for FrameSizes {
    fn default() -> Self {
        Self { own: 64 << 10, shared: 128 << 10 }
    }
}

/// Objects that are packed one after the other. No frame is shared by two sections.
#[derive(Debug, Clone, Copy)]
pub(in crate::remote) struct PackSection<'a> {
    /// The objects with their lengths in bytes.
    pub(crate) objects: &'a [(ObjectId, u64)],
    /// Level of zstd.
    pub(crate) level: i32,
}

/// The contents of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FrameContents {
    /// Whole objects, one after the other, each with its position in the frame.
    Whole(Vec<(ObjectId, u32)>),
    /// A block of a large object, counted from 0.
    Block(ObjectId, u32),
}

/// An iterator that reads objects in order and cuts them into frames.
pub(super) struct FrameCutter<'a> {
    source: &'a dyn ObjectSource,
    sizes: FrameSizes,
    sections: std::slice::Iter<'a, PackSection<'a>>,
    objects: std::slice::Iter<'a, (ObjectId, u64)>,
    level: i32,
    shared: (Vec<(ObjectId, u32)>, Vec<u8>),
    large: Option<(ObjectId, u64, u32)>,
}

impl<'a> FrameCutter<'a> {
    pub(super) fn new(source: &'a dyn ObjectSource, sections: &'a [PackSection<'a>], sizes: FrameSizes) -> Self {
        let (shared, objects) = (Default::default(), [].iter());
        Self { source, sizes, sections: sections.iter(), objects, level: 0, shared, large: None }
    }

    /// Returns the next frame and its bytes.
    pub(super) fn next(&mut self) -> Result<Option<(FrameContents, RawFrame)>, PublishError> {
        loop {
            if let Some((contents, bytes)) = self.next_of_section()? {
                return Ok(Some((contents, RawFrame { bytes, level: self.level })));
            }
            let Some(section) = self.sections.next() else { return Ok(None) };
            (self.objects, self.level) = (section.objects.iter(), section.level);
        }
    }

    fn next_of_section(&mut self) -> Result<Option<(FrameContents, Vec<u8>)>, PublishError> {
        if let Some((id, size, block)) = self.large {
            return self.block_frame(id, size, block).map(Some);
        }
        while let Some(&(id, size)) = self.objects.next() {
            if size > LARGE_OBJECT {
                self.large = Some((id, size, 0));
                return self.block_frame(id, size, 0).map(Some);
            }
            let bytes = self.read(id, size, 0, size)?;
            if size >= self.sizes.own {
                return Ok(Some((FrameContents::Whole(vec![(id, 0)]), bytes)));
            }
            let full = self.shared.1.len() + bytes.len() > self.sizes.shared;
            let closed = if full { self.close_shared() } else { None };
            let offset = u32::try_from(self.shared.1.len()).expect("at most as long as a frame may be");
            self.shared.0.push((id, offset));
            self.shared.1.extend_from_slice(&bytes);
            if closed.is_some() {
                return Ok(closed);
            }
        }
        Ok(self.close_shared())
    }

    fn close_shared(&mut self) -> Option<(FrameContents, Vec<u8>)> {
        let (contents, bytes) = std::mem::take(&mut self.shared);
        (!contents.is_empty()).then_some((FrameContents::Whole(contents), bytes))
    }

    fn block_frame(&mut self, id: ObjectId, size: u64, block: u32) -> Result<(FrameContents, Vec<u8>), PublishError> {
        let start = u64::from(block) * BLOCK_SIZE;
        let end = (start + BLOCK_SIZE).min(size);
        let bytes = self.read(id, size, start, end)?;
        self.large = (end < size).then_some((id, size, block + 1));
        Ok((FrameContents::Block(id, block), bytes))
    }

    fn read(&self, id: ObjectId, expected: u64, start: u64, end: u64) -> Result<Vec<u8>, PublishError> {
        let length = usize::try_from(end - start).expect("a frame is at most 1 MiB");
        let mut bytes = vec![0; length];
        let read = self.source.read_at(id, start, &mut bytes)?;
        if read == length {
            Ok(bytes)
        } else {
            Err(PublishError::ObjectLength { id, expected, found: start + read as u64 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Wait;
    use crate::store::{Config, Store};

    #[test]
    fn sections_share_no_frame_and_keep_their_levels() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let writer = store.writer(Wait::No).expect("no other writer");
        let contents: Vec<Vec<u8>> = [100, 200, 300, 400, LARGE_OBJECT as usize + 1].map(|size| vec![7; size]).into();
        let objects: Vec<_> = contents.iter().map(|bytes| (ObjectId::of(bytes), bytes.len() as u64)).collect();
        let small = contents.iter().zip(&objects).take(4);
        small.for_each(|(bytes, (id, _))| writer.put_object(*id, bytes).expect("right"));
        writer.put(objects[4].1, &mut contents[4].as_slice()).expect("room");
        writer.flush().expect("durable");
        let (first, rest) = (&objects[..2], &objects[2..]);
        let sections = [(first, 15), (&[][..], 9), (rest, 7)].map(|(objects, level)| PackSection { objects, level });
        let mut cutter = FrameCutter::new(&store, &sections, FrameSizes::default());
        let mut frames = Vec::new();
        while let Some((contents, raw)) = cutter.next().expect("readable") {
            let what = match contents {
                FrameContents::Whole(objects) => objects.len(),
                FrameContents::Block(..) => 0,
            };
            frames.push((what, raw.bytes.len(), raw.level));
        }
        let block = BLOCK_SIZE as usize;
        let blocks = [(0, block, 7); 4];
        assert_eq!(frames[..1], [(2, 300, 15)]);
        assert_eq!(frames[1..5], blocks);
        assert_eq!(frames[5..], [(0, 1, 7), (2, 700, 7)]);
    }
}
