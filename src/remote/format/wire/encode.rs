//! Writing a published image.

use super::prelude::FrameKind;
use super::{HEADER_SIZE, IMAGE_SIZE_MAX, MAGIC, ROW_SIZE, VERSION, WireError, filter, head_blocks, hot_blocks, index};
use crate::image::Outline;

/// Hot frames of up to this many bytes need no head before them: on a link of 1 Mbit/s they take half a second.
const SMALL_HOT: usize = 64 << 10;

/// A published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireImage {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Bytes at its start that suffice to open it and to list the top directories.
    pub prefix: u64,
    /// Bytes at its start that hold all names and attributes.
    pub hot: u64,
}

struct Packed {
    kind: FrameKind,
    first: u32,
    blocks: u32,
    bytes: Vec<u8>,
}

/// Packs a whole image at a level of zstd.
///
/// # Errors
/// [`WireError`] when the bytes are no image or the compressor has no memory.
pub fn encode_image(image: &[u8], level: i32) -> Result<WireImage, WireError> {
    let outline = Outline::parse(image)?;
    if outline.file_length() != image.len() as u64 || outline.file_length() > IMAGE_SIZE_MAX {
        return Err(WireError::Length);
    }
    let hot = hot_blocks(&outline);
    let end = outline.block(hot).start;
    let mut frames = Vec::new();
    let packed = zstd::bulk::compress(&filter::apply(&outline, image, outline.body(), end), level)?;
    if packed.len() > SMALL_HOT {
        frames.push(head(&outline, image, level)?);
    }
    if hot > 0 {
        frames.push(Packed { kind: FrameKind::Hot, first: 0, blocks: hot, bytes: packed });
    }
    // What comes with the first request.
    let in_prefix = frames.first().map_or(0, |frame| frame.bytes.len() as u64);
    let until_hot: u64 = frames.iter().map(|frame| frame.bytes.len() as u64).sum();
    for block in hot..outline.blocks() {
        let range = outline.block(block);
        let bytes = zstd::bulk::compress(&image[index(range.start)..index(range.end)], level.min(3))?;
        frames.push(Packed { kind: FrameKind::Digest, first: block, blocks: 1, bytes });
    }
    let header = &image[..index(outline.header_length())];
    let prelude = (HEADER_SIZE + header.len() + ROW_SIZE * frames.len()) as u64;
    let bytes = assemble(header, &frames)?;
    Ok(WireImage { bytes, prefix: prelude + in_prefix, hot: prelude + until_hot })
}

fn head(outline: &Outline, image: &[u8], level: i32) -> Result<Packed, WireError> {
    let blocks = head_blocks(outline);
    let ranges = blocks.iter().map(|block| outline.block(*block));
    let raw: Vec<u8> = ranges.flat_map(|range| filter::apply(outline, image, range.start, range.end)).collect();
    let count = u32::try_from(blocks.len()).map_err(|_| WireError::Length)?;
    Ok(Packed { kind: FrameKind::Head, first: 0, blocks: count, bytes: zstd::bulk::compress(&raw, level)? })
}

fn assemble(header: &[u8], frames: &[Packed]) -> Result<Vec<u8>, WireError> {
    let narrow = |length: usize| u32::try_from(length).map_err(|_| WireError::Length);
    let mut bytes = MAGIC.to_vec();
    for value in [VERSION, narrow(header.len())?, narrow(frames.len())?] {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.extend_from_slice(header);
    for frame in frames {
        for value in [frame.kind.number(), frame.first, frame.blocks, narrow(frame.bytes.len())?] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
    }
    frames.iter().for_each(|frame| bytes.extend_from_slice(&frame.bytes));
    Ok(bytes)
}
