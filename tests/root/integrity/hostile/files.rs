//! Malformed published files: wrong lengths, contents that decompress to a gigabyte, references to wrong places.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use sapwood::model::PackId;
use sapwood::remote::format::{LocatorBuilder, ObjectPosition, PackFrame};
use sapwood::remote::layout;
use sapwood::store::Store;

use super::fixture::{Fixture, MEMORY_MAX};
use super::forge::{Forge, bomb, get, put};
use super::server::{Fault, Server};

/// A malformed file, and the message for the user.
struct Case {
    name: &'static str,
    files: Vec<(String, Vec<u8>)>,
    word: &'static str,
}

fn refs(bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    vec![("refs/main".to_owned(), bytes)]
}

fn placements(forge: &Forge<'_>) -> Vec<Case> {
    let case = |name, bytes, word| Case { name, files: refs(bytes), word };
    vec![
        case("no placement", forge.reference_with(b""), "not a placement"),
        case("half a placement", forge.reference_with(b"{\"version\":1,"), "not a placement"),
        case("depth", forge.reference_with("[".repeat(60_000).as_bytes()), "not a placement"),
        case("a long one", forge.reference_with("x".repeat(70_000).as_bytes()), "is too large"),
        case("a huge one", forge.reference_with("x".repeat(1 << 20).as_bytes()), "has more than"),
        case("of later", forge.reference(|it| it.version = 2), "is newer than this program"),
        case(
            "a long image",
            forge.reference(|it| (it.image.length, it.image.prefix) = (u64::MAX, u64::MAX)),
            "where bytes 0-16777215 were asked for",
        ),
        case("a short image", forge.reference(|it| it.image.length = 100), "the published image has a bad length"),
        case(
            "a long locator",
            forge.reference(|it| it.locator.length = u64::MAX),
            "longer than one of this image can be",
        ),
        case("a longer locator", forge.reference(|it| it.locator.length += 1000), "where bytes 0-"),
    ]
}

/// Returns a locator whose frame and first position are changed.
fn locator(fixture: &Fixture, change: impl Fn(&mut PackFrame, &mut ObjectPosition)) -> Vec<u8> {
    let store = Store::open(fixture.publisher.path()).expect("a repository");
    let id = store.resolve("main").expect("a commit");
    let image = store.image(store.commit(id).expect("it is local").image).expect("it is local");
    let pack = fs::read_dir(fixture.published.join("packs")).expect("published").next().expect("one").expect("listed");
    let id: PackId = pack.path().file_stem().and_then(|name| name.to_str()?.parse().ok()).expect("an id");
    let length = pack.metadata().expect("it exists").len();
    let mut builder = LocatorBuilder::new();
    let pack = builder.add_pack(id, length);
    for size in image.object_sizes().expect("sound") {
        // Every object has a frame of its own at the beginning of the pack, or whatever `change` makes of that.
        let blocks = size.div_ceil(256 << 10).max(1);
        let mut spot = ObjectPosition { frame: 0, offset: 0 };
        for block in 0..blocks {
            let raw = (size - block * (256 << 10)).min(if size > 1 << 20 { 256 << 10 } else { size });
            let raw_length = u32::try_from(raw).expect("at most 1 MiB");
            let mut frame = PackFrame { pack, offset: 16, length: 1000, raw_length };
            change(&mut frame, &mut spot);
            let number = builder.add_frame(frame);
            if block == 0 {
                spot.frame = number;
            }
        }
        builder.add_object(spot);
    }
    builder.finish().expect("memory")
}

fn locators(fixture: &Fixture, forge: &Forge<'_>) -> Vec<Case> {
    let sound = forge.locator();
    let header = |change: fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        bytes
    };
    let case = |name, bytes, word| Case { name, files: forge.with_locator(bytes), word };
    vec![
        case("a locator that is a bomb", [&sound[..24], &bomb()].concat(), "the locator has a bad length"),
        case("a locator of many frames", header(|it| put(it, 16, u32::MAX)), "the locator announces 4294967295 frames"),
        case("a locator of many packs", header(|it| put(it, 12, 1 << 20)), "frames in 1048576 packs"),
        case("of another image", header(|it| put(it, 20, 7)), "the locator is for 7 objects"),
        case("no locator", b"SAPWLOC\0".to_vec(), "not a locator"),
        case(
            "beyond the pack",
            locator(fixture, |it, _| it.offset = 1 << 30),
            "frame 0 of the locator is out of bounds",
        ),
        case("out of proportion", locator(fixture, |it, _| it.length = 4 << 20), "frame 0 of the locator is out of"),
        case("a large frame", locator(fixture, |it, _| it.raw_length = 1 << 30), "frame 0 of the locator is out of"),
        case("beyond the frame", locator(fixture, |_, it| it.offset = 1 << 20), "object 0 of the locator is out of"),
        case("one place for all", locator(fixture, |_, _| {}), "the locator has no position for object"),
    ]
}

fn images(forge: &Forge<'_>, path: &str) -> Vec<Case> {
    let sound = forge.read(path);
    let header = get(&sound, 12) as usize;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        vec![(path.to_owned(), bytes)]
    };
    let row = 20 + header;
    let frames = get(&sound, 16) as usize;
    let first = row + frames * 16;
    let bomb = bomb();
    let with_bomb = || {
        let mut bytes = sound[..first].to_vec();
        put(&mut bytes, row + 12, u32::try_from(bomb.len()).expect("small"));
        bytes.extend_from_slice(&bomb);
        let mut reference = forge.placement.clone();
        reference.image.length = bytes.len() as u64;
        vec![
            ("refs/main".to_owned(), forge.reference(|placement| placement.image.length = bytes.len() as u64)),
            (path.to_owned(), bytes),
        ]
    };
    let case = |name, files, word| Case { name, files, word };
    vec![
        case("an image that is a bomb", with_bomb(), "the published image"),
        case("a long header", changed(&|it| put(it, 12, u32::MAX)), "the published image has a bad length"),
        case("many frames", changed(&|it| put(it, 16, u32::MAX)), "the published image has a bad length"),
        case("another image", changed(&|it| it[20 + 64] ^= 1), "is not what it should be"),
        case("no image", changed(&|it| it.fill(0)), "not a published image"),
    ]
}

fn others(forge: &Forge<'_>, fixture: &Fixture) -> Vec<Case> {
    let published = |directory: &str| {
        let mut found = fs::read_dir(fixture.published.join(directory)).expect("published");
        format!("{directory}/{}", found.next().expect("one").expect("listed").file_name().to_string_lossy())
    };
    let (pack, commit) = (published("packs"), published("commits"));
    let mut with_bomb = forge.read(&pack);
    let bomb = bomb();
    with_bomb[16..16 + bomb.len()].copy_from_slice(&bomb);
    vec![
        Case { name: "a frame that is a bomb", files: vec![(pack, with_bomb)], word: "is damaged at byte 16" },
        Case { name: "no commit", files: vec![(commit.clone(), b"no".to_vec())], word: "not a signed record" },
        Case { name: "a long commit", files: vec![(commit, vec![0; 64 << 20])], word: "has more than" },
    ]
}

#[test]
fn malformed_published_files_are_refused_within_bounds() {
    let fixture = Fixture::new("hostile-files");
    let forge = Forge::of(&fixture);
    let store = Store::open(fixture.publisher.path()).expect("a repository");
    let image = layout::image(store.commit(store.resolve("main").expect("a commit")).expect("it is local").image);
    let mut cases = placements(&forge);
    cases.extend(locators(&fixture, &forge));
    cases.extend(images(&forge, &image));
    cases.extend(others(&forge, &fixture));
    let before = fixture.outside();
    let work = Mutex::new(cases.into_iter().enumerate());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((number, case)) = { work.lock().expect("no holder panics").next() } {
                    try_case(&fixture, number, case);
                }
            });
        }
    });
    assert_eq!(fixture.outside(), before, "something was written outside of the clients' repositories");
}

fn serve(server: &Server, files: Vec<(String, Vec<u8>)>) {
    for (path, bytes) in files {
        server.set(&path, Fault::Content(Arc::new(bytes)));
    }
}

fn try_case(fixture: &Fixture, number: usize, case: Case) {
    let server = Server::of(&fixture.published);
    let client = fixture.client(&number.to_string(), &server);
    serve(&server, case.files);
    let said = client.pull_in_vain();
    assert!(said.contains(case.word), "{}: '{}' is not in '{said}'", case.name, case.word);
    server.restore();
    client.pull().success();
    client.repository.assert_clean();
}

/// A delta is optional: a malformed one costs a warning, and contents are fetched in another way.
#[test]
fn malformed_delta_costs_only_a_warning() {
    let fixture = Fixture::new("hostile-deltas");
    let server = Server::of(&fixture.published);
    let old = fixture.client("old", &server);
    old.pull().success();
    fixture.update();
    let forge = Forge::of(&fixture);
    let delta = &forge.placement.deltas[0];
    let sound = forge.read(&layout::delta(delta.id));
    let head = usize::try_from(delta.head).expect("small");
    let (image, index) = (get(&sound, 12), get(&sound, 16));
    let bomb = bomb();
    let length = u32::try_from(bomb.len()).expect("small");
    let at_image = 24 + image as usize;
    // The image's delta has a header of its own before its compressed part.
    let image_header = 24 + get(&sound, 24 + 12) as usize;
    let mut cases: Vec<(&str, Vec<(String, Vec<u8>)>)> = Vec::new();
    let mut with = |name, mut bytes: Vec<u8>, numbers: &[(usize, u32)], head: usize| {
        numbers.iter().for_each(|(at, value)| put(&mut bytes, *at, *value));
        cases.push((name, forge.with_delta(bytes, head as u64)));
    };
    let bomb_as_index = [&sound[..at_image], &bomb, &sound[head..]].concat();
    with("an index that is a bomb", bomb_as_index, &[(16, length)], at_image + bomb.len());
    let bomb_as_image = [&sound[..24 + image_header], &bomb, &sound[at_image..]].concat();
    let numbers = [(12, u32::try_from(image_header).expect("small") + length)];
    with("an image that is a bomb", bomb_as_image, &numbers, 24 + image_header + bomb.len() + index as usize);
    let bomb_as_patch = [&sound[..head], &bomb, &sound[head..]].concat();
    with("a patch that is a bomb", bomb_as_patch, &[], head);
    with("many pieces", sound.clone(), &[(20, 1 << 24)], head);
    with("a long image", sound.clone(), &[(12, u32::MAX)], head);
    with("a long index", sound.clone(), &[(16, u32::MAX)], head);
    let mut flipped = sound.clone();
    flipped[head + 20] ^= 1;
    with("another patch", flipped, &[], head);
    cases.push(("a long head", refs(forge.reference(|it| it.deltas[0].head = u64::MAX))));
    cases.push(("a head beyond the file", refs(forge.reference(|it| it.deltas[0].head = 1 << 20))));
    for (number, (name, files)) in cases.into_iter().enumerate() {
        let client = fixture.client(&number.to_string(), &server);
        copy(old.repository.path(), client.repository.path());
        client.point_to(&fixture, &server);
        serve(&server, files);
        let run = client.pull();
        assert!(run.memory < MEMORY_MAX, "{name}: {} bytes", run.memory);
        let said = run.stderr.clone();
        assert!(said.contains("whole contents instead"), "{name}: {said}");
        run.success();
        client.repository.assert_clean();
        server.restore();
    }
    let sound = old.pull();
    assert!(!sound.stderr.contains("instead") && !sound.stderr.contains("without"), "{}", sound.stderr);
    sound.success();
}

fn copy(from: &Path, to: &Path) {
    crate::common::sandbox::remove_tree(to);
    let words = [std::ffi::OsStr::new("-a"), from.as_os_str(), to.as_os_str()];
    crate::common::sandbox::run("cp", words).success();
}
