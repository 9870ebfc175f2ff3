//! Checks what has changed since the last check that found no damage.
//!
//! It reads new commits, with their images and those of their objects that earlier commits do not have; packs and the index of
//! packs if they have changed; and the files of the commits that refs name now, if these have changed. It does not read the
//! history that passed the last check.
//!
//! *Not here*: findings (`fsck`).
//!
//! *Invariants*: the result is either that everything is intact, or no result: anything unexpected is left to `fsck`, which
//! reads everything and names what is affected.
//!
//! *Used by* `store::fsck`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::layout::StoreLayout;
use super::milestone::{Milestone, NewHistory};
use super::open::Store;
use super::pack_set::PackSet;
use crate::image::Image;
use crate::model::{CommitId, ImageId, ObjectId};

/// Bytes read and hashed at a time.
const CHUNK: usize = 256 << 10;

/// The numbers of things that were checked.
#[derive(Debug, Default)]
pub(super) struct RecheckReport {
    pub(crate) refs: usize,
    pub(crate) tips: BTreeSet<CommitId>,
    pub(crate) commits: usize,
    pub(crate) images: usize,
    pub(crate) objects: usize,
    pub(crate) bytes: u64,
}

/// The error that something is not as the last check left it, or cannot be read, so that a full check is needed.
struct NeedsFullCheck;

impl<E: std::error::Error> From<E> for NeedsFullCheck {
    fn from(_: E) -> Self {
        Self
    }
}

/// Checks what has changed since the milestone `since`. Returns what was checked, or `None` if a full check is needed.
pub(super) fn recheck(store: &Store, since: &Milestone) -> Option<RecheckReport> {
    let recheck =
        Recheck { store, since, packs: store.packs(), changed: HashSet::new(), found: RecheckReport::default() };
    recheck.run().ok()
}

struct Recheck<'a> {
    store: &'a Store,
    since: &'a Milestone,
    packs: Arc<PackSet>,
    /// Packs that have changed; all their objects were hashed.
    changed: HashSet<Arc<str>>,
    found: RecheckReport,
}

impl Recheck<'_> {
    fn run(mut self) -> Result<RecheckReport, NeedsFullCheck> {
        let refs = self.store.refs()?;
        self.found.refs = refs.len();
        self.found.tips = refs.into_iter().map(|(_, id)| id).collect();
        let history = self.since.new_history(self.store, self.found.tips.iter().copied())?;
        let checked = history.commits.keys().chain(&history.reached);
        if checked.chain(&self.found.tips).any(|id| self.store.is_lazy(*id)) {
            return Err(NeedsFullCheck);
        }
        self.check_packs()?;
        let images = self.check_images(&history)?;
        self.check_new_objects(&history, &images)?;
        self.check_files_of_tips(&images)?;
        Ok(self.found)
    }

    fn check_packs(&mut self) -> Result<(), NeedsFullCheck> {
        let files = &self.store.inner.files;
        let packs = self.packs.all(files)?;
        if packs.len() != self.packs.names().count() {
            return Err(NeedsFullCheck);
        }
        for pack in packs {
            if !self.since.file_may_have_changed(self.store, &Path::new(StoreLayout::PACKS).join(&*pack.name))? {
                continue;
            }
            let (found, mut intact) = (&mut self.found, pack.problem().is_none());
            pack.read_all(files, |id, bytes| {
                intact &= bytes.is_some_and(|bytes| ObjectId::of(bytes) == id);
                found.objects += 1;
                found.bytes += bytes.map_or(0, |bytes| bytes.len() as u64);
                Ok::<(), std::io::Error>(())
            })?;
            if !intact {
                return Err(NeedsFullCheck);
            }
            self.changed.insert(Arc::clone(&pack.name));
        }
        let has_index = self.store.layout().pack_index().exists();
        let is_new = has_index && self.since.file_may_have_changed(self.store, Path::new(StoreLayout::PACK_INDEX))?;
        if is_new && self.packs.has_damaged_index() { Err(NeedsFullCheck) } else { Ok(()) }
    }

    /// Returns the images of new commits, of their last known ancestors, and of the commits that refs name. Each is verified if
    /// it is new or has changed.
    fn check_images(&mut self, history: &NewHistory) -> Result<BTreeMap<ImageId, Image>, NeedsFullCheck> {
        let mut images = BTreeMap::new();
        let ids: BTreeSet<CommitId> = history.commits.keys().chain(&history.reached).copied().collect();
        for id in ids {
            let commit = self.store.commit(id)?;
            self.found.commits += 1;
            if images.contains_key(&commit.image) {
                continue;
            }
            let image = self.store.image(commit.image)?;
            if self.since.file_may_have_changed(self.store, &StoreLayout::image_relative(commit.image))? {
                image.verify()?;
                self.found.images += 1;
            } else if history.commits.contains_key(&id) {
                image.verify()?;
            }
            images.insert(commit.image, image);
        }
        Ok(images)
    }

    /// Hashes the objects of new commits that their last known ancestors do not have.
    fn check_new_objects(
        &mut self,
        history: &NewHistory,
        images: &BTreeMap<ImageId, Image>,
    ) -> Result<(), NeedsFullCheck> {
        let mut known = HashSet::new();
        for id in &history.reached {
            let image = images.get(&self.store.commit(*id)?.image).ok_or(NeedsFullCheck)?;
            known.extend(image.objects()?);
        }
        let mut buffer = vec![0; CHUNK];
        for commit in history.commits.values() {
            let image = images.get(&commit.image).ok_or(NeedsFullCheck)?;
            for object in image.objects_with_sizes()? {
                let (id, size) = object?;
                if !known.insert(id) {
                    continue;
                }
                match self.packs.find(&self.store.inner.files, &id)? {
                    Some((pack, slot)) if self.changed.contains(&pack.name) && u64::from(slot.length) == size => {}
                    _ => self.hash(id, size, &mut buffer)?,
                }
            }
        }
        Ok(())
    }

    /// Locates the objects of the commits that refs name now, and hashes those whose files have changed.
    fn check_files_of_tips(&mut self, images: &BTreeMap<ImageId, Image>) -> Result<(), NeedsFullCheck> {
        let (mut seen, mut buffer) = (HashSet::new(), vec![0; CHUNK]);
        for tip in self.found.tips.clone() {
            let image = images.get(&self.store.commit(tip)?.image).ok_or(NeedsFullCheck)?;
            for object in image.objects_with_sizes()? {
                let (id, size) = object?;
                if !seen.insert(id) {
                    continue;
                }
                if let Some((_, slot)) = self.packs.find(&self.store.inner.files, &id)? {
                    if u64::from(slot.length) != size {
                        return Err(NeedsFullCheck);
                    }
                } else if self.since.file_may_have_changed(self.store, &StoreLayout::object_relative(id))? {
                    self.hash(id, size, &mut buffer)?;
                }
            }
        }
        Ok(())
    }

    fn hash(&mut self, id: ObjectId, size: u64, buffer: &mut [u8]) -> Result<(), NeedsFullCheck> {
        self.found.objects += 1;
        self.found.bytes += size;
        if self.store.problem_with(id, size, buffer).is_some() { Err(NeedsFullCheck) } else { Ok(()) }
    }
}
