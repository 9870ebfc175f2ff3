//! Publishes repositories by the library alone, with small packs and frames, for tests that read a publication.
//!
//! Unsigned. Each call adds one commit; objects that earlier calls published are not published again.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use sapwood::image::Image;
use sapwood::model::{BLOCK_SIZE, Commit, CommitId, LARGE_OBJECT, LocatorId, ObjectId, PackId, RefName};
use sapwood::remote::format::wire::encode_image;
use sapwood::remote::format::{
    FileRef, ImageRef, Locator, LocatorBound, LocatorBuilder, ObjectPosition, PackFrame, PackWriter, Placement,
};
use sapwood::remote::layout;
use sapwood::store::{ObjectSource as _, Store};
use sapwood::sys::Mapping;
use sapwood::trust::{Envelope, RefRecord};

/// Bytes after which a pack ends.
const PACK_BYTES: u64 = 1 << 20;

/// Uncompressed bytes after which a frame of small objects ends.
const SHARED_FRAME_BYTES: usize = 128 << 10;

/// The position of each published object.
#[derive(Default)]
pub struct Published {
    packs: Vec<(PackId, u64)>,
    spots: HashMap<ObjectId, Vec<(PackFrame, u32)>>,
}

struct PackBuilder<'a> {
    published: &'a mut Published,
    destination: &'a Path,
    pack: Option<PackWriter<Vec<u8>>>,
    shared: Vec<u8>,
    members: Vec<(ObjectId, u32)>,
}

/// Returns the bytes of an object of a known size.
pub type Contents<'a> = &'a dyn Fn(ObjectId, u64) -> Vec<u8>;

impl Published {
    /// Publishes the commit that `reference` names in `repository` into the directory `destination`.
    pub fn add(&mut self, repository: &Path, reference: &str, destination: &Path) -> CommitId {
        let store = Store::open(repository).expect("a repository");
        let name: RefName = reference.parse().expect("a ref's name");
        let id = store.read_ref(&name).expect("readable").expect("there is such a ref");
        let commit = store.commit(id).expect("it is local");
        let image = fs::read(store.layout().image(commit.image)).expect("it is local");
        let contents = |object, size| {
            let mut bytes = vec![0; usize::try_from(size).expect("test objects fit")];
            assert_eq!(store.read_at(object, 0, &mut bytes).expect("it is local"), bytes.len());
            bytes
        };
        self.add_commit(&name, &commit, &image, &contents, destination)
    }

    /// Publishes a commit as a ref, from its image and contents.
    pub fn add_commit(
        &mut self,
        name: &RefName,
        commit: &Commit,
        image: &[u8],
        contents: Contents<'_>,
        destination: &Path,
    ) -> CommitId {
        for directory in ["refs", "placements", "commits", "images", "locators", "packs"] {
            fs::create_dir_all(destination.join(directory)).expect("writable");
        }
        let read = Image::open(Mapping::of_bytes(image.to_vec())).expect("an image");
        let objects: Vec<(ObjectId, u64)> =
            read.objects_with_sizes().expect("sound").map(|object| object.expect("sound")).collect();
        let mut gathering =
            PackBuilder { published: self, destination, pack: None, shared: Vec::new(), members: Vec::new() };
        objects.iter().for_each(|(object, size)| gathering.add(contents, *object, *size));
        gathering.finish();
        let locator = self.locator(&objects);
        let bound = LocatorBound::new(objects.iter().map(|(_, size)| *size));
        Locator::parse(&locator, bound).expect("a locator");
        let locator = FileRef {
            id: LocatorId::of(&locator),
            length: write(destination, &layout::locator(LocatorId::of(&locator)), &locator),
        };
        let wire = encode_image(image, 3).expect("an image");
        write(destination, &layout::image(commit.image), &wire.bytes);
        let placement = Placement::new(ImageRef::new(commit.image, &wire), locator).render();
        let record = commit.encode();
        let id = CommitId::of(&record);
        write(destination, &layout::placement(id), &placement);
        write(destination, &layout::commit(id), &Envelope::unsigned(record).encode());
        let record = Envelope::unsigned(RefRecord::of(commit, 0).encode()).encode();
        write(destination, &layout::reference(name), &[record, placement].concat());
        id
    }

    fn locator(&self, objects: &[(ObjectId, u64)]) -> Vec<u8> {
        let mut builder = LocatorBuilder::new();
        let mut packs = HashMap::new();
        let mut frames: HashMap<PackFrame, u32> = HashMap::new();
        for (object, _) in objects {
            let spots = &self.spots[object];
            let mut first = None;
            for (frame, offset) in spots {
                let (id, length) = self.packs[frame.pack as usize];
                let pack = *packs.entry(frame.pack).or_insert_with(|| builder.add_pack(id, length));
                let number = *frames.entry(*frame).or_insert_with(|| builder.add_frame(PackFrame { pack, ..*frame }));
                first.get_or_insert(ObjectPosition { frame: number, offset: *offset });
            }
            builder.add_object(first.expect("every object has a frame"));
        }
        builder.finish().expect("memory")
    }
}

impl PackBuilder<'_> {
    /// Adds an object; an image names each once.
    fn add(&mut self, contents: Contents<'_>, object: ObjectId, size: u64) {
        if self.published.spots.contains_key(&object) {
            return;
        }
        let bytes = contents(object, size);
        if size > LARGE_OBJECT {
            self.flush_shared();
            let frames = bytes.chunks(BLOCK_SIZE as usize).map(|block| (self.frame(block), 0)).collect();
            self.published.spots.insert(object, frames);
        } else if size >= 64 << 10 {
            let frame = self.frame(&bytes);
            self.published.spots.insert(object, vec![(frame, 0)]);
        } else {
            self.members.push((object, self.shared.len() as u32));
            self.shared.extend_from_slice(&bytes);
            if self.shared.len() >= SHARED_FRAME_BYTES {
                self.flush_shared();
            }
        }
    }

    fn flush_shared(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let raw = std::mem::take(&mut self.shared);
        let frame = self.frame(&raw);
        for (object, offset) in std::mem::take(&mut self.members) {
            self.published.spots.insert(object, vec![(frame, offset)]);
        }
    }

    fn frame(&mut self, raw: &[u8]) -> PackFrame {
        let packed = zstd::bulk::compress(raw, 3).expect("memory");
        if self.pack.as_ref().is_some_and(|pack| pack.length() >= PACK_BYTES) {
            self.end_pack();
        }
        let pack = self.pack.get_or_insert_with(|| PackWriter::new(Vec::new()).expect("memory"));
        let offset = pack.add(&packed).expect("memory");
        PackFrame {
            pack: self.published.packs.len() as u32,
            offset: offset as u32,
            length: packed.len() as u32,
            raw_length: raw.len() as u32,
        }
    }

    fn end_pack(&mut self) {
        let Some(pack) = self.pack.take() else { return };
        let (bytes, id, length) = pack.finish();
        write(self.destination, &layout::pack(id), &bytes);
        self.published.packs.push((id, length));
    }

    fn finish(mut self) {
        self.flush_shared();
        self.end_pack();
    }
}

fn write(destination: &Path, path: &str, bytes: &[u8]) -> u64 {
    let path = destination.join(path);
    fs::create_dir_all(path.parent().expect("it has one")).expect("writable");
    fs::write(path, bytes).expect("writable");
    bytes.len() as u64
}
