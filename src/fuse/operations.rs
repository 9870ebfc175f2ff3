//! The FUSE operations: each asks [`Vfs`] and replies to the kernel.
//!
//! *Not here*: waiting for absent content (`wait_pool`); the decision which messages are operations (`adapter`).
//!
//! *Invariants*: any thread may run an operation, and may run it again. An operation that fails returns the unused reply
//! with the error, so that the caller can fetch absent content and run it again.
//!
//! *Used by* `adapter`, `wait_pool` and `session`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fuser::{
    Errno, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek,
    ReplyStatfs, ReplyXattr,
};

use super::attributes::{file_attr, file_type, negative_entry};
use super::counters::RequestCounters;
use super::log_once::{LogInterval, LogOnce};
use super::read_accounting::ReadAccounting;
use super::shared::{RequestKey, RequestSlot, SharedState};
use crate::vfs::{FsError, Listing, Vfs, Whence};

/// How long the kernel may keep a reply: for ever. Larger values overflow its arithmetic on 32-bit machines.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// Node numbers are positions in the image and never reused within it.
const GENERATION: Generation = Generation(0);

thread_local! {
    /// The read buffer of a thread. It grows to the largest request and is kept.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };

    /// The request slot at which a thread begins to search for a free one.
    static SLOT_HINT: usize = NEXT_SLOT_HINT.fetch_add(SLOTS_PER_THREAD, Ordering::Relaxed);
}

static NEXT_SLOT_HINT: AtomicUsize = AtomicUsize::new(0);

/// Distance between the first slots of two threads: this many slots fill three cache lines of 64 bytes.
const SLOTS_PER_THREAD: usize = 8;

/// A reply that can carry an error instead of a result.
pub(super) trait ErrorReply: Send + 'static {
    /// Replies with an error.
    fn reply_error(self, errno: Errno);
}

macro_rules! impl_error_reply {
    ($($reply:ty),* $(,)?) => {$(
        impl ErrorReply for $reply {
            fn reply_error(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

impl_error_reply!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEntry,
    ReplyLseek,
    ReplyStatfs,
    ReplyXattr
);

/// The outcome of running an operation once.
pub(super) enum OperationOutcome<R> {
    /// The reply was sent.
    Answered,
    /// No reply was sent: the unused reply and the error.
    Unanswered(R, FsError),
}

/// The state that all threads of a worker share to run operations.
pub(super) struct Operations {
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) counters: RequestCounters,
    pub(crate) log_once: LogOnce,
    pub(crate) slow_fetch_log: LogInterval,
    /// Only for a lazy mount.
    accounting: Option<ReadAccounting>,
    shared: SharedState,
    /// The number of this worker among those of the mount.
    worker: u8,
    quiesce: Arc<Quiesce>,
}

/// Quiesces a worker: each thread that reads messages finishes its current request and then stops.
#[derive(Debug)]
pub(crate) struct Quiesce {
    is_requested: AtomicBool,
    parked: AtomicUsize,
    reader_threads: usize,
    shared: SharedState,
    worker: u8,
}

impl Quiesce {
    /// Requests that the threads stop. Returns whether they all have, and no request of this worker is without a reply.
    pub(crate) fn request_and_check(&self) -> bool {
        self.is_requested.store(true, Ordering::Relaxed);
        self.parked.load(Ordering::Acquire) >= self.reader_threads
            && self.shared.pending_requests(Some(self.worker)).next().is_none()
    }

    /// Stops the calling thread, which has finished a request, for good if that was requested.
    fn park_if_requested(&self) {
        if self.is_requested.load(Ordering::Relaxed) {
            self.parked.fetch_add(1, Ordering::Release);
            loop {
                std::thread::park();
            }
        }
    }
}

impl Operations {
    /// Creates the state for a worker with `reader_threads` threads that read messages.
    pub(super) fn new(
        vfs: Arc<Vfs>,
        shared: &SharedState,
        reader_threads: usize,
        accounting: Option<ReadAccounting>,
    ) -> Self {
        let (is_requested, parked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (shared, worker) = (shared.clone(), shared.worker_number());
        let quiesce = Arc::new(Quiesce { is_requested, parked, reader_threads, shared: shared.clone(), worker });
        let (counters, log_once) = (RequestCounters::of(&shared), LogOnce::default());
        Self { vfs, counters, log_once, slow_fetch_log: LogInterval::default(), accounting, shared, worker, quiesce }
    }

    /// Returns the control that stops the threads that read messages.
    pub(super) const fn quiesce(&self) -> &Arc<Quiesce> {
        &self.quiesce
    }

    /// Stops the calling thread, which reads messages and has finished one, if a quiesce was requested.
    pub(super) fn quiesce_if_requested(&self) {
        self.quiesce.park_if_requested();
    }

    /// Records a request as pending for as long as the slot lives. Returns `None` if the request is quarantined, because it
    /// has crashed several workers.
    pub(super) fn begin_request(&self, key: RequestKey) -> Option<RequestSlot> {
        if self.shared.is_quarantined(key) {
            return None;
        }
        // Each thread has slots of its own, so that threads do not invalidate each other's cache lines.
        let hint = SLOT_HINT.with(|hint| *hint);
        Some(self.shared.begin_request(self.worker, key, hint))
    }

    /// Returns the errno for a quarantined request.
    pub(super) fn quarantined_error(&self, node: INodeNo) -> Errno {
        self.report_error(node, &FsError::Quarantined)
    }

    /// Returns the errno of an error. Damage is also counted and logged.
    pub(super) fn report_error(&self, node: INodeNo, error: &FsError) -> Errno {
        if error.is_damage() {
            self.counters.count_error();
            if error.is_unreachable() {
                tracing::debug!(inode = node.0, "{error}");
            } else {
                self.log_once.log_inode_error(node.0, error);
            }
        }
        Errno::from_i32(error.errno())
    }

    pub(super) fn lookup(&self, parent: INodeNo, name: &[u8], reply: ReplyEntry) -> OperationOutcome<ReplyEntry> {
        match self.vfs.lookup(parent.0, name) {
            Ok(found) => reply.entry(&FOREVER, &file_attr(self.vfs.node_of(found.ino), &found), GENERATION),
            // Node 0 is a negative entry, which the kernel caches; it does not cache ENOENT.
            Err(FsError::NotFound) => reply.entry(&FOREVER, &negative_entry(), GENERATION),
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }

    pub(super) fn getattr(&self, node: INodeNo, reply: ReplyAttr) -> OperationOutcome<ReplyAttr> {
        match self.vfs.attributes(node.0) {
            Ok(attributes) => reply.attr(&FOREVER, &file_attr(node.0, &attributes)),
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }

    pub(super) fn readlink(&self, node: INodeNo, reply: ReplyData) -> OperationOutcome<ReplyData> {
        match self.vfs.readlink(node.0) {
            Ok(target) => reply.data(target),
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }

    /// Reads on behalf of the process `reader`.
    pub(super) fn read(
        &self,
        reader: u32,
        node: INodeNo,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) -> OperationOutcome<ReplyData> {
        BUFFER.with_borrow_mut(|buffer| {
            let size = usize::try_from(size).expect("a u32 fits");
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.vfs.read(node.0, offset, &mut buffer[..size]) {
                Ok(length) => {
                    self.counters.count_bytes(length);
                    if let Some(accounting) = &self.accounting {
                        accounting.add_read(reader, length);
                    }
                    reply.data(&buffer[..length]);
                    OperationOutcome::Answered
                }
                Err(error) => OperationOutcome::Unanswered(reply, error),
            }
        })
    }

    pub(super) fn readdir(
        &self,
        node: INodeNo,
        position: u64,
        mut reply: ReplyDirectory,
    ) -> OperationOutcome<ReplyDirectory> {
        let mut progress = ListingProgress::Empty;
        let listed = self.vfs.list(node.0, position, |entry| {
            let name = OsStr::from_bytes(entry.name);
            let full = reply.add(INodeNo(entry.node), entry.next, file_type(entry.kind), name);
            progress.add(full)
        });
        match progress.finish(listed) {
            Ok(()) => reply.ok(),
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }

    pub(super) fn readdirplus(
        &self,
        node: INodeNo,
        position: u64,
        mut reply: ReplyDirectoryPlus,
    ) -> OperationOutcome<ReplyDirectoryPlus> {
        let (mut progress, mut failure) = (ListingProgress::Empty, None);
        let listed = self.vfs.list(node.0, position, |entry| {
            let attributes = match self.vfs.attributes_of_entry(&entry) {
                Ok(attributes) => file_attr(entry.node, &attributes),
                Err(error) => {
                    failure = Some(error);
                    return Listing::Full;
                }
            };
            let name = OsStr::from_bytes(entry.name);
            let full = reply.add(INodeNo(entry.node), entry.next, name, &FOREVER, &attributes, GENERATION);
            progress.add(full)
        });
        match progress.finish(listed.and_then(|()| failure.map_or(Ok(()), Err))) {
            Ok(()) => reply.ok(),
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }

    pub(super) fn statfs(&self, reply: ReplyStatfs) -> OperationOutcome<ReplyStatfs> {
        let name_max = u32::try_from(crate::model::NAME_MAX).expect("255");
        match self.vfs.figures() {
            Ok(f) => {
                reply.statfs(f.blocks, f.free, f.available, f.files, f.files_free, f.block_size, name_max, f.block_size)
            }
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }

    pub(super) fn getxattr(
        &self,
        node: INodeNo,
        name: &[u8],
        size: u32,
        reply: ReplyXattr,
    ) -> OperationOutcome<ReplyXattr> {
        answer_xattr(size, self.vfs.xattr(node.0, name), reply)
    }

    pub(super) fn listxattr(&self, node: INodeNo, size: u32, reply: ReplyXattr) -> OperationOutcome<ReplyXattr> {
        match self.vfs.xattr_names(node.0) {
            Ok(names) => answer_xattr(size, Ok(&names), reply),
            Err(error) => OperationOutcome::Unanswered(reply, error),
        }
    }

    pub(super) fn lseek(
        &self,
        node: INodeNo,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) -> OperationOutcome<ReplyLseek> {
        match Whence::from_raw(whence).and_then(|whence| self.vfs.seek(node.0, offset, whence)) {
            Ok(found) => reply.offset(found),
            Err(error) => return OperationOutcome::Unanswered(reply, error),
        }
        OperationOutcome::Answered
    }
}

/// Whether a reply to a listing contains an entry already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListingProgress {
    Empty,
    NonEmpty,
}

impl ListingProgress {
    fn add(&mut self, full: bool) -> Listing {
        if full {
            return Listing::Full;
        }
        *self = Self::NonEmpty;
        Listing::Accepted
    }

    /// Returns the result of a listing. One that reached absent content after the first entry may end early: the kernel asks
    /// for the other entries with its next request, which then waits.
    fn finish(self, listed: Result<(), FsError>) -> Result<(), FsError> {
        match (self, listed) {
            (Self::NonEmpty, Err(FsError::Absent(_))) => Ok(()),
            (_, other) => other,
        }
    }
}

fn answer_xattr(size: u32, value: Result<&[u8], FsError>, reply: ReplyXattr) -> OperationOutcome<ReplyXattr> {
    let fits = value.and_then(|value| match u32::try_from(value.len()) {
        Ok(length) if size == 0 || length <= size => Ok((value, length)),
        _ => Err(FsError::BufferTooSmall(value.len())),
    });
    match fits {
        Ok((_, length)) if size == 0 => reply.size(length),
        Ok((value, _)) => reply.data(value),
        Err(error) => return OperationOutcome::Unanswered(reply, error),
    }
    OperationOutcome::Answered
}
