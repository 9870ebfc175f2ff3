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

use crate::disk::{LockError, Wait};
use crate::model::ObjectId;
use crate::store::{Store, WriteError};

/// Bytes of objects held in memory, those that wait to be written among them.
const MEMORY: usize = 48 << 20;

/// Bytes that may wait to be written before whoever fetches has to wait.
const BACKLOG: usize = 32 << 20;

/// Bytes that are worth a batch at once.
const BATCH: usize = 16 << 20;

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
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    held: LruCache<Key, Bytes>,
    held_bytes: usize,
    waiting: Vec<Bytes>,
    complete: Vec<ObjectId>,
    waiting_bytes: usize,
    since: Option<Instant>,
    /// Until when nothing is written.
    resting: Option<Instant>,
    closed: bool,
}

impl Shelf {
    /// An empty shelf before `store`, with the thread that writes.
    pub fn start(store: &Store) -> io::Result<Self> {
        let state = State {
            held: LruCache::unbounded(),
            held_bytes: 0,
            waiting: Vec::new(),
            complete: Vec::new(),
            waiting_bytes: 0,
            since: None,
            resting: None,
            closed: false,
        };
        let inner = Arc::new(Inner { store: store.clone(), state: Mutex::new(state), changed: Condvar::new() });
        let keeper = Arc::clone(&inner);
        let keeper = thread::Builder::new().name("keeper".to_owned()).spawn(move || keeper.run())?;
        Ok(Self { inner, keeper: Mutex::new(Some(keeper)) })
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

    /// Has a large object of which every block is here made a plain one.
    pub fn promote(&self, id: ObjectId) {
        let mut state = self.inner.state.lock();
        state.complete.push(id);
        state.since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
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
}

impl Inner {
    fn run(&self) {
        while let Some(batch) = self.next_batch() {
            let written = self.write(&batch);
            let mut state = self.state.lock();
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
            if state.since.is_some() && (due || state.closed || state.waiting_bytes >= BATCH) {
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
        state.waiting_bytes = 0;
        Batch { objects: std::mem::take(&mut state.waiting), complete: std::mem::take(&mut state.complete) }
    }

    fn write(&self, batch: &Batch) -> Result<(), WriteError> {
        let writer = self.lock()?;
        for bytes in &batch.objects {
            writer.put(bytes.len() as u64, &mut &bytes[..])?;
        }
        for id in &batch.complete {
            writer.adopt_partial(*id)?;
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
