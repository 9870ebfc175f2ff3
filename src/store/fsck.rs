//! Checks a repository: reads and hashes every ref, commit, image and object that refs lead to, objects on all processors.
//!
//! A finding names the damaged thing, the problem, and the paths and commits that are affected. Things that passed an earlier
//! check and have not changed since need not be read again (`recheck`).
//!
//! *Not here*: removing damaged things (`drop_damaged`).
//!
//! *Used by* `cli`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::gc::GcError;
use super::layout::StoreLayout;
use super::milestone::{Milestone, MilestoneKind};
use super::open::Store;
use super::read::LocalObject;
use super::recheck::recheck;
use super::refs::RefError;
use super::source::ReadError;
use crate::disk::read_from;
use crate::error::chain;
use crate::image::{Image, ImageError};
use crate::model::{Commit, CommitId, FileKind, ImageId, ImagePath, ObjectId, RefName};

/// A finding lists at most this many paths; further ones are only counted.
const PATHS_LISTED: usize = 20;

/// Bytes read and hashed at a time.
const CHUNK: usize = 256 << 10;

/// A damaged thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "id")]
pub(crate) enum Damaged {
    /// A ref that holds no commit id or cannot be read.
    Ref(RefName),
    /// A commit record.
    Commit(CommitId),
    Image(ImageId),
    /// The content of files.
    Object(ObjectId),
    /// The magic or the index of a pack.
    Pack(String),
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ref(name) => write!(f, "ref {name}"),
            Self::Commit(id) => write!(f, "commit {id}"),
            Self::Image(id) => write!(f, "image {id}"),
            Self::Object(id) => write!(f, "object {id}"),
            Self::Pack(name) => write!(f, "pack {name}"),
        }
    }
}

/// One finding.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Damage {
    /// The damaged thing.
    pub(crate) what: Damaged,
    pub(crate) problem: String,
    /// Some of the paths that have the damaged content, each with a commit that has the path.
    pub(crate) paths: Vec<(CommitId, String)>,
    /// The number of all such paths.
    pub(crate) path_count: usize,
    /// The commits that are incomplete because of the damage.
    pub(crate) commits: BTreeSet<CommitId>,
}

/// The part of a repository that a check reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scope {
    /// What has changed since the last check that found no damage; everything if there was no such check, or if anything is
    /// damaged.
    #[default]
    Changed,
    /// Everything that refs lead to.
    All,
}

/// The result of a check.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct FsckReport {
    /// Number of refs that were checked.
    pub(crate) refs: usize,
    /// Number of commits that were checked.
    pub(crate) commits: usize,
    /// Number of images that were checked.
    pub(crate) images: usize,
    /// Number of objects that were checked.
    pub(crate) objects: usize,
    /// Bytes of objects that were hashed.
    pub(crate) bytes: u64,
    /// Number of lazy commits.
    pub(crate) lazy_commits: usize,
    /// Number of images of lazy commits that are not complete in the repository.
    pub(crate) absent_images: usize,
    /// Number of objects of lazy commits that are not in the repository.
    pub(crate) absent_objects: usize,
    /// Bytes of the absent objects.
    pub(crate) absent_bytes: u64,
    /// The start, in seconds since 1970, of the earlier check on which this one relied; `None` if everything was read.
    pub(crate) relied_on_check_at: Option<i64>,
    /// The findings; empty if nothing is damaged.
    pub(crate) damage: Vec<Damage>,
}

/// Why a check or a repair could not be completed.
pub(crate) type FsckError = GcError;

/// A check in progress.
pub(crate) struct Fsck<'a> {
    store: &'a Store,
    report: FsckReport,
    found: BTreeMap<Damaged, Damage>,
    /// The commits that refs name.
    tips: BTreeSet<CommitId>,
    commits: BTreeMap<CommitId, Commit>,
    images: BTreeMap<ImageId, Image>,
    /// The images of commits that are not lazy, which must be in the repository.
    required_images: BTreeSet<ImageId>,
}

/// An object that is to be hashed.
struct ObjectToCheck {
    id: ObjectId,
    size: u64,
    may_be_absent: bool,
}

impl<'a> Fsck<'a> {
    /// Checks everything that the refs of `store` lead to. Calls `progress` after each object, from several threads, with the
    /// number of objects done and the number of all objects.
    ///
    /// # Errors
    /// [`FsckError`] when the repository cannot be listed. Damage is not an error but part of the report.
    pub(crate) fn run(
        store: &'a Store,
        scope: Scope,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<FsckReport, FsckError> {
        let began = SystemTime::now();
        let last = store.milestone(MilestoneKind::Checked).filter(|_| scope == Scope::Changed);
        if let Some((last, found)) = last.and_then(|last| recheck(store, &last).map(|found| (last, found))) {
            store.save_milestone(MilestoneKind::Checked, &Milestone::new(began, found.tips));
            return Ok(FsckReport {
                refs: found.refs,
                commits: found.commits,
                images: found.images,
                objects: found.objects,
                bytes: found.bytes,
                relied_on_check_at: Some(last.seconds()),
                ..FsckReport::default()
            });
        }
        let (report, tips) = Self::check_all(store, progress)?;
        if report.damage.is_empty() && report.lazy_commits == 0 {
            store.save_milestone(MilestoneKind::Checked, &Milestone::new(began, tips));
        } else {
            store.remove_milestone(MilestoneKind::Checked);
        }
        Ok(report)
    }

    /// Checks everything. Also returns the commits that the refs named.
    fn check_all(
        store: &'a Store,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(FsckReport, BTreeSet<CommitId>), FsckError> {
        let mut fsck = Self {
            store,
            report: FsckReport::default(),
            found: BTreeMap::new(),
            tips: BTreeSet::new(),
            commits: BTreeMap::new(),
            images: BTreeMap::new(),
            required_images: BTreeSet::new(),
        };
        fsck.check_packs()?;
        fsck.check_refs()?;
        fsck.check_images();
        let bad = fsck.check_objects(progress)?;
        fsck.add_paths(&bad);
        fsck.report.damage = fsck.found.into_values().collect();
        Ok((fsck.report, fsck.tips))
    }

    fn add(&mut self, what: Damaged, problem: String) -> &mut Damage {
        self.found.entry(what.clone()).or_insert(Damage {
            what,
            problem,
            paths: Vec::new(),
            path_count: 0,
            commits: BTreeSet::new(),
        })
    }

    fn check_packs(&mut self) -> Result<(), FsckError> {
        let (packs, files) = (self.store.packs(), &self.store.inner.files);
        let failed = |source| FsckError::Io { action: "read", path: self.store.layout().packs(), source };
        for pack in packs.all(files).map_err(failed)? {
            if let Some(problem) = pack.problem() {
                self.add(Damaged::Pack(pack.name.to_string()), problem.into());
            }
        }
        if packs.has_damaged_index() {
            self.add(
                Damaged::Pack(StoreLayout::PACK_INDEX_NAME.into()),
                "its bytes are not those that were written".into(),
            );
        }
        Ok(())
    }

    fn check_refs(&mut self) -> Result<(), FsckError> {
        for name in self.store.ref_names()? {
            self.report.refs += 1;
            match self.store.read_ref(&name) {
                Ok(Some(id)) => {
                    self.tips.insert(id);
                    self.check_history(id);
                }
                // The ref was deleted since it was listed.
                Ok(None) => {}
                Err(error @ RefError::Damaged { .. }) => {
                    self.add(Damaged::Ref(name), error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn check_history(&mut self, tip: CommitId) {
        let mut next = Some(tip);
        while let Some(id) = next {
            if self.commits.contains_key(&id) {
                return;
            }
            match self.store.commit(id) {
                Ok(commit) => {
                    next = commit.parent;
                    self.commits.insert(id, commit);
                }
                // The history may end below a tip.
                Err(ReadError::MissingCommit { .. }) if id != tip => return,
                Err(error) => {
                    self.add(Damaged::Commit(id), chain(&error)).commits.insert(id);
                    return;
                }
            }
        }
    }

    fn check_images(&mut self) {
        self.report.commits = self.commits.len();
        let wanted: Vec<(CommitId, ImageId)> = self.commits.iter().map(|(id, commit)| (*id, commit.image)).collect();
        let complete = wanted.iter().filter(|(id, _)| !self.store.is_lazy(*id));
        self.required_images = complete.map(|(_, image)| *image).collect();
        self.report.lazy_commits = wanted.iter().filter(|(id, _)| self.store.is_lazy(*id)).count();
        let mut absent = BTreeSet::new();
        for (commit, id) in wanted {
            if self.images.contains_key(&id) || absent.contains(&id) {
                continue;
            }
            let checked = self
                .store
                .image(id)
                .and_then(|image| image.verify().map(|()| image).map_err(|source| ReadError::Image { id, source }));
            match checked {
                Ok(image) => {
                    self.images.insert(id, image);
                }
                Err(ReadError::MissingImage { .. }) if !self.required_images.contains(&id) => {
                    absent.insert(id);
                }
                Err(error) => {
                    self.add(Damaged::Image(id), chain(&error)).commits.insert(commit);
                }
            }
        }
        let damaged = self.found.keys().filter(|what| matches!(what, Damaged::Image(_))).count();
        self.report.images = self.images.len() + damaged;
        self.report.absent_images = absent.len();
    }

    /// Returns every object of every image once, and what else is stored if an image is absent. An object that only lazy commits
    /// have may be absent.
    fn objects_to_check(&self) -> Result<Vec<ObjectToCheck>, FsckError> {
        let mut objects = BTreeMap::new();
        for (id, image) in &self.images {
            let is_lazy = !self.required_images.contains(id);
            // Errors are ignored, since verify() has read the same tables.
            for (object, size) in image.objects_with_sizes().into_iter().flatten().flatten() {
                let (_, may_be_absent) = objects.entry(object).or_insert((size, is_lazy));
                *may_be_absent &= is_lazy;
            }
        }
        // The images of these lazy commits, which would name their objects, are not here.
        if self.report.absent_images > 0 {
            for (id, size) in self.store.stored_objects()? {
                objects.entry(id).or_insert((size, true));
            }
        }
        let check = |(id, (size, may_be_absent))| ObjectToCheck { id, size, may_be_absent };
        Ok(objects.into_iter().map(check).collect())
    }

    /// Hashes every object once and returns the bad ones.
    fn check_objects(&mut self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<HashSet<ObjectId>, FsckError> {
        let mut objects = self.objects_to_check()?;
        objects.retain(|object| {
            let is_absent = object.may_be_absent && !self.store.has_object(object.id);
            if is_absent {
                self.report.absent_objects += 1;
                self.report.absent_bytes += object.size;
            }
            !is_absent
        });
        self.report.objects = objects.len();
        self.report.bytes = objects.iter().map(|object| object.size).sum();
        let (next, done, bad) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(HashMap::new()));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut buffer = vec![0; CHUNK];
                    while let Some(ObjectToCheck { id, size, .. }) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(problem) = self.store.problem_with(*id, *size, &mut buffer) {
                            bad.lock().insert(*id, problem);
                        }
                        progress(done.fetch_add(1, Ordering::Relaxed) + 1, objects.len());
                    }
                });
            }
        });
        let bad = bad.into_inner();
        let ids = bad.keys().copied().collect();
        for (id, problem) in bad {
            self.add(Damaged::Object(id), problem);
        }
        Ok(ids)
    }

    /// Adds to the findings the paths that have damaged objects, commit by commit.
    fn add_paths(&mut self, bad: &HashSet<ObjectId>) {
        if bad.is_empty() {
            return;
        }
        for (commit, record) in &self.commits {
            let Some(image) = self.images.get(&record.image) else { continue };
            let add_path = &mut |path: &ImagePath, object: ObjectId| {
                if let Some(damage) = self.found.get_mut(&Damaged::Object(object)) {
                    damage.commits.insert(*commit);
                    damage.path_count += 1;
                    if damage.paths.len() < PATHS_LISTED {
                        damage.paths.push((*commit, path.to_string()));
                    }
                }
            };
            let walked = image.walk(image.root(), &mut |path, ino, kind| {
                if kind == FileKind::Regular
                    && let Some(object) = image.object(ino)?.filter(|object| bad.contains(object))
                {
                    add_path(path, object);
                }
                Ok::<(), ImageError>(())
            });
            // A walk over a verified image does not fail.
            if let Err(error) = walked {
                tracing::error!(image = %record.image, %error, "a verified image could not be walked");
            }
        }
    }
}

impl Store {
    /// Returns what is wrong with an object; `None` if it is intact.
    pub(super) fn problem_with(&self, id: ObjectId, size: u64, buffer: &mut [u8]) -> Option<String> {
        match self.digest_of(id, buffer) {
            Ok((found, length)) if found == id && length == size => None,
            Ok((found, length)) if found != id => Some(format!("its {length} bytes have the digest {found}")),
            Ok((_, length)) => Some(format!("it has {length} bytes where an image says {size}")),
            Err(error) => Some(chain(&error)),
        }
    }

    /// Returns whether the bytes of an object have the digest of its name.
    pub(super) fn has_digest(&self, id: ObjectId) -> Result<bool, ReadError> {
        Ok(self.digest_of(id, &mut vec![0; CHUNK])?.0 == id)
    }

    fn digest_of(&self, id: ObjectId, buffer: &mut [u8]) -> Result<(ObjectId, u64), ReadError> {
        let (file, start, limit) = match self.locate(id)? {
            LocalObject::Packed { file, slot, .. } => (file, slot.offset, u64::from(slot.length)),
            LocalObject::File(file) => (file, 0, u64::MAX),
        };
        let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
        let mut length = 0_u64;
        while length < limit {
            let wanted = usize::try_from(limit - length).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = read_from(&file, start + length, &mut buffer[..wanted])
                .map_err(|source| ReadError::Object { id, source })?;
            if read == 0 {
                break;
            }
            sha2::Digest::update(&mut hasher, &buffer[..read]);
            length += read as u64;
        }
        Ok((ObjectId::from_bytes(sha2::Digest::finalize(hasher).into()), length))
    }
}
