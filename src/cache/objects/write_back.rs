//! The write-back buffer: fetched objects are in memory at once, and in the repository soon after.
//!
//! Callers put in verified contents. A writer thread writes them to the store in batches, since each batch costs a sync.
//! Memory is bounded: fetch threads wait when the disk is slower than the network. When the repository cannot be written
//! (another process holds its lock, or the disk is full), writing is suspended for a while; contents are then served from
//! memory and dropped when the buffer is full. One line in the log reports the suspension, one more its end.
//!
//! *Not here*: blocks of incomplete large objects (`large`), the limit of stored contents (`quota`).
//!
//! *Used by* `object_cache`, `execute`, `large`, `completeness`, `readahead` and `tree`.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::cache::objects::change::{ChangeError, ChangeOutcome, ContentChange, ContentWriter, NewObject};
use crate::cache::objects::quota::Quota;
use crate::error::chain;
use crate::model::ObjectId;
use crate::store::{DamagedPart, Store};

/// The largest size of the buffer in bytes, including contents that are not written yet.
const BUFFER_MAX: usize = 32 << 20;

/// The largest number of unwritten bytes; beyond it, threads that add contents wait.
const PENDING_MAX: usize = 24 << 20;

/// The number of unwritten bytes that starts a batch at once.
const BATCH_SIZE: usize = 12 << 20;

/// With a quota, a batch is at most 1/16 of its limit.
const BATCH_LIMIT_DIVISOR: u64 = 16;

/// How long a batch waits for an eviction. If there is no room then, its objects are not stored.
const QUOTA_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes that an object needs in an index, in addition to its content.
const OBJECT_OVERHEAD: u64 = 64;

/// How long an object waits for others that are written in the same batch.
const BATCH_DELAY: Duration = Duration::from_secs(2);

/// How long writing is suspended after a failure.
const SUSPENSION_TIME: Duration = Duration::from_secs(20);

/// The buffer of contents that are being written to the store.
pub(in crate::cache) struct WriteBack {
    inner: Arc<BufferedWriter>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The key of buffered content: an object, or one block of a large object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cache) enum BufferKey {
    /// A whole object.
    Object(ObjectId),
    /// A block of a large object.
    Block(ObjectId, u32),
}

struct BufferedWriter {
    store: Store,
    writer: Arc<dyn ContentWriter>,
    quota: Arc<Quota>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    buffered: LruCache<BufferKey, Bytes>,
    buffered_bytes: usize,
    pending: Vec<NewObject>,
    to_promote: Vec<ObjectId>,
    repairs: Vec<(ObjectId, u32, Bytes)>,
    pending_bytes: usize,
    pending_since: Option<Instant>,
    /// Until when nothing is written, after a failure.
    suspended_until: Option<Instant>,
    is_writing: bool,
    is_closed: bool,
}

impl WriteBack {
    /// Creates an empty buffer for `store` and starts the writer thread.
    pub(crate) fn start(store: &Store, writer: Arc<dyn ContentWriter>, quota: &Arc<Quota>) -> io::Result<Self> {
        let state = State {
            buffered: LruCache::unbounded(),
            buffered_bytes: 0,
            pending: Vec::new(),
            to_promote: Vec::new(),
            repairs: Vec::new(),
            pending_bytes: 0,
            pending_since: None,
            suspended_until: None,
            is_writing: false,
            is_closed: false,
        };
        let (store, quota) = (store.clone(), Arc::clone(quota));
        let inner =
            Arc::new(BufferedWriter { store, writer, quota, state: Mutex::new(state), changed: Condvar::new() });
        let shared = Arc::clone(&inner);
        let writer = thread::Builder::new().name("write-back".to_owned()).spawn(move || shared.write_batches())?;
        Ok(Self { inner, writer: Mutex::new(Some(writer)) })
    }

    /// Returns the store that contents are written to.
    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Returns what changes the repository.
    pub(crate) fn writer(&self) -> &dyn ContentWriter {
        &*self.inner.writer
    }

    /// Returns the quota of the store.
    pub(crate) fn quota(&self) -> &Arc<Quota> {
        &self.inner.quota
    }

    /// Returns buffered content.
    pub(crate) fn get(&self, key: BufferKey) -> Option<Bytes> {
        self.inner.state.lock().buffered.get(&key).cloned()
    }

    /// Adds a verified object. Waits while more than [`PENDING_MAX`] bytes are unwritten. With a smaller limit of the stored
    /// contents, an object beyond it is only buffered: it would be evicted at once, and readers would wait for the eviction.
    pub(crate) fn put(&self, id: ObjectId, bytes: &Bytes) {
        let mut state = self.inner.state.lock();
        if state.buffered.contains(&BufferKey::Object(id)) {
            return;
        }
        state.buffer(BufferKey::Object(id), bytes);
        let pending_bytes = (state.pending_bytes + bytes.len()) as u64;
        if state.is_suspended() || self.quota().limit().is_some_and(|limit| pending_bytes > limit) {
            return;
        }
        let replaces = Some(id).filter(|id| self.store().is_known_bad(DamagedPart { object: *id, block: None }));
        state.pending.push(NewObject { bytes: bytes.clone(), replaces });
        state.pending_bytes += bytes.len();
        state.pending_since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
        while state.pending_bytes > PENDING_MAX && !state.is_suspended() && !state.is_closed {
            self.inner.changed.wait_for(&mut state, BATCH_DELAY);
        }
    }

    /// Buffers a block that could not be written into its file.
    pub(crate) fn buffer_block(&self, id: ObjectId, block: u32, bytes: &Bytes) {
        self.inner.state.lock().buffer(BufferKey::Block(id, block), bytes);
    }

    /// Buffers a block of a stored object if the stored one is damaged, and queues the repair.
    pub(crate) fn repair_block(&self, part: DamagedPart, bytes: &Bytes) {
        let Some(block) = part.block.filter(|_| self.store().is_known_bad(part)) else { return };
        let mut state = self.inner.state.lock();
        state.buffer(BufferKey::Block(part.object, block), bytes);
        state.repairs.push((part.object, block, bytes.clone()));
        state.pending_since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
    }

    /// Queues the promotion of a large object of which every block is present to an ordinary one.
    pub(crate) fn promote(&self, id: ObjectId) {
        let mut state = self.inner.state.lock();
        state.to_promote.push(id);
        state.pending_since.get_or_insert_with(Instant::now);
        self.inner.changed.notify_all();
    }

    /// Waits until everything queued is written.
    pub(crate) fn flush(&self) {
        let mut state = self.inner.state.lock();
        while (state.pending_since.is_some() || state.is_writing) && !state.is_closed {
            // Makes the batch due now.
            state.pending_since = state.pending_since.map(|since| since.checked_sub(BATCH_DELAY).unwrap_or(since));
            self.inner.changed.notify_all();
            self.inner.changed.wait_for(&mut state, BATCH_DELAY);
        }
    }

    /// Returns whether writing is suspended after a failure.
    pub(crate) fn is_suspended(&self) -> bool {
        self.inner.state.lock().is_suspended()
    }

    /// Writes everything queued and stops the writer thread.
    pub(crate) fn close(&self) {
        self.inner.state.lock().is_closed = true;
        self.inner.changed.notify_all();
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the write-back thread panicked");
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn buffer(&mut self, key: BufferKey, bytes: &Bytes) {
        self.buffered_bytes += bytes.len();
        if let Some((_, old)) = self.buffered.push(key, bytes.clone()) {
            self.buffered_bytes -= old.len();
        }
        while self.buffered_bytes > BUFFER_MAX {
            let Some((_, old)) = self.buffered.pop_lru() else { break };
            self.buffered_bytes -= old.len();
        }
    }

    fn is_suspended(&self) -> bool {
        self.suspended_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The work of one batch.
struct WriteBatch {
    objects: Vec<NewObject>,
    to_promote: Vec<ObjectId>,
    repairs: Vec<(ObjectId, u32, Bytes)>,
}

impl BufferedWriter {
    fn write_batches(&self) {
        while let Some(batch) = self.next_batch() {
            let written = self.write(batch);
            let mut state = self.state.lock();
            state.is_writing = false;
            match written {
                Ok(()) => {
                    if state.suspended_until.take().is_some() {
                        tracing::info!("fetched contents are stored in {} again", self.store.path().display());
                    }
                }
                Err(error) => {
                    if state.suspended_until.is_none() {
                        tracing::warn!("fetched contents are not stored for now: {}", chain(&error));
                    }
                    state.suspended_until = Some(Instant::now() + SUSPENSION_TIME);
                }
            }
            self.changed.notify_all();
        }
    }

    fn next_batch(&self) -> Option<WriteBatch> {
        let mut state = self.state.lock();
        loop {
            let due = state.pending_since.is_some_and(|since| since.elapsed() >= BATCH_DELAY);
            if state.pending_since.is_some() && (due || state.is_closed || state.pending_bytes >= self.batch_size()) {
                return Some(Self::take_batch(&mut state));
            }
            if state.is_closed {
                return None;
            }
            match state.pending_since {
                None => self.changed.wait(&mut state),
                Some(since) => _ = self.changed.wait_until(&mut state, since + BATCH_DELAY),
            }
        }
    }

    fn take_batch(state: &mut MutexGuard<'_, State>) -> WriteBatch {
        state.pending_since = None;
        state.is_writing = true;
        state.pending_bytes = 0;
        let (objects, to_promote) = (std::mem::take(&mut state.pending), std::mem::take(&mut state.to_promote));
        WriteBatch { objects, to_promote, repairs: std::mem::take(&mut state.repairs) }
    }

    /// Returns the number of unwritten bytes that starts a batch, which is also the largest portion written under one lock.
    fn batch_size(&self) -> usize {
        let share = self.quota.limit().map_or(u64::MAX, |limit| limit / BATCH_LIMIT_DIVISOR);
        usize::try_from(share).unwrap_or(usize::MAX).min(BATCH_SIZE)
    }

    /// Writes a batch in portions. The repository is not locked while a portion waits for an eviction, which needs the lock
    /// itself.
    fn write(&self, batch: WriteBatch) -> Result<(), ChangeError> {
        let longest = self.batch_size();
        let mut rest = &batch.objects[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest.iter().take_while(|object| {
                bytes += object.bytes.len();
                bytes <= longest
            });
            let (portion, others) = rest.split_at(count.count().max(1));
            rest = others;
            self.write_portion(portion)?;
        }
        for (object, block, bytes) in batch.repairs {
            if self.writer.apply(ContentChange::RepairBlock { object, block, bytes })? == ChangeOutcome::Done {
                self.store.forget_damage(object);
            }
        }
        for id in batch.to_promote {
            self.writer.apply(ContentChange::PromoteObject(id))?;
            self.store.forget_damage(id);
        }
        Ok(())
    }

    fn write_portion(&self, portion: &[NewObject]) -> Result<(), ChangeError> {
        let bytes = portion.iter().map(|object| object.bytes.len() as u64 + OBJECT_OVERHEAD).sum();
        if !self.quota.reserve_within(bytes, QUOTA_TIMEOUT) {
            tracing::debug!("the quota has no room for {} objects", portion.len());
            return Ok(());
        }
        self.writer.apply(ContentChange::AddObjects(portion.to_vec()))?;
        for object in portion.iter().filter_map(|object| object.replaces) {
            self.store.forget_damage(object);
        }
        Ok(())
    }
}
