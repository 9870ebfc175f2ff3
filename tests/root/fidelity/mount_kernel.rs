//! The FUSE session between the kernel and a filesystem over memory: what applications see, and how many messages that takes.
//!
//! *Not here*: repositories and processes of mounts, which are in `mount_cli`.
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::sandbox::{Sandbox, run};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sapwood::fuse::{
    MountError, MountOptions, MountRequest, RequestCounters, RequestFigures, Session, Unmount, UnmountError, Unmounter,
};
use sapwood::image::{Image, NodeId, Tree, encode};
use sapwood::model::{
    Content, ContentHasher, DeviceNumber, EntryName, Extent, ImagePath, Metadata, Node, NodeKind, ObjectId, Timestamp,
    Xattrs,
};
use sapwood::store::{MemoryObjects, ObjectSource, ReadError};
use sapwood::sys::Mapping;
use sapwood::vfs::{Vfs, Volume};

/// Object contents in memory, some of them also in plain files that the kernel may read itself.
#[derive(Default)]
struct Objects {
    memory: MemoryObjects,
    files: HashMap<ObjectId, Arc<File>>,
}

impl ObjectSource for Objects {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.memory.read_at(id, offset, buffer)
    }

    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        Ok(self.files.get(&id).map(Arc::clone))
    }
}

/// A tree that is being built, with its contents.
struct Builder {
    tree: Tree,
    objects: Objects,
    content_bytes: u64,
}

fn metadata(permissions: u16) -> Metadata {
    let mtime = Timestamp { seconds: 1_600_000_000, nanoseconds: 123_456_789 };
    Metadata { permissions, uid: 0, gid: 0, mtime, xattrs: Xattrs::default() }
}

fn name(text: &str) -> EntryName {
    EntryName::new(text.as_bytes()).expect("legal")
}

impl Builder {
    fn new() -> Self {
        Self { tree: Tree::new(metadata(0o755)), objects: Objects::default(), content_bytes: 0 }
    }

    fn root(&self) -> NodeId {
        self.tree.root()
    }

    fn content(&mut self, bytes: Vec<u8>) -> Content {
        let mut hasher = ContentHasher::new(bytes.len() as u64);
        hasher.update(&bytes);
        self.content_bytes += bytes.len() as u64;
        if !bytes.is_empty() {
            self.objects.memory.insert(bytes);
        }
        hasher.finish().expect("the size is known")
    }

    fn add(&mut self, parent: NodeId, entry: &str, permissions: u16, kind: NodeKind) -> NodeId {
        let node = Node { metadata: metadata(permissions), kind };
        self.tree.insert(parent, name(entry), node).expect("new names")
    }

    fn directory(&mut self, parent: NodeId, entry: &str) -> NodeId {
        self.add(parent, entry, 0o755, NodeKind::Directory)
    }

    fn file(&mut self, parent: NodeId, entry: &str, bytes: impl Into<Vec<u8>>) -> NodeId {
        let content = self.content(bytes.into());
        self.add(parent, entry, 0o755, NodeKind::Regular(content))
    }

    /// Adds a file whose content is also a file in `store`.
    fn backed_file(&mut self, store: &Path, parent: NodeId, entry: &str, bytes: Vec<u8>) -> NodeId {
        let path = store.join(entry);
        fs::write(&path, &bytes).expect("the sandbox is writable");
        let id = ObjectId::of(&bytes);
        self.objects.files.insert(id, Arc::new(File::open(path).expect("just written")));
        self.file(parent, entry, bytes)
    }

    /// Adds everything below a directory of this machine, without owners and times: it serves for size, not for fidelity.
    fn copy(&mut self, parent: NodeId, from: &Path) {
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
        self.try_mount(at, options).expect("mounts")
    }

    fn try_mount(self, at: &Path, options: &str) -> Result<Mount, MountError> {
        let store = Some(File::open("/").expect("readable").into());
        let volume = Volume { content_bytes: self.content_bytes, store };
        let image = Image::open(Mapping::of_bytes(encode(&self.tree).expect("legal").bytes)).expect("just written");
        let vfs = Vfs::new(image, Arc::new(self.objects), &ImagePath::root(), volume).expect("a directory");
        fs::create_dir_all(at).expect("the sandbox is writable");
        let options = MountOptions::parse(options).expect("legal");
        let request = MountRequest { source: "test".to_owned(), mountpoint: at.to_owned(), options };
        let (session, unmounter) = Session::mount(Arc::new(vfs), &request)?;
        let counters = Arc::clone(session.counters());
        let server = std::thread::spawn(move || session.run().expect("serves"));
        Ok(Mount { at: at.to_owned(), unmounter, counters, server: Some(server) })
    }
}

struct Mount {
    at: PathBuf,
    unmounter: Unmounter,
    counters: Arc<RequestCounters>,
    server: Option<JoinHandle<()>>,
}

impl Mount {
    fn join(&self, path: &str) -> PathBuf {
        self.at.join(path)
    }

    fn figures(&self) -> RequestFigures {
        self.counters.figures()
    }

    fn count(&self, opcode: &str) -> u64 {
        self.figures().by_opcode.get(opcode).copied().unwrap_or(0)
    }

    /// Returns all counts but that of statfs: programs that walk trees call it once a run, and the kernel never caches the
    /// answer.
    fn cacheable(&self) -> Vec<(String, u64)> {
        self.figures().by_opcode.into_iter().filter(|(opcode, _)| opcode != "statfs").collect()
    }

    fn end(mut self) {
        // Another test of this program may be starting a process, which holds this test's files until its exec.
        let give_up = Instant::now() + Duration::from_secs(60);
        while let Err(error) = self.unmounter.unmount(Unmount::Now) {
            assert!(Instant::now() < give_up, "not in use: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.server.take().expect("runs").join().expect("ends well");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _gone = self.unmounter.unmount(Unmount::Lazy);
    }
}

fn shell(script: &str) -> String {
    run("sh", ["-c", script]).success()
}

fn small() -> Builder {
    let mut builder = Builder::new();
    let root = builder.root();
    builder.file(root, "hello", "hello world\n");
    builder.file(root, "empty", "");
    let usr = builder.directory(root, "usr");
    let bin = builder.directory(usr, "bin");
    builder.file(bin, "busy", vec![7_u8; 3 << 20]);
    builder.file(bin, "true", fs::read("/bin/true").expect("is there"));
    builder.add(root, "bin", 0o777, NodeKind::Symlink(Box::from(&b"usr/bin"[..])));
    builder
}

#[test]
fn mounted_tree_equals_the_built_tree() {
    let sandbox = Sandbox::new("kernel-tree");
    let mut builder = small();
    let root = builder.root();
    let hello = builder.tree.child(root, b"hello").expect("is there");
    builder.tree.link(root, name("again"), hello).expect("new");
    builder.add(root, "null", 0o666, NodeKind::CharDevice(DeviceNumber { major: 1, minor: 3 }));
    builder.add(root, "big", 0o666, NodeKind::BlockDevice(DeviceNumber { major: 259, minor: 70_000 }));
    builder.add(root, "pipe", 0o600, NodeKind::Fifo);
    builder.add(root, "socket", 0o600, NodeKind::Socket);
    let mount = builder.mount(&sandbox.join("m"), "");
    assert_eq!(fs::read_to_string(mount.join("hello")).expect("reads"), "hello world\n");
    assert_eq!(fs::read(mount.join("empty")).expect("reads"), b"");
    assert_eq!(fs::read(mount.join("bin/busy")).expect("reads"), vec![7_u8; 3 << 20]);
    let stat = |path: &str| fs::symlink_metadata(mount.join(path)).expect("is there");
    assert_eq!((stat("hello").mtime(), stat("hello").mtime_nsec()), (1_600_000_000, 123_456_789));
    assert_eq!(stat("hello").permissions().mode(), 0o100_755);
    assert_eq!((stat("again").ino(), stat("again").nlink()), (stat("hello").ino(), 2));
    assert_eq!(
        (stat("null").rdev(), stat("big").rdev()),
        (nix::sys::stat::makedev(1, 3), nix::sys::stat::makedev(259, 70_000))
    );
    assert!(stat("pipe").file_type().is_fifo() && stat("socket").file_type().is_socket());
    assert_eq!(fs::metadata(mount.join("nothing")).expect_err("is not there").raw_os_error(), Some(libc::ENOENT));
    assert_eq!(File::open(mount.join("null")).expect_err("nodev").raw_os_error(), Some(libc::EACCES));
    mount.end();
}

/// The kernel drops its caches of a tree when other programs need the memory: this test runs when no other does.
mod alone {
    use super::*;

    #[test]
    fn a_warm_tree_costs_no_message() {
        let sandbox = Sandbox::new("kernel-warm");
        let mut builder = small();
        let root = builder.root();
        let share = builder.directory(root, "share");
        builder.copy(share, Path::new("/usr/share/perl"));
        let mount = builder.mount(&sandbox.join("m"), "");
        let at = mount.at.display().to_string();
        let work = || {
            shell(&format!("find {at} -size +0 -printf '%p %s %T@ %l\\n' && find {at} | wc -l"));
            shell(&format!("tar -cf - -C {at} . | cat > /dev/null"));
            shell(&format!("cat $(find {at} -type f) > /dev/null"));
            shell(&format!(
                "for i in 1 2 3 4 5 6 7 8 9; do test -e {at}/nothing; test -e {at}/share/nothing; done; true"
            ));
            shell(&format!("i=0; while [ $i != 100 ]; do {at}/bin/true; i=$((i + 1)); done"));
        };
        work();
        work();
        let before = mount.cacheable();
        work();
        assert_eq!(before, mount.cacheable());
        mount.end();
    }
}

/// One directory has more entries than fit into a message: after the first message, the kernel may ask for names only, and look
/// up each entry.
#[test]
fn a_cold_walk_with_attributes_costs_two_messages_a_directory() {
    for options in ["", "passthrough"] {
        let sandbox = Sandbox::new("kernel-walk");
        let mount = |name: &str| {
            let mut builder = Builder::new();
            let root = builder.root();
            for outer in 0..10 {
                let outer = builder.directory(root, &format!("outer-{outer}"));
                for inner in 0..20 {
                    let inner = builder.directory(outer, &format!("inner-{inner}"));
                    for file in 0..10 {
                        builder.file(inner, &format!("file-{file}"), "contents");
                    }
                }
            }
            let large = builder.directory(root, "large-");
            for file in 0..400 {
                builder.file(large, &format!("file-{file}"), "contents");
            }
            builder.mount(&sandbox.join(name), options)
        };
        let check = |mount: Mount| {
            let figures = mount.figures();
            let directories = 1 + 10 + 10 * 20 + 1;
            assert_eq!(mount.count("lookup"), 0, "{figures:?}");
            assert!(figures.messages * 10 <= directories * 22, "{directories} directories: {figures:?}");
            mount.end();
        };
        let with_attributes = mount("attributes");
        let lines = shell(&format!("find {} -printf '%y %s %m %T@\\n' | wc -l", with_attributes.at.display()));
        assert_eq!(lines.trim(), "2612");
        check(with_attributes);
        // A walk that reads only names finds all of them, and sends no more messages.
        let names = mount("names");
        let lines = shell(&format!("cd {} && ls -fR | grep -c -- -", names.at.display()));
        assert_eq!(lines.trim(), "2822", "2,611 names, and 211 headings that have one");
        check(names);
    }
}

#[test]
fn an_image_with_capabilities_costs_one_message_an_exec() {
    let sandbox = Sandbox::new("kernel-caps");
    let mut builder = small();
    let root = builder.root();
    let mut metadata = metadata(0o755);
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    metadata.xattrs.set(b"security.capability", capability).expect("legal");
    metadata.xattrs.set(b"user.note", b"").expect("legal");
    let content = builder.content(fs::read("/bin/true").expect("is there"));
    let node = Node { metadata, kind: NodeKind::Regular(content) };
    builder.tree.insert(root, name("capable"), node).expect("new");
    let mount = builder.mount(&sandbox.join("m"), "suid");
    let text =
        run("getfattr", ["-d", "-m-", "-ehex", "--absolute-names", &mount.join("capable").display().to_string()])
            .success();
    let hex: String = capability.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(text.contains(&format!("security.capability=0x{hex}")), "{text}");
    assert!(text.contains("user.note"), "{text}");
    let execute = || run(&mount.join("capable").display().to_string(), [""; 0]).success();
    execute();
    let before = mount.figures();
    for _ in 0..10 {
        execute();
    }
    let after = mount.figures();
    assert_eq!(after.messages - before.messages, 10, "{before:?} {after:?}");
    mount.end();
}

#[test]
fn xattr_calls_reach_a_mount_without_xattrs_only_once() {
    let sandbox = Sandbox::new("kernel-xattr");
    let mount = small().mount(&sandbox.join("m"), "");
    for _ in 0..5 {
        let refused = run("getfattr", ["-n", "user.note", &mount.join("hello").display().to_string()]).any_failure();
        assert!(refused.contains("not supported"), "{refused}");
        run("ls", ["-l", &mount.at.display().to_string()]).success();
    }
    assert!(mount.count("getxattr") <= 1 && mount.count("listxattr") <= 1, "{:?}", mount.figures());
    mount.end();
}

fn refused<T>(result: io::Result<T>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EROFS))
}

#[test]
fn every_change_is_refused() {
    use rustix::fs as r;
    let sandbox = Sandbox::new("kernel-erofs");
    let mount = small().mount(&sandbox.join("m"), "");
    let (file, directory, new) = (&mount.join("hello"), &mount.join("usr"), &mount.join("new"));
    let mode = r::Mode::from_raw_mode(0o600);
    let times = r::Timestamps {
        last_access: r::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: r::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    let open = |flags: r::OFlags| r::open(if flags.contains(r::OFlags::CREATE) { new } else { file }, flags, mode);
    let attempts: Vec<(&str, io::Result<()>)> = vec![
        ("create", open(r::OFlags::CREATE | r::OFlags::WRONLY).map(drop).map_err(Into::into)),
        ("open to write", open(r::OFlags::WRONLY).map(drop).map_err(Into::into)),
        ("open to read and write", open(r::OFlags::RDWR).map(drop).map_err(Into::into)),
        ("open to append", open(r::OFlags::APPEND | r::OFlags::WRONLY).map(drop).map_err(Into::into)),
        ("open and truncate", open(r::OFlags::TRUNC | r::OFlags::WRONLY).map(drop).map_err(Into::into)),
        ("unnamed file", r::open(directory, r::OFlags::TMPFILE | r::OFlags::RDWR, mode).map(drop).map_err(Into::into)),
        ("truncate", nix::unistd::truncate(file, 0).map_err(Into::into)),
        ("unlink", fs::remove_file(file)),
        ("rmdir", fs::remove_dir(directory)),
        ("rename", fs::rename(file, new)),
        ("exchange", r::renameat_with(r::CWD, file, r::CWD, directory, r::RenameFlags::EXCHANGE).map_err(Into::into)),
        ("mkdir", fs::create_dir(new)),
        ("link", fs::hard_link(file, new)),
        ("symlink", std::os::unix::fs::symlink("x", new)),
        ("mkfifo", nix::unistd::mkfifo(new, nix::sys::stat::Mode::S_IRUSR).map_err(Into::into)),
        ("mknod", r::mknodat(r::CWD, new, r::FileType::CharacterDevice, mode, r::makedev(1, 3)).map_err(Into::into)),
        ("chmod", fs::set_permissions(file, fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(file, Some(1), Some(1))),
        ("utimensat", r::utimensat(r::CWD, file, &times, r::AtFlags::empty()).map_err(Into::into)),
        ("setxattr", r::setxattr(file, "user.a", b"1", r::XattrFlags::empty()).map_err(Into::into)),
        ("removexattr", r::removexattr(file, "user.a").map_err(Into::into)),
    ];
    for (what, result) in attempts {
        assert!(refused(result), "{what} was not refused as on a read-only filesystem");
    }
    assert_eq!(mount.count("change"), 0, "the kernel refuses by itself");
    mount.end();
}

#[test]
fn programs_map_lock_watch_and_read_directly() {
    let sandbox = Sandbox::new("kernel-uses");
    let mount = small().mount(&sandbox.join("m"), "");
    let busy = mount.join("bin/busy").display().to_string();
    run(&mount.join("bin/true").display().to_string(), [""; 0]).success();
    let script = "import mmap,sys,fcntl,os\n\
        f=open(sys.argv[1],'rb')\n\
        for flag in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):\n\
        \tm=mmap.mmap(f.fileno(),0,flags=flag,prot=mmap.PROT_READ)\n\
        \tassert m[1<<20]==7 and m[-1]==7 and len(m)==3<<20\n\
        fcntl.flock(f,fcntl.LOCK_EX); fcntl.flock(f,fcntl.LOCK_UN); fcntl.lockf(f,fcntl.LOCK_SH)\n\
        os.posix_fadvise(f.fileno(),0,0,os.POSIX_FADV_WILLNEED); os.fsync(f.fileno())\n\
        os.sendfile(1,f.fileno(),0,10)\n\
        assert os.pread(f.fileno(),10,(3<<20)-5)==b'\\7'*5\n";
    run("python3", ["-c", script, &busy]).success();
    run("dd", [&format!("if={busy}"), "of=/dev/null", "bs=1M", "iflag=direct"]).success();
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&busy).expect("opens");
    let mut bytes = [0; 100];
    assert_eq!(direct.read_at(&mut bytes, 12_345).expect("reads"), 100);
    assert_eq!(bytes, [7; 100]);

    let watch = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    watch.add_watch(&mount.join("hello"), AddWatchFlags::IN_ACCESS).expect("watches");
    fs::read(mount.join("hello")).expect("reads");
    assert!(!watch.read_events().expect("was read").is_empty());
    drop(direct);
    mount.end();
}

#[test]
fn holes_are_found() {
    let sandbox = Sandbox::new("kernel-holes");
    let mut builder = Builder::new();
    let root = builder.root();
    let mut bytes = vec![0; 4 << 20];
    bytes[1 << 20..2 << 20].fill(9);
    let content = builder.content(bytes.clone());
    let extents = Some(vec![Extent { offset: 1 << 20, length: 1 << 20 }]);
    builder.add(root, "sparse", 0o644, NodeKind::Regular(Content { extents, ..content }));
    let mount = builder.mount(&sandbox.join("m"), "");
    let sparse = mount.join("sparse");
    assert_eq!(fs::read(&sparse).expect("reads"), bytes);
    assert_eq!(fs::metadata(&sparse).expect("is there").blocks(), 2048);
    let file = File::open(&sparse).expect("opens");
    let seek = |whence| rustix::fs::seek(&file, whence).ok();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), Some(1 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(1 << 20)), Some(2 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Some(0));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(3 << 20)), None);
    drop(file);
    let copy = sandbox.join("copy");
    run("cp", ["--sparse=auto".as_ref(), sparse.as_os_str(), copy.as_os_str()]).success();
    assert!(fs::metadata(&copy).expect("copied").blocks() <= 2060);
    assert_eq!(fs::read(&copy).expect("reads"), bytes);
    mount.end();
}

#[test]
fn statfs_reports_plausible_figures() {
    let sandbox = Sandbox::new("kernel-df");
    let mount = small().mount(&sandbox.join("m"), "");
    let figures = nix::sys::statvfs::statvfs(&mount.at).expect("answers");
    let below = nix::sys::statvfs::statvfs("/").expect("answers");
    let used = (figures.blocks() - figures.blocks_free()) * figures.fragment_size();
    assert!((3 << 20..4 << 20).contains(&used), "{used}");
    let free = figures.blocks_available() * figures.fragment_size();
    let free_below = below.blocks_available() * below.fragment_size();
    assert!(free.abs_diff(free_below) < 1 << 30, "{free} and {free_below}");
    assert_eq!(figures.name_max(), 255);
    assert!(figures.files() > figures.files_free() && figures.files_free() > 0);
    mount.end();
}

#[test]
fn large_directory_is_listed_completely() {
    let sandbox = Sandbox::new("kernel-many");
    let mut builder = Builder::new();
    let root = builder.root();
    for number in 0..100_000 {
        builder.add(root, &format!("entry-{number}"), 0o644, NodeKind::Regular(Content::default()));
    }
    let mount = builder.mount(&sandbox.join("m"), "");
    let mut names: Vec<_> =
        fs::read_dir(&mount.at).expect("lists").map(|entry| entry.expect("lists").file_name()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100_000);
    assert!(fs::metadata(mount.join("entry-99999")).is_ok());
    mount.end();
}

#[test]
fn missing_object_fails_only_the_read_of_its_file() {
    let sandbox = Sandbox::new("kernel-damage");
    let mut builder = small();
    let root = builder.root();
    let absent = Content { object: Some(ObjectId::of(b"absent")), size: 6, ..Content::default() };
    builder.add(root, "absent", 0o644, NodeKind::Regular(absent));
    let mount = builder.mount(&sandbox.join("m"), "");
    assert_eq!(fs::read(mount.join("absent")).expect_err("is gone").raw_os_error(), Some(libc::EIO));
    assert!(mount.figures().errors > 0);
    assert_eq!(fs::read_to_string(mount.join("hello")).expect("reads"), "hello world\n");
    mount.end();
}

fn overlay(sandbox: &Sandbox, lower: &Path, number: u32) -> nix::Result<PathBuf> {
    let part = |part: &str| sandbox.directory(&format!("{part}{number}"));
    let (upper, work, merged) = (part("upper"), part("work"), part("merged"));
    let text = |path: &Path| path.display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", text(lower), text(&upper), text(&work));
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(merged)
}

#[test]
fn overlays_stack_on_the_mount() {
    for options in ["", "passthrough"] {
        let sandbox = Sandbox::new("kernel-overlay");
        let store = sandbox.directory("store");
        let mut builder = small();
        let root = builder.root();
        builder.backed_file(&store, root, "backed", vec![5; 100_000]);
        let lower = builder.mount(&sandbox.join("m"), options);
        let merged = overlay(&sandbox, &lower.at, 1).expect("mounts");
        assert_eq!(fs::read(merged.join("backed")).expect("reads"), vec![5; 100_000]);
        OpenOptions::new()
            .append(true)
            .open(merged.join("hello"))
            .and_then(|mut file| file.write_all(b"more"))
            .expect("copies up");
        fs::remove_file(merged.join("usr/bin/busy")).expect("makes a whiteout");
        assert_eq!(fs::read_to_string(merged.join("hello")).expect("reads"), "hello world\nmore");
        assert!(!merged.join("usr/bin/busy").exists());
        assert_eq!(fs::read_to_string(lower.join("hello")).expect("reads"), "hello world\n");
        // The kernel allows two filesystems on top of each other, and passthrough counts as one.
        match overlay(&sandbox, &merged, 2) {
            Ok(second) => {
                assert_eq!(fs::read(second.join("backed")).expect("reads"), vec![5; 100_000]);
                umount2(&second, MntFlags::empty()).expect("not in use");
            }
            Err(errno) => assert_eq!((errno, options), (nix::errno::Errno::EINVAL, "passthrough")),
        }
        umount2(&merged, MntFlags::empty()).expect("not in use");
        lower.end();
    }
}

#[test]
fn a_bind_mount_outlives_the_first_mount() {
    let sandbox = Sandbox::new("kernel-bind");
    let mut lower = small().mount(&sandbox.join("m"), "");
    let elsewhere = sandbox.directory("elsewhere");
    mount(Some(&lower.join("usr")), &elsewhere, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("binds");
    lower.unmounter.unmount(Unmount::Now).expect("not in use");
    assert_eq!(fs::read(elsewhere.join("bin/busy")).expect("reads"), vec![7_u8; 3 << 20]);
    umount2(&elsewhere, MntFlags::empty()).expect("not in use");
    lower.server.take().expect("runs").join().expect("ends with its last mount");
}

#[test]
fn busy_mount_stays_unless_unmounted_lazily() {
    let sandbox = Sandbox::new("kernel-busy");
    let mut mount = small().mount(&sandbox.join("m"), "");
    let file = File::open(mount.join("hello")).expect("opens");
    assert!(matches!(mount.unmounter.unmount(Unmount::Now), Err(UnmountError::Busy { .. })));
    mount.unmounter.unmount(Unmount::Lazy).expect("detached");
    mount.unmounter.unmount(Unmount::Now).expect("a second unmount does nothing");
    let mut text = String::new();
    (&file).read_to_string(&mut text).expect("still reads");
    assert_eq!(text, "hello world\n");
    drop(file);
    mount.server.take().expect("runs").join().expect("ends with its last user");
}

#[test]
fn a_second_mount_on_the_same_point_is_refused() {
    let sandbox = Sandbox::new("kernel-second");
    let mount = small().mount(&sandbox.join("m"), "");
    let error = small().try_mount(&mount.at, "").err().expect("refused").to_string();
    assert!(error.contains("already mounted"), "{error}");
    mount.end();
    small().mount(&sandbox.join("m"), "").end();
}

#[test]
fn unusable_mountpoints_are_refused() {
    let sandbox = Sandbox::new("kernel-points");
    fs::write(sandbox.join("file"), "").expect("writable");
    let vfs = || {
        let image = Image::open(Mapping::of_bytes(encode(&small().tree).expect("legal").bytes)).expect("just written");
        Arc::new(
            Vfs::new(image, Arc::new(Objects::default()), &ImagePath::root(), Volume::default()).expect("a directory"),
        )
    };
    let request = |name: &str| MountRequest {
        source: "test".to_owned(),
        mountpoint: sandbox.join(name),
        options: MountOptions::default(),
    };
    assert!(matches!(Session::mount(vfs(), &request("missing")), Err(MountError::Mountpoint { .. })));
    assert!(matches!(Session::mount(vfs(), &request("file")), Err(MountError::NotADirectory { .. })));
}

#[test]
fn passthrough_reads_send_no_read_messages() {
    let sandbox = Sandbox::new("kernel-passthrough");
    let store = sandbox.directory("store");
    let mut builder = small();
    let root = builder.root();
    let bytes: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).take(5_000_000).collect();
    builder.backed_file(&store, root, "backed", bytes.clone());
    builder.backed_file(&store, root, "program", fs::read("/bin/true").expect("is there"));
    let mount = builder.mount(&sandbox.join("m"), "passthrough,threads=4");
    assert_eq!(fs::read(mount.join("backed")).expect("reads"), bytes);
    run(&mount.join("program").display().to_string(), [""; 0]).success();
    let script = "import mmap,sys\nf=open(sys.argv[1],'rb')\nm=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ)\nassert m[:]==f.read()";
    run("python3", ["-c", script, &mount.join("backed").display().to_string()]).success();
    assert_eq!(mount.count("read"), 0, "{:?}", mount.figures());
    assert_eq!(fs::read_to_string(mount.join("hello")).expect("reads"), "hello world\n");
    assert_eq!(mount.count("read"), 1);
    mount.end();
}

/// Eight readers open, read and close five inodes of both kinds at once. If one I/O mode is mixed with the other, an open
/// fails.
#[test]
fn concurrent_opens_never_mix_io_modes() {
    let sandbox = Sandbox::new("kernel-mixed");
    let store = sandbox.directory("store");
    let mut builder = Builder::new();
    let root = builder.root();
    let content = |number: u8| vec![number; 300_000 + usize::from(number)];
    for number in 0..5_u8 {
        let name = format!("file-{number}");
        if number % 2 == 0 {
            builder.backed_file(&store, root, &name, content(number));
        } else {
            builder.file(root, &name, content(number));
        }
    }
    let mount = builder.mount(&sandbox.join("m"), "passthrough,threads=4");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..8_usize {
            let (mount, stop) = (&mount, &stop);
            scope.spawn(move || {
                for round in 0..400_usize {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = u8::try_from((round * 7 + reader) % 5).expect("below 5");
                    let path = mount.join(&format!("file-{number}"));
                    let read = File::open(&path).and_then(|mut one| {
                        let two = File::open(&path)?;
                        let mut bytes = Vec::new();
                        one.read_to_end(&mut bytes)?;
                        let mut end = [0; 10];
                        two.read_exact_at(&mut end, 300_000 - 10)?;
                        Ok(bytes == content(number) && end == [number; 10])
                    });
                    if !matches!(read, Ok(true)) {
                        stop.store(true, Ordering::Relaxed);
                        panic!("reader {reader}, round {round}: {read:?}");
                    }
                }
            });
        }
    });
    assert_eq!(mount.count("open"), 8 * 400 * 2);
    mount.end();
}

#[test]
fn io_mode_of_an_inode_lasts_until_its_last_release() {
    let sandbox = Sandbox::new("kernel-lasts");
    let store = sandbox.directory("store");
    let mut builder = Builder::new();
    let root = builder.root();
    builder.backed_file(&store, root, "backed", vec![1; 10_000]);
    let mount = builder.mount(&sandbox.join("m"), "passthrough");
    let held = File::open(mount.join("backed")).expect("opens");
    for _ in 0..50 {
        let mut bytes = [0; 10];
        File::open(mount.join("backed")).and_then(|file| file.read_exact_at(&mut bytes, 5)).expect("reads");
    }
    drop(held);
    assert_eq!(fs::read(mount.join("backed")).expect("reads"), vec![1; 10_000]);
    assert_eq!(mount.count("read"), 0);
    mount.end();
}

#[test]
fn access_control_lists_are_obeyed() {
    let sandbox = Sandbox::new("kernel-acl");
    let mut builder = small();
    let root = builder.root();
    let mut metadata = metadata(0o640);
    // user::rw-, user:65534:r--, group::---, mask::r--, other::---
    let list: Vec<u8> = [(1, 6, u32::MAX), (2, 4, 65_534), (4, 0, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
        .into_iter()
        .flat_map(|(tag, permissions, id): (u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        })
        .collect();
    metadata.xattrs.set(b"system.posix_acl_access", &[&2_u32.to_le_bytes()[..], &list].concat()).expect("legal");
    let content = builder.content(b"secret".to_vec());
    let node = Node { metadata, kind: NodeKind::Regular(content) };
    builder.tree.insert(root, name("listed"), node).expect("new");
    let mount = builder.mount(&sandbox.join("m"), "allow_other");
    let listed = mount.join("listed").display().to_string();
    let as_user =
        |user: &str| run("setpriv", [&format!("--reuid={user}"), "--regid=65533", "--clear-groups", "cat", &listed]);
    assert_eq!(as_user("65534").success(), "secret");
    assert!(as_user("65533").any_failure().contains("Permission denied"));
    let text = run("getfacl", ["-cn", "--absolute-names", &listed]).success();
    assert!(text.contains("user:65534:r--") && text.contains("mask::r--"), "{text}");
    mount.end();
}

#[test]
fn large_files_are_read_in_large_requests() {
    let sandbox = Sandbox::new("kernel-large");
    let mut builder = Builder::new();
    let root = builder.root();
    builder.file(root, "large", vec![1; 64 << 20]);
    let mount = builder.mount(&sandbox.join("m"), "");
    assert_eq!(fs::read(mount.join("large")).expect("reads").len(), 64 << 20);
    let reads = mount.count("read");
    assert!(reads <= 80, "{reads} messages for 64 MiB");
    mount.end();
}

/// As an NFS server does: it keeps file handles while the filesystem is mounted again.
#[test]
fn file_handles_outlive_the_mount() {
    let sandbox = Sandbox::new("kernel-handles");
    let script = "
import ctypes,os,sys
libc=ctypes.CDLL(None,use_errno=True)
class Handle(ctypes.Structure):
    _fields_=[('bytes',ctypes.c_uint),('type',ctypes.c_int),('data',ctypes.c_char*128)]
where=sys.argv[2]
if sys.argv[1]=='get':
    h=Handle(); h.bytes=128; m=ctypes.c_int()
    if libc.name_to_handle_at(-100,where.encode(),ctypes.byref(h),ctypes.byref(m),0): sys.exit(os.strerror(ctypes.get_errno()))
    print(bytes(h).hex())
else:
    h=Handle.from_buffer_copy(bytes.fromhex(sys.argv[3]))
    at=os.open(where,os.O_RDONLY)
    f=libc.open_by_handle_at(at,ctypes.byref(h),os.O_RDONLY)
    if f<0: sys.exit(os.strerror(ctypes.get_errno()))
    print(os.read(f,100).decode(errors='replace'),end='')
";
    let python = |arguments: &[&str]| run("python3", [&["-c", script], arguments].concat());
    let mount = small().mount(&sandbox.join("m"), "");
    let at = mount.at.display().to_string();
    let handle = python(&["get", &format!("{at}/hello")]).success();
    let deep = python(&["get", &format!("{at}/usr/bin/true")]).success();
    mount.end();
    let mount = small().mount(&sandbox.join("m"), "");
    assert_eq!(python(&["open", &at, &handle]).success(), "hello world");
    assert!(python(&["open", &at, &deep]).success().contains("ELF"));
    mount.end();
}
