//! Reads bytes as a tar archive, compressed or not, into a repository. Shared by the fuzz target and the test over its seeds.
//!
//! *Invariants*: what is read as a tree encodes to an image that passes every check, and memory does not grow with announced
//! sizes.

use std::cell::RefCell;

use sapwood::compose::source::{ImportProgress, TarOptions, read_tar};
use sapwood::disk::Wait;
use sapwood::image::{Image, encode};
use sapwood::store::{Config, Store, StoreWriter};
use sapwood::sys::Mapping;

/// Kinds of the seeds. Every input is read as any of them.
pub const KINDS: [&str; 6] = ["ustar", "gnu", "pax", "sparse", "gzip", "zstd"];

/// Archives after which the store with their contents is replaced by a new one.
const ARCHIVES_PER_STORE: u32 = 2000;

struct Scratch {
    writer: StoreWriter,
    read: u32,
    _directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room in /tmp");
        let path = directory.path().join("repository");
        let store = Store::init(&path, &Config::default()).expect("there is room in /tmp");
        let writer = store.writer(Wait::No).expect("no other writer");
        Self { writer, read: 0, _directory: directory }
    }
}

thread_local! {
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Reads bytes as an archive.
pub fn exercise(data: &[u8]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let used = scratch.get_or_insert_with(Scratch::new);
        read(data, &used.writer);
        used.read += 1;
        if used.read == ARCHIVES_PER_STORE {
            *scratch = None;
        }
    });
}

fn read(data: &[u8], writer: &StoreWriter) {
    let Ok(tree) = read_tar(data, writer, TarOptions::default(), &ImportProgress::default()) else { return };
    if let Ok(encoded) = encode(&tree) {
        let image = Image::open(Mapping::of_bytes(encoded.bytes)).expect("just written");
        image.verify().expect("what is read from an archive is a legal image");
    }
}
