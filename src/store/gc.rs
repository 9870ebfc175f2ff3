//! Garbage collection: a plan first, then the removal.
//!
//! Roots are refs with their history and running mounts. If any root cannot be followed to its end, nothing is planned.
//! Where every change since the last collection added something that a ref names, nothing can be garbage, and only new
//! commits are looked at.
//! Commits go before images and images before objects, so that a crash in between leaves garbage and never a name that
//! leads nowhere.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use super::layout::Layout;
use super::merge::CopyError;
use super::milestone::{Memory, Milestone};
use super::open::Store;
use super::pack::Pack;
use super::pack_limits::count_to_merge;
use super::reach::{Reachable, reachable};
use super::refs::RefError;
use super::source::ReadError;
use super::write::{StoreWriter, WriteError};
use crate::disk::{self, Lock, LockError, Wait};
use crate::model::{Commit, CommitId, ImageId, ObjectId};

/// Hex digits of an id.
const ID_DIGITS: usize = 2 * ObjectId::LEN;

/// Why garbage was not collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// A lock could not be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A ref could not be read.
    #[error("nothing was removed, since not every ref can be followed")]
    Ref(#[from] RefError),
    /// A commit or image that is needed could not be read.
    #[error("nothing was removed, since not everything needed can be read")]
    Read(#[from] ReadError),
    /// A pack could not be rewritten.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Proof of being the only process that writes or relies on unreferenced objects; the only thing that removes.
pub struct Gc {
    pub(super) writer: StoreWriter,
}

/// What a collection would remove.
#[derive(Debug, Default, serde::Serialize)]
pub struct GcPlan {
    /// Commits that no root leads to.
    pub commits: Vec<CommitId>,
    /// Images of no remaining commit.
    pub images: Vec<ImageId>,
    /// Object files of no remaining image, with their sizes.
    pub objects: Vec<(ObjectId, u64)>,
    /// Packs to remove or rewrite.
    pub packs: Vec<PackPlan>,
    /// Files that belong to commits, images and objects which go, relative to the repository: signatures, markers, parts.
    pub companions: Vec<PathBuf>,
    /// Bytes that become free.
    pub bytes: u64,
    /// Commits that stay; none when they were not counted, since nothing can be garbage.
    pub kept_commits: Option<usize>,
    /// Objects that stay, or none likewise.
    pub kept_objects: Option<usize>,
    /// Commits of which too little is here to know their objects. As long as there are any, no object goes.
    pub unread_commits: usize,
    /// Which objects stay; none for all.
    #[serde(skip)]
    needed: Option<HashSet<ObjectId>>,
    /// What to remember, if there is no garbage after this.
    #[serde(skip)]
    milestone: Option<Milestone>,
}

/// What is to become of one pack.
#[derive(Debug, serde::Serialize)]
pub struct PackPlan {
    /// The pack.
    pub name: String,
    /// Objects in it that stay; they move to a new pack.
    pub keep: usize,
    /// Objects in it that go.
    pub remove: usize,
}

/// What a collection removed.
#[derive(Debug, Default, serde::Serialize)]
pub struct GcReport {
    /// Bytes that became free.
    pub bytes: u64,
    /// Files removed.
    pub files: usize,
}

impl Store {
    /// Becomes the collector, waiting for writers and long readers as `wait` says.
    ///
    /// # Errors
    /// [`GcError::Lock`] or [`GcError::Write`].
    pub fn collector(&self, wait: impl Fn() -> Wait<'static>) -> Result<Gc, GcError> {
        let writer = Lock::exclusive(&self.layout().writer_lock(), wait())?;
        let removal = Lock::exclusive(&self.layout().removal_lock(), wait())?;
        Ok(Gc { writer: StoreWriter::new(self, writer, removal)? })
    }
}

impl Gc {
    /// Finds out what nothing needs. `depth` bounds how many ancestors of each ref stay; `None` keeps all.
    ///
    /// # Errors
    /// [`GcError`]; also when any root cannot be followed.
    pub fn plan(&self, depth: Option<u64>) -> Result<GcPlan, GcError> {
        let (store, began) = (self.writer.store(), SystemTime::now());
        let (refs, mounts) = (self.ref_tips()?, store.mount_roots()?);
        let mut needed = reachable(store, refs.iter().copied(), depth)?;
        needed.extend(reachable(store, mounts.iter().copied(), Some(0))?);
        let unread = |commit: &&Commit| needed.unread_images.contains(&commit.image);
        let mut plan = GcPlan {
            kept_commits: Some(needed.commits.len()),
            kept_objects: Some(needed.objects.len()),
            milestone: (!needed.has_lazy).then(|| Milestone::new(began, refs.iter().chain(&mounts).copied().collect())),
            unread_commits: needed.commits.values().filter(unread).count(),
            ..GcPlan::default()
        };
        let layout = store.layout();
        for (id, size) in named_files(&layout.commits())? {
            if !needed.commits.contains_key(&id) {
                plan.commits.push(id);
                plan.bytes += size;
            }
        }
        for (id, size) in named_files(&layout.images())? {
            if !needed.images.contains(&id) {
                plan.images.push(id);
                plan.bytes += size;
            }
        }
        if needed.unread_images.is_empty() {
            plan.objects = object_files(layout)?;
            plan.objects.retain(|(id, _)| !needed.objects.contains(id));
            plan.bytes += plan.objects.iter().map(|(_, size)| size).sum::<u64>();
            self.plan_packs(&needed, &mut plan)?;
        }
        plan_companions(layout, &needed, &mut plan)?;
        plan.needed = Some(needed.objects);
        Ok(plan)
    }

    /// Proves that nothing can have become garbage since the last collection: none of its commits was left by a ref or a
    /// mount, and whatever was added is named by a ref. The plan then only merges packs. `None` when there is no such proof,
    /// or parts of commits may come and go.
    ///
    /// # Errors
    /// [`GcError`].
    pub fn plan_since_last(&self) -> Result<Option<GcPlan>, GcError> {
        let (store, began) = (self.writer.store(), SystemTime::now());
        let layout = store.layout();
        let Some(last) = store.milestone(Memory::Collected) else { return Ok(None) };
        let is_quiet =
            !layout.garbage_mark().exists() && !store.has_lazy_commits() && files(&layout.partial())?.is_empty();
        let roots: BTreeSet<CommitId> = self.ref_tips()?.into_iter().chain(store.mount_roots()?).collect();
        let Ok(history) = last.new_history(store, roots.iter().copied()) else { return Ok(None) };
        if !is_quiet || history.reached != *last.tips() {
            return Ok(None);
        }
        let mut plan = GcPlan { milestone: Some(Milestone::new(began, roots)), ..GcPlan::default() };
        for pack in self.packs_to_merge()? {
            plan.packs.push(PackPlan { name: pack.name.to_string(), keep: pack.len(), remove: 0 });
        }
        Ok(Some(plan))
    }

    fn ref_tips(&self) -> Result<Vec<CommitId>, GcError> {
        Ok(self.writer.store().refs()?.into_iter().map(|(_, id)| id).collect())
    }

    /// Every pack of the repository, largest first.
    pub(super) fn packs(&self) -> Result<Vec<Arc<Pack>>, GcError> {
        let store = self.writer.store();
        let failed = |source| GcError::Io { action: "read", path: store.layout().packs(), source };
        store.packs().all(&store.inner.files).map_err(failed)
    }

    fn plan_packs(&self, needed: &Reachable, plan: &mut GcPlan) -> Result<(), GcError> {
        let merged: HashSet<Arc<str>> = self.packs_to_merge()?.iter().map(|pack| Arc::clone(&pack.name)).collect();
        for pack in self.packs()? {
            let (mut keep, mut remove, mut garbage) = (0, 0, 0);
            for (id, slot) in (0..pack.len()).map(|row| pack.row(row)) {
                if needed.objects.contains(&id) {
                    keep += 1;
                } else {
                    remove += 1;
                    garbage += slot.map_or(0, |slot| u64::from(slot.length));
                }
            }
            let mostly_garbage = keep == 0 || garbage * 2 > pack.size();
            if mostly_garbage || merged.contains(&pack.name) {
                plan.bytes += garbage;
                plan.packs.push(PackPlan { name: pack.name.to_string(), keep, remove });
            }
        }
        Ok(())
    }

    /// The packs that are too small to stay by themselves. A repository whose commits were made by this program has none.
    fn packs_to_merge(&self) -> Result<Vec<Arc<Pack>>, GcError> {
        let store = self.writer.store();
        let failed = |source| GcError::Io { action: "read", path: store.layout().packs(), source };
        let mut packs = store.mergeable_packs().map_err(failed)?;
        let sizes: Vec<u64> = packs.iter().map(|pack| pack.size()).collect();
        packs.truncate(count_to_merge(0, &sizes, u64::MAX));
        Ok(packs)
    }

    /// Removes what the plan lists. The plan must have been made by this collector.
    ///
    /// # Errors
    /// [`GcError`]; what was not removed by then is found again by the next plan.
    pub fn apply(&self, plan: &GcPlan) -> Result<GcReport, GcError> {
        let store = self.writer.store();
        let layout = store.layout();
        // A commit that comes back later may come back without something that was checked.
        if store.milestone(Memory::Checked).is_some_and(|last| plan.commits.iter().any(|id| last.tips().contains(id))) {
            store.forget(Memory::Checked);
        }
        store.forget(Memory::Collected);
        if !plan.commits.is_empty() {
            let failed = |source| GcError::Io { action: "remove", path: layout.history(), source };
            store.forget_history().map_err(failed)?;
        }
        remove_files(plan.commits.iter().map(|id| layout.commit(*id)), &layout.commits())?;
        remove_files(plan.images.iter().map(|id| layout.image(*id)), &layout.images())?;
        for path in &plan.companions {
            let path = layout.root().join(path);
            let directory = path.parent().unwrap_or_else(|| layout.root()).to_owned();
            remove_files(std::iter::once(path), &directory)?;
        }
        remove_files(plan.objects.iter().map(|(id, _)| layout.object(*id)), &layout.objects())?;
        let names: Vec<&str> = plan.packs.iter().map(|pack| pack.name.as_str()).collect();
        let is_needed = |id: &ObjectId| plan.needed.as_ref().is_none_or(|needed| needed.contains(id));
        self.rewrite_packs(&names, &is_needed)?;
        if let Some(milestone) = &plan.milestone {
            self.writer.garbage.clear();
            store.remember(Memory::Collected, milestone);
        }
        let files = plan.commits.len() + plan.images.len() + plan.objects.len() + plan.packs.len();
        let files = files + plan.companions.len();
        Ok(GcReport { bytes: plan.bytes, files })
    }

    /// Moves the objects that `keep` wants out of the named packs into new ones and removes the old. A running mount finds
    /// them in the new packs.
    pub(super) fn rewrite_packs(&self, names: &[&str], keep: &dyn Fn(&ObjectId) -> bool) -> Result<(), GcError> {
        let store = self.writer.store();
        let mut packs = self.packs()?;
        packs.retain(|pack| names.contains(&&*pack.name));
        for pack in &packs {
            self.writer.copy_pack(pack, keep).map_err(|error| match error {
                CopyError::Read(source) => pack_error("rewrite", pack, source),
                CopyError::Write(error) => error.into(),
            })?;
        }
        // A pack rewritten to the very same objects in the same order has the same name again.
        let kept = self.writer.settle_unmerged()?.unwrap_or_default();
        let directory = store.layout().packs();
        let old: Vec<&Arc<Pack>> = packs.iter().filter(|pack| !kept.contains(&*pack.name)).collect();
        remove_files(old.iter().map(|pack| directory.join(&*pack.name)), &directory)?;
        old.iter().for_each(|pack| store.forget_uses(&pack.name));
        store.reload_packs().map_err(|source| GcError::Io { action: "read", path: directory, source })?;
        self.writer.refresh_pack_index();
        Ok(())
    }
}

/// Finds what stands beside commits, images and objects that go, also what an interrupted removal left.
fn plan_companions(layout: &Layout, needed: &Reachable, plan: &mut GcPlan) -> Result<(), GcError> {
    for directory in [layout.signatures(), layout.lazy()] {
        for (id, size) in named_files::<CommitId>(&directory)? {
            if !needed.commits.contains_key(&id) {
                plan.companions.push(relative(layout, &directory).join(id.to_string()));
                plan.bytes += size;
            }
        }
    }
    let directory = layout.partial();
    for (name, size) in files(&directory)? {
        // A part of an image or of an object, or what describes one: `<id>` or `<id>.something`.
        let Some(id) = name.get(..ID_DIGITS) else { continue };
        let (Ok(image), Ok(object)) = (id.parse::<ImageId>(), id.parse::<ObjectId>()) else { continue };
        let is_needed = needed.images.contains(&image) || needed.objects.contains(&object);
        if !is_needed && needed.unread_images.is_empty() {
            plan.companions.push(relative(layout, &directory).join(name));
            plan.bytes += size;
        }
    }
    Ok(())
}

fn relative(layout: &Layout, path: &Path) -> PathBuf {
    path.strip_prefix(layout.root()).unwrap_or(path).to_owned()
}

fn pack_error(action: &'static str, pack: &Pack, source: io::Error) -> GcError {
    GcError::Io { action, path: Path::new(Layout::PACKS).join(&*pack.name), source }
}

/// Removes files and makes their absence durable. One that is gone already is fine.
pub(super) fn remove_files(paths: impl Iterator<Item = PathBuf>, directory: &Path) -> Result<(), GcError> {
    let mut removed = false;
    for path in paths {
        match fs::remove_file(&path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(GcError::Io { action: "remove", path, source }),
        }
    }
    if !removed {
        return Ok(());
    }
    let io_error = |source| GcError::Io { action: "sync", path: directory.to_owned(), source };
    disk::sync_directory(directory).map_err(io_error)
}

/// The files of a directory whose names are ids, with their sizes.
fn named_files<T: FromStr>(directory: &Path) -> Result<Vec<(T, u64)>, GcError> {
    Ok(files(directory)?.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, size))).collect())
}

/// The files of a directory with their sizes; none when there is no such directory, as some are made when needed.
fn files(directory: &Path) -> Result<Vec<(String, u64)>, GcError> {
    let io_error = |source| GcError::Io { action: "list", path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io_error)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error)?;
        if let Ok(name) = entry.file_name().into_string() {
            files.push((name, entry.metadata().map_err(io_error)?.len()));
        }
    }
    Ok(files)
}

/// Every object that has a file of its own, with its size.
pub(super) fn object_files(layout: &Layout) -> Result<Vec<(ObjectId, u64)>, GcError> {
    let top = layout.objects();
    let io_error = |source| GcError::Io { action: "list", path: top.clone(), source };
    let mut objects = Vec::new();
    for shard in fs::read_dir(&top).map_err(io_error)? {
        let shard = shard.map_err(io_error)?;
        let prefix = shard.file_name();
        for entry in fs::read_dir(shard.path()).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let name = [prefix.as_encoded_bytes(), entry.file_name().as_encoded_bytes()].concat();
            if let Some(id) = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok()) {
                objects.push((id, entry.metadata().map_err(io_error)?.len()));
            }
        }
    }
    Ok(objects)
}
