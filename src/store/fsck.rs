//! Checking a repository, and dropping what is damaged so that it can be fetched or committed again.
//!
//! Every ref, commit, image and object that refs lead to is read and hashed, objects on all processors. A finding names
//! the thing, what is wrong with it, and the paths and commits that suffer. What was found sound before and has not changed
//! since need not be read again (`recheck`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::gc::GcError;
use super::layout::Layout;
use super::milestone::{Memory, Milestone};
use super::open::Store;
use super::read::Place;
use super::recheck::recheck;
use super::refs::RefError;
use super::source::ReadError;
use crate::disk::read_from;
use crate::image::{Image, ImageError};
use crate::model::{Commit, CommitId, FileKind, ImageId, ImagePath, ObjectId, RefName};

/// A finding lists at most this many paths; more are counted.
const PATHS_LISTED: usize = 20;

/// Bytes read and hashed at a time.
const CHUNK: usize = 256 << 10;

/// What is damaged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "id")]
pub enum Damaged {
    /// A ref holds no commit id or cannot be read.
    Ref(RefName),
    /// A commit record.
    Commit(CommitId),
    /// An image.
    Image(ImageId),
    /// The content of files.
    Object(ObjectId),
    /// The index of a pack.
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
pub struct Damage {
    /// The thing.
    pub what: Damaged,
    /// What is wrong with it.
    pub problem: String,
    /// Some of the paths whose content it is, each with a commit that has it.
    pub paths: Vec<(CommitId, String)>,
    /// How many paths there are in all.
    pub path_count: usize,
    /// The commits that cannot be used wholly because of it.
    pub commits: BTreeSet<CommitId>,
}

/// What a check reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// What has changed since the last check that found no damage; all if there was none, or if anything is damaged.
    #[default]
    Changed,
    /// Everything that refs lead to.
    All,
}

/// The result of a check.
#[derive(Debug, Default, serde::Serialize)]
pub struct FsckReport {
    /// Refs looked at.
    pub refs: usize,
    /// Commits looked at.
    pub commits: usize,
    /// Images looked at.
    pub images: usize,
    /// Objects looked at.
    pub objects: usize,
    /// Bytes of objects hashed.
    pub bytes: u64,
    /// Commits that are here lazily.
    pub lazy_commits: usize,
    /// Images of lazy commits that are not here as a whole yet.
    pub absent_images: usize,
    /// Objects of lazy commits that are not here yet.
    pub absent_objects: usize,
    /// Bytes of those.
    pub absent_bytes: u64,
    /// When the check began, in seconds since 1970, whose findings were relied on; none if everything was read.
    pub relied_on_check_at: Option<i64>,
    /// What is wrong; empty for a sound repository.
    pub damage: Vec<Damage>,
}

/// Why a check could not be made or a repair not be finished.
pub type FsckError = GcError;

/// A check in progress.
pub struct Fsck<'a> {
    store: &'a Store,
    report: FsckReport,
    found: BTreeMap<Damaged, Damage>,
    /// What refs name.
    tips: BTreeSet<CommitId>,
    commits: BTreeMap<CommitId, Commit>,
    images: BTreeMap<ImageId, Image>,
    /// Images of commits that must be here as a whole.
    needed_whole: BTreeSet<ImageId>,
}

/// An object to look at.
struct Candidate {
    id: ObjectId,
    size: u64,
    may_be_absent: bool,
}

impl<'a> Fsck<'a> {
    /// Checks what the refs of `store` lead to. `progress` hears of every object done, from several threads: how
    /// many are done, of how many.
    ///
    /// # Errors
    /// [`FsckError`] when the repository cannot even be listed; damage is not an error but in the report.
    pub fn run(
        store: &'a Store,
        scope: Scope,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<FsckReport, FsckError> {
        let began = SystemTime::now();
        let last = store.milestone(Memory::Checked).filter(|_| scope == Scope::Changed);
        if let Some((last, found)) = last.and_then(|last| recheck(store, &last).map(|found| (last, found))) {
            store.remember(Memory::Checked, &Milestone::new(began, found.tips));
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
            store.remember(Memory::Checked, &Milestone::new(began, tips));
        } else {
            store.forget(Memory::Checked);
        }
        Ok(report)
    }

    /// Checks everything. Returns also which commits the refs named.
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
            needed_whole: BTreeSet::new(),
        };
        fsck.check_packs()?;
        fsck.check_refs()?;
        fsck.check_images();
        let bad = fsck.check_objects(progress);
        fsck.name_paths(&bad);
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
        for pack in packs.all(files).map_err(failed)?.iter().filter(|pack| !pack.index_is_intact()) {
            let problem = "its index does not have the digest it is named by";
            self.add(Damaged::Pack(pack.name.to_string()), problem.into());
        }
        if packs.has_damaged_index() {
            self.add(Damaged::Pack(Layout::PACK_INDEX_NAME.into()), "its bytes are not those that were written".into());
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
                // Deleted since it was listed.
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
                // History may be cut off below a tip.
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
        let whole = wanted.iter().filter(|(id, _)| !self.store.is_lazy(*id));
        self.needed_whole = whole.map(|(_, image)| *image).collect();
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
                Err(ReadError::MissingImage { .. }) if !self.needed_whole.contains(&id) => {
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

    /// Every object of every image once, those of lazy commits alone as such that may be absent.
    fn candidates(&self) -> Vec<Candidate> {
        let mut objects = BTreeMap::new();
        for (id, image) in &self.images {
            let is_lazy = !self.needed_whole.contains(id);
            // verify() has walked the same tables.
            for (object, size) in image.objects_with_sizes().into_iter().flatten().flatten() {
                let (_, may_be_absent) = objects.entry(object).or_insert((size, is_lazy));
                *may_be_absent &= is_lazy;
            }
        }
        objects.into_iter().map(|(id, (size, may_be_absent))| Candidate { id, size, may_be_absent }).collect()
    }

    /// Hashes every object once and returns the bad ones.
    fn check_objects(&mut self, progress: &(dyn Fn(usize, usize) + Sync)) -> HashSet<ObjectId> {
        let mut objects = self.candidates();
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
                    while let Some(Candidate { id, size, .. }) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
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
        ids
    }

    /// Finds the paths that have bad objects, commit by commit.
    fn name_paths(&mut self, bad: &HashSet<ObjectId>) {
        if bad.is_empty() {
            return;
        }
        for (commit, record) in &self.commits {
            let Some(image) = self.images.get(&record.image) else { continue };
            let visit = &mut |path: &ImagePath, object: ObjectId| {
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
                    visit(path, object);
                }
                Ok::<(), ImageError>(())
            });
            // A verified image can be walked to its end.
            if let Err(error) = walked {
                tracing::error!(image = %record.image, %error, "a verified image could not be walked");
            }
        }
    }
}

impl Store {
    /// What is wrong with an object, if anything.
    pub(super) fn problem_with(&self, id: ObjectId, size: u64, buffer: &mut [u8]) -> Option<String> {
        match self.digest_of(id, buffer) {
            Ok((found, length)) if found == id && length == size => None,
            Ok((found, length)) if found != id => Some(format!("its {length} bytes have the digest {found}")),
            Ok((_, length)) => Some(format!("it has {length} bytes where an image says {size}")),
            Err(error) => Some(chain(&error)),
        }
    }

    /// Whether the bytes of an object are those of its name.
    pub(super) fn has_digest(&self, id: ObjectId) -> Result<bool, ReadError> {
        Ok(self.digest_of(id, &mut vec![0; CHUNK])?.0 == id)
    }

    fn digest_of(&self, id: ObjectId, buffer: &mut [u8]) -> Result<(ObjectId, u64), ReadError> {
        let (file, start, limit) = match self.place(id)? {
            Place::Packed { file, slot, .. } => (file, slot.offset, u64::from(slot.length)),
            Place::File(file) => (file, 0, u64::MAX),
        };
        let mut hasher = <sha2::Sha256 as sha2::Digest>::new();
        let mut length = 0_u64;
        while length < limit {
            let room = usize::try_from(limit - length).map_or(buffer.len(), |room| room.min(buffer.len()));
            let read = read_from(&file, start + length, &mut buffer[..room])
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

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
