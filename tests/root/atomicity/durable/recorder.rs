//! A disk that records what is written to it: one file on a FUSE file system of the test, below a loop device.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};

use crate::common::sandbox::{Sandbox, run};

/// Bytes that a disk writes completely or not at all, as disks do with their sectors of 512 bytes or more. ext4 relies on it: a
/// superblock of two sectors of which only one is new has a wrong checksum, and is not mounted.
pub const SECTOR: usize = 4096;

/// What happened to the disk.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes were written, and may still be in the disk's cache.
    Write { offset: u64, bytes: Vec<u8> },
    /// Everything written before is on the disk.
    Flush,
    /// The program reported success.
    Done,
}

#[derive(Default)]
struct State {
    content: Vec<u8>,
    events: Option<Vec<Event>>,
}

#[derive(Clone)]
struct Disk(Arc<Mutex<State>>);

const FILE: INodeNo = INodeNo(2);
const ATTRIBUTE_TTL: Duration = Duration::from_secs(3600);

impl Disk {
    fn attributes(&self, node: INodeNo) -> FileAttr {
        let size = self.0.lock().expect("no panic").content.len() as u64;
        let time = SystemTime::UNIX_EPOCH;
        let (kind, perm, size) =
            if node == FILE { (FileType::RegularFile, 0o600, size) } else { (FileType::Directory, 0o700, 0) };
        FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn note(&self, event: Event) {
        if let Some(events) = &mut self.0.lock().expect("no panic").events {
            events.push(event);
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&ATTRIBUTE_TTL, &self.attributes(FILE), Generation(0))
        } else {
            reply.error(Errno::ENOENT)
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ATTRIBUTE_TTL, &self.attributes(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.0.lock().expect("no panic");
        let rest = &state.content[(offset as usize).min(state.content.len())..];
        reply.data(&rest[..rest.len().min(size as usize)]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.note(Event::Write { offset, bytes: bytes.to_vec() });
        let mut state = self.0.lock().expect("no panic");
        state.content[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        reply.written(bytes.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.note(Event::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// A file system mounted from a recording disk.
pub struct Recorder {
    state: Disk,
    device: String,
    at: PathBuf,
    session: Option<BackgroundSession>,
    kind: &'static FileSystem,
}

/// How a file system is made and mounted.
#[derive(Debug)]
pub struct FileSystem {
    pub name: &'static str,
    pub make: &'static [&'static str],
    pub kind: &'static str,
    pub options: &'static str,
    pub size: usize,
}

/// ext4 with its default options.
pub const EXT4: FileSystem =
    FileSystem { name: "ext4", make: &["mkfs.ext4", "-q", "-F"], kind: "ext4", options: "defaults", size: 48 << 20 };

/// ext4 without its protection of programs that do not sync: new names may reach the disk before their bytes.
pub const EXT4_STRICT: FileSystem = FileSystem {
    name: "ext4, data=writeback, noauto_da_alloc",
    make: &["mkfs.ext4", "-q", "-F"],
    kind: "ext4",
    options: "data=writeback,noauto_da_alloc,commit=1",
    size: 48 << 20,
};

pub const XFS: FileSystem =
    FileSystem { name: "xfs", make: &["mkfs.xfs", "-q", "-f"], kind: "xfs", options: "nouuid", size: 320 << 20 };

pub const BTRFS: FileSystem = FileSystem {
    name: "btrfs",
    make: &["mkfs.btrfs", "-q", "-f"],
    kind: "btrfs",
    options: "commit=1",
    size: 128 << 20,
};

impl Recorder {
    pub fn new(sandbox: &Sandbox, kind: &'static FileSystem) -> Self {
        let content = vec![0; kind.size];
        let state = Disk(Arc::new(Mutex::new(State { content, events: None })));
        let below = sandbox.directory("below");
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("recorder".to_owned())];
        let session = fuser::spawn_mount(state.clone(), &below, &config).expect("mounts");
        let disk = below.join("disk");
        run(kind.make[0], kind.make[1..].iter().map(OsStr::new).chain([disk.as_os_str()])).success();
        let device = run("losetup", ["--find".as_ref(), "--show".as_ref(), disk.as_os_str()]).success();
        let at = sandbox.directory("disk");
        mount(&device, kind, &at);
        Self { state, device, at, session: Some(session), kind }
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Syncs the disk and starts the recording. Returns what the disk holds.
    pub fn begin(&self) -> Vec<u8> {
        run("sync", ["-f".as_ref(), self.at.as_os_str()]).success();
        let mut state = self.state.0.lock().expect("no panic");
        state.events = Some(Vec::new());
        state.content.clone()
    }

    /// Records that the program has reported success.
    pub fn note_done(&self) {
        self.state.note(Event::Done);
    }

    /// Returns the events since the start of the recording.
    pub fn end(&self) -> Vec<Event> {
        self.state.0.lock().expect("no panic").events.take().expect("has begun")
    }

    pub const fn kind(&self) -> &'static FileSystem {
        self.kind
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        run("umount", [self.at.as_os_str()]);
        run("losetup", ["-d", &self.device]);
        if let Some(session) = self.session.take() {
            // The loop device is released a moment later.
            for _ in 0..50 {
                if run("losetup", ["--list", &self.device]).stdout.is_empty() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _gone = session.umount_and_join();
        }
    }
}

fn mount(device: &str, kind: &FileSystem, at: &Path) {
    run(
        "mount",
        ["-t".as_ref(), kind.kind.as_ref(), "-o".as_ref(), kind.options.as_ref(), device.as_ref(), at.as_os_str()],
    )
    .success();
}

/// A disk after a power cut, mounted.
pub struct AfterCrash {
    at: PathBuf,
    image: PathBuf,
}

impl AfterCrash {
    /// Mounts the content of a disk; the file system recovers as it does after a power cut.
    pub fn mount(sandbox: &Sandbox, kind: &FileSystem, content: &[u8]) -> Self {
        let (at, image) = (sandbox.directory("after"), sandbox.join("after.image"));
        let file = File::create(&image).expect("writable");
        file.set_len(content.len() as u64).expect("writable");
        for (index, chunk) in content.chunks(1 << 16).enumerate() {
            if chunk.iter().any(|byte| *byte != 0) {
                file.write_all_at(chunk, (index << 16) as u64).expect("writable");
            }
        }
        let options = format!("loop,{}", kind.options);
        run(
            "mount",
            ["-t".as_ref(), kind.kind.as_ref(), "-o".as_ref(), options.as_ref(), image.as_os_str(), at.as_os_str()],
        )
        .success();
        Self { at, image }
    }

    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for AfterCrash {
    fn drop(&mut self) {
        run("umount", [self.at.as_os_str()]);
        let _ = std::fs::remove_file(&self.image);
    }
}
