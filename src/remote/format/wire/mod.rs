//! The published form of an image: frames, so that a listing needs only the start of the file and any block can be
//! fetched alone.
//!
//! ```text
//! ┌─────────────────────────────────────────────┬──────┬─────────────────┬────────┬────────┬───
//! │ index                                       │ head │ metadata        │ digest │ digest │ …
//! └─────────────────────────────────────────────┴──────┴─────────────────┴────────┴────────┴───
//!  offset size                                        └ prefix ends here
//!       0    8  magic "SAPWWIM\0"
//!       8    4  version = 1
//!      12    4  length H of the image's header with its tables
//!      16    4  number F of frames
//!      20    H  the image's header with its tables: the bytes its id covers
//!    20+H 16 F  frames: u32 kind · u32 first block · u32 blocks · u32 length in bytes
//! ```
//!
//! Frames follow one after the other. Each is one zstd frame and decompresses to blocks of the image (64 KiB, see
//! [`crate::image::layout`]). The blocks are then checked against the header, so frames need not be trusted.
//!
//! - **head** (kind 1): the first block of every metadata section, in ascending order. With it the top directories can
//!   be listed.
//! - **metadata** (kind 2): the blocks from the first to the end of section 19, filtered (see `filter`): names and all
//!   that `stat` returns. Frames of kind 2 stand together, so that one request fetches them.
//! - **digest** (kind 3): one block of sections 20 to 23 each: incompressible digests, which only readers of content
//!   need.
//!
//! When the metadata frame is small, there is no head and the prefix ends after the metadata frame.
//!
//! *Used by* `publish`, `pull` and the cache of lazy mounts.

mod delta;
mod encode;
mod filter;
mod frame_index;

pub use delta::{apply_image_delta, image_delta};
pub(crate) use encode::WireImage;
pub use encode::encode_image;
pub use frame_index::{FrameIndex, FrameKind, WireFrame, decode_image};

use crate::image::{ImageError, Outline, Section};

const MAGIC: [u8; 8] = *b"SAPWWIM\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 20;
const ROW_SIZE: usize = 16;

/// The largest image that is published or fetched, in bytes: some 15 million entries.
pub(crate) const IMAGE_SIZE_MAX: u64 = 1 << 30;

/// The largest window of the decoder in bits: no frame needs a larger one to decompress to [`IMAGE_SIZE_MAX`] bytes.
const WINDOW_LOG_MAX: u32 = 27;

/// The last section that listings need.
const LAST_METADATA: Section = Section::Extents;

/// The reason why a published image, or a delta of one, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The bytes do not start like a published image.
    #[error("not a published image")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("published image version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// A length is impossible, or there are fewer bytes than the lengths require.
    #[error("the published image has a bad length")]
    Length,
    /// The file is of another image.
    #[error("it is image {found}, not {expected}")]
    OtherImage {
        /// The image asked for.
        expected: crate::model::ImageId,
        /// The image found.
        found: crate::model::ImageId,
    },
    /// A compressed part is damaged.
    #[error("the published image cannot be unpacked")]
    Compression(#[from] std::io::Error),
    /// The result is no image, or not this one.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Returns the number of blocks that listings need: whole blocks, up to the end of the last metadata section.
fn metadata_blocks(outline: &Outline) -> u32 {
    let sections =
        outline.sections().iter().filter(|place| place.section.is_some_and(|section| section <= LAST_METADATA));
    let end = sections.map(|place| place.range.end).max().unwrap_or(outline.body());
    if end == outline.body() { 0 } else { outline.block_at(end - 1) + 1 }
}

/// Returns the first block of every metadata section.
fn head_blocks(outline: &Outline) -> Vec<u32> {
    let sections =
        outline.sections().iter().filter(|place| place.section.is_some_and(|section| section <= LAST_METADATA));
    let mut blocks: Vec<u32> = sections.map(|place| outline.block_at(place.range.start)).collect();
    blocks.dedup();
    blocks
}

/// Decompresses at most `limit` bytes. Memory grows with the bytes that are decompressed, not with an announced length.
fn unpack(packed: &[u8], limit: u64) -> Result<Vec<u8>, WireError> {
    use std::io::Read as _;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut raw = Vec::new();
    decoder.take(limit + 1).read_to_end(&mut raw)?;
    if raw.len() as u64 > limit { Err(WireError::Length) } else { Ok(raw) }
}

/// Converts a position to an index of a slice. Beyond the address space it saturates, so that the access fails.
fn to_index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Tree, encode};
    use crate::model::{Content, EntryName, Metadata, Node, NodeKind, ObjectId, Timestamp, Xattrs};

    fn metadata(number: u32) -> Metadata {
        Metadata {
            permissions: 0o644,
            uid: number % 3,
            gid: 0,
            mtime: Timestamp { seconds: 1_700_000_000 + i64::from(number / 50), nanoseconds: 0 },
            xattrs: Xattrs::default(),
        }
    }

    /// Makes a tree of directories of 50 files, symbolic links among them; `skip` leaves one file out.
    fn image(directories: u32, skip: Option<u32>) -> Vec<u8> {
        let name = |text: String| EntryName::new(text.into_bytes()).expect("legal");
        let mut tree = Tree::new(metadata(0));
        for directory in 0..directories {
            let node = Node { metadata: metadata(directory), kind: NodeKind::Directory };
            let parent = tree.insert(tree.root(), name(format!("directory-{directory}")), node).expect("new");
            for file in (0..50).map(|file| directory * 50 + file).filter(|file| Some(*file) != skip) {
                let kind = if file % 10 == 9 {
                    NodeKind::Symlink(format!("../target-of-{file}").into_bytes().into())
                } else {
                    let object = ObjectId::of(&(file % 400).to_le_bytes());
                    NodeKind::Regular(Content { object: Some(object), size: 4, blocks: Vec::new(), extents: None })
                };
                let node = Node { metadata: metadata(file), kind };
                tree.insert(parent, name(format!("file-{file:06}")), node).expect("new");
            }
        }
        encode(&tree).expect("legal").bytes
    }

    #[test]
    fn images_round_trip_whole_and_in_parts() {
        let golden = include_bytes!("../../../../tests/golden/small.image").to_vec();
        for (image, has_head) in [(golden, false), (image(3, None), false), (image(1600, None), true)] {
            let id = Outline::parse(&image).expect("own").id();
            let wire = encode_image(&image, 3).expect("encodes");
            assert!(decode_image(&wire.bytes, id).expect("own") == image);
            let index = FrameIndex::parse(&wire.bytes[..to_index(wire.prefix)], id).expect("the prefix holds it");
            assert_eq!(index.frames()[0].kind == FrameKind::Head, has_head);
            let first = &index.frames()[0];
            assert_eq!(first.range.end, wire.prefix);
            let metadata = index.frames().iter().rfind(|frame| frame.kind != FrameKind::Digest).expect("some entry");
            assert_eq!(metadata.range.end, wire.metadata_length);
            for frame in index.frames() {
                let packed = &wire.bytes[to_index(frame.range.start)..to_index(frame.range.end)];
                for (block, bytes) in index.decode(frame, packed).expect("own frame") {
                    let range = index.outline().block(block);
                    assert_eq!(bytes, &image[to_index(range.start)..to_index(range.end)]);
                }
            }
        }
    }

    /// Makes a tree of one directory whose entries compress badly, so that there is a head frame from some 2,000
    /// entries on.
    fn random_image(entries: u32) -> Vec<u8> {
        let random = |number: u32, salt: u32| {
            let id = ObjectId::of(&[number.to_le_bytes(), salt.to_le_bytes()].concat());
            u32::from_le_bytes(id.as_bytes()[..4].try_into().expect("four"))
        };
        let mut tree = Tree::new(metadata(0));
        for number in 0..entries {
            let draw = |salt, below| random(number, salt) % below;
            let kind = match draw(0, 10) {
                0 => NodeKind::Directory,
                1 => NodeKind::Symlink(vec![b'x'; 1 + draw(1, 60) as usize].into()),
                _ => {
                    let content = draw(2, entries);
                    let object = Some(ObjectId::of(&content.to_le_bytes()));
                    let size = u64::from(1 + random(content, 3) % (1 << 20));
                    NodeKind::Regular(Content { object, size, blocks: Vec::new(), extents: None })
                }
            };
            let mut metadata = metadata(draw(4, 100));
            metadata.mtime.nanoseconds = draw(5, 1_000_000_000);
            let name = EntryName::new(format!("{:08x}-{number}", random(number, 6)).into_bytes()).expect("legal");
            tree.insert(tree.root(), name, Node { metadata, kind }).expect("new");
        }
        encode(&tree).expect("legal").bytes
    }

    #[test]
    fn each_frame_is_read_alone_in_images_of_any_size() {
        let mut heads = 0;
        for entries in
            (1..=20_000).step_by(1_613).chain([2_500, 4_500, 5_000, 6_500, 8_189, 8_190, 8_191, 8_192, 8_193])
        {
            let image = random_image(entries);
            let id = Outline::parse(&image).expect("own").id();
            let wire = encode_image(&image, 1).expect("encodes");
            let index = FrameIndex::parse(&wire.bytes, id).expect("own");
            for frame in index.frames() {
                heads += u32::from(frame.kind == FrameKind::Head);
                let packed = &wire.bytes[to_index(frame.range.start)..to_index(frame.range.end)];
                let blocks = index.decode(frame, packed);
                for (block, bytes) in blocks.unwrap_or_else(|error| panic!("{entries} entries, {frame:?}: {error}")) {
                    let range = index.outline().block(block);
                    assert_eq!(bytes, &image[to_index(range.start)..to_index(range.end)]);
                }
            }
        }
        assert!(heads > 10, "{heads} images with a head");
    }

    #[test]
    fn damaged_images_are_refused_or_unchanged() {
        let image = image(3, None);
        let id = Outline::parse(&image).expect("own").id();
        let wire = encode_image(&image, 3).expect("encodes");
        for length in (0..wire.bytes.len()).step_by(7) {
            assert!(decode_image(&wire.bytes[..length], id).is_err(), "{length} bytes");
        }
        for at in 0..wire.bytes.len() {
            let mut damaged = wire.bytes.clone();
            damaged[at] ^= 0x55;
            if let Ok(found) = decode_image(&damaged, id) {
                assert!(found == image, "byte {at}");
            }
        }
        assert!(matches!(decode_image(&wire.bytes, crate::model::ImageId::of(b"")), Err(WireError::OtherImage { .. })));
    }

    #[test]
    fn delta_makes_the_next_image_and_is_small() {
        let (old, new) = (image(400, None), image(400, Some(777)));
        let id = Outline::parse(&new).expect("own").id();
        let delta = image_delta(&old, &new, 19).expect("encodes");
        assert!(apply_image_delta(&old, &delta, id).expect("own") == new);
        let header = to_index(Outline::parse(&new).expect("own").header_length());
        assert!(delta.len() < header + 1000, "{} bytes, {header} of header", delta.len());
        for length in (0..delta.len()).step_by(3) {
            assert!(apply_image_delta(&old, &delta[..length], id).is_err(), "{length} bytes");
        }
        let another = image(399, None);
        assert!(apply_image_delta(&another, &delta, id).is_err(), "made for another image");
    }
}
