//! Pins the image format: a change of these bytes changes the id of every existing image.
//!
//! `tests/golden/small.image` has one of everything. Set `SAPWOOD_GOLDEN=write` to write it and the fuzzer's seeds again after
//! a deliberate change of the format, which needs a new version or a feature bit.

use std::path::Path;

use sapwood::image::{Tree, encode};
use sapwood::model::{DeviceNumber, EntryName, Extent, Metadata, Node, NodeKind, Timestamp, Xattrs};

use super::arbitrary::numbered_content;
use super::listing;
use super::round_trip::open;

const ID: &str = "cd0babfbbb2c64bd8617d1d9d994e994c389844b0ad810ccda1a05f9adc8d633";

fn name(text: &str) -> EntryName {
    EntryName::new(text.as_bytes()).expect("legal")
}

fn node(number: u32, kind: NodeKind) -> Node {
    let mut xattrs = Xattrs::default();
    if number.is_multiple_of(2) {
        xattrs.set(b"security.selinux", b"system_u:object_r:usr_t:s0\0").expect("legal");
    }
    if number == 6 {
        xattrs.set(b"security.capability", &[1, 0, 0, 2, 0, 4]).expect("legal");
    }
    let mtime = Timestamp { seconds: 1_700_000_000 - i64::from(number), nanoseconds: number * 1_000_001 };
    Node { metadata: Metadata { permissions: 0o4755, uid: number * 100_000, gid: number, mtime, xattrs }, kind }
}

/// Returns a tree with one of everything.
pub fn tree() -> Tree {
    let mut tree = Tree::new(node(0, NodeKind::Directory).metadata);
    let root = tree.root();
    let usr = tree.insert(root, name("usr"), node(1, NodeKind::Directory)).expect("free");
    let bin = tree.insert(usr, name("bin"), node(2, NodeKind::Directory)).expect("free");
    tree.insert(usr, name("empty"), node(3, NodeKind::Directory)).expect("free");
    tree.insert(root, name("bin"), node(4, NodeKind::Symlink(b"usr/bin"[..].into()))).expect("free");
    let small = tree.insert(bin, name("small"), node(5, NodeKind::Regular(numbered_content(2)))).expect("free");
    tree.insert(bin, name("large"), node(6, NodeKind::Regular(numbered_content(6)))).expect("free");
    tree.insert(bin, name("twin"), node(7, NodeKind::Regular(numbered_content(2)))).expect("free");
    tree.insert(bin, name("nothing"), node(8, NodeKind::Regular(numbered_content(0)))).expect("free");
    let extents = vec![Extent { offset: 0, length: 100 }, Extent { offset: 4000, length: 96 }];
    let sparse = sapwood::model::Content { extents: Some(extents), ..numbered_content(3) };
    tree.insert(bin, name("sparse"), node(9, NodeKind::Regular(sparse))).expect("free");
    tree.link(usr, name("linked"), small).expect("free");
    let device = DeviceNumber { major: 1, minor: 3 };
    tree.insert(root, name("null"), node(10, NodeKind::CharDevice(device))).expect("free");
    tree.insert(root, name("disk"), node(11, NodeKind::BlockDevice(device))).expect("free");
    tree.insert(root, name("pipe"), node(12, NodeKind::Fifo)).expect("free");
    tree.insert(root, name("socket"), node(13, NodeKind::Socket)).expect("free");
    tree
}

#[test]
#[expect(clippy::disallowed_methods, reason = "files of the sources need not survive a power cut")]
fn the_bytes_of_the_small_image_never_change() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small.image");
    let encoded = encode(&tree()).expect("legal");
    if std::env::var_os("SAPWOOD_GOLDEN").is_some() {
        std::fs::write(&path, &encoded.bytes).expect("the golden file can be written");
        write_seeds(&encoded.bytes);
    }
    let golden = std::fs::read(&path).expect("the golden file is part of the sources");
    assert_eq!(encoded.id.to_string(), ID);
    assert!(golden == encoded.bytes);
    let image = open(&tree());
    assert_eq!(image.verify(), Ok(()));
    assert_eq!(listing::of_image(&image), listing::of_tree(&tree()));
}

/// Writes the fuzzer's seeds: a byte that says how to use the rest, see `fuzz/fuzz_targets/image.rs`, and the rest.
#[expect(clippy::disallowed_methods, reason = "files of the sources need not survive a power cut")]
fn write_seeds(everything: &[u8]) {
    let empty = encode(&Tree::new(Metadata::default())).expect("legal").bytes;
    let changes = [80, 0, 0, 0, 1, 0, 17, 0, 0, 9];
    let seeds = [("empty", 0, &empty[..]), ("everything", 1, everything), ("changes", 3, &changes)];
    for (name, mode, bytes) in seeds {
        let seed = [&[mode], bytes].concat();
        std::fs::write(seeds_directory().join(name), seed).expect("the seeds can be written");
    }
}

fn seeds_directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/image")
}

#[test]
fn the_seeds_of_the_fuzzer_are_images() {
    let seeds = [("empty", encode(&Tree::new(Metadata::default()))), ("everything", encode(&tree()))];
    for (name, encoded) in seeds {
        let seed = std::fs::read(seeds_directory().join(name)).expect("the seeds are part of the sources");
        assert!(seed[1..] == encoded.expect("legal").bytes, "{name}: set SAPWOOD_GOLDEN=write");
    }
}
