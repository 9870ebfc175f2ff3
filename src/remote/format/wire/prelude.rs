//! Reading a published image, in parts or whole.

use std::ops::Range;

use super::{
    HEADER_SIZE, IMAGE_SIZE_MAX, MAGIC, ROW_SIZE, VERSION, WireError, filter, head_blocks, hot_blocks, index, unpack,
};
use crate::image::Outline;
use crate::model::ImageId;

/// What a frame of a published image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The first block of every hot section.
    Head,
    /// All that listings need.
    Hot,
    /// A block of digests.
    Digest,
}

impl FrameKind {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Head => 1,
            Self::Hot => 2,
            Self::Digest => 3,
        }
    }
}

/// A frame of a published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireFrame {
    /// What it is for.
    pub kind: FrameKind,
    /// Its bytes in the published file.
    pub range: Range<u64>,
    /// The blocks of the image that it brings, ascending.
    pub blocks: Vec<u32>,
}

/// The start of a published image: the image's own header, which is checked, and where the frames are, which is advice.
#[derive(Debug, Clone)]
pub struct Prelude {
    outline: Outline,
    header: Vec<u8>,
    frames: Vec<WireFrame>,
    length: u64,
}

impl Prelude {
    /// Reads the start of the published image `id`; what follows the prelude is ignored.
    ///
    /// # Errors
    /// [`WireError`]: it is not that image's, or it is cut off.
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
        // Two frames more than there are blocks: the head, and all that is hot.
        if u64::from(count) > u64::from(outline.blocks()) + 2 {
            return Err(WireError::Length);
        }
        let (table, _) = rest.split_at_checked(count as usize * ROW_SIZE).ok_or(WireError::Length)?;
        let length = (HEADER_SIZE + header.len() + table.len()) as u64;
        let frames = frames(&outline, table, length)?;
        Ok(Self { outline, header: header.to_vec(), frames, length })
    }

    /// What the image's header tells.
    #[must_use]
    pub const fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The image's header with its tables: the first bytes of the image's file.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes before the first frame.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The frames, in file order.
    #[must_use]
    pub fn frames(&self) -> &[WireFrame] {
        &self.frames
    }

    /// Unpacks a frame and checks what comes out: the blocks it brings, with their bytes.
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
            FrameKind::Hot => raw = self.unfiltered(&raw, frame.blocks.first(), frame.blocks.last()),
            FrameKind::Head => {
                let mut rest = &raw[..];
                let mut unfiltered = Vec::with_capacity(raw.len());
                for block in &frame.blocks {
                    let (bytes, after) = rest.split_at(index(length(block)));
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
            let (bytes, after) = rest.split_at(index(length(block)));
            self.outline.verify_block(*block, bytes)?;
            blocks.push((*block, bytes.to_vec()));
            rest = after;
        }
        Ok(blocks)
    }

    /// The bytes of the blocks from the first to the last, which were rearranged together.
    fn unfiltered(&self, filtered: &[u8], first: Option<&u32>, last: Option<&u32>) -> Vec<u8> {
        let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
        let (from, to) = (self.outline.block(*first).start, self.outline.block(*last).end);
        // The filter speaks of positions in the image.
        let mut image = vec![0; index(to)];
        filter::undo(&self.outline, filtered, &mut image, from, to);
        image.drain(..index(from));
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
            // The filter's columns are whole only in a frame that begins with the first block.
            2 if first == 0 && count == hot_blocks(outline) => (FrameKind::Hot, (0..count).collect()),
            3 if count == 1 && first < outline.blocks() => (FrameKind::Digest, vec![first]),
            _ => return Err(WireError::Length),
        };
        // Each of these brings much for few bytes; again and again it would keep us busy.
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

/// Unpacks a whole published image to the bytes of the image's file.
///
/// # Errors
/// [`WireError`]: it is damaged, incomplete, or another image.
pub fn decode_image(published: &[u8], id: ImageId) -> Result<Vec<u8>, WireError> {
    let prelude = Prelude::parse(published, id)?;
    let outline = prelude.outline();
    let mut image = vec![0; index(outline.file_length())];
    image[..prelude.header().len()].copy_from_slice(prelude.header());
    let mut missing = outline.blocks();
    for frame in prelude.frames().iter().filter(|frame| frame.kind != FrameKind::Head) {
        let packed = published.get(index(frame.range.start)..index(frame.range.end)).ok_or(WireError::Length)?;
        for (block, bytes) in prelude.decode(frame, packed)? {
            let range = outline.block(block);
            image[index(range.start)..index(range.end)].copy_from_slice(&bytes);
            missing = missing.saturating_sub(1);
        }
    }
    if missing == 0 { Ok(image) } else { Err(WireError::Length) }
}
