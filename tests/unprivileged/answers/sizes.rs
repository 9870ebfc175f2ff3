//! Commits of every size with random columns, published and opened lazily, while each frame of the image in turn is missing,
//! damaged or late: what is read is what was published.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use sapwood::image::{EncodedImage, Image, ObjectRef, Tree, encode};
use sapwood::model::{Commit, Content, DeviceNumber, EntryName, Metadata, Node, NodeKind, ObjectId, Timestamp, Xattrs};
use sapwood::remote::format::wire::{FrameIndex, FrameKind, WireFrame};
use sapwood::store::{ObjectSource as _, ReadError};

use super::fixture::{self, Client, fetch, with_blocks};
use super::matrix::at_once;
use crate::common::published::Published;
use crate::common::scripted_server::{
    Answer, HttpRequest, ScriptedServer, content_range, part, proper, response, with,
};

/// Longest time that a reader waits.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Delay of a late answer.
const ANSWER_DELAY: Duration = Duration::from_millis(300);

/// Sizes at which a head frame is written, and at which columns begin or end within the first block.
const BOUNDARY_SIZES: [u32; 9] = [2_500, 4_500, 5_000, 6_500, 8_189, 8_190, 8_191, 8_192, 8_193];

/// Returns a random number that depends only on the arguments.
fn draw(seed: u32, salt: u32, below: u32) -> u32 {
    let id = ObjectId::of(&[seed.to_le_bytes(), salt.to_le_bytes()].concat());
    u32::from_le_bytes(id.as_bytes()[..4].try_into().expect("four bytes")) % below
}

/// Returns the content with a number.
fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(1 + number as usize % 5)
}

fn xattr(name: &str, value: Vec<u8>) -> (Box<[u8]>, Box<[u8]>) {
    (name.as_bytes().into(), value.into())
}

fn metadata(seed: u32) -> Metadata {
    let xattrs = match draw(seed, 20, 8) {
        0 => vec![xattr("user.a", vec![7; draw(seed, 21, 40) as usize])],
        1 => vec![xattr("security.capability", seed.to_le_bytes().to_vec()), xattr("user.b", Vec::new())],
        _ => Vec::new(),
    };
    Metadata {
        permissions: draw(seed, 22, 0o10000) as u16,
        uid: draw(seed, 23, 3) * 70_000,
        gid: draw(seed, 24, 5),
        mtime: Timestamp {
            seconds: i64::from(draw(seed, 25, u32::MAX)) - 9,
            nanoseconds: draw(seed, 26, 1_000_000_000),
        },
        xattrs: Xattrs::new(xattrs).expect("legal"),
    }
}

fn kind(seed: u32, entries: u32) -> NodeKind {
    match draw(seed, 0, 12) {
        0 | 1 => NodeKind::Directory,
        2 => NodeKind::Symlink(vec![b'x'; 1 + draw(seed, 1, 60) as usize].into()),
        3 if draw(seed, 2, 8) == 0 => NodeKind::Fifo,
        3 if draw(seed, 2, 8) == 1 => NodeKind::CharDevice(DeviceNumber { major: draw(seed, 3, 4096), minor: seed }),
        _ => {
            let bytes = content(draw(seed, 4, entries));
            let object = Some(ObjectId::of(&bytes));
            NodeKind::Regular(Content { object, size: bytes.len() as u64, blocks: Vec::new(), extents: None })
        }
    }
}

/// Makes a tree with this number of entries, most of them in few directories.
fn random_tree(entries: u32) -> Tree {
    let seed = |number: u32| entries.wrapping_mul(40_503).wrapping_add(number);
    let mut tree = Tree::new(metadata(seed(0)));
    let (mut directories, mut files) = (vec![tree.root()], Vec::new());
    for number in 1..entries {
        let seed = seed(number);
        let name = EntryName::new(format!("{:x}-{number}", draw(seed, 10, 1 << (draw(seed, 11, 31)))).into_bytes());
        let name = name.expect("legal");
        let parent = directories[draw(seed, 12, directories.len().min(1 + number as usize / 900) as u32) as usize];
        if !files.is_empty() && draw(seed, 13, 50) == 0 {
            let first = files[draw(seed, 14, files.len() as u32) as usize];
            tree.link(parent, name, first).expect("free");
            continue;
        }
        let kind = kind(seed, entries);
        let is_directory = kind == NodeKind::Directory;
        let node = tree.insert(parent, name, Node { metadata: metadata(seed), kind }).expect("free");
        if is_directory { directories.push(node) } else { files.push(node) }
    }
    tree
}

/// A published commit, and its image.
struct Case {
    directory: tempfile::TempDir,
    encoded: EncodedImage,
    frames: Vec<WireFrame>,
}

impl Case {
    fn of(entries: u32) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let encoded = encode(&random_tree(entries)).expect("legal");
        let commit = Commit {
            image: encoded.id,
            parent: None,
            ref_name: fixture::name(),
            sequence: 1,
            timestamp: 1,
            subject: String::new(),
            version: None,
            entries: encoded.entries,
            content_bytes: encoded.content_bytes,
            extra: std::collections::BTreeMap::new(),
        };
        let by_id = (0..entries).map(|number| (ObjectId::of(&content(number)), content(number)));
        let by_id: std::collections::HashMap<ObjectId, Vec<u8>> = by_id.collect();
        let contents = |id, _| by_id[&id].clone();
        let published = directory.path().join("published");
        Published::default().add_commit(&commit.ref_name, &commit, &encoded.bytes, &contents, &published);
        let wire = fs::read(published.join(Self::path(&encoded))).expect("published");
        let frames = FrameIndex::parse(&wire, encoded.id).expect("own").frames().to_vec();
        Self { directory, encoded, frames }
    }

    /// Returns the path of its published image.
    fn path(encoded: &EncodedImage) -> String {
        sapwood::remote::layout::image(encoded.id)
    }

    fn serve(&self) -> ScriptedServer {
        ScriptedServer::serve(&self.directory.path().join("published"))
    }

    /// Opens the commit by a new client and reads all of it: names, attributes and contents.
    fn read(&self, client: &Client, server: &ScriptedServer) -> Result<(), String> {
        let tree = client.open_lazily(&[server.url()], READ_TIMEOUT.as_secs())?;
        with_blocks(&tree, READ_TIMEOUT, |image| image.lookup(image.root(), b"nothing"))?;
        let again = with_blocks(&tree, READ_TIMEOUT, Image::tree)?;
        let again = encode(&again).map_err(|error| error.to_string())?;
        assert!(again.bytes == self.encoded.bytes, "another image");
        let objects = with_blocks(&tree, READ_TIMEOUT, |image| image.object_uses().collect::<Result<Vec<_>, _>>())?;
        for found in objects {
            let object = ObjectRef { id: found.id, index: found.index, size: found.size };
            let mut buffer = [0; 64];
            let length = loop {
                match tree.read_object(&object, 0, &mut buffer) {
                    Err(ReadError::Absent(absent)) => fetch(&tree, &absent, READ_TIMEOUT)?,
                    other => break other.map_err(|error| error.to_string())?,
                }
            };
            assert_eq!((ObjectId::of(&buffer[..length]), length as u64), (object.id, object.size));
        }
        Ok(())
    }
}

/// A fault in the bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Absent,
    Damaged,
    Late,
}

/// Returns answers with the fault if they have bytes of the frame, and correct ones otherwise.
fn answer(frame: &WireFrame, fault: Fault) -> Answer {
    let place = frame.range.start as usize..frame.range.end as usize;
    std::sync::Arc::new(move |asked: &HttpRequest, file: &[u8]| {
        let (first, last) = asked.range.unwrap_or((0, file.len().saturating_sub(1)));
        if first >= place.end || last < place.start || file.len() < place.end {
            return proper(asked, file);
        }
        match fault {
            Fault::Absent if first >= place.start => response("416 Range Not Satisfiable", "", b""),
            // As a mirror that is not complete yet.
            Fault::Absent => {
                let file = &file[..place.start];
                response("206 Partial Content", &content_range(asked, file), part(asked, file))
            }
            Fault::Damaged => {
                let mut body = part(asked, file).to_vec();
                let at = (place.start + place.len() / 2).clamp(first, last) - first;
                body[at] ^= 0x10;
                with(asked, file, "", &body)
            }
            Fault::Late => {
                thread::sleep(ANSWER_DELAY);
                proper(asked, file)
            }
        }
    })
}

/// Tries every fault of every frame of a commit with this number of entries. Returns the number of head frames.
fn check(entries: u32, fixture: &Path) -> usize {
    let case = Case::of(entries);
    let path = Case::path(&case.encoded);
    for (number, frame) in case.frames.iter().enumerate() {
        for fault in [Fault::Absent, Fault::Damaged, Fault::Late] {
            let server = case.serve();
            // A head frame is optional for a client.
            let times = if frame.kind == FrameKind::Head && fault == Fault::Damaged { u32::MAX } else { 2 };
            server.set(&path, &answer(frame, fault), times);
            let client = Client::new(&fixture.join(format!("client-{entries}-{number}-{fault:?}")));
            let read = case.read(&client, &server);
            read.unwrap_or_else(|error| panic!("{entries} entries, {frame:?} {fault:?}: {error}"));
            client.remove();
        }
    }
    case.frames.iter().filter(|frame| frame.kind == FrameKind::Head).count()
}

fn check_all(sizes: impl Iterator<Item = u32>) {
    let fixture = tempfile::tempdir().expect("a temporary directory");
    let heads = std::sync::atomic::AtomicUsize::new(0);
    at_once(sizes.collect(), |_, entries| {
        heads.fetch_add(check(entries, fixture.path()), std::sync::atomic::Ordering::Relaxed);
    });
    assert!(heads.into_inner() >= 3, "too few images have a head");
}

#[test]
fn lazy_trees_are_right_for_some_sizes_with_bad_frames() {
    check_all([1, 2, 90, 2_500, 5_000, 8_192, 11_111].into_iter());
}

#[test]
#[ignore = "takes minutes: tests/run --long lazy-sizes"]
fn lazy_trees_are_right_for_sixty_sizes_with_bad_frames() {
    check_all((1..=20_000).step_by(401).chain(BOUNDARY_SIZES));
}
