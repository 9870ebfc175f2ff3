//! The one writer of a repository, and the barrier behind which things have names.
//!
//! Objects are gathered under temporary names. [`StoreWriter::settle`] syncs their bytes and only then names them, so
//! that no crash can leave a name on bytes that did not reach the disk. Refs are edited last. Dropping the writer before
//! that publishes nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::config::FsVerity;
use super::damage::{DamagedPart, while_writable};
use super::garbage_mark::GarbageMark;
use super::open::Store;
use super::pack::{PACK_TARGET, PackWriter};
use crate::disk::{self, Lock, LockError, TemporaryFile, TemporaryPath, Wait};
use crate::image::EncodedImage;
use crate::model::{Commit, CommitId, ImageId, ObjectId};
use crate::sys::{self, Verity};

/// Up to this many directories are synced one by one; more are cheaper by one sync of the whole filesystem.
const SYNC_ONE_BY_ONE: usize = 8;

/// Why something could not be written to the repository.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The content was not as long as announced.
    #[error("the content has {found} bytes where {expected} were expected")]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes found, or one more than expected when there were more.
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

/// What a writer added so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct WriteStats {
    /// Objects that were not here before.
    pub new_objects: u64,
    /// Their bytes, holes counted.
    pub new_bytes: u64,
    /// Objects given that were here already.
    pub known_objects: u64,
}

/// The proof of holding the writer lock; everything that adds to a repository is a method of it.
pub struct StoreWriter {
    store: Store,
    pub(super) staged: Mutex<HashMap<ObjectId, TemporaryPath>>,
    pub(super) pack: Mutex<OpenPack>,
    pub(super) reflink_works: AtomicBool,
    counters: Counters,
    merged_bytes: AtomicU64,
    pub(super) garbage: GarbageMark,
    _removal: Lock,
    _writer: Lock,
}

/// The names of packs that were settled.
pub(super) type Settled = HashSet<String>;

/// The pack being filled, and full ones that wait for their names.
#[derive(Default)]
pub(super) struct OpenPack {
    current: Option<PackWriter>,
    sealed: Vec<(TemporaryPath, String, Vec<ObjectId>)>,
}

#[derive(Default)]
struct Counters {
    new_objects: AtomicU64,
    new_bytes: AtomicU64,
    known_objects: AtomicU64,
}

impl Store {
    /// Becomes the writer of this repository, waiting for another one as `wait` says. Removes what a killed writer left.
    ///
    /// # Errors
    /// [`WriteError::Lock`], or [`WriteError::Write`] when the leftovers cannot be removed.
    pub fn writer(&self, wait: Wait<'_>) -> Result<StoreWriter, WriteError> {
        let writer = Lock::exclusive(&self.layout().writer_lock(), wait)?;
        // Cannot be held by a collector now: it needs the writer lock first.
        let removal = Lock::shared(&self.layout().removal_lock(), Wait::Announced(&|_| {}))?;
        StoreWriter::new(self, writer, removal)
    }
}

impl StoreWriter {
    /// A writer that holds these locks; whether the second is shared decides if it may remove things too.
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
            counters: Counters::default(),
            merged_bytes: AtomicU64::new(0),
            garbage: GarbageMark::new(store.layout().garbage_mark()),
            _removal: removal,
            _writer: writer,
        })
    }

    /// The repository that is written.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// What was added so far.
    #[must_use]
    pub fn stats(&self) -> WriteStats {
        WriteStats {
            new_objects: self.counters.new_objects.load(Ordering::Relaxed),
            new_bytes: self.counters.new_bytes.load(Ordering::Relaxed),
            known_objects: self.counters.known_objects.load(Ordering::Relaxed),
        }
    }

    /// Bytes of objects that were here before and were copied so that packs stay few.
    #[must_use]
    pub fn merged_bytes(&self) -> u64 {
        self.merged_bytes.load(Ordering::Relaxed)
    }

    /// Whether the object is in the repository or among those added by this writer, as far as that can be found out. Adding an
    /// object finds out or fails.
    #[must_use]
    pub fn has_object(&self, id: ObjectId) -> bool {
        self.is_here(id).unwrap_or(false)
    }

    /// Whether the object is in the repository or among those added by this writer. Not knowing is an error: an object that
    /// is here must not be stored again.
    fn is_here(&self, id: ObjectId) -> Result<bool, WriteError> {
        // Nobody else brings anything while this one has the right to write.
        let known = || self.store.knows_object(id).map_err(|source| self.packs_error("look for objects in", source));
        Ok(self.is_staged(id) || known()?)
    }

    /// An error about the directory of packs.
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

    /// Counts an object that whoever reads the tree knows to be here already.
    pub fn count_known(&self) {
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

    /// Adds a small object to the current pack unless it is here already.
    pub(super) fn stage_packed(&self, id: ObjectId, bytes: &[u8]) -> Result<(), WriteError> {
        let whole = DamagedPart { object: id, block: None };
        if self.store.is_condemned(whole) {
            self.count_known();
            self.mend_or_log(whole, bytes);
            return Ok(());
        }
        if self.is_here(id)? || !self.append_to_pack(id, bytes)? {
            self.count_known();
        } else {
            self.count_new(bytes.len() as u64);
        }
        Ok(())
    }

    /// Adds an object to the current pack, wherever else it may be; `false` when that pack has it.
    pub(super) fn append_to_pack(&self, id: ObjectId, bytes: &[u8]) -> Result<bool, WriteError> {
        let path = self.store.layout().temporary();
        let write_error = |source| WriteError::Write { action: "write a pack in", path: path.clone(), source };
        let mut pack = self.pack.lock();
        if pack.current.as_ref().is_some_and(|pack| pack.contains(&id)) {
            return Ok(false);
        }
        let mut current = match pack.current.take() {
            Some(current) => current,
            None => PackWriter::create(&path).map_err(write_error)?,
        };
        current.add(id, bytes).map_err(write_error)?;
        if current.size() >= PACK_TARGET {
            pack.sealed.push(seal(current).map_err(write_error)?);
        } else {
            pack.current = Some(current);
        }
        Ok(true)
    }

    /// Keeps a large object that was written to a temporary file, unless it is here already.
    pub(super) fn stage_file(&self, id: ObjectId, size: u64, file: TemporaryFile) -> Result<(), WriteError> {
        let known = self.is_here(id)? || self.staged.lock().insert(id, file.close()).is_some();
        if known {
            self.count_known()
        } else {
            self.count_new(size)
        }
        Ok(())
    }

    /// Bytes that the pack which is being written has so far.
    pub(super) fn unsettled_pack_bytes(&self) -> u64 {
        self.pack.lock().current.as_ref().map_or(0, PackWriter::sealed_size)
    }

    /// Makes every object added so far durable, and then gives each its name. Merges small packs while a new one is written.
    ///
    /// # Errors
    /// [`WriteError::Write`]. Objects that have their names by then are whole; the others are gone.
    pub fn settle(&self) -> Result<(), WriteError> {
        let merged = self.absorb_small_packs()?;
        if let Some(settled) = self.settle_unmerged()? {
            let uses = self.remove_merged(&merged, &settled);
            self.store.reload_packs().map_err(|source| self.packs_error("read", source))?;
            self.store.note_uses(&uses);
            self.refresh_pack_index();
        }
        Ok(())
    }

    /// Like [`Self::settle`], with all packs as they are; none when nothing was added. The caller looks at the packs again.
    pub(super) fn settle_unmerged(&self) -> Result<Option<Settled>, WriteError> {
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
        let (mut touched, mut settled) = (BTreeSet::new(), Settled::new());
        self.protect(packs.iter().map(|(pack, ..)| pack).chain(staged.values()))?;
        for (temporary, name, _) in packs {
            let path = layout.packs().join(&name);
            settled.insert(name);
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
            self.store.replaced(id);
        }
        if touched.len() > SYNC_ONE_BY_ONE {
            self.sync_everything()?;
        } else {
            for directory in &touched {
                disk::sync_directory(directory).map_err(error("sync", directory))?;
            }
        }
        Ok(Some(settled))
    }

    /// Something is about to get a name, and no ref leads to it yet.
    fn mark_addition(&self) -> Result<(), WriteError> {
        let path = self.store.layout().garbage_mark();
        self.garbage.add().map_err(|source| WriteError::Write { action: "write", path, source })
    }

    /// Has the kernel check files from now on, if that is wanted and it can.
    fn protect<'a>(&self, files: impl Iterator<Item = &'a TemporaryPath>) -> Result<(), WriteError> {
        if self.store.config().fs_verity == FsVerity::Off {
            return Ok(());
        }
        for path in files.map(TemporaryPath::path) {
            let enabled = fs::File::open(path).and_then(|file| while_writable(&file, || sys::enable_verity(&file)));
            let failed = |source| WriteError::Write { action: "enable fs-verity on", path: path.to_owned(), source };
            if enabled.map_err(failed)? == Verity::Unsupported {
                tracing::debug!("this filesystem knows no fs-verity");
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

    /// Adds an image durably. Its objects must have been settled.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn put_image(&self, image: &EncodedImage) -> Result<(), WriteError> {
        self.put_image_bytes(image.id, &image.bytes)
    }

    /// Adds an image that came from elsewhere durably. Its bytes must have been verified.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn put_image_bytes(&self, id: ImageId, bytes: &[u8]) -> Result<(), WriteError> {
        self.put_named(&self.store.layout().image(id), bytes)
    }

    /// Adds a commit durably and returns its id. Its image must have been put.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn put_commit(&self, commit: &Commit) -> Result<CommitId, WriteError> {
        let bytes = commit.encode();
        let id = CommitId::of(&bytes);
        self.put_named(&self.store.layout().commit(id), &bytes)?;
        Ok(id)
    }

    /// Keeps the envelope around a commit record durably, so that others can check who signed it.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn put_signatures(&self, id: CommitId, envelope: &[u8]) -> Result<(), WriteError> {
        let directory = self.store.layout().signatures();
        create_directory(&directory).map_err(|source| WriteError::Write {
            action: "create",
            path: directory,
            source,
        })?;
        self.put_named(&self.store.layout().commit_signatures(id), envelope)
    }

    /// A file whose name tells its content needs no second writing, unless it is damaged.
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

fn seal(pack: PackWriter) -> io::Result<(TemporaryPath, String, Vec<ObjectId>)> {
    let (file, name, ids) = pack.seal()?;
    Ok((file.close(), name, ids))
}

pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
