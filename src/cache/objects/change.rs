//! Changes of the repository that a lazy commit asks for: storing what was fetched, completing the commit, evicting.
//!
//! A [`ContentWriter`] makes them. [`DirectWriter`] does so in this process. The worker of a mount may not write to the
//! repository; it sends them to another process, which has a `DirectWriter` (`mount::broker`).
//!
//! *Not here*: when something is stored (`write_back`, `background`) or evicted (`evictor`, `quota`).
//!
//! *Invariant*: whatever a change contains, an object or image gets a name only if it has the digest of that name, and a commit
//! becomes complete only if everything of it is stored.
//!
//! *Used by* the other files of this folder, `tree` and `mount`.

use std::collections::{BTreeMap, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{self, LockError, Wait};
use crate::error::chain;
use crate::model::{CommitId, ObjectId};
use crate::remote::format::Placement;
use crate::store::{CommitCompleteness, DamagedPart, GcError, Repair, Store, StoreWriter, UseTimes, WriteError};

/// How long a change waits for the repository while another process writes to it. Other mounts hold the lock for a moment only,
/// while a pull holds it for too long to wait.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long completing a commit waits for the repository.
const LONG_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest number of bytes of blocks that are kept until all damaged blocks of their object are here.
const REPAIR_BYTES_MAX: usize = 32 << 20;

/// A change of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContentChange {
    /// Adds objects, or writes them over damaged ones.
    AddObjects(Vec<NewObject>),
    /// Replaces a block of a damaged large object.
    RepairBlock { object: ObjectId, block: u32, bytes: Bytes },
    /// Makes an object of a large one of which all blocks were fetched.
    PromoteObject(ObjectId),
    /// Makes the commit an ordinary one, if all of it is stored.
    CompleteCommit,
    /// Evicts contents if more than `limit` bytes are stored, until `target` bytes are left.
    Evict { limit: u64, target: u64 },
    /// Records when objects were used.
    RecordUses(UseTimes),
    /// Stores where the contents of the commit are.
    SavePlacement(Vec<u8>),
}

/// An object that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewObject {
    pub(crate) bytes: Bytes,
    /// The object, if the stored one is damaged.
    pub(crate) replaces: Option<ObjectId>,
}

/// The outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum ChangeOutcome {
    Done,
    /// Another block of the object is damaged, too: the object is replaced when that is here.
    Pending,
    Completeness(CommitCompleteness),
    Evicted(Eviction),
}

/// What was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Eviction {
    pub(crate) objects: u64,
    pub(crate) freed: u64,
    /// The bytes that are stored now.
    pub(crate) used: u64,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Another process is writing to the repository.
    #[error("another process is writing to the repository")]
    Locked,
    /// The repository cannot be written.
    #[error(transparent)]
    Write(WriteError),
    /// Nothing can be evicted.
    #[error(transparent)]
    Evict(GcError),
    /// The change is not one that this commit may ask for.
    #[error("{0}")]
    Refused(&'static str),
    /// Another process was to make the change and could not; its words.
    #[error("{0}")]
    Elsewhere(String),
}

impl From<WriteError> for ChangeError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Lock(LockError::Held { .. }) => Self::Locked,
            other => Self::Write(other),
        }
    }
}

impl From<GcError> for ChangeError {
    fn from(error: GcError) -> Self {
        match error {
            GcError::Lock(LockError::Held { .. }) => Self::Locked,
            GcError::Write(error) => error.into(),
            other => Self::Evict(other),
        }
    }
}

/// Makes changes of one repository for one commit.
pub(crate) trait ContentWriter: Send + Sync {
    /// Makes a change, durably.
    ///
    /// # Errors
    /// [`ChangeError`].
    fn apply(&self, change: ContentChange) -> Result<ChangeOutcome, ChangeError>;
}

/// Makes changes in this process.
pub(crate) struct DirectWriter {
    store: Store,
    commit: CommitId,
    /// Blocks of damaged objects that have other damaged blocks, too.
    repairs: Mutex<HashMap<ObjectId, BTreeMap<u32, Bytes>>>,
}

impl DirectWriter {
    pub(crate) fn new(store: &Store, commit: CommitId) -> Self {
        Self { store: store.clone(), commit, repairs: Mutex::default() }
    }

    fn add(&self, objects: &[NewObject]) -> Result<(), ChangeError> {
        let writer = lock_within(&self.store, LOCK_TIMEOUT)?;
        for NewObject { bytes, replaces } in objects {
            // What another process has found damaged; the right bytes are written over it.
            if let Some(object) = replaces.filter(|id| *id == ObjectId::of(bytes)) {
                self.store.mark_bad(DamagedPart { object, block: None });
            }
            writer.put(bytes.len() as u64, &mut &bytes[..])?;
        }
        Ok(writer.flush()?)
    }

    fn repair(&self, object: ObjectId, block: u32, bytes: Bytes) -> Result<ChangeOutcome, ChangeError> {
        let mut repairs = self.repairs.lock();
        let kept: usize = repairs.values().flat_map(BTreeMap::values).map(Bytes::len).sum();
        if kept + bytes.len() > REPAIR_BYTES_MAX {
            repairs.clear();
        }
        let blocks = repairs.entry(object).or_default();
        blocks.insert(block, bytes);
        match lock_within(&self.store, LOCK_TIMEOUT)?.replace_damaged_blocks(object, blocks)? {
            Repair::StillDamaged => Ok(ChangeOutcome::Pending),
            Repair::Done => {
                repairs.remove(&object);
                Ok(ChangeOutcome::Done)
            }
        }
    }

    fn evict(&self, limit: u64, target: u64) -> Result<Eviction, ChangeError> {
        let collector = self.store.collector(|| Wait::No)?;
        let plan = collector.plan_eviction(limit, target)?;
        if plan.objects > 0 {
            collector.evict(&plan)?;
        }
        Ok(Eviction { objects: plan.objects, freed: plan.freed, used: plan.used.saturating_sub(plan.freed) })
    }

    fn save_placement(&self, text: &[u8]) -> Result<(), ChangeError> {
        if Placement::parse(text).is_err() {
            return Err(ChangeError::Refused("this is no placement of a commit"));
        }
        // Under the lock, since the placement is removed when the commit becomes complete.
        let _writer = lock_within(&self.store, Duration::ZERO)?;
        let path = self.store.layout().lazy_commit(self.commit);
        if self.store.is_lazy(self.commit) {
            disk::replace(&path, text).map_err(|source| WriteError::Write { action: "write", path, source })?;
        }
        Ok(())
    }
}

impl ContentWriter for DirectWriter {
    fn apply(&self, change: ContentChange) -> Result<ChangeOutcome, ChangeError> {
        match change {
            ContentChange::AddObjects(objects) => self.add(&objects)?,
            ContentChange::RepairBlock { object, block, bytes } => return self.repair(object, block, bytes),
            ContentChange::PromoteObject(id) => {
                lock_within(&self.store, LOCK_TIMEOUT)?.promote_partial_object(self.commit, id)?;
            }
            ContentChange::CompleteCommit => {
                let writer = lock_within(&self.store, LONG_LOCK_TIMEOUT)?;
                return Ok(ChangeOutcome::Completeness(writer.complete(self.commit)?));
            }
            ContentChange::Evict { limit, target } => return Ok(ChangeOutcome::Evicted(self.evict(limit, target)?)),
            ContentChange::RecordUses(uses) => self.store.write_use_times(&uses, Some(self.commit)),
            ContentChange::SavePlacement(text) => self.save_placement(&text)?,
        }
        Ok(ChangeOutcome::Done)
    }
}

/// Locks the repository for writing, and waits at most for `patience` while another process holds the lock.
pub(in crate::cache) fn lock_within(store: &Store, patience: Duration) -> Result<StoreWriter, WriteError> {
    let deadline = Instant::now() + patience;
    loop {
        match store.writer(Wait::No) {
            Err(WriteError::Lock(LockError::Held { .. })) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Logs the failure of a change that may fail.
pub(in crate::cache) fn log_failure(what: &str, result: Result<ChangeOutcome, ChangeError>) {
    if let Err(error) = result {
        tracing::debug!("{what}: {}", chain(&error));
    }
}
