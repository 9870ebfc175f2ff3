//! Purpose: checks what has changed since the last check that found no damage.
//!
//! Looked at: commits that are new, with their images and those of their objects that the commits before do not have; packs
//! and the index of packs, wholly, if they have changed; the files of what refs name now, if those have changed. Not looked at: the
//! history that was found sound. Invariants: it says that all is well or nothing: whatever is not as it was remembered is for
//! `fsck`, which reads everything and names what suffers. Used by: `fsck`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::layout::Layout;
use super::milestone::{Milestone, NewHistory};
use super::open::Store;
use super::pack_set::PackSet;
use crate::image::Image;
use crate::model::{CommitId, ImageId, ObjectId};

/// Bytes read and hashed at a time.
const CHUNK: usize = 256 << 10;

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Rechecked {
    pub refs: usize,
    pub tips: BTreeSet<CommitId>,
    pub commits: usize,
    pub images: usize,
    pub objects: usize,
    pub bytes: u64,
}

/// Something is not as it was remembered, or cannot be looked at.
struct Doubt;

impl<E: std::error::Error> From<E> for Doubt {
    fn from(_: E) -> Self {
        Self
    }
}

/// Returns what was looked at if all of it is sound.
pub(super) fn recheck(store: &Store, since: &Milestone) -> Option<Rechecked> {
    let recheck = Recheck { store, since, packs: store.packs(), changed: HashSet::new(), found: Rechecked::default() };
    recheck.run().ok()
}

struct Recheck<'a> {
    store: &'a Store,
    since: &'a Milestone,
    packs: Arc<PackSet>,
    /// Packs that have changed; all in them was hashed.
    changed: HashSet<Arc<str>>,
    found: Rechecked,
}

impl Recheck<'_> {
    fn run(mut self) -> Result<Rechecked, Doubt> {
        let refs = self.store.refs()?;
        self.found.refs = refs.len();
        self.found.tips = refs.into_iter().map(|(_, id)| id).collect();
        let history = self.since.new_history(self.store, self.found.tips.iter().copied())?;
        let looked_at = history.commits.keys().chain(&history.reached);
        if looked_at.chain(&self.found.tips).any(|id| self.store.is_lazy(*id)) {
            return Err(Doubt);
        }
        self.check_packs()?;
        let images = self.check_images(&history)?;
        self.check_new_objects(&history, &images)?;
        self.check_files_of_tips(&images)?;
        Ok(self.found)
    }

    fn check_packs(&mut self) -> Result<(), Doubt> {
        let files = &self.store.inner.files;
        let packs = self.packs.all(files)?;
        if packs.len() != self.packs.names().count() {
            return Err(Doubt);
        }
        for pack in packs {
            if !self.since.has_changed(self.store, &Path::new(Layout::PACKS).join(&*pack.name))? {
                continue;
            }
            let (found, mut sound) = (&mut self.found, pack.index_is_intact());
            pack.read_all(files, |id, bytes| {
                sound &= bytes.is_some_and(|bytes| ObjectId::of(bytes) == id);
                found.objects += 1;
                found.bytes += bytes.map_or(0, |bytes| bytes.len() as u64);
                Ok::<(), std::io::Error>(())
            })?;
            if !sound {
                return Err(Doubt);
            }
            self.changed.insert(Arc::clone(&pack.name));
        }
        let has_index = self.store.layout().pack_index().exists();
        let is_new = has_index && self.since.has_changed(self.store, Path::new(Layout::PACK_INDEX))?;
        if is_new && self.packs.has_damaged_index() { Err(Doubt) } else { Ok(()) }
    }

    /// The images of new commits, of those before them, and of what refs name, each verified if it is new or has changed.
    fn check_images(&mut self, history: &NewHistory) -> Result<BTreeMap<ImageId, Image>, Doubt> {
        let mut images = BTreeMap::new();
        let ids: BTreeSet<CommitId> = history.commits.keys().chain(&history.reached).copied().collect();
        for id in ids {
            let commit = self.store.commit(id)?;
            self.found.commits += 1;
            if images.contains_key(&commit.image) {
                continue;
            }
            let image = self.store.image(commit.image)?;
            if self.since.has_changed(self.store, &Layout::image_relative(commit.image))? {
                image.verify()?;
                self.found.images += 1;
            } else if history.commits.contains_key(&id) {
                image.verify()?;
            }
            images.insert(commit.image, image);
        }
        Ok(images)
    }

    /// Hashes the objects of new commits that the commits before them do not have.
    fn check_new_objects(&mut self, history: &NewHistory, images: &BTreeMap<ImageId, Image>) -> Result<(), Doubt> {
        let mut known = HashSet::new();
        for id in &history.reached {
            let image = images.get(&self.store.commit(*id)?.image).ok_or(Doubt)?;
            known.extend(image.objects()?);
        }
        let mut buffer = vec![0; CHUNK];
        for commit in history.commits.values() {
            let image = images.get(&commit.image).ok_or(Doubt)?;
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

    /// Finds what refs name now, and hashes what has changed of it.
    fn check_files_of_tips(&mut self, images: &BTreeMap<ImageId, Image>) -> Result<(), Doubt> {
        let (mut seen, mut buffer) = (HashSet::new(), vec![0; CHUNK]);
        for tip in self.found.tips.clone() {
            let image = images.get(&self.store.commit(tip)?.image).ok_or(Doubt)?;
            for object in image.objects_with_sizes()? {
                let (id, size) = object?;
                if !seen.insert(id) {
                    continue;
                }
                if let Some((_, slot)) = self.packs.find(&self.store.inner.files, &id)? {
                    if u64::from(slot.length) != size {
                        return Err(Doubt);
                    }
                } else if self.since.has_changed(self.store, &Layout::object_relative(id))? {
                    self.hash(id, size, &mut buffer)?;
                }
            }
        }
        Ok(())
    }

    fn hash(&mut self, id: ObjectId, size: u64, buffer: &mut [u8]) -> Result<(), Doubt> {
        self.found.objects += 1;
        self.found.bytes += size;
        if self.store.problem_with(id, size, buffer).is_some() { Err(Doubt) } else { Ok(()) }
    }
}
