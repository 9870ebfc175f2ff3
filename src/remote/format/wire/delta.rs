//! The delta of an image: a file that makes one image from another.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWIMD\0"
//!      8    4  version = 1
//!     12    4  length H of the new image's header with its tables
//!     16    8  length of the new image
//!     24    H  the new image's header with its tables
//!   24+H       one zstd frame, made with the old image (rearranged, digests raw) as its prefix
//! ```
//!
//! Both images are rearranged as for publishing first: numbers that shift when an entry is added (objects, children,
//! offsets) become differences that stay the same, so that only real changes have to be stored.
//!
//! *Used by* `remote::publish` and `remote::pull`.

use std::io::{Read as _, Write as _};

use zstd::zstd_safe::CParameter;

use super::{IMAGE_SIZE_MAX, VERSION, WireError, filter, to_index};
use crate::image::Outline;
use crate::model::ImageId;

const MAGIC: [u8; 8] = *b"SAPWIMD\0";
const HEADER_SIZE: usize = 24;

/// Returns the part of an image that is compressed: everything after the header, rearranged.
fn rearranged(outline: &Outline, image: &[u8]) -> Vec<u8> {
    filter::apply(outline, image, outline.header_length(), outline.file_length())
}

fn outline_of(image: &[u8]) -> Result<Outline, WireError> {
    let outline = Outline::parse(image)?;
    if outline.file_length() == image.len() as u64 && outline.file_length() <= IMAGE_SIZE_MAX {
        Ok(outline)
    } else {
        Err(WireError::Length)
    }
}

/// Returns the bits of a zstd window that covers both images.
fn window_log(old: usize, new: usize) -> u32 {
    (usize::BITS - (old + new).leading_zeros()).clamp(20, 30)
}

/// Makes the delta from image `old` to image `new`, at a zstd level.
///
/// # Errors
/// [`WireError`] when either is no image or the compressor has no memory.
pub fn image_delta(old: &[u8], new: &[u8], level: i32) -> Result<Vec<u8>, WireError> {
    let (old_outline, outline) = (outline_of(old)?, outline_of(new)?);
    let (prefix, raw) = (rearranged(&old_outline, old), rearranged(&outline, new));
    let header = &new[..to_index(outline.header_length())];
    let header_length = u32::try_from(header.len()).map_err(|_| WireError::Length)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&header_length.to_le_bytes());
    bytes.extend_from_slice(&outline.file_length().to_le_bytes());
    bytes.extend_from_slice(header);
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(bytes, level, &prefix)?;
    encoder.set_parameter(CParameter::WindowLog(window_log(prefix.len(), raw.len())))?;
    // 24 MiB of tables for images of any size: the long matches save most, and those have a table of their own.
    encoder.set_parameter(CParameter::HashLog(20))?;
    encoder.set_parameter(CParameter::ChainLog(22))?;
    encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
    encoder.set_pledged_src_size(Some(raw.len() as u64))?;
    encoder.write_all(&raw)?;
    Ok(encoder.finish()?)
}

/// Makes image `id` from image `old` and a delta, and checks every block of it. `old` must have been verified.
///
/// # Errors
/// [`WireError`] when the delta is damaged, leads to another image, or is based on another one.
pub fn apply_image_delta(old: &[u8], delta: &[u8], id: ImageId) -> Result<Vec<u8>, WireError> {
    let (fixed, rest) = delta.split_at_checked(HEADER_SIZE).ok_or(WireError::Magic)?;
    if fixed[..8] != MAGIC {
        return Err(WireError::Magic);
    }
    let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    if number(8) != VERSION {
        return Err(WireError::TooNew(number(8)));
    }
    let (header, packed) = rest.split_at_checked(number(12) as usize).ok_or(WireError::Length)?;
    let outline = Outline::parse(header)?;
    if outline.id() != id {
        return Err(WireError::OtherImage { expected: id, found: outline.id() });
    }
    // The id is the header's digest, so these lengths can be trusted as far as the id is.
    if outline.file_length() > IMAGE_SIZE_MAX || outline.header_length() != header.len() as u64 {
        return Err(WireError::Length);
    }
    let prefix = rearranged(&outline_of(old)?, old);
    let expected = outline.file_length() - outline.header_length();
    let raw = unpack_with_prefix(packed, &prefix, expected)?;
    let mut image = vec![0; to_index(outline.file_length())];
    image[..header.len()].copy_from_slice(header);
    filter::undo(&outline, &raw, &mut image, outline.header_length(), outline.file_length());
    for block in 0..outline.blocks() {
        let range = outline.block(block);
        outline.verify_block(block, &image[to_index(range.start)..to_index(range.end)])?;
    }
    Ok(image)
}

fn unpack_with_prefix(packed: &[u8], prefix: &[u8], expected: u64) -> Result<Vec<u8>, WireError> {
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(packed, prefix)?;
    decoder.window_log_max(window_log(prefix.len(), to_index(expected)).max(27))?;
    let mut raw = Vec::new();
    decoder.take(expected + 1).read_to_end(&mut raw)?;
    if raw.len() as u64 == expected { Ok(raw) } else { Err(WireError::Length) }
}
