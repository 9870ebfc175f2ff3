//! Objects that have arrived: in memory at once, in the repository soon after.
//!
//! What is put here was verified. A thread writes it to the store in batches, since each costs a sync; memory is bounded,
//! and whoever fetches waits when the disk is slower than the network. When the repository cannot be written, another
//! process holds its lock or the disk is full, what is here is served from memory and forgotten when room is needed: the
//! mount streams. One line in the log says so, one more when it is over.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::room::Room;
use crate::disk::{LockError, Wait};
use crate::model::ObjectId;
use crate::store::{DamagedPart, Store, WriteError};

/// Bytes of objects held in memory, those that wait to be written among them.
const MEMORY: usize = 32 << 20;

/// Bytes that may wait to be written before whoever fetches has to wait.
const BACKLOG: usize = 24 << 20;

/// Bytes that are worth a batch at once.
const BATCH: usize = 12 << 20;

/// In a bounded repository, one part in so many of the limit is.
const BATCH_SHARE: u64 = 16;

/// How long the writing of objects waits for others to be evicted. Then they are not kept.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes that an object takes besides its own, in an index.
const OVERHEAD: u64 = 64;

/// How long something waits for more to be written with it.
const GATHER: Duration = Duration::from_secs(2);

/// How long a repository that could not be written is left alone.
const REST: Duration = Duration::from_secs(20);

/// Objects in memory on their way into the store.
pub(super) struct Shelf {
    inner: Arc<Inner>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What is held of an object: all of it, or one of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The whole.
    Object(ObjectId),
    /// One block of a large one.
    Block(ObjectId, u32),
}

struct Inner {
    store: Store,
    room: Arc<Room>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    held: LruCache<Key, Bytes>,
    held_bytes: usize,
    waiting: Vec<Bytes>,
    complete: Vec<ObjectId>,
    mends: Vec<(DamagedPart, Bytes)>,
    waiting_bytes: usize,
    since: Option<Instant>,
    /// Until when nothing is written.
    resting: Option<Instant>,
    writing: bool,
    closed: bool,
}

impl Shelf {
    /// An empty shelf before `store`, with the thread that writes.
    pub fn start(store: &Store, room: &Arc<Room>) -> io::Result<Self> {
        let state = State {
            held: LruCache::unbounded(),
            held_bytes: 0,
            waiting: Vec::new(),
            complete: Vec::new(),
            mends: Vec::new(),
            waiting_bytes: 0,
            since: None,
            resting: None,
            writing: false,
            closed: false,
        };
        let (store, room) = (store.clone(), Arc::clone(room));
        let inner = Arc::new(Inner { store, room, state: Mutex::new(state), changed: Condvar::new() });
        let keeper = Arc::clone(&inner);
        let keeper = thread::Builder::new().name("keeper".to_owned()).spawn(move || keeper.run())?;
        Ok(Self { inner, keeper: Mutex::new(Some(keeper)) })
    }

    /// Where it is written to.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// How much may be kept there.
    pub fn room(&self) -> &Arc<Room> {
        &self.inner.room
    }

    /// What is in memory under `key`.
    pub fn get(&self, key: Key) -> Option<Bytes> {
        self.inner.state.lock().held.get(&key).cloned()
    }

    /// Keeps a verified object. Waits while too much is waiting to be written.
    pub fn put(&self, id: ObjectId, bytes: &Bytes) {
        let mut state = self.inner.state.lock();
        if state.held.contains(&Key::Object(id)) {
            return;
        }
        state.hold(Key::Object(id), bytes);
        if state.is_resting() {
            return;
        }
        state.waiting.push(bytes.clone());
        state.waiting_bytes += bytes.len();
        state.since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
        while state.waiting_bytes > BACKLOG && !state.is_resting() && !state.closed {
            self.inner.changed.wait_for(&mut state, GATHER);
        }
    }

    /// Holds a block that could not be written into its file.
    pub fn hold_block(&self, id: ObjectId, block: u32, bytes: &Bytes) {
        self.inner.state.lock().hold(Key::Block(id, block), bytes);
    }

    /// Holds a block of an object in the repository, and has it written there if the one there is damaged.
    pub fn mend(&self, part: DamagedPart, bytes: &Bytes) {
        let Some(block) = part.block.filter(|_| self.store().is_condemned(part)) else { return };
        let mut state = self.inner.state.lock();
        state.hold(Key::Block(part.object, block), bytes);
        state.mends.push((part, bytes.clone()));
        state.since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
    }

    /// Has a large object of which every block is here made a plain one.
    pub fn promote(&self, id: ObjectId) {
        let mut state = self.inner.state.lock();
        state.complete.push(id);
        state.since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
    }

    /// Waits until nothing waits to be written.
    pub fn flush(&self) {
        let mut state = self.inner.state.lock();
        while (state.since.is_some() || state.writing) && !state.closed {
            // Not later.
            state.since = state.since.map(|since| since.checked_sub(GATHER).unwrap_or(since));
            self.inner.changed.notify_all();
            self.inner.changed.wait_for(&mut state, GATHER);
        }
    }

    /// Whether nothing is kept for now.
    pub fn is_resting(&self) -> bool {
        self.inner.state.lock().is_resting()
    }

    /// Writes what waits, and stops.
    pub fn close(&self) {
        self.inner.state.lock().closed = true;
        self.inner.changed.notify_all();
        if let Some(keeper) = self.keeper.lock().take()
            && keeper.join().is_err()
        {
            tracing::error!("the thread that writes objects panicked");
        }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn hold(&mut self, key: Key, bytes: &Bytes) {
        self.held_bytes += bytes.len();
        if let Some((_, old)) = self.held.push(key, bytes.clone()) {
            self.held_bytes -= old.len();
        }
        while self.held_bytes > MEMORY {
            let Some((_, old)) = self.held.pop_lru() else { break };
            self.held_bytes -= old.len();
        }
    }

    fn is_resting(&self) -> bool {
        self.resting.is_some_and(|until| Instant::now() < until)
    }
}

/// Things to write at once.
struct Batch {
    objects: Vec<Bytes>,
    complete: Vec<ObjectId>,
    mends: Vec<(DamagedPart, Bytes)>,
}

impl Inner {
    fn run(&self) {
        while let Some(batch) = self.next_batch() {
            let written = self.write(&batch);
            let mut state = self.state.lock();
            state.writing = false;
            match written {
                Ok(()) => {
                    if state.resting.take().is_some() {
                        tracing::info!("what is fetched is written to {} again", self.store.path().display());
                    }
                }
                Err(error) => {
                    if state.resting.is_none() {
                        tracing::warn!("what is fetched is not kept for now: {}", chain(&error));
                    }
                    state.resting = Some(Instant::now() + REST);
                }
            }
            self.changed.notify_all();
        }
    }

    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        loop {
            let due = state.since.is_some_and(|since| since.elapsed() >= GATHER);
            if state.since.is_some() && (due || state.closed || state.waiting_bytes >= self.batch()) {
                return Some(Self::take(&mut state));
            }
            if state.closed {
                return None;
            }
            match state.since {
                None => self.changed.wait(&mut state),
                Some(since) => _ = self.changed.wait_until(&mut state, since + GATHER),
            }
        }
    }

    fn take(state: &mut MutexGuard<'_, State>) -> Batch {
        state.since = None;
        state.writing = true;
        state.waiting_bytes = 0;
        let (objects, complete) = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.complete));
        Batch { objects, complete, mends: std::mem::take(&mut state.mends) }
    }

    /// Bytes that are worth a batch at once.
    fn batch(&self) -> usize {
        let share = self.room.limit().map_or(u64::MAX, |limit| limit / BATCH_SHARE);
        usize::try_from(share).unwrap_or(usize::MAX).min(BATCH)
    }

    /// The lock is not held while room is made: whoever makes it needs the lock.
    fn write(&self, batch: &Batch) -> Result<(), WriteError> {
        let longest = self.batch();
        let mut rest = &batch.objects[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest.iter().take_while(|object| {
                bytes += object.len();
                bytes <= longest
            });
            let (portion, others) = rest.split_at(count.count().max(1));
            rest = others;
            self.write_portion(portion)?;
        }
        if !batch.complete.is_empty() || !batch.mends.is_empty() {
            let writer = self.lock()?;
            for (part, bytes) in &batch.mends {
                writer.mend_or_log(*part, bytes);
            }
            for id in &batch.complete {
                writer.adopt_partial(*id)?;
            }
        }
        Ok(())
    }

    fn write_portion(&self, portion: &[Bytes]) -> Result<(), WriteError> {
        let bytes = portion.iter().map(|object| object.len() as u64 + OVERHEAD).sum();
        if !self.room.take_within(bytes, ROOM_PATIENCE) {
            tracing::debug!("no room for {} objects", portion.len());
            return Ok(());
        }
        let writer = self.lock()?;
        for object in portion {
            writer.put(object.len() as u64, &mut &object[..])?;
        }
        writer.settle()
    }

    /// Other mounts hold the lock for a moment, a pull for longer than anyone can wait.
    fn lock(&self) -> Result<crate::store::StoreWriter, WriteError> {
        let deadline = Instant::now() + GATHER;
        loop {
            match self.store.writer(Wait::No) {
                Err(WriteError::Lock(LockError::Held { .. })) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(50));
                }
                done => return done,
            }
        }
    }
}

/// The error with its causes, as one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error: &&(dyn std::error::Error + 'static)| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
