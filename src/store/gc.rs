//! Collects garbage: plans first, then removes.
//!
//! Roots are refs with their history, and running mounts. If every change since the last collection added something that a ref
//! names, nothing can be garbage, and only new commits are read.
//!
//! *Invariants*: if any root cannot be followed to its end, nothing is planned. Commits are removed before images and images
//! before objects, so that a crash leaves garbage but never a reference to something missing.
//!
//! *Used by* `cli`, and by `cache`, whose evictor keeps the limit.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use super::layout::StoreLayout;
use super::merge::CopyError;
use super::milestone::{Milestone, MilestoneKind};
use super::open::Store;
use super::pack::{Pack, PackForm};
use super::pack_limits::count_to_merge;
use super::reach::{Reachable, reachable};
use super::refs::RefError;
use super::source::ReadError;
use super::write::{StoreWriter, WriteError};
use crate::disk::{self, Lock, LockError, Wait};
use crate::model::{Commit, CommitId, ImageId, ObjectId};

/// Why garbage was not collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GcError {
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
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// The proof that no other process writes or relies on unreferenced objects. Only its methods remove things.
pub(crate) struct Gc {
    pub(super) writer: StoreWriter,
}

/// The things that a collection removes.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct GcPlan {
    /// Commits to which no root leads.
    pub(crate) commits: Vec<CommitId>,
    /// Images that no remaining commit has.
    pub(crate) images: Vec<ImageId>,
    /// Object files that no remaining image has, with their sizes.
    pub(crate) objects: Vec<(ObjectId, u64)>,
    /// Packs to remove or rewrite.
    pub(crate) packs: Vec<PackPlan>,
    /// Files that belong to removed commits, images and objects, relative to the repository: signatures, markers, partial
    /// files.
    pub(crate) companions: Vec<PathBuf>,
    /// Bytes that become free.
    pub(crate) bytes: u64,
    /// Number of commits that stay; `None` when they were not counted, because nothing can be garbage.
    pub(crate) kept_commits: Option<usize>,
    /// Number of objects that stay; `None` when they were not counted.
    pub(crate) kept_objects: Option<usize>,
    /// Number of commits whose images are not in the repository, so that their objects are not known. As long as there are any,
    /// no object is removed.
    pub(crate) unread_commits: usize,
    /// The objects that stay; `None` for all.
    #[serde(skip)]
    needed: Option<HashSet<ObjectId>>,
    /// The milestone to save after this collection, if it leaves no garbage.
    #[serde(skip)]
    milestone: Option<Milestone>,
}

/// The plan for one pack.
#[derive(Debug, serde::Serialize)]
pub(crate) struct PackPlan {
    /// The name of the pack.
    pub(crate) name: String,
    /// Number of objects that are copied to a new pack.
    pub(crate) keep: usize,
    /// Number of objects that are removed.
    pub(crate) remove: usize,
}

impl PackPlan {
    /// Returns whether the pack has the former form, and all its objects are copied.
    fn is_former_as_it_is(&self) -> bool {
        self.keep > 0 && self.remove == 0 && PackForm::of_name(&self.name) == Some(PackForm::Former)
    }
}

/// The result of a collection.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct GcReport {
    /// Bytes that became free.
    pub(crate) bytes: u64,
    /// Number of files that were removed.
    pub(crate) files: usize,
}

impl Store {
    /// Takes both locks for a collection. `wait` says what to do while writers and long readers hold them.
    pub(crate) fn collector(&self, wait: impl Fn() -> Wait<'static>) -> Result<Gc, GcError> {
        let writer = Lock::exclusive(&self.layout().writer_lock(), wait())?;
        let removal = Lock::exclusive(&self.layout().removal_lock(), wait())?;
        Ok(Gc { writer: StoreWriter::new(self, writer, removal)? })
    }
}

impl Gc {
    /// Finds everything that no root needs. `depth` bounds how many ancestors of each ref stay; `None` keeps all.
    ///
    /// # Errors
    /// [`GcError`]; also when any root cannot be followed.
    pub(crate) fn plan(&self, depth: Option<u64>) -> Result<GcPlan, GcError> {
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
        self.plan_former_packs(&mut plan)?;
        plan_companions(layout, &needed, &mut plan)?;
        plan_partial(store, &needed, &mut plan)?;
        plan.needed = Some(needed.objects);
        Ok(plan)
    }

    /// Returns a plan that only merges packs, if nothing can have become garbage since the last collection: refs and mounts
    /// still lead to all its commits, and a ref names everything that was added. Returns `None` if that cannot be proved, or if
    /// there are lazy commits or partial files.
    pub(crate) fn plan_since_last(&self) -> Result<Option<GcPlan>, GcError> {
        let (store, began) = (self.writer.store(), SystemTime::now());
        let layout = store.layout();
        let Some(last) = store.milestone(MilestoneKind::Collected) else { return Ok(None) };
        let is_quiet = !layout.garbage_mark().exists()
            && !store.has_lazy_commits()
            && store.partial_files().is_ok_and(|files| files.is_empty());
        let roots: BTreeSet<CommitId> = self.ref_tips()?.into_iter().chain(store.mount_roots()?).collect();
        let Ok(history) = last.new_history(store, roots.iter().copied()) else { return Ok(None) };
        if !is_quiet || history.reached != *last.tips() {
            return Ok(None);
        }
        let mut plan = GcPlan { milestone: Some(Milestone::new(began, roots)), ..GcPlan::default() };
        for pack in self.packs_to_merge()? {
            plan.packs.push(PackPlan { name: pack.name.to_string(), keep: pack.len(), remove: 0 });
        }
        self.plan_former_packs(&mut plan)?;
        Ok(Some(plan))
    }

    fn ref_tips(&self) -> Result<Vec<CommitId>, GcError> {
        Ok(self.writer.store().refs()?.into_iter().map(|(_, id)| id).collect())
    }

    /// Returns every pack of the repository, largest first.
    pub(super) fn packs(&self) -> Result<Vec<Arc<Pack>>, GcError> {
        let store = self.writer.store();
        let failed = |source| GcError::Io { action: "read", path: store.layout().packs(), source };
        store.packs().all(&store.inner.files).map_err(failed)
    }

    fn plan_packs(&self, needed: &Reachable, plan: &mut GcPlan) -> Result<(), GcError> {
        let keeps_former = self.writer.store().must_keep_former_packs();
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
            let is_kept = keeps_former && pack.form == PackForm::Former;
            let mostly_garbage = keep == 0 || (garbage * 2 > pack.size() && !is_kept);
            if mostly_garbage || merged.contains(&pack.name) {
                plan.bytes += garbage;
                plan.packs.push(PackPlan { name: pack.name.to_string(), keep, remove });
            }
        }
        Ok(())
    }

    /// Adds the packs of the former form that are rewritten as they are.
    fn plan_former_packs(&self, plan: &mut GcPlan) -> Result<(), GcError> {
        let store = self.writer.store();
        let failed = |source| GcError::Io { action: "read", path: store.layout().packs(), source };
        for pack in store.former_packs_to_rewrite().map_err(failed)? {
            if !plan.packs.iter().any(|planned| planned.name == *pack.name) {
                plan.packs.push(PackPlan { name: pack.name.to_string(), keep: pack.len(), remove: 0 });
            }
        }
        Ok(())
    }

    /// Returns the packs that are small enough to be merged. A repository whose commits were made by this program has none.
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
    pub(crate) fn apply(&self, plan: &GcPlan) -> Result<GcReport, GcError> {
        let store = self.writer.store();
        let layout = store.layout();
        // A commit that is removed and added again later may lack something that the last check had verified.
        if store
            .milestone(MilestoneKind::Checked)
            .is_some_and(|last| plan.commits.iter().any(|id| last.tips().contains(id)))
        {
            store.remove_milestone(MilestoneKind::Checked);
        }
        store.remove_milestone(MilestoneKind::Collected);
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
        store.remove_empty_partial();
        remove_files(plan.objects.iter().map(|(id, _)| layout.object(*id)), &layout.objects())?;
        let names: Vec<&str> =
            plan.packs.iter().filter(|pack| !pack.is_former_as_it_is()).map(|pack| pack.name.as_str()).collect();
        let is_needed = |id: &ObjectId| plan.needed.as_ref().is_none_or(|needed| needed.contains(id));
        self.rewrite_packs(&names, PackForm::Current, &is_needed)?;
        self.writer.rewrite_former_packs()?;
        if let Some(milestone) = &plan.milestone {
            self.writer.garbage.clear();
            store.save_milestone(MilestoneKind::Collected, milestone);
        }
        let files = plan.commits.len() + plan.images.len() + plan.objects.len() + plan.packs.len();
        let files = files + plan.companions.len();
        Ok(GcReport { bytes: plan.bytes, files })
    }

    /// Copies the objects for which `keep` holds from the named packs to new ones of the given form, and removes the old packs.
    /// A running mount finds the objects in the new packs.
    pub(super) fn rewrite_packs(
        &self,
        names: &[&str],
        form: PackForm,
        keep: &dyn Fn(&ObjectId) -> bool,
    ) -> Result<(), GcError> {
        let store = self.writer.store();
        self.writer.set_pack_form(form);
        let mut packs = self.packs()?;
        packs.retain(|pack| names.contains(&&*pack.name));
        for pack in &packs {
            self.writer.copy_pack(pack, keep).map_err(|error| match error {
                CopyError::Read(source) => pack_error("rewrite", pack, source),
                CopyError::Write(error) => error.into(),
            })?;
        }
        // A pack that was rewritten to the same objects in the same order has the same name again.
        let kept = self.writer.flush_without_merging()?.unwrap_or_default();
        self.writer.set_pack_form(PackForm::Current);
        let directory = store.layout().packs();
        let old: Vec<&Arc<Pack>> = packs.iter().filter(|pack| !kept.contains(&*pack.name)).collect();
        remove_files(old.iter().map(|pack| directory.join(&*pack.name)), &directory)?;
        old.iter().for_each(|pack| store.remove_use_times(&pack.name));
        store.reload_packs().map_err(|source| GcError::Io { action: "read", path: directory, source })?;
        self.writer.refresh_pack_index();
        Ok(())
    }
}

/// Finds the files that belong to removed commits, images and objects, and those that an interrupted removal left.
fn plan_companions(layout: &StoreLayout, needed: &Reachable, plan: &mut GcPlan) -> Result<(), GcError> {
    for directory in [layout.signatures(), layout.lazy()] {
        for (id, size) in named_files::<CommitId>(&directory)? {
            if !needed.commits.contains_key(&id) {
                plan.companions.push(relative(layout, &directory).join(id.to_string()));
                plan.bytes += size;
            }
        }
    }
    Ok(())
}

/// Finds what was fetched in parts for commits that are removed or complete, and what earlier versions left.
fn plan_partial(store: &Store, needed: &Reachable, plan: &mut GcPlan) -> Result<(), GcError> {
    let layout = store.layout();
    let failed = |source| GcError::Io { action: "list", path: layout.partial(), source };
    let is_needed = |commit| needed.commits.contains_key(&commit) && store.is_lazy(commit);
    for (commit, path) in store.partial_files().map_err(failed)? {
        if !commit.is_some_and(is_needed) {
            plan.bytes += fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            plan.companions.push(relative(layout, &path));
        }
    }
    Ok(())
}

fn relative(layout: &StoreLayout, path: &Path) -> PathBuf {
    path.strip_prefix(layout.root()).unwrap_or(path).to_owned()
}

fn pack_error(action: &'static str, pack: &Pack, source: io::Error) -> GcError {
    GcError::Io { action, path: Path::new(StoreLayout::PACKS).join(&*pack.name), source }
}

/// Removes files, durably. A missing file is no error.
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

/// Returns the files of a directory whose names are ids, with their sizes.
fn named_files<T: FromStr>(directory: &Path) -> Result<Vec<(T, u64)>, GcError> {
    Ok(files(directory)?.into_iter().filter_map(|(name, size)| Some((name.parse().ok()?, size))).collect())
}

/// Returns the files of a directory with their sizes; none when the directory does not exist, since some are only made when
/// needed.
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

/// Returns every object that has a file of its own, with its size.
pub(super) fn object_files(layout: &StoreLayout) -> Result<Vec<(ObjectId, u64)>, GcError> {
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
