//! The writer of a repository: adds objects, images and commits.
//!
//! Objects are written under temporary names. [`StoreWriter::flush`] syncs their bytes and then gives them their names. Refs
//! are changed last. If the writer is dropped before a flush, its objects are not added.
//!
//! *Not here*: hashing contents (`add`, `receive`), changing refs (`refs`), removing things (`gc`).
//!
//! *Invariants*: at most one writer of a repository exists. After a crash no name refers to bytes that did not reach the disk.
//!
//! *Used by* `compose`, `remote`, `cache`, `deploy` and `cli`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::config::FsVerity;
use super::damage::{DamagedPart, while_writable};
use super::garbage_mark::GarbageMark;
use super::open::Store;
use super::pack::{LocalPackWriter, PACK_TARGET, Pack, PackForm};
use crate::disk::{self, Lock, LockError, TemporaryFile, TemporaryPath, Wait};
use crate::image::EncodedImage;
use crate::model::{Commit, CommitId, ImageId, ObjectId};
use crate::sys::{self, Verity};

/// Up to this many directories are synced one by one; for more, one sync of the whole filesystem is cheaper.
const DIRECTORY_SYNCS_MAX: usize = 8;

/// Why something could not be written to the repository.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The content does not have the expected length.
    #[error("the content has {found} bytes where {expected} were expected")]
    Length {
        /// The expected number of bytes.
        expected: u64,
        /// The actual number of bytes, or one more than expected when there were more.
        found: u64,
    },
    /// The content could not be read.
    #[error("cannot read the content")]
    Read(#[source] io::Error),
    /// The repository could not be written.
    #[error("cannot {action} {}", .path.display())]
    Write {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock could not be used.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// The numbers of objects that a writer has added so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct WriteStats {
    /// Objects that were not in the repository before.
    pub(crate) new_objects: u64,
    /// The bytes of the new objects, holes included.
    pub(crate) new_bytes: u64,
    /// Objects that were in the repository already.
    pub(crate) known_objects: u64,
}

/// The proof of holding the writer lock; everything that adds to a repository is a method of it.
pub struct StoreWriter {
    store: Store,
    pub(super) staged: Mutex<HashMap<ObjectId, TemporaryPath>>,
    pub(super) pack: Mutex<OpenPack>,
    pub(super) reflink_works: AtomicBool,
    counters: WriteCounters,
    merged_bytes: AtomicU64,
    pub(super) garbage: GarbageMark,
    _removal: Lock,
    _writer: Lock,
}

/// The names of the packs that a flush has added.
pub(super) type FlushedPacks = HashSet<String>;

/// The pack that is being written, and sealed ones that have no names yet.
#[derive(Default)]
pub(super) struct OpenPack {
    /// The form of packs that are begun.
    form: PackForm,
    current: Option<LocalPackWriter>,
    sealed: Vec<(TemporaryPath, String, Vec<ObjectId>)>,
}

#[derive(Default)]
struct WriteCounters {
    new_objects: AtomicU64,
    new_bytes: AtomicU64,
    known_objects: AtomicU64,
}

impl Store {
    /// Locks this repository for writing; `wait` says what to do while another process is writing. Removes the temporary files
    /// that a killed writer left.
    ///
    /// # Errors
    /// [`WriteError::Lock`], or [`WriteError::Write`] when the leftovers cannot be removed.
    pub fn writer(&self, wait: Wait<'_>) -> Result<StoreWriter, WriteError> {
        let writer = Lock::exclusive(&self.layout().writer_lock(), wait)?;
        // No collector can hold the lock now, since it would need the writer lock first.
        let removal = Lock::shared(&self.layout().removal_lock(), Wait::Announced(&|_| {}))?;
        StoreWriter::new(self, writer, removal)
    }
}

impl StoreWriter {
    /// Returns a writer that holds these locks. Only with an exclusive removal lock may it be used to remove things.
    pub(super) fn new(store: &Store, writer: Lock, removal: Lock) -> Result<Self, WriteError> {
        let path = store.layout().temporary();
        TemporaryFile::remove_leftovers(&path).map_err(|source| WriteError::Write { action: "clean", path, source })?;
        let path = store.layout().packs();
        store.reload_packs().map_err(|source| WriteError::Write { action: "read", path, source })?;
        Ok(Self {
            store: store.clone(),
            staged: Mutex::default(),
            pack: Mutex::default(),
            reflink_works: AtomicBool::new(true),
            counters: WriteCounters::default(),
            merged_bytes: AtomicU64::new(0),
            garbage: GarbageMark::new(store.layout().garbage_mark()),
            _removal: removal,
            _writer: writer,
        })
    }

    /// Returns the repository that is written.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Returns what was added so far.
    pub(crate) fn stats(&self) -> WriteStats {
        WriteStats {
            new_objects: self.counters.new_objects.load(Ordering::Relaxed),
            new_bytes: self.counters.new_bytes.load(Ordering::Relaxed),
            known_objects: self.counters.known_objects.load(Ordering::Relaxed),
        }
    }

    /// Returns the bytes of existing objects that were copied to merge packs.
    #[must_use]
    pub fn merged_bytes(&self) -> u64 {
        self.merged_bytes.load(Ordering::Relaxed)
    }

    /// Returns whether the object is in the repository or among those added by this writer; `false` if that cannot be
    /// determined. Adding an object fails in that case.
    pub(crate) fn has_object(&self, id: ObjectId) -> bool {
        self.is_stored(id).unwrap_or(false)
    }

    /// Returns whether the object is in the repository or among those added by this writer. If that cannot be determined, it is
    /// an error, so that an existing object is not stored again.
    fn is_stored(&self, id: ObjectId) -> Result<bool, WriteError> {
        // No other process adds anything while this one holds the writer lock.
        let known = || {
            self.store.has_object_without_reload(id).map_err(|source| self.packs_error("look for objects in", source))
        };
        Ok(self.is_staged(id) || known()?)
    }

    /// Returns an error about the directory of packs.
    pub(super) fn packs_error(&self, action: &'static str, source: io::Error) -> WriteError {
        WriteError::Write { action, path: self.store.layout().packs(), source }
    }

    fn is_staged(&self, id: ObjectId) -> bool {
        if self.staged.lock().contains_key(&id) {
            return true;
        }
        let pack = self.pack.lock();
        pack.current.as_ref().is_some_and(|pack| pack.contains(&id))
            || pack.sealed.iter().any(|(_, _, ids)| ids.binary_search(&id).is_ok())
    }

    /// Counts an object that the caller knows to be in the repository already.
    pub(crate) fn count_known(&self) {
        self.counters.known_objects.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that were copied from one pack to another.
    pub(super) fn count_merged(&self, bytes: u64) {
        self.merged_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count_new(&self, bytes: u64) {
        self.counters.new_objects.fetch_add(1, Ordering::Relaxed);
        self.counters.new_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds a small object to the current pack, unless it is in the repository already.
    pub(super) fn stage_packed(&self, id: ObjectId, bytes: &[u8]) -> Result<(), WriteError> {
        let whole = DamagedPart { object: id, block: None };
        if self.store.is_known_bad(whole) {
            self.count_known();
            self.repair_or_log(whole, bytes);
            return Ok(());
        }
        if self.is_stored(id)? || !self.append_to_pack(id, bytes)? {
            self.count_known();
        } else {
            self.count_new(bytes.len() as u64);
        }
        Ok(())
    }

    /// Adds an object to the current pack, even if it is in another pack; returns `false` when the current pack has it already.
    pub(super) fn append_to_pack(&self, id: ObjectId, bytes: &[u8]) -> Result<bool, WriteError> {
        let path = self.store.layout().temporary();
        let write_error = |source| WriteError::Write { action: "write a pack in", path: path.clone(), source };
        let mut pack = self.pack.lock();
        if pack.current.as_ref().is_some_and(|pack| pack.contains(&id)) {
            return Ok(false);
        }
        let mut current = match pack.current.take() {
            Some(current) => current,
            None => LocalPackWriter::create(&path, pack.form).map_err(write_error)?,
        };
        current.add(id, bytes).map_err(write_error)?;
        if current.size() >= PACK_TARGET {
            pack.sealed.push(seal(current).map_err(write_error)?);
        } else {
            pack.current = Some(current);
        }
        Ok(true)
    }

    /// Adds a large object that was written to a temporary file, unless it is in the repository already.
    pub(super) fn stage_file(&self, id: ObjectId, size: u64, file: TemporaryFile) -> Result<(), WriteError> {
        let known = self.is_stored(id)? || self.staged.lock().insert(id, file.close()).is_some();
        if known {
            self.count_known()
        } else {
            self.count_new(size)
        }
        Ok(())
    }

    /// Sets the form of packs that are begun from now on. Only a repair needs the former one.
    pub(super) fn set_pack_form(&self, form: PackForm) {
        self.pack.lock().form = form;
    }

    /// Returns the number of bytes of the pack that is being written.
    pub(super) fn unflushed_pack_bytes(&self) -> u64 {
        self.pack.lock().current.as_ref().map_or(0, LocalPackWriter::sealed_size)
    }

    /// Drops every object that was added and not flushed yet.
    pub(super) fn discard(&self) {
        self.staged.lock().clear();
        let mut pack = self.pack.lock();
        (pack.current, pack.sealed) = (None, Vec::new());
    }

    /// Makes every object added so far durable, and then gives each its name. Merges small packs if a new one is written.
    ///
    /// # Errors
    /// [`WriteError::Write`]. Objects that have their names by then are complete; the others are discarded.
    pub fn flush(&self) -> Result<(), WriteError> {
        let merged = self.copy_small_packs()?;
        self.flush_and_remove(&merged)
    }

    /// Flushes like [`Self::flush`], and then removes packs whose objects were copied to what was flushed.
    pub(super) fn flush_and_remove(&self, copied: &[Arc<Pack>]) -> Result<(), WriteError> {
        if let Some(flushed) = self.flush_without_merging()? {
            let uses = self.remove_merged(copied, &flushed);
            self.store.reload_packs().map_err(|source| self.packs_error("read", source))?;
            self.store.write_use_times(&uses, None);
            self.refresh_pack_index();
        }
        Ok(())
    }

    /// Flushes like [`Self::flush`], without merging packs; returns `None` when nothing was added. The caller must reload the
    /// packs.
    pub(super) fn flush_without_merging(&self) -> Result<Option<FlushedPacks>, WriteError> {
        let layout = self.store.layout();
        let error = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| WriteError::Write { action, path, source }
        };
        let packs = self.seal_packs().map_err(error("write a pack in", &layout.temporary()))?;
        let staged = std::mem::take(&mut *self.staged.lock());
        if packs.is_empty() && staged.is_empty() {
            return Ok(None);
        }
        self.mark_addition()?;
        self.sync_everything()?;
        let (mut touched, mut flushed) = (BTreeSet::new(), FlushedPacks::new());
        self.enable_verity(packs.iter().map(|(pack, ..)| pack).chain(staged.values()))?;
        for (temporary, name, _) in packs {
            let path = layout.packs().join(&name);
            flushed.insert(name);
            temporary.persist(&path).map_err(error("name", &path))?;
            touched.insert(layout.packs());
        }
        for (id, temporary) in staged {
            let path = layout.object(id);
            let directory = path.parent().unwrap_or_else(|| layout.root()).to_owned();
            if touched.insert(directory.clone()) {
                create_directory(&directory).map_err(error("create", &directory))?;
                touched.insert(layout.objects());
            }
            temporary.persist(&path).map_err(error("name", &path))?;
            self.store.forget_damage(id);
        }
        if touched.len() > DIRECTORY_SYNCS_MAX {
            self.sync_everything()?;
        } else {
            for directory in &touched {
                disk::sync_directory(directory).map_err(error("sync", directory))?;
            }
        }
        Ok(Some(flushed))
    }

    /// Makes the garbage mark, before something gets a name to which no ref leads yet.
    fn mark_addition(&self) -> Result<(), WriteError> {
        let path = self.store.layout().garbage_mark();
        self.garbage.note_addition().map_err(|source| WriteError::Write { action: "write", path, source })
    }

    /// Enables fs-verity for `files`, if the settings say so and the filesystem supports it.
    fn enable_verity<'a>(&self, files: impl Iterator<Item = &'a TemporaryPath>) -> Result<(), WriteError> {
        if self.store.config().fs_verity == FsVerity::Off {
            return Ok(());
        }
        for path in files.map(TemporaryPath::path) {
            let enabled = fs::File::open(path).and_then(|file| while_writable(&file, || sys::enable_verity(&file)));
            let failed = |source| WriteError::Write { action: "enable fs-verity on", path: path.to_owned(), source };
            if enabled.map_err(failed)? == Verity::Unsupported {
                tracing::debug!("this filesystem does not support fs-verity");
                return Ok(());
            }
        }
        Ok(())
    }

    fn seal_packs(&self) -> io::Result<Vec<(TemporaryPath, String, Vec<ObjectId>)>> {
        let mut pack = self.pack.lock();
        let mut packs = std::mem::take(&mut pack.sealed);
        if let Some(current) = pack.current.take() {
            packs.push(seal(current)?);
        }
        Ok(packs)
    }

    fn sync_everything(&self) -> Result<(), WriteError> {
        let path = self.store.path();
        disk::sync_filesystem(self.store.directory()).map_err(|source| WriteError::Write {
            action: "sync",
            path: path.to_owned(),
            source,
        })
    }

    /// Adds an image, durably. Its objects must have been flushed.
    pub(crate) fn put_image(&self, image: &EncodedImage) -> Result<(), WriteError> {
        self.put_image_bytes(image.id, &image.bytes)
    }

    /// Adds an image from elsewhere, durably. Its bytes must have been verified.
    pub(crate) fn put_image_bytes(&self, id: ImageId, bytes: &[u8]) -> Result<(), WriteError> {
        self.put_named(&self.store.layout().image(id), bytes)
    }

    /// Adds a commit, durably, and returns its id. Its image must have been added.
    pub(crate) fn put_commit(&self, commit: &Commit) -> Result<CommitId, WriteError> {
        let bytes = commit.encode();
        let id = CommitId::of(&bytes);
        self.put_named(&self.store.layout().commit(id), &bytes)?;
        Ok(id)
    }

    /// Adds the envelope around a commit record, durably, so that other machines can verify its signatures.
    pub(crate) fn put_signatures(&self, id: CommitId, envelope: &[u8]) -> Result<(), WriteError> {
        let directory = self.store.layout().signatures();
        create_directory(&directory).map_err(|source| WriteError::Write {
            action: "create",
            path: directory,
            source,
        })?;
        self.put_named(&self.store.layout().commit_signatures(id), envelope)
    }

    /// Writes a file whose name is determined by its content, unless it exists with exactly these bytes.
    fn put_named(&self, path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
        if fs::read(path).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        self.mark_addition()?;
        disk::replace(path, bytes).map_err(|source| WriteError::Write {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }
}

fn seal(pack: LocalPackWriter) -> io::Result<(TemporaryPath, String, Vec<ObjectId>)> {
    let (file, name, ids) = pack.seal()?;
    Ok((file.close(), name, ids))
}

pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
