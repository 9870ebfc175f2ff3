//! The kernel on one side, a filesystem over memory on the other: what applications see, and what it costs in messages.
//!
//! No repository and no process of its own is involved; `tests/mount_cli.rs` has those.

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use common::sandbox::{Sandbox, run};
use sapwood::fuse::{Counters, MountOptions, MountRequest, Session, Unmount, Unmounter};
use sapwood::image::{Image, Tree};
use sapwood::model::{Content, EntryName, Extent, ImagePath, Metadata, Node, NodeKind, Timestamp, Xattrs};
use sapwood::store::MemoryObjects;
use sapwood::vfs::{Vfs, Volume};

/// A tree in the making, with its contents.
struct Builder {
    tree: Tree,
    objects: MemoryObjects,
    content_bytes: u64,
}

fn metadata(permissions: u16) -> Metadata {
    let mtime = Timestamp { seconds: 1_600_000_000, nanoseconds: 123_456_789 };
    Metadata { permissions, uid: 0, gid: 0, mtime, xattrs: Xattrs::default() }
}

fn name(text: &str) -> EntryName {
    EntryName::new(text.as_bytes()).expect("legal")
}

type Directory = <Builder as Types>::Id;
trait Types {
    type Id;
}
impl Types for Builder {
    type Id = sapwood::image::NodeId;
}

impl Builder {
    fn new() -> Self {
        Self { tree: Tree::new(metadata(0o755)), objects: MemoryObjects::default(), content_bytes: 0 }
    }

    fn content(&mut self, bytes: Vec<u8>) -> Content {
        let mut hasher = sapwood::model::ContentHasher::new(bytes.len() as u64);
        hasher.update(&bytes);
        self.content_bytes += bytes.len() as u64;
        if !bytes.is_empty() {
            self.objects.insert(bytes);
        }
        hasher.finish().expect("the size is known")
    }

    fn add(&mut self, parent: Directory, entry: &str, permissions: u16, kind: NodeKind) -> Directory {
        let node = Node { metadata: metadata(permissions), kind };
        self.tree.insert(parent, name(entry), node).expect("new names")
    }

    fn directory(&mut self, parent: Directory, entry: &str) -> Directory {
        self.add(parent, entry, 0o755, NodeKind::Directory)
    }

    fn file(&mut self, parent: Directory, entry: &str, bytes: impl Into<Vec<u8>>) -> Directory {
        let content = self.content(bytes.into());
        self.add(parent, entry, 0o755, NodeKind::Regular(content))
    }

    /// Everything below a directory of this machine, without owners and times: for weight, not for fidelity.
    fn copy(&mut self, parent: Directory, from: &Path) {
        for entry in fs::read_dir(from).expect("readable") {
            let entry = entry.expect("readable");
            let kind = entry.file_type().expect("readable");
            let entry_name = entry.file_name().to_str().expect("UTF-8").to_owned();
            if kind.is_dir() {
                let directory = self.directory(parent, &entry_name);
                self.copy(directory, &entry.path());
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).expect("readable").into_os_string().into_encoded_bytes();
                self.add(parent, &entry_name, 0o777, NodeKind::Symlink(target.into()));
            } else if kind.is_file() {
                self.file(parent, &entry_name, fs::read(entry.path()).expect("readable"));
            }
        }
    }

    fn mount(self, at: &Path, options: &str) -> Mount {
        self.mount_subdir(at, options, "/").expect("mounts")
    }

    fn mount_subdir(self, at: &Path, options: &str, subdir: &str) -> anyhow::Result<Mount> {
        let volume =
            Volume { content_bytes: self.content_bytes, store: Some(File::open("/").expect("readable").into()) };
        let image: Image = image_of(self.tree);
        let subdir = ImagePath::parse(subdir.as_bytes())?;
        let vfs = Vfs::new(image, Arc::new(self.objects), &subdir, volume)?;
        fs::create_dir_all(at)?;
        let options = MountOptions::parse(options)?;
        let request = MountRequest { source: "test".to_owned(), mountpoint: at.to_owned(), options };
        let session = Session::mount(Arc::new(vfs), &request)?;
        let (unmounter, counters) = (session.unmounter().clone(), Arc::clone(session.counters()));
        let server = std::thread::spawn(move || session.run().expect("serves"));
        Ok(Mount { at: at.to_owned(), unmounter, counters, server: Some(server) })
    }
}

fn image_of(tree: Tree) -> Image {
    let bytes = sapwood::image::encode(&tree).expect("legal").bytes;
    Image::open(sapwood::sys::Mapping::of_bytes(bytes)).expect("just written")
}

struct Mount {
    at: PathBuf,
    unmounter: Unmounter,
    counters: Arc<Counters>,
    server: Option<JoinHandle<()>>,
}

impl Mount {
    fn join(&self, path: &str) -> PathBuf {
        self.at.join(path)
    }

    fn messages(&self) -> u64 {
        self.counters.figures().messages
    }

    fn end(mut self) {
        self.unmounter.unmount(Unmount::Now).expect("not in use");
        self.server.take().expect("runs").join().expect("ends well");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _gone = self.unmounter.unmount(Unmount::Lazy);
    }
}

fn small() -> Builder {
    let mut builder = Builder::new();
    let root = builder.tree.root();
    builder.file(root, "hello", "hello world\n");
    builder.file(root, "empty", "");
    let usr = builder.directory(root, "usr");
    let bin = builder.directory(usr, "bin");
    builder.file(bin, "busy", vec![7_u8; 3 << 20]);
    builder.add(root, "bin", 0o777, NodeKind::Symlink(Box::from(&b"usr/bin"[..])));
    builder
}

#[test]
fn a_tree_is_what_it_was() {
    let sandbox = Sandbox::new("kernel-tree");
    let mount = small().mount(&sandbox.join("m"), "");
    assert_eq!(fs::read_to_string(mount.join("hello")).expect("reads"), "hello world\n");
    assert_eq!(fs::read(mount.join("empty")).expect("reads"), b"");
    assert_eq!(fs::read(mount.join("bin/busy")).expect("reads"), vec![7_u8; 3 << 20]);
    let metadata = fs::metadata(mount.join("hello")).expect("stats");
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_600_000_000, 123_456_789));
    assert_eq!(metadata.permissions().mode(), 0o100_755);
    let missing = fs::metadata(mount.join("nothing")).expect_err("is not there");
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    mount.end();
}

#[test]
fn a_warm_tree_costs_no_message() {
    let sandbox = Sandbox::new("kernel-warm");
    let mut builder = Builder::new();
    let root = builder.tree.root();
    let share = builder.directory(root, "share");
    builder.copy(share, Path::new("/usr/share/perl"));
    let mount = builder.mount(&sandbox.join("m"), "");
    let work = || {
        run("find", [mount.at.as_os_str(), "-size".as_ref(), "+0".as_ref()]).success();
        run("tar", ["-cf".as_ref(), "/dev/null".as_ref(), "-C".as_ref(), mount.at.as_os_str(), ".".as_ref()]).success();
        run("sh", ["-c", &format!("cat $(find {} -type f) > /dev/null", mount.at.display())]).success();
        run("sh", ["-c", &format!("ls {}/nothing-{{1,2,3}}; true", mount.at.display())]).success();
    };
    work();
    work();
    // Programs that walk trees ask once a run how full the filesystem is, which the kernel never remembers.
    let asked =
        || mount.counters.figures().by_opcode.into_iter().filter(|(opcode, _)| opcode != "statfs").collect::<Vec<_>>();
    let before = asked();
    work();
    assert_eq!(before, asked());
    mount.end();
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let sandbox = Sandbox::new("kernel-measure");
    let source = std::env::var("MEASURE_TREE").unwrap_or_else(|_| "/usr/share".to_owned());
    let mut builder = Builder::new();
    let root = builder.tree.root();
    let share = builder.directory(root, "share");
    builder.copy(share, Path::new(&source));
    let options = std::env::var("MEASURE_OPTIONS").unwrap_or_default();
    let mount = builder.mount(&sandbox.join("m"), &options);
    let script = std::env::var("MEASURE_SCRIPT").expect("MEASURE_SCRIPT");
    let status = Command::new("sh").arg("-c").arg(script).env("MNT", mount.join("share")).env("SRC", source).status();
    println!("{status:?} {:?}", mount.counters.figures());
    mount.end();
}
