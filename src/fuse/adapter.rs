//! One method an operation: count it and have it carried out, by `answers` here or, when something is absent, by
//! `waiting` elsewhere. What the answers say is decided by [`Vfs`].
//!
//! Two answers here are about the protocol alone: ENOSYS tells the kernel to do without an operation from now on (that is
//! how opening becomes free of messages), and every answer may be kept for ever, since a commit never changes.
//!
//! Methods that would change something exist although the kernel already refuses on a read-only mount: a mount flag can
//! be taken off by root, the commit cannot.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answers::{Desk, Outcome, Refuse, Rest};
use super::board::{Board, Subject};
use super::counters::Opcode;
use super::negotiate::{Permissions, negotiate};
use super::options::{Mode, MountOptions};
use super::passthrough::{OpenInodes, Reader, TooMany};
use super::read_accounting::ReadAccounting;
use super::waiting::{self, Waiting};
use crate::sys;
use crate::vfs::{FsError, Vfs};

/// Reads are told apart by the piece of this size in which they begin: 1 MiB, the largest.
const LARGEST_READ_BITS: u32 = 20;

/// Tells a name apart from others, for whoever remembers what it was that ended a worker.
fn name_part(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// The filesystem as `fuser` calls it.
pub(super) struct Adapter {
    desk: Arc<Desk>,
    mode: Mode,
    open_inodes: OpenInodes,
    /// The connection, on which backing files are registered.
    device: OwnedFd,
    /// Where operations wait for what is absent; none when nothing can be.
    waiting: Option<Waiting>,
}

impl Adapter {
    /// Serves `vfs`; `wake` has the supervisor look at the board.
    pub(super) fn new(
        vfs: Arc<Vfs>,
        board: &Board,
        device: OwnedFd,
        options: &MountOptions,
        wake: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let accounting = vfs.fetcher().is_some().then(|| ReadAccounting::new(board, wake));
        let desk = Arc::new(Desk::new(vfs, board, options.threads.get(), accounting));
        let mode = options.mode;
        let waiting = desk.vfs.fetcher().map(|fetcher| Waiting::start(&desk, fetcher)).transpose()?;
        Ok(Self { desk, mode, open_inodes: OpenInodes::resume(board.opened()), device, waiting })
    }

    /// How the threads that read messages come to rest.
    pub(super) fn rest(&self) -> Arc<Rest> {
        Arc::clone(self.desk.rest())
    }

    fn count(&self, opcode: Opcode) {
        self.desk.counters.count(opcode);
    }

    /// Carries out an operation, which answers or gives the reply back with the reason why not. What needs something that
    /// is absent is carried out again elsewhere: this thread never waits.
    fn serve<R: Refuse>(
        &self,
        (opcode, node, part): (Opcode, INodeNo, u64),
        reply: R,
        operation: impl Fn(&Desk, R) -> Outcome<R> + Send + 'static,
    ) {
        self.count(opcode);
        let Some(ticket) = self.desk.begin(Subject::new(opcode as u8, node.0, part)) else {
            return reply.refuse(self.desk.refuse_poison(node));
        };
        let outcome = match self.desk.vfs.check_available() {
            Ok(()) => operation(&self.desk, reply),
            Err(error) => Outcome::Unanswered(reply, error),
        };
        match (outcome, &self.waiting) {
            (Outcome::Answered, _) => drop(ticket),
            (Outcome::Unanswered(reply, FsError::Absent(absent)), Some(waiting)) => {
                waiting.add(ticket, node, absent, reply, operation);
            }
            (Outcome::Unanswered(reply, error), _) => {
                reply.refuse(self.desk.fail(node, &error));
                drop(ticket);
            }
        }
        self.desk.rest_if_wanted();
    }

    fn refuse(&self) -> Errno {
        self.count(Opcode::Change);
        Errno::from_i32(FsError::ReadOnly.errno())
    }

    fn unsupported(&self, opcode: Opcode) -> Errno {
        self.count(opcode);
        Errno::from_i32(FsError::Unsupported.errno())
    }

    /// Registers the object file of `node` with the kernel. Whatever stands in the way, a pack, an empty file, an absent
    /// one, a repository on a stacked filesystem, the file can still be read through us.
    fn register(&self, node: INodeNo) -> Option<NonZeroU32> {
        let object = self.desk.vfs.object(node.0).ok()??;
        let file = self.desk.vfs.objects().backing_file(object).ok()??;
        match sys::open_backing(&self.device, &*file) {
            Ok(number) => Some(number),
            Err(error) => {
                self.desk.complaints.log_once("passthrough", &error);
                None
            }
        }
    }

    fn end_registration(&self, number: Option<NonZeroU32>) {
        if let Some(number) = number
            && let Err(error) = sys::close_backing(&self.device, number)
        {
            tracing::debug!("end a registration: {error}");
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Nobody waits for an answer yet, so this may wait.
        let acls = waiting::patiently(&self.desk.vfs, Vfs::has_acls).map_err(io::Error::other)?;
        let permissions = if acls { Permissions::WithAcls } else { Permissions::ModeBits };
        negotiate(config, self.mode, permissions)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name: Box<[u8]> = name.as_bytes().into();
        self.serve((Opcode::Lookup, parent, name_part(&name)), reply, move |desk, reply| {
            desk.lookup(parent, &name, reply)
        });
    }

    fn forget(&self, _request: &Request, _node: INodeNo, _lookups: u64) {
        self.count(Opcode::Forget);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.serve((Opcode::Getattr, node, 0), reply, move |desk, reply| desk.getattr(node, reply));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        self.serve((Opcode::Readlink, node, 0), reply, move |desk, reply| desk.readlink(node, reply));
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.count(Opcode::Open);
        if self.mode == Mode::Cached {
            return reply.error(Errno::from_i32(FsError::Unsupported.errno()));
        }
        // The kernel does not ask unless root has told it that the filesystem may be written to. It would open the object.
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(self.refuse());
        }
        let Some(_ticket) = self.desk.begin(Subject::new(Opcode::Open as u8, node.0, 0)) else {
            return reply.error(self.desk.refuse_poison(node));
        };
        if let Err(error) = self.desk.vfs.check_available() {
            return reply.error(self.desk.fail(node, &error));
        }
        match self.open_inodes.open(node.0, || self.register(node)) {
            Ok(opened) => {
                match opened.reader {
                    Reader::Kernel(number) => sys::reply_with_backing(reply, number),
                    Reader::Daemon => {
                        reply.opened(FileHandle(0), FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE);
                    }
                }
                self.end_registration(opened.surplus);
            }
            Err(TooMany) => reply.error(Errno::from_i32(FsError::TooManyOpen.errno())),
        }
    }

    fn read(
        &self,
        request: &Request,
        node: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let reader = request.pid();
        self.serve((Opcode::Read, node, offset >> LARGEST_READ_BITS), reply, move |desk, reply| {
            desk.read(reader, node, offset, size, reply)
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
        // In this order: a release that is counted but not answered would be counted twice after a crash.
        reply.ok();
        self.end_registration(self.open_inodes.release(node.0));
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unsupported(Opcode::Opendir));
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, position: u64, reply: ReplyDirectory) {
        self.serve((Opcode::Readdir, node, position), reply, move |desk, reply| desk.readdir(node, position, reply));
    }

    fn readdirplus(&self, _: &Request, node: INodeNo, _: FileHandle, position: u64, reply: ReplyDirectoryPlus) {
        self.serve((Opcode::Readdirplus, node, position), reply, move |desk, reply| {
            desk.readdirplus(node, position, reply)
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.count(Opcode::Releasedir);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.serve((Opcode::Statfs, node, 0), reply, Desk::statfs);
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name: Box<[u8]> = name.as_bytes().into();
        self.serve((Opcode::Getxattr, node, name_part(&name)), reply, move |desk, reply| {
            desk.getxattr(node, &name, size, reply)
        });
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve((Opcode::Listxattr, node, 0), reply, move |desk, reply| desk.listxattr(node, size, reply));
    }

    fn lseek(&self, _: &Request, node: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.serve((Opcode::Lseek, node, 0), reply, move |desk, reply| desk.lseek(node, offset, whence, reply));
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
