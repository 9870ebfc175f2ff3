//! Implements `fuser`'s [`Filesystem`]: each method counts its message and starts the operation.
//!
//! An operation runs on the thread that read the message (`operations`); one that needs absent content continues on the
//! `wait_pool`. Two kinds of reply concern the protocol alone: ENOSYS makes the kernel stop sending an operation (so that
//! opening a file costs no message), and the kernel may keep each reply for ever, since a commit never changes.
//!
//! *Not here*: the content of replies ([`Vfs`]).
//!
//! *Invariants*: a thread that reads messages waits for a fetch only while it answers INIT. Methods that would change
//! something refuse it themselves, because root can remove the read-only flag of a mount.
//!
//! *Used by* `session`.

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

use super::counters::Opcode;
use super::negotiate::{Permissions, negotiate};
use super::operations::{ErrorReply, OperationOutcome, Operations, Quiesce};
use super::options::{MountMode, MountOptions};
use super::passthrough::{OpenInodes, ReadPath, TooManyOpen};
use super::read_accounting::ReadAccounting;
use super::shared::{RequestKey, SharedState};
use super::wait_pool::{self, WaitPool};
use crate::sys;
use crate::vfs::{FsError, Vfs};

/// Reads with equal offsets after a shift by this many bits count as the same request: 1 MiB, the largest READ.
const LARGEST_READ_BITS: u32 = 20;

/// Returns a hash of a name, by which the shared pages recognise a request that crashed a worker.
fn hash_name(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name);
    hasher.finish()
}

/// The filesystem that `fuser` calls.
pub(super) struct Adapter {
    operations: Arc<Operations>,
    mode: MountMode,
    open_inodes: OpenInodes,
    /// The connection to the kernel, on which backing files are registered.
    device: OwnedFd,
    /// The threads on which operations wait for absent content; `None` when all content is present.
    wait_pool: Option<WaitPool>,
}

impl Adapter {
    /// Creates an adapter for `vfs`. A byte on `wake` makes the supervisor read the shared pages.
    pub(super) fn new(
        vfs: Arc<Vfs>,
        shared: &SharedState,
        device: OwnedFd,
        options: &MountOptions,
        wake: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let accounting = vfs.fetcher().is_some().then(|| ReadAccounting::new(shared, wake));
        let operations = Arc::new(Operations::new(vfs, shared, options.threads.get(), accounting));
        let mode = options.mode;
        let wait_pool = operations.vfs.fetcher().map(|fetcher| WaitPool::start(&operations, fetcher)).transpose()?;
        Ok(Self { operations, mode, open_inodes: OpenInodes::resume(shared.open_table()), device, wait_pool })
    }

    /// Returns the control that stops the threads that read messages.
    pub(super) fn quiesce(&self) -> Arc<Quiesce> {
        Arc::clone(self.operations.quiesce())
    }

    fn count(&self, opcode: Opcode) {
        self.operations.counters.count(opcode);
    }

    /// Runs an operation, which either replies or returns the reply with an error. An operation that needs absent content
    /// is run again by the wait pool, so this thread never waits.
    fn serve<R: ErrorReply>(
        &self,
        (opcode, node, part): (Opcode, INodeNo, u64),
        reply: R,
        operation: impl Fn(&Operations, R) -> OperationOutcome<R> + Send + 'static,
    ) {
        self.count(opcode);
        let Some(slot) = self.operations.begin_request(RequestKey::new(opcode as u8, node.0, part)) else {
            return reply.reply_error(self.operations.quarantined_error(node));
        };
        let outcome = match self.operations.vfs.check_available() {
            Ok(()) => operation(&self.operations, reply),
            Err(error) => OperationOutcome::Unanswered(reply, error),
        };
        match (outcome, &self.wait_pool) {
            (OperationOutcome::Answered, _) => drop(slot),
            (OperationOutcome::Unanswered(reply, FsError::Absent(absent)), Some(wait_pool)) => {
                wait_pool.submit(slot, node, absent, reply, operation);
            }
            (OperationOutcome::Unanswered(reply, error), _) => {
                reply.reply_error(self.operations.report_error(node, &error));
                drop(slot);
            }
        }
        self.operations.quiesce_if_requested();
    }

    fn read_only_error(&self) -> Errno {
        self.count(Opcode::Change);
        Errno::from_i32(FsError::ReadOnly.errno())
    }

    fn unsupported_error(&self, opcode: Opcode) -> Errno {
        self.count(opcode);
        Errno::from_i32(FsError::Unsupported.errno())
    }

    /// Registers the object file of `node` with the kernel. Returns `None` where that is not possible (the content is in a
    /// pack, empty or absent, or the repository is on a stacked filesystem): this process then reads the file.
    fn register_backing(&self, node: INodeNo) -> Option<NonZeroU32> {
        let object = self.operations.vfs.object(node.0).ok()??;
        let file = self.operations.vfs.objects().backing_file(object).ok()??;
        match sys::open_backing(&self.device, &*file) {
            Ok(number) => Some(number),
            Err(error) => {
                self.operations.log_once.log_named_error("passthrough", &error);
                None
            }
        }
    }

    fn close_backing(&self, number: Option<NonZeroU32>) {
        if let Some(number) = number
            && let Err(error) = sys::close_backing(&self.device, number)
        {
            tracing::debug!("close a backing file: {error}");
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // No request waits for a reply yet, so this thread may wait.
        let acls = wait_pool::fetch_and_ask(&self.operations.vfs, Vfs::has_acls).map_err(io::Error::other)?;
        let permissions = if acls { Permissions::WithAcls } else { Permissions::ModeBits };
        negotiate(config, self.mode, permissions)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name: Box<[u8]> = name.as_bytes().into();
        self.serve((Opcode::Lookup, parent, hash_name(&name)), reply, move |operations, reply| {
            operations.lookup(parent, &name, reply)
        });
    }

    fn forget(&self, _request: &Request, _node: INodeNo, _lookups: u64) {
        self.count(Opcode::Forget);
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.serve((Opcode::Getattr, node, 0), reply, move |operations, reply| operations.getattr(node, reply));
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        self.serve((Opcode::Readlink, node, 0), reply, move |operations, reply| operations.readlink(node, reply));
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.count(Opcode::Open);
        if self.mode == MountMode::Cached {
            return reply.error(Errno::from_i32(FsError::Unsupported.errno()));
        }
        // Only after root has made the mount writable does the kernel send such an open. It would open the object itself.
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(self.read_only_error());
        }
        let Some(_slot) = self.operations.begin_request(RequestKey::new(Opcode::Open as u8, node.0, 0)) else {
            return reply.error(self.operations.quarantined_error(node));
        };
        if let Err(error) = self.operations.vfs.check_available() {
            return reply.error(self.operations.report_error(node, &error));
        }
        match self.open_inodes.open(node.0, || self.register_backing(node)) {
            Ok(opened) => {
                match opened.read_path {
                    ReadPath::Backing(number) => sys::reply_with_backing(reply, number),
                    ReadPath::Worker => {
                        reply.opened(FileHandle(0), FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_KEEP_CACHE);
                    }
                }
                self.close_backing(opened.unneeded_backing);
            }
            Err(TooManyOpen) => reply.error(Errno::from_i32(FsError::TooManyOpen.errno())),
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
        self.serve((Opcode::Read, node, offset >> LARGEST_READ_BITS), reply, move |operations, reply| {
            operations.read(reader, node, offset, size, reply)
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
        // Reply first: a release that is counted but not answered would be counted twice after a crash.
        reply.ok();
        self.close_backing(self.open_inodes.release(node.0));
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(self.unsupported_error(Opcode::Opendir));
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, position: u64, reply: ReplyDirectory) {
        self.serve((Opcode::Readdir, node, position), reply, move |operations, reply| {
            operations.readdir(node, position, reply)
        });
    }

    fn readdirplus(&self, _: &Request, node: INodeNo, _: FileHandle, position: u64, reply: ReplyDirectoryPlus) {
        self.serve((Opcode::Readdirplus, node, position), reply, move |operations, reply| {
            operations.readdirplus(node, position, reply)
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.count(Opcode::Releasedir);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.serve((Opcode::Statfs, node, 0), reply, Operations::statfs);
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name: Box<[u8]> = name.as_bytes().into();
        self.serve((Opcode::Getxattr, node, hash_name(&name)), reply, move |operations, reply| {
            operations.getxattr(node, &name, size, reply)
        });
    }

    fn listxattr(&self, _request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve((Opcode::Listxattr, node, 0), reply, move |operations, reply| {
            operations.listxattr(node, size, reply)
        });
    }

    fn lseek(&self, _: &Request, node: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.serve((Opcode::Lseek, node, 0), reply, move |operations, reply| {
            operations.lseek(node, offset, whence, reply)
        });
    }

    // Not supported: after ENOSYS the kernel handles these itself.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(self.unsupported_error(Opcode::Flush));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(self.unsupported_error(Opcode::Fsync));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.error(self.unsupported_error(Opcode::Fsync));
    }

    fn access(&self, _: &Request, _: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(self.unsupported_error(Opcode::Access));
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
        reply.error(self.unsupported_error(Opcode::Ioctl));
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
        reply.error(self.unsupported_error(Opcode::Poll));
    }

    fn bmap(&self, _: &Request, _: INodeNo, _block_size: u32, _index: u64, reply: ReplyBmap) {
        reply.error(self.unsupported_error(Opcode::Bmap));
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
        reply.error(self.unsupported_error(Opcode::Lock));
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
        reply.error(self.unsupported_error(Opcode::Lock));
    }

    // Changes: refused with EROFS.

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
        reply.error(self.read_only_error());
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, _device: u32, reply: ReplyEntry) {
        reply.error(self.read_only_error());
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        reply.error(self.read_only_error());
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.read_only_error());
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.read_only_error());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _target: &std::path::Path, reply: ReplyEntry) {
        reply.error(self.read_only_error());
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
        reply.error(self.read_only_error());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(self.read_only_error());
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        reply.error(self.read_only_error());
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
        reply.error(self.read_only_error());
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
        reply.error(self.read_only_error());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.read_only_error());
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
        reply.error(self.read_only_error());
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
        reply.error(self.read_only_error());
    }
}
