//! The operations themselves: ask [`Vfs`], answer the kernel.
//!
//! Each is written once and may be carried out by any thread, and more than once: one that fails gives the reply back
//! unused together with the reason, so that whoever called may wait for what is absent and try again.

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

use super::attributes::{file_attr, file_type, nothing};
use super::board::{Board, Subject, Ticket};
use super::complaints::{Complaints, Seldom};
use super::counters::Counters;
use super::read_accounting::ReadAccounting;
use crate::vfs::{FsError, Listing, Vfs, Whence};

/// How long the kernel may keep an answer: for ever. Larger values overflow its arithmetic on 32-bit machines.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// Node numbers are positions in the image and never reused within it.
const GENERATION: Generation = Generation(0);

thread_local! {
    /// Where a thread puts the bytes it hands to the kernel; grows to the largest request and stays.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };

    /// Where a thread looks first for room to note its requests.
    static PLACE: usize = NEXT_PLACE.fetch_add(PLACES_APART, Ordering::Relaxed);
}

static NEXT_PLACE: AtomicUsize = AtomicUsize::new(0);

/// So many places fill three cache lines of 64 bytes.
const PLACES_APART: usize = 8;

/// A reply that can be an error.
pub(super) trait Refuse: Send + 'static {
    /// Answers with an error.
    fn refuse(self, errno: Errno);
}

macro_rules! refusable {
    ($($reply:ty),* $(,)?) => {$(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refusable!(ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyXattr);

/// What an operation comes to.
pub(super) enum Outcome<R> {
    /// The kernel has its answer.
    Answered,
    /// It has none yet: the reply, unused, and why.
    Unanswered(R, FsError),
}

/// What every thread that answers needs.
pub(super) struct Desk {
    pub vfs: Arc<Vfs>,
    pub counters: Counters,
    pub complaints: Complaints,
    pub slow: Seldom,
    /// Of a mount that is fetched as it is read.
    accounting: Option<ReadAccounting>,
    board: Board,
    /// Which of the mount's workers this is.
    worker: u8,
    rest: Arc<Rest>,
}

/// How a worker comes to rest: asked to, each thread that reads messages answers the one it has and reads no more.
#[derive(Debug)]
pub(super) struct Rest {
    is_wanted: AtomicBool,
    resting: AtomicUsize,
    readers: usize,
    board: Board,
    worker: u8,
}

impl Rest {
    /// Asks for it; says whether nothing is left to answer.
    pub(super) fn is_complete(&self) -> bool {
        self.is_wanted.store(true, Ordering::Relaxed);
        self.resting.load(Ordering::Acquire) >= self.readers && self.board.flights(Some(self.worker)).next().is_none()
    }

    /// For a thread that has answered: goes on if nobody asked for rest, else never.
    fn take(&self) {
        if self.is_wanted.load(Ordering::Relaxed) {
            self.resting.fetch_add(1, Ordering::Release);
            loop {
                std::thread::park();
            }
        }
    }
}

impl Desk {
    /// For so many threads that read messages.
    pub(super) fn new(vfs: Arc<Vfs>, board: &Board, readers: usize, accounting: Option<ReadAccounting>) -> Self {
        let (is_wanted, resting) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (board, worker) = (board.clone(), board.worker_number());
        let rest = Arc::new(Rest { is_wanted, resting, readers, board: board.clone(), worker });
        let (counters, complaints) = (Counters::of(&board), Complaints::default());
        Self { vfs, counters, complaints, slow: Seldom::default(), accounting, board, worker, rest }
    }

    /// How this worker comes to rest.
    pub(super) const fn rest(&self) -> &Arc<Rest> {
        &self.rest
    }

    /// For a thread that reads messages and has answered one.
    pub(super) fn rest_if_wanted(&self) {
        self.rest.take();
    }

    /// Notes a request as under way for as long as the ticket lives; none if it is one that must not be carried out.
    pub(super) fn begin(&self, about: Subject) -> Option<Ticket> {
        if self.board.is_poisonous(about) {
            return None;
        }
        // A place of one's own for each thread, or they would push one another's lines out of their caches.
        let place = PLACE.with(|place| *place);
        Some(self.board.begin(self.worker, about, place))
    }

    /// The errno of a request that ended one worker after the other.
    pub(super) fn refuse_poison(&self, node: INodeNo) -> Errno {
        self.fail(node, &FsError::Poison)
    }

    /// The errno of a failure, which is logged and counted when something is broken.
    pub(super) fn fail(&self, node: INodeNo, error: &FsError) -> Errno {
        if error.is_damage() {
            self.counters.count_error();
            if error.is_out_of_reach() {
                tracing::debug!(inode = node.0, "{error}");
            } else {
                self.complaints.log(node.0, error);
            }
        }
        Errno::from_i32(error.errno())
    }

    pub(super) fn lookup(&self, parent: INodeNo, name: &[u8], reply: ReplyEntry) -> Outcome<ReplyEntry> {
        match self.vfs.lookup(parent.0, name) {
            Ok(found) => reply.entry(&FOREVER, &file_attr(self.vfs.node_of(found.ino), &found), GENERATION),
            // Node 0 says "not there, and you may remember it", which ENOENT does not.
            Err(FsError::NotFound) => reply.entry(&FOREVER, &nothing(), GENERATION),
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }

    pub(super) fn getattr(&self, node: INodeNo, reply: ReplyAttr) -> Outcome<ReplyAttr> {
        match self.vfs.attributes(node.0) {
            Ok(attributes) => reply.attr(&FOREVER, &file_attr(node.0, &attributes)),
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }

    pub(super) fn readlink(&self, node: INodeNo, reply: ReplyData) -> Outcome<ReplyData> {
        match self.vfs.readlink(node.0) {
            Ok(target) => reply.data(target),
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }

    /// Reads for the process `reader`.
    pub(super) fn read(
        &self,
        reader: u32,
        node: INodeNo,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) -> Outcome<ReplyData> {
        BUFFER.with_borrow_mut(|buffer| {
            let size = usize::try_from(size).expect("a u32 fits");
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.vfs.read(node.0, offset, &mut buffer[..size]) {
                Ok(length) => {
                    self.counters.count_bytes(length);
                    if let Some(accounting) = &self.accounting {
                        accounting.note(reader, length);
                    }
                    reply.data(&buffer[..length]);
                    Outcome::Answered
                }
                Err(error) => Outcome::Unanswered(reply, error),
            }
        })
    }

    pub(super) fn readdir(&self, node: INodeNo, position: u64, mut reply: ReplyDirectory) -> Outcome<ReplyDirectory> {
        let mut taken = Taken::Nothing;
        let listed = self.vfs.list(node.0, position, |entry| {
            let name = OsStr::from_bytes(entry.name);
            let full = reply.add(INodeNo(entry.node), entry.next, file_type(entry.kind), name);
            taken.note(full)
        });
        match taken.judge(listed) {
            Ok(()) => reply.ok(),
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }

    pub(super) fn readdirplus(
        &self,
        node: INodeNo,
        position: u64,
        mut reply: ReplyDirectoryPlus,
    ) -> Outcome<ReplyDirectoryPlus> {
        let (mut taken, mut failure) = (Taken::Nothing, None);
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
            taken.note(full)
        });
        match taken.judge(listed.and_then(|()| failure.map_or(Ok(()), Err))) {
            Ok(()) => reply.ok(),
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }

    pub(super) fn statfs(&self, reply: ReplyStatfs) -> Outcome<ReplyStatfs> {
        let name_max = u32::try_from(crate::model::NAME_MAX).expect("255");
        match self.vfs.figures() {
            Ok(f) => {
                reply.statfs(f.blocks, f.free, f.available, f.files, f.files_free, f.block_size, name_max, f.block_size)
            }
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }

    pub(super) fn getxattr(&self, node: INodeNo, name: &[u8], size: u32, reply: ReplyXattr) -> Outcome<ReplyXattr> {
        answer_xattr(size, self.vfs.xattr(node.0, name), reply)
    }

    pub(super) fn listxattr(&self, node: INodeNo, size: u32, reply: ReplyXattr) -> Outcome<ReplyXattr> {
        match self.vfs.xattr_names(node.0) {
            Ok(names) => answer_xattr(size, Ok(&names), reply),
            Err(error) => Outcome::Unanswered(reply, error),
        }
    }

    pub(super) fn lseek(&self, node: INodeNo, offset: i64, whence: i32, reply: ReplyLseek) -> Outcome<ReplyLseek> {
        match Whence::from_raw(whence).and_then(|whence| self.vfs.seek(node.0, offset, whence)) {
            Ok(found) => reply.offset(found),
            Err(error) => return Outcome::Unanswered(reply, error),
        }
        Outcome::Answered
    }
}

/// Whether a listing has given the kernel something already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Nothing,
    Something,
}

impl Taken {
    fn note(&mut self, full: bool) -> Listing {
        if full {
            return Listing::Full;
        }
        *self = Self::Something;
        Listing::Taken
    }

    /// A listing may end early: the kernel asks for the rest, and waits for what is absent there.
    fn judge(self, listed: Result<(), FsError>) -> Result<(), FsError> {
        match (self, listed) {
            (Self::Something, Err(FsError::Absent(_))) => Ok(()),
            (_, other) => other,
        }
    }
}

fn answer_xattr(size: u32, value: Result<&[u8], FsError>, reply: ReplyXattr) -> Outcome<ReplyXattr> {
    let fits = value.and_then(|value| match u32::try_from(value.len()) {
        Ok(length) if size == 0 || length <= size => Ok((value, length)),
        _ => Err(FsError::BufferTooSmall(value.len())),
    });
    match fits {
        Ok((_, length)) if size == 0 => reply.size(length),
        Ok((value, _)) => reply.data(value),
        Err(error) => return Outcome::Unanswered(reply, error),
    }
    Outcome::Answered
}
