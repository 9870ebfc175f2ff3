//! Writes a published image.
//!
//! *Used by* `publish`.

use super::frame_index::FrameKind;
use super::{
    HEADER_SIZE, IMAGE_SIZE_MAX, MAGIC, ROW_SIZE, VERSION, WireError, filter, head_blocks, metadata_blocks, to_index,
};
use crate::image::Outline;

/// A metadata frame of up to this many bytes needs no head frame before it: on a link of 1 Mbit/s it takes half a
/// second.
const SMALL_METADATA: usize = 64 << 10;

/// A published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireImage {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Bytes at the start of the file that suffice to open the image and to list the top directories.
    pub(crate) prefix: u64,
    /// Bytes at the start of the file that hold all names and attributes.
    pub(crate) metadata_length: u64,
}

struct PackedFrame {
    kind: FrameKind,
    first: u32,
    blocks: u32,
    bytes: Vec<u8>,
}

/// Encodes a whole image at a zstd level.
///
/// # Errors
/// [`WireError`] when the bytes are no image or the compressor has no memory.
pub fn encode_image(image: &[u8], level: i32) -> Result<WireImage, WireError> {
    let outline = Outline::parse(image)?;
    if outline.file_length() != image.len() as u64 || outline.file_length() > IMAGE_SIZE_MAX {
        return Err(WireError::Length);
    }
    let metadata = metadata_blocks(&outline);
    let end = outline.block(metadata).start;
    let mut frames = Vec::new();
    let compressed = zstd::bulk::compress(&filter::apply(&outline, image, outline.body(), end), level)?;
    if compressed.len() > SMALL_METADATA {
        frames.push(pack_head(&outline, image, level)?);
    }
    if metadata > 0 {
        frames.push(PackedFrame { kind: FrameKind::Metadata, first: 0, blocks: metadata, bytes: compressed });
    }
    // The prefix, which a client requests first, ends after the first frame.
    let in_prefix = frames.first().map_or(0, |frame| frame.bytes.len() as u64);
    let until_metadata: u64 = frames.iter().map(|frame| frame.bytes.len() as u64).sum();
    for block in metadata..outline.blocks() {
        let range = outline.block(block);
        let bytes = zstd::bulk::compress(&image[to_index(range.start)..to_index(range.end)], level.min(3))?;
        frames.push(PackedFrame { kind: FrameKind::Digest, first: block, blocks: 1, bytes });
    }
    let header = &image[..to_index(outline.header_length())];
    let index_length = (HEADER_SIZE + header.len() + ROW_SIZE * frames.len()) as u64;
    let bytes = assemble(header, &frames)?;
    Ok(WireImage { bytes, prefix: index_length + in_prefix, metadata_length: index_length + until_metadata })
}

fn pack_head(outline: &Outline, image: &[u8], level: i32) -> Result<PackedFrame, WireError> {
    let blocks = head_blocks(outline);
    let ranges = blocks.iter().map(|block| outline.block(*block));
    let raw: Vec<u8> = ranges.flat_map(|range| filter::apply(outline, image, range.start, range.end)).collect();
    let count = u32::try_from(blocks.len()).map_err(|_| WireError::Length)?;
    Ok(PackedFrame { kind: FrameKind::Head, first: 0, blocks: count, bytes: zstd::bulk::compress(&raw, level)? })
}

fn assemble(header: &[u8], frames: &[PackedFrame]) -> Result<Vec<u8>, WireError> {
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
