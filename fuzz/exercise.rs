//! Calls every operation of an image. Shared by the fuzz target and the mutation tests.
//!
//! *Invariants*: an operation may return an error, since the bytes may be anything; it must not panic, not loop without end,
//! and a walk must not find more entries than the image has.

use std::io::Write as _;

use sapwood::image::{Image, ImageError, Ino, Tree, diff, encode};
use sapwood::model::{FileKind, ImagePath, Metadata};
use sapwood::sys::Mapping;

/// Most inodes that are checked one by one; the mutated images of the tests are smaller.
const INODES_MAX: u64 = 2048;

/// Calls every operation of an image.
///
/// # Panics
/// When a result breaks a promise that holds even for hostile images.
pub fn exercise(image: &Image) {
    let entries = u64::from(image.entries());
    for number in (0..=entries.min(INODES_MAX) + 1).chain([entries, entries + 1, u64::from(u32::MAX), u64::MAX]) {
        if let Some(ino) = Ino::from_raw(number) {
            assert_eq!(ino.get(), number);
            check_inode(image, ino);
        }
    }
    walk(image);
    let _ = image.walk::<ImageError>(image.root(), &mut |_, _, _| Ok(()));
    let objects = image.objects().map(|objects| objects.count());
    let sizes = image.objects_with_sizes().map(|objects| objects.take_while(Result::is_ok).count());
    if image.verify().is_ok() {
        assert_eq!(objects, sizes);
        check_canonical(image);
    }
    let _ = image.tree().map(|tree| encode(&tree).map(|encoded| encoded.id));
    let _ = diff(image, image, &mut |_| {});
    compare_with_nothing(image);
}

/// Opens bytes and, if they are an image, calls every operation.
pub fn exercise_bytes(bytes: Vec<u8>) {
    if let Ok(image) = Image::open(Mapping::of_bytes(bytes)) {
        exercise(&image);
    }
}

/// Corrects the block digests of changed bytes, so that only `verify` would refuse them.
pub fn reseal(bytes: &mut [u8]) {
    let number = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let (Some(header_length), Some(sections)) = (number(12), number(68)) else { return };
    let Some(hashes) = sections.checked_mul(24).and_then(|table| table.checked_add(72)) else { return };
    if hashes > header_length || header_length.next_multiple_of(4096) > bytes.len() {
        return;
    }
    let (head, body) = bytes.split_at_mut(header_length.next_multiple_of(4096));
    for (hash, block) in head[hashes..header_length].chunks_exact_mut(32).zip(body.chunks(65536)) {
        hash.copy_from_slice(sapwood::model::BlockId::of(block).as_bytes());
    }
}

/// Calls every operation on one inode number.
fn check_inode(image: &Image, ino: Ino) {
    let attributes = image.attributes(ino);
    let kind = image.kind(ino);
    if let (Ok(attributes), Ok(kind)) = (&attributes, &kind) {
        assert_eq!(attributes.kind, *kind);
        assert!(attributes.ino <= ino, "the primary is never after the link");
    }
    for from in [0, 1, 7, u32::MAX] {
        if let Ok(children) = image.children(ino, from) {
            children.take(64).for_each(|child| drop(child.map(|child| image.lookup(ino, child.name))));
        }
    }
    for name in [&b""[..], b"a", b"usr", b"\xff\xff"] {
        let _ = image.lookup(ino, name);
    }
    if let Ok(set) = image.xattr_set(ino) {
        let count = set.iter().take_while(Result::is_ok).count();
        assert!(image.xattrs(ino).is_err() || image.xattrs(ino).is_ok_and(|xattrs| xattrs.iter().count() == count));
    }
    let _ = image.xattr(ino, b"security.capability");
    let _ = image.blocks(ino).map(|blocks| blocks.iter().count() == blocks.len());
    let _ = (image.parent(ino), image.path(ino), image.symlink(ino), image.object(ino), image.extents(ino));
    let _ = (image.content(ino), image.metadata(ino), image.node(ino), image.child_count(ino));
    let _ = write!(std::io::sink(), "{kind:?} {attributes:?} {image:?}");
}

/// Checks that a walk from the root ends, and finds no entry twice.
fn walk(image: &Image) {
    let mut met = 1;
    let mut pending = vec![(image.root(), ImagePath::root())];
    while let Some((directory, path)) = pending.pop() {
        let Ok(children) = image.children(directory, 0) else { continue };
        for (index, child) in (0..).zip(children) {
            let Ok(child) = child else { break };
            assert_eq!(child.index, index);
            met += 1;
            assert!(met <= image.entries(), "the walk met more entries than there are");
            let name = sapwood::model::EntryName::new(child.name).expect("names that are given out are legal");
            if child.kind == FileKind::Directory {
                pending.push((child.ino, path.join(name)));
            }
        }
        let _ = image.resolve(&path);
    }
}

/// Checks that compared with an empty tree everything is added or removed, once.
fn compare_with_nothing(image: &Image) {
    let nothing = encode(&Tree::new(Metadata::default())).expect("an empty tree is legal");
    let nothing = Image::open(Mapping::of_bytes(nothing.bytes)).expect("just written");
    for (old, new) in [(image, &nothing), (&nothing, image)] {
        let mut met = 0;
        let _ = diff(old, new, &mut |_| met += 1);
        assert!(met <= image.entries(), "diff reported more than there is");
    }
}

/// Checks that an image that passes `verify` and uses no feature is what `encode` writes.
fn check_canonical(image: &Image) {
    let tree = image.tree().expect("the image was verified");
    let encoded = encode(&tree).expect("the image was verified");
    assert!(encoded.id == image.id() || has_features(image), "a second encoding of one tree passed verify()");
}

fn has_features(image: &Image) -> bool {
    image.features() != 0
}
