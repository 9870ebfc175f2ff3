//! Tests of every operation of the filesystem, over a small image and contents in memory.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::image::{NodeId, Tree, encode};
use crate::model::{Content, ContentHasher, EntryName, Extent, Metadata, Node, NodeKind, Xattrs};
use crate::store::{MemoryObjects, ReadError};
use crate::sys::Mapping;

/// An object source that counts its reads, to show that reading a hole causes none.
#[derive(Default)]
struct CountingObjects(MemoryObjects, AtomicUsize);

impl ObjectSource for CountingObjects {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_at(id, offset, buffer)
    }

    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        self.0.backing_file(id)
    }
}

fn node(kind: NodeKind) -> Node {
    Node { metadata: Metadata { permissions: 0o755, ..Metadata::default() }, kind }
}

fn content(bytes: &[u8]) -> Content {
    let mut hasher = ContentHasher::new(bytes.len() as u64);
    hasher.update(bytes);
    hasher.finish().expect("the size is right")
}

/// The bytes of the sparse file: data at 4096..8192 and 12288..12300, holes around them.
fn sparse_bytes() -> Vec<u8> {
    let mut bytes = vec![0; 16384];
    bytes[4096..8192].fill(b'a');
    bytes[12288..12300].fill(b'b');
    bytes
}

struct Fixture {
    vfs: Vfs,
    objects: Arc<CountingObjects>,
}

fn add(tree: &mut Tree, parent: NodeId, name: &str, node: Node) -> NodeId {
    tree.insert(parent, EntryName::new(name.as_bytes()).expect("legal"), node).expect("new")
}

fn tree(objects: &mut MemoryObjects) -> Tree {
    let mut tree = Tree::new(Metadata { permissions: 0o755, ..Metadata::default() });
    let root = tree.root();
    let usr = add(&mut tree, root, "usr", node(NodeKind::Directory));
    let bin = add(&mut tree, usr, "bin", node(NodeKind::Directory));
    objects.insert(b"hello".to_vec());
    let file = add(&mut tree, bin, "file", node(NodeKind::Regular(content(b"hello"))));
    tree.link(usr, EntryName::new(&b"again"[..]).expect("legal"), file).expect("new");
    add(&mut tree, bin, "empty", node(NodeKind::Regular(Content::default())));
    add(&mut tree, bin, "absent", node(NodeKind::Regular(content(b"not in the store"))));
    add(&mut tree, root, "link", node(NodeKind::Symlink(Box::from(&b"usr/bin"[..]))));
    let extents = vec![Extent { offset: 4096, length: 4096 }, Extent { offset: 12288, length: 12 }];
    let sparse = Content { extents: Some(extents), ..content(&sparse_bytes()) };
    objects.insert(sparse_bytes());
    add(&mut tree, bin, "sparse", node(NodeKind::Regular(sparse)));
    tree
}

fn fixture_of(tree: &Tree, objects: MemoryObjects, subdir: &str) -> Result<Fixture, SubdirError> {
    let bytes = encode(tree).expect("legal").bytes;
    let image = Image::open(Mapping::of_bytes(bytes)).expect("just written");
    let objects = Arc::new(CountingObjects(objects, AtomicUsize::new(0)));
    let subdir = ImagePath::parse(subdir.as_bytes()).expect("legal");
    let vfs = Vfs::new(image, Arc::clone(&objects) as Arc<dyn ObjectSource>, &subdir, Volume::default())?;
    Ok(Fixture { vfs, objects })
}

fn fixture(subdir: &str) -> Result<Fixture, SubdirError> {
    let mut objects = MemoryObjects::default();
    let tree = tree(&mut objects);
    fixture_of(&tree, objects, subdir)
}

impl Fixture {
    fn find(&self, path: &str) -> u64 {
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(ROOT_NODE, |node, name| {
            self.vfs.node_of(self.vfs.lookup(node, name.as_bytes()).expect("is there").ino)
        })
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, FsError> {
        let mut buffer = vec![0xff; length];
        let read = self.vfs.read(self.find(path), offset, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    fn list(&self, node: u64, position: u64, room: usize) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        let listed = self.vfs.list(node, position, |entry| {
            if names.len() == room {
                return Listing::Full;
            }
            names.push((String::from_utf8_lossy(entry.name).into_owned(), entry.next));
            Listing::Accepted
        });
        listed.expect("a directory");
        names
    }
}

#[test]
fn names_lead_to_nodes_and_back() {
    let fixture = fixture("/").expect("a directory");
    let bin = fixture.find("usr/bin");
    assert_eq!(fixture.find("usr/bin/."), bin);
    assert_eq!(fixture.find("usr/bin/../bin"), bin);
    assert_eq!(fixture.find(".."), ROOT_NODE);
    assert_eq!(fixture.find("usr/again"), fixture.find("usr/bin/file"));
    assert_eq!(fixture.vfs.attributes(fixture.find("usr/again")).expect("is there").nlink, 2);
    assert!(matches!(fixture.vfs.lookup(bin, b"nothing"), Err(FsError::NotFound)));
    assert!(matches!(fixture.vfs.lookup(bin, &[b'x'; 255]), Err(FsError::NotFound)));
    assert!(matches!(fixture.vfs.lookup(bin, &[b'x'; 256]), Err(FsError::NameTooLong(256))));
    assert!(matches!(fixture.vfs.lookup(fixture.find("link"), b"x"), Err(FsError::NotADirectory)));
    assert!(matches!(fixture.vfs.attributes(1_000_000), Err(FsError::Stale(1_000_000))));
    assert!(matches!(fixture.vfs.attributes(u64::MAX), Err(FsError::Stale(_))));
    assert!(matches!(fixture.vfs.attributes(0), Err(FsError::Stale(0))));
}

#[test]
fn a_listing_can_be_continued_at_every_position() {
    let fixture = fixture("/").expect("a directory");
    let bin = fixture.find("usr/bin");
    let whole = fixture.list(bin, 0, usize::MAX);
    let names: Vec<&str> = whole.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [".", "..", "absent", "empty", "file", "sparse"]);
    for room in 1..4 {
        let (mut position, mut pieces) = (0, Vec::new());
        loop {
            let piece = fixture.list(bin, position, room);
            let Some((_, next)) = piece.last() else { break };
            position = *next;
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole);
    }
    assert_eq!(fixture.list(bin, u64::MAX, 9), []);
    let file = fixture.find("usr/bin/file");
    assert!(matches!(fixture.vfs.list(file, 0, |_| Listing::Full), Err(FsError::NotADirectory)));
}

#[test]
fn a_subdirectory_can_be_the_root() {
    let fixture = fixture("/usr").expect("a directory");
    assert_eq!(fixture.list(ROOT_NODE, 0, usize::MAX).len(), 4);
    assert_eq!(fixture.find("bin/.."), ROOT_NODE);
    assert_eq!(fixture.find(".."), ROOT_NODE);
    assert_eq!(fixture.read("bin/file", 0, 100).expect("reads"), b"hello");
}

#[test]
fn subdir_error_says_what_is_at_the_path() {
    let message = |subdir| fixture(subdir).err().expect("is no directory").to_string();
    assert_eq!(message("/lib"), "the commit has no directory /lib");
    assert_eq!(
        message("/link"),
        "/link is a symlink in this commit, not a directory (it points to usr/bin: name that instead)"
    );
    assert_eq!(message("/usr/bin/file"), "/usr/bin/file is a file in this commit, not a directory");
}

#[test]
fn reads_end_where_the_file_ends() {
    let fixture = fixture("/").expect("a directory");
    assert_eq!(fixture.read("usr/bin/file", 0, 100).expect("reads"), b"hello");
    assert_eq!(fixture.read("usr/bin/file", 3, 1).expect("reads"), b"l");
    assert_eq!(fixture.read("usr/bin/file", 5, 10).expect("reads"), b"");
    assert_eq!(fixture.read("usr/bin/file", u64::MAX, 10).expect("reads"), b"");
    assert_eq!(fixture.read("usr/bin/empty", 0, 10).expect("reads"), b"");
    assert!(matches!(fixture.read("usr", 0, 1), Err(FsError::IsADirectory)));
    assert!(matches!(fixture.read("link", 0, 1), Err(FsError::WrongKind)));
    let absent = fixture.read("usr/bin/absent", 0, 1).expect_err("is not in the store");
    assert!(absent.is_damage());
}

#[test]
fn holes_read_as_zeros_without_touching_the_store() {
    let fixture = fixture("/").expect("a directory");
    let whole = sparse_bytes();
    for offset in (0..whole.len()).step_by(1021) {
        for length in [1, 100, 4096, 20000] {
            let expected = &whole[offset..whole.len().min(offset + length)];
            assert_eq!(fixture.read("usr/bin/sparse", offset as u64, length).expect("reads"), expected);
        }
    }
    fixture.objects.1.store(0, Ordering::Relaxed);
    fixture.read("usr/bin/sparse", 0, 4096).expect("reads");
    fixture.read("usr/bin/sparse", 8192, 4096).expect("reads");
    fixture.read("usr/bin/sparse", 13000, 4096).expect("reads");
    assert_eq!(fixture.objects.1.load(Ordering::Relaxed), 0);
}

#[test]
fn seeking_finds_data_and_holes() {
    let fixture = fixture("/").expect("a directory");
    let sparse = fixture.find("usr/bin/sparse");
    let seek = |offset, whence| fixture.vfs.seek(sparse, offset, whence).ok();
    for (offset, data, hole) in [
        (0, Some(4096), Some(0)),
        (4096, Some(4096), Some(8192)),
        (5000, Some(5000), Some(8192)),
        (8192, Some(12288), Some(8192)),
        (12299, Some(12299), Some(12300)),
        (12300, None, Some(12300)),
        (16383, None, Some(16383)),
        (16384, None, None),
        (-1, None, None),
    ] {
        assert_eq!(seek(offset, Whence::Data), data, "data from {offset}");
        assert_eq!(seek(offset, Whence::Hole), hole, "hole from {offset}");
    }
    let dense = fixture.find("usr/bin/file");
    assert_eq!(fixture.vfs.seek(dense, 2, Whence::Hole).expect("is there"), 5);
    assert_eq!(fixture.vfs.seek(dense, 2, Whence::Data).expect("is there"), 2);
    assert!(Whence::from_raw(libc::SEEK_SET).is_err());
}

#[test]
fn xattr_queries_are_unsupported_when_the_image_has_none() {
    let fixture = fixture("/").expect("a directory");
    assert!(matches!(fixture.vfs.xattr(ROOT_NODE, b"user.a"), Err(FsError::NoXattrsAnywhere)));
    assert_eq!(fixture.vfs.xattr_names(ROOT_NODE).expect("an empty list"), b"");

    let pair = |name: &[u8], value: &[u8]| (Box::from(name), Box::from(value));
    let xattrs = Xattrs::new(vec![pair(b"user.b", b"2"), pair(b"user.a", b"\0\xff")]).expect("legal");
    let mut tree = Tree::new(Metadata { permissions: 0o755, ..Metadata::default() });
    let metadata = Metadata { permissions: 0o644, xattrs, ..Metadata::default() };
    let root = tree.root();
    add(&mut tree, root, "file", Node { metadata, kind: NodeKind::Regular(Content::default()) });
    let fixture = fixture_of(&tree, MemoryObjects::default(), "/").expect("a directory");
    let file = fixture.find("file");
    assert_eq!(fixture.vfs.xattr(file, b"user.a").expect("is there"), b"\0\xff");
    assert!(matches!(fixture.vfs.xattr(file, b"user.c"), Err(FsError::NoXattr)));
    assert!(matches!(fixture.vfs.xattr(ROOT_NODE, b"user.a"), Err(FsError::NoXattr)));
    assert_eq!(fixture.vfs.xattr_names(file).expect("is there"), b"user.a\0user.b\0");
    assert_eq!(fixture.vfs.xattr_names(ROOT_NODE).expect("is there"), b"");
    assert!(!fixture.vfs.has_acls().expect("is sound"));
    // This image has no holes either.
    assert!(matches!(fixture.vfs.seek(file, 0, Whence::Data), Err(FsError::Unsupported)));
}

#[test]
fn statfs_counts_the_commit_as_used_and_the_disk_below_as_free() {
    let mut objects = MemoryObjects::default();
    let bytes = encode(&tree(&mut objects)).expect("legal").bytes;
    let image = Image::open(Mapping::of_bytes(bytes)).expect("just written");
    let store = Some(File::open("/").expect("readable").into());
    let volume = Volume { content_bytes: 1 << 30, store };
    let vfs = Vfs::new(image, Arc::new(objects), &ImagePath::root(), volume).expect("a directory");
    let figures = vfs.figures().expect("the disk answers");
    let used = figures.blocks - figures.free;
    assert_eq!(used * u64::from(figures.block_size), 1 << 30);
    assert!(figures.available <= figures.free);
    assert!(figures.files >= figures.files_free + vfs.image().inodes());
}
