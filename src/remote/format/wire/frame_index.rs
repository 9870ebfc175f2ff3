//! Reads a published image, in parts or whole.
//!
//! *Invariants*: blocks leave this module only after they were verified against the image's header.
//!
//! *Used by* `pull` and by the cache of lazy mounts.

use std::ops::Range;

use super::{
    HEADER_SIZE, IMAGE_SIZE_MAX, MAGIC, ROW_SIZE, VERSION, WireError, filter, head_blocks, metadata_blocks, to_index,
    unpack,
};
use crate::image::Outline;
use crate::model::ImageId;

/// The purpose of a frame of a published image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The first block of every metadata section.
    Head,
    /// All that listings need: names and attributes.
    Metadata,
    /// A block of digests.
    Digest,
}

impl FrameKind {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Head => 1,
            Self::Metadata => 2,
            Self::Digest => 3,
        }
    }
}

/// A frame of a published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireFrame {
    /// The frame's purpose.
    pub kind: FrameKind,
    /// Its bytes in the published file.
    pub range: Range<u64>,
    /// The blocks of the image that it contains, ascending.
    pub blocks: Vec<u32>,
}

/// The start of a published image: the image's own header, which is checked, and the index of frames, which is advice.
#[derive(Debug, Clone)]
pub struct FrameIndex {
    outline: Outline,
    header: Vec<u8>,
    frames: Vec<WireFrame>,
    length: u64,
}

impl FrameIndex {
    /// Reads the start of the published image `id`; bytes after the index are ignored.
    ///
    /// # Errors
    /// [`WireError`] when it is another image's, or is cut off.
    pub fn parse(bytes: &[u8], id: ImageId) -> Result<Self, WireError> {
        let (fixed, rest) = bytes.split_at_checked(HEADER_SIZE).ok_or(WireError::Magic)?;
        if fixed[..8] != MAGIC {
            return Err(WireError::Magic);
        }
        let [version, header_length, count] = [8, 12, 16].map(|at| number(fixed, at));
        if version != VERSION {
            return Err(WireError::TooNew(version));
        }
        let (header, rest) = rest.split_at_checked(header_length as usize).ok_or(WireError::Length)?;
        let outline = Outline::parse(header)?;
        if outline.id() != id {
            return Err(WireError::OtherImage { expected: id, found: outline.id() });
        }
        if outline.file_length() > IMAGE_SIZE_MAX || outline.header_length() != header.len() as u64 {
            return Err(WireError::Length);
        }
        // There may be two frames more than blocks: the head and the metadata.
        if u64::from(count) > u64::from(outline.blocks()) + 2 {
            return Err(WireError::Length);
        }
        let (table, _) = rest.split_at_checked(count as usize * ROW_SIZE).ok_or(WireError::Length)?;
        let length = (HEADER_SIZE + header.len() + table.len()) as u64;
        let frames = frames(&outline, table, length)?;
        Ok(Self { outline, header: header.to_vec(), frames, length })
    }

    /// Returns the outline that the image's header describes.
    #[must_use]
    pub const fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Returns the image's header with its tables: the first bytes of the image's file.
    pub(crate) fn header(&self) -> &[u8] {
        &self.header
    }

    /// Returns the number of bytes before the first frame.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the frames, in file order.
    #[must_use]
    pub fn frames(&self) -> &[WireFrame] {
        &self.frames
    }

    /// Decompresses a frame, verifies its blocks and returns them with their numbers.
    ///
    /// # Errors
    /// [`WireError`]; nothing of the frame can be used then.
    pub fn decode(&self, frame: &WireFrame, packed: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, WireError> {
        let length = |block: &u32| {
            let range = self.outline.block(*block);
            range.end - range.start
        };
        let expected: u64 = frame.blocks.iter().map(length).sum();
        let mut raw = unpack(packed, expected)?;
        if raw.len() as u64 != expected {
            return Err(WireError::Length);
        }
        match frame.kind {
            FrameKind::Metadata => raw = self.unfiltered(&raw, frame.blocks.first(), frame.blocks.last()),
            FrameKind::Head => {
                let mut rest = &raw[..];
                let mut unfiltered = Vec::with_capacity(raw.len());
                for block in &frame.blocks {
                    let (bytes, after) = rest.split_at(to_index(length(block)));
                    unfiltered.extend(self.unfiltered(bytes, Some(block), Some(block)));
                    rest = after;
                }
                raw = unfiltered;
            }
            FrameKind::Digest => {}
        }
        let mut rest = &raw[..];
        let mut blocks = Vec::with_capacity(frame.blocks.len());
        for block in &frame.blocks {
            let (bytes, after) = rest.split_at(to_index(length(block)));
            self.outline.verify_block(*block, bytes)?;
            blocks.push((*block, bytes.to_vec()));
            rest = after;
        }
        Ok(blocks)
    }

    /// Reverses the filter for the blocks from the first to the last, which were rearranged together.
    fn unfiltered(&self, filtered: &[u8], first: Option<&u32>, last: Option<&u32>) -> Vec<u8> {
        let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
        let (from, to) = (self.outline.block(*first).start, self.outline.block(*last).end);
        // The filter uses positions in the image.
        let mut image = vec![0; to_index(to)];
        filter::undo(&self.outline, filtered, &mut image, from, to);
        image.drain(..to_index(from));
        image
    }
}

fn frames(outline: &Outline, table: &[u8], start: u64) -> Result<Vec<WireFrame>, WireError> {
    let mut at = start;
    let mut frames: Vec<WireFrame> = Vec::new();
    for row in table.chunks_exact(ROW_SIZE) {
        let [kind, first, count, length] = [0, 4, 8, 12].map(|at| number(row, at));
        let range = at..at + u64::from(length);
        at = range.end;
        let (kind, blocks) = match kind {
            1 => (FrameKind::Head, head_blocks(outline)),
            // The filter's columns are complete only in a frame that begins with the first block.
            2 if first == 0 && count == metadata_blocks(outline) => (FrameKind::Metadata, (0..count).collect()),
            3 if count == 1 && first < outline.blocks() => (FrameKind::Digest, vec![first]),
            _ => return Err(WireError::Length),
        };
        // Each of these can decompress to many bytes from few; if repeated, it would waste the reader's time.
        if kind != FrameKind::Digest && frames.iter().any(|frame| frame.kind == kind) {
            return Err(WireError::Length);
        }
        frames.push(WireFrame { kind, range, blocks });
    }
    Ok(frames)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Decodes a whole published image to the bytes of the image's file.
///
/// # Errors
/// [`WireError`] when it is damaged, incomplete, or another image.
pub fn decode_image(published: &[u8], id: ImageId) -> Result<Vec<u8>, WireError> {
    let index = FrameIndex::parse(published, id)?;
    let outline = index.outline();
    let mut image = vec![0; to_index(outline.file_length())];
    image[..index.header().len()].copy_from_slice(index.header());
    let mut missing = outline.blocks();
    for frame in index.frames().iter().filter(|frame| frame.kind != FrameKind::Head) {
        let packed = published.get(to_index(frame.range.start)..to_index(frame.range.end)).ok_or(WireError::Length)?;
        for (block, bytes) in index.decode(frame, packed)? {
            let range = outline.block(block);
            image[to_index(range.start)..to_index(range.end)].copy_from_slice(&bytes);
            missing = missing.saturating_sub(1);
        }
    }
    if missing == 0 { Ok(image) } else { Err(WireError::Length) }
}
