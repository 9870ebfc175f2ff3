//! Bytes of published files: earlier files stay readable, and no bytes in their place make a reader panic or use too much
//! memory.
//!
//! `fuzz/seeds/published` has one file of each kind, after the byte that tells the fuzzer the kind. Another version of zstd may
//! compress differently, so reading is tested and not the compressed bytes. Set `SAPWOOD_GOLDEN=write` to write the seeds
//! again, which is right only before a release has written such files.

use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sapwood::image::{Image, Outline, Tree, encode};
use sapwood::model::{Content, EntryName, ImagePath, Metadata, Node, NodeKind, ObjectId, PackId};
use sapwood::remote::delta::{BatchRef, Delta, DeltaBatch, DeltaHead, DeltaOptions, DeltaSide, ObjectPair};
use sapwood::remote::format::wire::{apply_image_delta, decode_image, encode_image, image_delta};
use sapwood::remote::format::{
    Locator, LocatorBound, LocatorBuilder, ObjectPosition, PackFrame, PackRef, PackWriter, Profile, ProfileEntry,
    ProfileLine, ProfileText, decode_frame,
};
use sapwood::store::MemoryObjects;
use sapwood::sys::Mapping;

use crate::common::process::in_own_process;
use crate::common::sandbox::own_peak_memory;
use crate::fuzzed::published::{BASE, KINDS, exercise};

/// Most memory of all readers together: some of these files announce a gigabyte.
const MEMORY_MAX: u64 = 512 << 20;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/published").join(name)
}

/// Returns the seed of a kind, without its first byte.
fn seed(name: &str) -> Vec<u8> {
    let bytes = std::fs::read(path(name)).expect("it is part of the sources");
    let (kind, bytes) = bytes.split_first().expect("not empty");
    assert_eq!(KINDS[usize::from(*kind)].0, name);
    bytes.to_vec()
}

fn packs() -> [PackRef; 2] {
    [1_u8, 2].map(|number| PackRef { id: PackId::of(&[number]), length: u64::from(number) << 20 })
}

fn frames() -> Vec<PackFrame> {
    let frame = |pack: u32, offset, length, raw_length| PackFrame { pack, offset, length, raw_length };
    vec![frame(0, 16, 1000, 5000), frame(0, 1016, 300_000, 1 << 20), frame(1, 16, 200, 1 << 18), frame(1, 300, 9, 7)]
}

fn spots() -> Vec<ObjectPosition> {
    [(0, 0), (0, 100), (0, 4999), (1, 0), (2, 0)].map(|(frame, offset)| ObjectPosition { frame, offset }).to_vec()
}

fn profile_entries() -> Vec<ProfileEntry> {
    let entry = |object, first, blocks| ProfileEntry { object, first, blocks };
    vec![entry(7, 0, 0), entry(3, 2, 5), entry(u32::MAX, u32::MAX, 1)]
}

fn profile_lines() -> Vec<ProfileLine> {
    let line = |path: &[u8], first, blocks| ProfileLine { path: ImagePath::parse(path).expect("legal"), first, blocks };
    vec![line(b"/usr/bin/env", 0, 0), line(b"/a b\\c\nd\xff", 3, 2)]
}

/// Returns an image with two files, one of which has this content.
fn small_image(content: &[u8]) -> Vec<u8> {
    let metadata = Metadata {
        permissions: 0o755,
        uid: 0,
        gid: 0,
        mtime: sapwood::model::Timestamp { seconds: 1_700_000_000, nanoseconds: 0 },
        xattrs: Default::default(),
    };
    let mut tree = Tree::new(metadata.clone());
    for (name, content) in [("changed", content), ("same", b"the same")] {
        let content = Content {
            object: Some(ObjectId::of(content)),
            size: content.len() as u64,
            blocks: Vec::new(),
            extents: None,
        };
        let node = Node { metadata: metadata.clone(), kind: NodeKind::Regular(content) };
        tree.insert(tree.root(), EntryName::new(name.as_bytes().to_vec()).expect("legal"), node).expect("new");
    }
    encode(&tree).expect("legal").bytes
}

fn contents() -> [Vec<u8>; 2] {
    let old = crate::common::trees::noise(1, 5000);
    let mut new = old.clone();
    new[2500] ^= 1;
    new.extend_from_slice(b"and more");
    [old, new]
}

fn images() -> [Image; 2] {
    contents().map(|content| Image::open(Mapping::of_bytes(small_image(&content))).expect("own"))
}

/// Returns the delta between the two small images, with its objects.
fn delta() -> Vec<u8> {
    let [old, new] = images();
    let mut objects = MemoryObjects::default();
    contents().into_iter().chain([b"the same".to_vec()]).for_each(|content| _ = objects.insert(content));
    let image = image_delta(old.as_bytes(), new.as_bytes(), 19).expect("memory");
    let side = |image| DeltaSide { image, objects: &objects };
    let options = DeltaOptions { threads: 1 };
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let delta = Delta::new(side(&old), side(&new)).expect("own images");
    let (mut file, _) = delta.write(&image, options, scratch.path(), &|_| {}).expect("all is here");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes).expect("readable");
    bytes
}

/// Returns each kind of file as it is written now. A frame follows its uncompressed length, a batch of one piece follows the
/// lengths of the new and the old object.
fn written(name: &str) -> Vec<u8> {
    match name {
        "locator" => {
            let mut builder = LocatorBuilder::new();
            packs().iter().for_each(|pack| _ = builder.add_pack(pack.id, pack.length));
            frames().into_iter().for_each(|frame| _ = builder.add_frame(frame));
            spots().into_iter().for_each(|spot| builder.add_object(spot));
            builder.finish().expect("memory")
        }
        "frame" => {
            let raw = &contents()[0];
            let packed = zstd::bulk::compress(raw, 6).expect("memory");
            [&u32::try_from(raw.len()).expect("small").to_le_bytes()[..], &packed].concat()
        }
        "image" => encode_image(BASE, 19).expect("an image").bytes,
        "image-delta" => image_delta(BASE, &small_image(b"another"), 19).expect("images"),
        "delta" => delta(),
        "batch" => {
            let bytes = delta();
            let head = DeltaHead::parse(&bytes, 10).expect("own");
            let lengths = contents().map(|content| u32::try_from(content.len()).expect("small").to_le_bytes());
            let batch = &bytes[usize::try_from(head.length()).expect("small")..];
            [&lengths[1], &lengths[0], batch].concat()
        }
        "profile" => Profile { entries: profile_entries() }.encode().expect("memory"),
        "profile-text" => ProfileText { lines: profile_lines() }.render(),
        "locator-raw" => unpacked(&written("locator"), 24),
        "profile-raw" => unpacked(&written("profile"), 16),
        "batch-raw" => unpacked(&written("batch"), 8),
        "delta-raw" => {
            let bytes = delta();
            let image = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
            let without_image = [&bytes[..24], &bytes[24 + image..]].concat();
            unpacked(&without_image, 24)
        }
        "image-raw" => BASE[4096..BASE.len().min(4096 + 2000)].to_vec(),
        other => panic!("no such file: {other}"),
    }
}

/// Returns the frame after the header, decompressed.
fn unpacked(bytes: &[u8], header: usize) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(&bytes[header..]).expect("memory").single_frame();
    std::io::Read::read_to_end(&mut decoder, &mut raw).expect("own frame");
    [&bytes[..header], &raw].concat()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "files of the sources need not survive a power cut")]
fn every_kind_of_published_file_has_a_seed() {
    for (number, (name, _)) in (0_u8..).zip(KINDS) {
        if std::env::var_os("SAPWOOD_GOLDEN").is_some() {
            std::fs::create_dir_all(path("")).expect("the sources can be written");
            std::fs::write(path(name), [&[number], &written(name)[..]].concat()).expect("the sources can be written");
        }
        exercise(&[&[number], &seed(name)[..]].concat());
    }
}

#[test]
fn locators_and_frames_are_read_for_ever() {
    let bytes = seed("locator");
    let locator = Locator::parse(&bytes, LocatorBound::new([1; 5])).expect("a locator");
    assert_eq!((locator.packs(), locator.frames()), (&packs()[..], &frames()[..]));
    assert_eq!((0..5).filter_map(|object| locator.object(object)).collect::<Vec<_>>(), spots());
    assert_eq!(bytes[..24], written("locator")[..24], "the part that is not compressed");
    let content = &contents()[0];
    assert_eq!(&decode_frame(&seed("frame")[4..], 5000).expect("a frame"), content);
    let pack = PackWriter::new(Vec::new()).expect("memory").finish();
    assert_eq!(pack.0, b"SAPWPCK\0\x01\0\0\0\0\0\0\0", "what stands before the frames of a pack");
}

#[test]
fn images_and_their_deltas_are_read_for_ever() {
    let id = |image: &[u8]| Outline::parse(image).expect("an image").id();
    assert!(decode_image(&seed("image"), id(BASE)).expect("an image") == BASE);
    let other = small_image(b"another");
    assert!(apply_image_delta(BASE, &seed("image-delta"), id(&other)).expect("a delta") == other);
}

#[test]
fn deltas_are_read_for_ever() {
    let (bytes, [old_content, new_content]) = (seed("delta"), contents());
    let [old, new] = images();
    let head = DeltaHead::parse(&bytes, 1).expect("a delta");
    let made = apply_image_delta(old.as_bytes(), head.image_delta(), new.id()).expect("a delta of an image");
    assert!(made == new.as_bytes());
    assert_eq!(head.objects(), [ObjectPair { new: 0, old: 0 }]);
    let [BatchRef { pieces: 1, offset, length }] = head.batches() else { panic!("{:?}", head.batches()) };
    let start = usize::try_from(*offset).expect("small");
    let packed = &bytes[start..start + *length as usize];
    let length = new_content.len();
    let mut batch = DeltaBatch::unpack(packed, length as u64).expect("a batch");
    assert_eq!(batch.next_piece(&old_content, length).expect("a piece"), new_content);
    assert_eq!(packed, &seed("batch")[8..]);
}

#[test]
fn profiles_are_read_for_ever() {
    assert_eq!(Profile::parse(&seed("profile")).expect("a profile").entries, profile_entries());
    let text = seed("profile-text");
    assert_eq!(text, b"# sapwood profile 1\nall /usr/bin/env\n3+2 /a b\\\\c\\nd\xff\n");
    assert_eq!(ProfileText::parse(&text).expect("a profile").lines, profile_lines());
}

/// Changes to a file: overwritten bytes (near the start, where lengths are, as often as anywhere), and a truncated or doubled
/// end.
fn changes() -> impl Strategy<Value = (usize, Vec<(usize, u8)>, Option<usize>)> {
    let value = prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7f), Just(0xff)];
    let at = prop_oneof![0_usize..64, any::<usize>()];
    (0..KINDS.len(), vec((at, value), 0..8), proptest::option::of(any::<usize>()))
}

#[test]
fn readers_of_damaged_files_do_not_panic_and_stay_bounded() {
    let test = "published::readers_of_damaged_files_do_not_panic_and_stay_bounded";
    in_own_process(test, || {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(10_000));
        let result = runner.run(&changes(), |(kind, writes, cut)| {
            let (name, read) = KINDS[kind];
            read(&changed(seed(name), &writes, cut));
            let memory = own_peak_memory();
            prop_assert!(memory < MEMORY_MAX, "{} bytes after a {}", memory, name);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    });
}

fn changed(mut bytes: Vec<u8>, writes: &[(usize, u8)], cut: Option<usize>) -> Vec<u8> {
    for (at, value) in writes {
        let at = at % bytes.len();
        bytes[at] = *value;
    }
    match cut.map(|at| at % (bytes.len() * 2)) {
        Some(at) if at < bytes.len() => bytes.truncate(at),
        Some(at) => bytes.extend_from_within(at - bytes.len()..),
        None => {}
    }
    bytes
}
