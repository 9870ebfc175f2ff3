//! Reads bytes as each kind of published file. Shared by the fuzz target and the mutation tests.
//!
//! *Invariants*: a reader may return an error, since the bytes may be anything; it must not panic, and its memory must not grow
//! with announced sizes.

use sapwood::image::Outline;
use sapwood::remote::delta::{DeltaBatch, DeltaHead, base_range, piece_count, piece_range};
use sapwood::remote::format::wire::{FrameIndex, apply_image_delta, decode_image, encode_image};
use sapwood::remote::format::{
    FRAME_RAW_MAX, Locator, LocatorBound, LocatorBuilder, PackFrame, Profile, ProfileText, decode_frame,
    is_in_proportion,
};

/// The name of a kind of input, and its reader.
type Kind = (&'static str, fn(&[u8]));

/// Kinds of input, in the order of their first byte.
pub const KINDS: [Kind; 13] = [
    ("locator", locator),
    ("frame", frame),
    ("image", image),
    ("image-delta", image_delta),
    ("delta", delta),
    ("batch", batch),
    ("profile", profile),
    ("profile-text", profile_text),
    // The same files uncompressed, since changed bytes seldom pass the decompressor.
    ("locator-raw", |bytes| locator(&packed(bytes, 24))),
    ("delta-raw", delta_raw),
    ("batch-raw", |bytes| batch(&packed(bytes, 8))),
    ("profile-raw", |bytes| profile(&packed(bytes, 16))),
    ("image-raw", image_raw),
];

/// The image from which deltas are made.
pub const BASE: &[u8] = include_bytes!("../tests/golden/small.image");

/// Most objects and pieces of a small image.
const ITEMS_MAX: u32 = 20_000;

/// Reads bytes as their first byte says.
pub fn exercise(data: &[u8]) {
    if let Some((kind, bytes)) = data.split_first() {
        KINDS[usize::from(*kind) % KINDS.len()].1(bytes);
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn locator(bytes: &[u8]) {
    // As for an image with the number of objects that the locator has.
    let objects = number(bytes, 20).unwrap_or(0).min(ITEMS_MAX);
    let bound = LocatorBound::new((0..objects).map(|index| u64::from(index % 7) << 20));
    let Ok(locator) = Locator::parse(bytes, bound) else { return };
    let mut again = LocatorBuilder::new();
    for pack in locator.packs() {
        again.add_pack(pack.id, pack.length);
    }
    for frame in locator.frames() {
        assert!(frame.end() <= locator.packs()[frame.pack as usize].length);
        assert!(frame.raw_length as usize <= FRAME_RAW_MAX && is_in_proportion(frame.length, frame.raw_length));
        again.add_frame(PackFrame { ..*frame });
    }
    for object in 0..locator.objects() {
        let spot = locator.object(object).expect("counted");
        assert!(spot.offset < locator.frame(spot.frame).expect("checked").raw_length);
        again.add_object(spot);
    }
    let again = Locator::parse(&again.finish().expect("memory"), bound).expect("what was read can be written");
    assert_eq!((again.packs(), again.frames()), (locator.packs(), locator.frames()));
}

/// Compresses what follows the header.
fn packed(bytes: &[u8], header: usize) -> Vec<u8> {
    let (header, raw) = bytes.split_at(header.min(bytes.len()));
    [header, &zstd::bulk::compress(raw, 1).expect("memory")].concat()
}

/// Reads the head of a delta without an image's delta.
fn delta_raw(bytes: &[u8]) {
    let mut bytes = packed(bytes, 24);
    if bytes.len() > 24 {
        let length = u32::try_from(bytes.len() - 24).expect("small");
        bytes[12..16].fill(0);
        bytes[16..20].copy_from_slice(&length.to_le_bytes());
    }
    delta(&bytes);
}

/// Reads the content of a frame of the base's published form.
fn image_raw(bytes: &[u8]) {
    let published = encode_image(BASE, 1).expect("an image").bytes;
    let id = Outline::parse(BASE).expect("an image").id();
    let prelude = FrameIndex::parse(&published, id).expect("own");
    for frame in prelude.frames() {
        let expected: u64 =
            frame.blocks.iter().map(|block| prelude.outline().block(*block)).map(|r| r.end - r.start).sum();
        let mut raw = bytes.to_vec();
        raw.resize(usize::try_from(expected).expect("small"), 0);
        let _ = prelude.decode(frame, &zstd::bulk::compress(&raw, 1).expect("memory"));
    }
}

fn frame(bytes: &[u8]) {
    let Some(raw_length) = number(bytes, 0) else { return };
    if let Ok(raw) = decode_frame(&bytes[4..], raw_length) {
        assert_eq!(raw.len(), raw_length as usize);
    }
}

/// Returns the outline of an image from its header at `at`, with its id, as a client has it that knows the image.
fn outline(bytes: &[u8], length_at: usize, at: usize) -> Option<Outline> {
    let length = number(bytes, length_at)? as usize;
    let outline = Outline::parse(bytes.get(at..at.checked_add(length)?)?).ok()?;
    // Larger ones are only slower.
    (outline.file_length() < 4 << 20).then_some(outline)
}

fn image(bytes: &[u8]) {
    let Some(outline) = outline(bytes, 12, 20) else { return };
    let Ok(prelude) = FrameIndex::parse(bytes, outline.id()) else { return };
    for frame in prelude.frames() {
        let range = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let Some(packed) = bytes.get(range(frame.range.start)..range(frame.range.end)) else { continue };
        if let Ok(blocks) = prelude.decode(frame, packed) {
            assert_eq!(blocks.iter().map(|(block, _)| *block).collect::<Vec<_>>(), frame.blocks);
        }
    }
    if let Ok(image) = decode_image(bytes, outline.id()) {
        assert_eq!(Outline::parse(&image).expect("checked").id(), outline.id());
    }
}

fn image_delta(bytes: &[u8]) {
    let Some(outline) = outline(bytes, 12, 24) else { return };
    if let Ok(image) = apply_image_delta(BASE, bytes, outline.id()) {
        assert_eq!(Outline::parse(&image).expect("checked").id(), outline.id());
    }
}

fn delta(bytes: &[u8]) {
    let Ok(head) = DeltaHead::parse(bytes, u64::from(ITEMS_MAX)) else { return };
    assert!(head.length() <= bytes.len() as u64);
    assert!(head.objects().len().max(head.batches().len()) <= ITEMS_MAX as usize);
    let mut end = head.length();
    for batch in head.batches() {
        assert_eq!(batch.offset, end);
        end += u64::from(batch.length);
    }
    image_delta(head.image_delta());
}

/// Reads one piece of a delta, after the lengths of the new and the old object; then as if there were more of them.
fn batch(bytes: &[u8]) {
    let (Some(size), Some(old_size)) = (number(bytes, 0), number(bytes, 4)) else { return };
    let (new_size, old_size) = (u64::from(size), u64::from(old_size));
    for piece in [0, piece_count(new_size).saturating_sub(1), u64::MAX] {
        let (new, old) = (piece_range(piece, new_size), base_range(piece, new_size, old_size));
        assert!(new.start <= new.end && new.end <= new_size && old.start <= old.end && old.end <= old_size);
    }
    let wanted = size as usize % (1 << 16);
    let Ok(mut batch) = DeltaBatch::unpack(&bytes[8..], new_size) else { return };
    for length in [wanted, 100, 0] {
        if let Ok(piece) = batch.next_piece(&BASE[..4096], length) {
            assert_eq!(piece.len(), length);
        }
    }
    let _ = batch.skip_piece(wanted);
}

fn profile(bytes: &[u8]) {
    if let Ok(profile) = Profile::parse(bytes) {
        assert_eq!(Profile::parse(&profile.encode().expect("memory")).expect("own form"), profile);
    }
}

fn profile_text(bytes: &[u8]) {
    if let Ok(text) = ProfileText::parse(bytes) {
        assert_eq!(ProfileText::parse(&text.render()).expect("own form"), text);
    }
}
