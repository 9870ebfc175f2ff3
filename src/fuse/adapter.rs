//! One method an operation: count, ask [`Vfs`], answer. What the answers say is decided there.
//!
//! Two answers here are about the protocol alone: ENOSYS tells the kernel to do without an operation from now on (that is
//! how opening becomes free of messages), and every answer may be kept for ever, since a commit never changes.
//!
//! Methods that would change something exist although the kernel already refuses on a read-only mount: a mount flag can
//! be taken off by root, the commit cannot.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::attributes::{file_attr, file_type, nothing};
use super::complaints::Complaints;
use super::counters::{Counters, Opcode};
use super::negotiate::{Permissions, negotiate};
use super::options::Mode;
use super::passthrough::{OpenInodes, Reader};
use crate::vfs::{FsError, Listing, Vfs, Whence};

/// How long the kernel may keep an answer: for ever. Larger values overflow its arithmetic on 32-bit machines.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// Node numbers are positions in the image and never reused within it.
const GENERATION: Generation = Generation(0);

thread_local! {
    /// Where a thread puts the bytes it hands to the kernel; grows to the largest request and stays.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The filesystem as `fuser` calls it.
pub(super) struct Adapter {
    vfs: Arc<Vfs>,
    counters: Arc<Counters>,
    mode: Mode,
    open_inodes: OpenInodes<BackingId>,
    complaints: Complaints,
}

impl Adapter {
    pub(super) fn new(vfs: Arc<Vfs>, counters: Arc<Counters>, mode: Mode) -> Self {
        Self { vfs, counters, mode, open_inodes: OpenInodes::default(), complaints: Complaints::default() }
    }

    fn count(&self, opcode: Opcode) {
        self.counters.count(opcode);
    }

    /// The errno of a failure, which is logged and counted when something is broken.
    fn fail(&self, node: INodeNo, error: &FsError) -> Errno {
        if error.is_damage() {
            self.counters.count_error();
            self.complaints.log(node.0, error);
        }
        Errno::from_i32(error.errno())
    }

    fn refuse(&self) -> Errno {
        self.count(Opcode::Change);
        Errno::from_i32(FsError::ReadOnly.errno())
    }

    fn unsupported(&self, opcode: Opcode) -> Errno {
        self.count(opcode);
        Errno::from_i32(FsError::Unsupported.errno())
    }

    /// Registers the object file of `node` with the kernel. Whatever stands in the way, a pack, an empty file, a
    /// repository on a stacked filesystem, the file can still be read through us.
    fn register(&self, node: INodeNo, reply: &ReplyOpen) -> Option<BackingId> {
        let object = self.vfs.object(node.0).ok()??;
        let file = self.vfs.objects().backing_file(object).ok()??;
        match reply.open_backing(&*file) {
            Ok(id) => Some(id),
            Err(error) => {
                self.complaints.log_once("passthrough", &error);
                None
            }
        }
    }

    fn answer_xattr(&self, node: INodeNo, size: u32, value: Result<&[u8], FsError>, reply: ReplyXattr) {
        let fits = value.and_then(|value| match u32::try_from(value.len()) {
            Ok(length) if size == 0 || length <= size => Ok((value, length)),
            _ => Err(FsError::BufferTooSmall(value.len())),
        });
        match fits {
            Ok((_, length)) if size == 0 => reply.size(length),
            Ok((value, _)) => reply.data(value),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let acls = self.vfs.has_acls().map_err(io::Error::other)?;
        let permissions = if acls { Permissions::WithAcls } else { Permissions::ModeBits };
        negotiate(config, self.mode, permissions)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count(Opcode::Lookup);
        match self.vfs.lookup(parent.0, name.as_bytes()) {
            Ok(found) => reply.entry(&FOREVER, &file_attr(self.vfs.node_of(found.ino), &found), GENERATION),
            // Node 0 says "not there, and you may remember it", which ENOENT does not.
            Err(FsError::NotFound) => reply.entry(&FOREVER, &nothing(), GENERATION),
            Err(error) => reply.error(self.fail(parent, &error)),
        }
    }

    fn forget(&self, _request: &Request, _node: INodeNo, _lookups: u64) {
        self.count(Opcode::Forget);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.count(Opcode::Getattr);
        match self.vfs.attributes(node.0) {
            Ok(attributes) => reply.attr(&FOREVER, &file_attr(node.0, &attributes)),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        self.count(Opcode::Readlink);
        match self.vfs.readlink(node.0) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    fn open(&self, _request: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count(Opcode::Open);
        if self.mode == Mode::Cached {
            return reply.error(Errno::from_i32(FsError::Unsupported.errno()));
        }
        match self.open_inodes.open(node.0, || self.register(node, &reply)) {
            Reader::Kernel(id) => reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &id),
            Reader::Daemon => reply.opened(FileHandle(0), FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count(Opcode::Read);
        BUFFER.with_borrow_mut(|buffer| {
            let size = usize::try_from(size).expect("a u32 fits");
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.vfs.read(node.0, offset, &mut buffer[..size]) {
                Ok(length) => {
                    self.counters.count_bytes(length);
                    reply.data(&buffer[..length]);
                }
                Err(error) => reply.error(self.fail(node, &error)),
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.count(Opcode::Release);
        self.open_inodes.release(node.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unsupported(Opcode::Opendir));
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, position: u64, mut reply: ReplyDirectory) {
        self.count(Opcode::Readdir);
        let listed = self.vfs.list(node.0, position, |entry| {
            let full = reply.add(INodeNo(entry.node), entry.next, file_type(entry.kind), OsStr::from_bytes(entry.name));
            if full { Listing::Full } else { Listing::Taken }
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    fn readdirplus(&self, _: &Request, node: INodeNo, _: FileHandle, position: u64, mut reply: ReplyDirectoryPlus) {
        self.count(Opcode::Readdirplus);
        let mut damage = None;
        let listed = self.vfs.list(node.0, position, |entry| {
            let attributes = match self.vfs.attributes_of_entry(&entry) {
                Ok(attributes) => file_attr(entry.node, &attributes),
                Err(error) => {
                    damage = Some(error);
                    return Listing::Full;
                }
            };
            let name = OsStr::from_bytes(entry.name);
            let full = reply.add(INodeNo(entry.node), entry.next, name, &FOREVER, &attributes, GENERATION);
            if full { Listing::Full } else { Listing::Taken }
        });
        match listed.and_then(|()| damage.map_or(Ok(()), Err)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.count(Opcode::Releasedir);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.count(Opcode::Statfs);
        let name_max = u32::try_from(crate::model::NAME_MAX).expect("255");
        match self.vfs.figures() {
            Ok(f) => {
                reply.statfs(f.blocks, f.free, f.available, f.files, f.files_free, f.block_size, name_max, f.block_size)
            }
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.count(Opcode::Getxattr);
        self.answer_xattr(node, size, self.vfs.xattr(node.0, name.as_bytes()), reply);
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.count(Opcode::Listxattr);
        match self.vfs.xattr_names(node.0) {
            Ok(names) => self.answer_xattr(node, size, Ok(&names), reply),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    fn lseek(&self, _: &Request, node: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.count(Opcode::Lseek);
        match Whence::from_raw(whence).and_then(|whence| self.vfs.seek(node.0, offset, whence)) {
            Ok(found) => reply.offset(found),
            Err(error) => reply.error(self.fail(node, &error)),
        }
    }

    // Not offered: after ENOSYS the kernel answers these by itself.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(self.unsupported(Opcode::Flush));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(self.unsupported(Opcode::Fsync));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(self.unsupported(Opcode::Fsync));
    }

    fn access(&self, _: &Request, _: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(self.unsupported(Opcode::Access));
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(self.unsupported(Opcode::Ioctl));
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(self.unsupported(Opcode::Poll));
    }

    fn bmap(&self, _: &Request, _: INodeNo, _block_size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(self.unsupported(Opcode::Bmap));
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _start: u64,
        _end: u64,
        _kind: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        reply.error(self.unsupported(Opcode::Lock));
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _start: u64,
        _end: u64,
        _kind: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(self.unsupported(Opcode::Lock));
    }

    // Changes: refused.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _created: Option<SystemTime>,
        _changed: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(self.refuse());
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, _device: u32, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _target: &std::path::Path, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(self.refuse());
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        reply.error(self.refuse());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse());
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse());
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse());
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _from: u64,
        _: INodeNo,
        _: FileHandle,
        _to: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse());
    }
}
