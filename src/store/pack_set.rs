//! The packs of a repository at the time of their last listing, and whether the listing is still current.
//!
//! *Not here*: which packs are merged (`merge`), descriptors (`open_files`).
//!
//! *Invariants*: a pack is opened when an object is first searched in it, and holds a mapping and no descriptor. Packs are
//! added and removed while the set is in use: a removed pack is skipped, and its objects were in another pack before it was
//! removed.
//!
//! *Used by* `store::read` for look-ups, and by `store::merge`, `store::gc`, `store::evict` and `store::fsck` for all packs.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::layout::StoreLayout;
use super::open_files::{OpenFiles, is_resource_shortage};
use super::pack::{Pack, PackForm, PackSlot};
use super::pack_index::PackIndex;
use crate::model::ObjectId;

/// The granularity of filesystem clocks in nanoseconds. Most advance in steps of some milliseconds, some in steps of seconds. A
/// directory that was modified less than this ago may be modified again without a change of its time.
const CLOCK_GRANULARITY_NS: i128 = 2_000_000_000;

/// The longest step of a filesystem clock that counts fractions of a second, in nanoseconds: two ticks of a kernel with 100 in a
/// second. A listing that is closer to the modification may lack a pack that was added with the same time, so it is never
/// reused: an object in that pack would be missing.
const FINE_CLOCK_STEP_NS: i128 = 20_000_000;

/// The time after which such a directory is listed again, so that it is not listed for each object that is searched.
const RELIST_INTERVAL: Duration = Duration::from_millis(50);

/// All packs of a repository.
pub(super) struct PackSet {
    entries: Vec<ListedPack>,
    /// The entry with each name.
    by_name: HashMap<Arc<str>, usize>,
    index: Option<PackIndex>,
    /// The entry of each pack of the index, by its number there; `None` for a pack that does not exist any more.
    numbered: Vec<Option<usize>>,
    has_missing_pack: AtomicBool,
    listed: ListingState,
}

/// One pack.
struct ListedPack {
    name: Arc<str>,
    is_indexed: bool,
    /// The pack, opened when first needed; `None` inside for a pack that is removed or damaged.
    pack: OnceLock<Option<Arc<Pack>>>,
}

/// The state of the directory of packs when it was listed.
#[derive(Debug, Clone, Copy)]
struct ListingState {
    /// The modification time, in nanoseconds since 1970.
    modified_at: i128,
    /// Whether the modification was so recent that another one may have the same time.
    may_change_unseen: bool,
    /// Whether a pack may have been added after the listing with that same time.
    may_be_incomplete: bool,
    at: Instant,
}

impl PackSet {
    /// Lists the packs. Packs that are open in `previous` stay open.
    pub(super) fn load(files: &OpenFiles, previous: Option<&Self>) -> io::Result<Self> {
        let listed = ListingState::now(modified_at(files)?);
        let mut stream = rustix::fs::Dir::new(files.open_directory(StoreLayout::PACKS)?)?;
        let (mut names, mut has_index) = (Vec::new(), false);
        while let Some(entry) = stream.read() {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok(name) if PackForm::of_name(name).is_some() => names.push(Arc::<str>::from(name)),
                Ok(name) => has_index |= name == StoreLayout::PACK_INDEX_NAME,
                Err(_) => {}
            }
        }
        drop(stream);
        let index = if has_index { PackIndex::open(files)? } else { None };
        let by_name: HashMap<Arc<str>, usize> = names.iter().cloned().zip(0..).collect();
        // Packs of both forms with one digest have the same rows.
        let number = |digest| PackForm::names_of(digest).iter().find_map(|name| by_name.get(&**name).copied());
        let numbered: Vec<Option<usize>> = index.iter().flat_map(PackIndex::digests).map(number).collect();
        let mut entries: Vec<ListedPack> = names.iter().map(ListedPack::new).collect();
        numbered.iter().flatten().for_each(|&number| entries[number].is_indexed = true);
        for (old, pack) in previous.iter().flat_map(|set| &set.entries).filter_map(|old| Some((old, old.pack.get()?))) {
            if let (Some(&number), Some(_)) = (by_name.get(&old.name), pack) {
                entries[number].pack = OnceLock::from(pack.clone());
            }
        }
        Ok(Self { entries, by_name, index, numbered, has_missing_pack: AtomicBool::new(false), listed })
    }

    /// Returns whether no pack can have been added or removed since the listing.
    pub(super) fn is_current(&self, files: &OpenFiles) -> bool {
        modified_at(files).is_ok_and(|time| self.listed.is_current(time))
    }

    /// Returns whether a listed pack did not exist any more when it was opened, so that its objects are in other packs.
    pub(super) fn has_missing_pack(&self) -> bool {
        self.has_missing_pack.load(Ordering::Relaxed)
    }

    /// Returns the names of the listed packs.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().map(|entry| &entry.name)
    }

    /// Returns whether a pack of that name was listed.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Returns whether two listings have the same packs.
    pub(super) fn has_same_names(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len() && self.names().all(|name| other.has_name(name))
    }

    /// Returns the packs, largest first.
    pub(super) fn all(&self, files: &OpenFiles) -> io::Result<Vec<Arc<Pack>>> {
        self.open_matching(files, |_| true)
    }

    /// Returns the packs that are not in the index, largest first.
    pub(super) fn unindexed(&self, files: &OpenFiles) -> io::Result<Vec<Arc<Pack>>> {
        self.open_matching(files, |entry| !entry.is_indexed)
    }

    /// Returns the number of packs that the index lists, and how many of those do not exist any more.
    pub(super) fn indexed_and_missing(&self) -> (usize, usize) {
        (self.numbered.len(), self.numbered.iter().filter(|entry| entry.is_none()).count())
    }

    /// Returns whether there is an index, and its digest is wrong.
    pub(super) fn has_damaged_index(&self) -> bool {
        self.index.as_ref().is_some_and(|index| !index.is_intact())
    }

    /// Returns the number of packs that are open.
    #[cfg(test)]
    pub(super) fn opened_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.pack.get().is_some()).count()
    }

    fn open_matching(&self, files: &OpenFiles, wanted: impl Fn(&ListedPack) -> bool) -> io::Result<Vec<Arc<Pack>>> {
        let mut packs = Vec::new();
        for entry in self.entries.iter().filter(|entry| wanted(entry)) {
            packs.extend(self.open(files, entry)?.cloned());
        }
        packs.sort_by(|a, b| b.size().cmp(&a.size()).then_with(|| a.name.cmp(&b.name)));
        Ok(packs)
    }

    /// Opens a pack. Returns `None`, with a warning, for one that cannot be read: its objects then count as missing, and
    /// everything else still works. A lack of descriptors is not a reason to skip a pack but an error.
    fn open<'a>(&self, files: &OpenFiles, entry: &'a ListedPack) -> io::Result<Option<&'a Arc<Pack>>> {
        if let Some(pack) = entry.pack.get() {
            return Ok(pack.as_ref());
        }
        let opened = match Pack::open(files, &entry.name) {
            Ok(pack) => Some(Arc::new(pack)),
            Err(error) if is_resource_shortage(&error) => return Err(error),
            // The pack was merged or removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.has_missing_pack.store(true, Ordering::Relaxed);
                None
            }
            Err(error) => {
                tracing::warn!(pack = &*entry.name, %error, "a pack cannot be used; run 'sapwood fsck'");
                None
            }
        };
        Ok(entry.pack.get_or_init(|| opened).as_ref())
    }

    /// Returns the pack and the slot of `id`, if any pack has it.
    pub(super) fn find(&self, files: &OpenFiles, id: &ObjectId) -> io::Result<Option<(Arc<Pack>, PackSlot)>> {
        let found = self.search(files, id, |pack, row| pack.row(row).1)?;
        Ok(found.map(|(pack, slot)| (Arc::clone(pack), slot)))
    }

    /// Returns the pack and the row of `id`, if any pack has it.
    pub(super) fn find_row(&self, files: &OpenFiles, id: &ObjectId) -> io::Result<Option<(Arc<Pack>, usize)>> {
        let found = self.search(files, id, |_, row| Some(row))?;
        Ok(found.map(|(pack, row)| (Arc::clone(pack), row)))
    }

    /// Searches the packs for `id` and returns the first pack for whose row `what` returns a value, with the value.
    fn search<T>(
        &self,
        files: &OpenFiles,
        id: &ObjectId,
        what: impl Fn(&Pack, usize) -> Option<T>,
    ) -> io::Result<Option<(&Arc<Pack>, T)>> {
        for (number, row) in self.index.iter().flat_map(|index| index.candidates(id)) {
            let Some(entry) = self.numbered.get(number).copied().flatten() else { continue };
            let Some(pack) = self.open(files, &self.entries[entry])? else { continue };
            if row < pack.len()
                && pack.row(row).0 == *id
                && let Some(found) = what(pack, row)
            {
                return Ok(Some((pack, found)));
            }
        }
        for entry in self.entries.iter().filter(|entry| !entry.is_indexed) {
            let Some(pack) = self.open(files, entry)? else { continue };
            if let Some(found) = pack.find_row(id).and_then(|row| what(pack, row)) {
                return Ok(Some((pack, found)));
            }
        }
        Ok(None)
    }
}

impl ListedPack {
    fn new(name: &Arc<str>) -> Self {
        Self { name: Arc::clone(name), is_indexed: false, pack: OnceLock::new() }
    }
}

impl ListingState {
    /// Returns the state of a directory with the modification time `modified_at` that is listed now.
    fn now(modified_at: i128) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        Self::aged(modified_at, now - modified_at)
    }

    /// Returns the state of a directory that was modified at `modified_at`, `age` nanoseconds ago. A negative age means that the
    /// clock was set back since.
    fn aged(modified_at: i128, age: i128) -> Self {
        let is_fine = modified_at % 1_000_000_000 != 0;
        Self {
            modified_at,
            may_change_unseen: (0..=CLOCK_GRANULARITY_NS).contains(&age),
            may_be_incomplete: is_fine && (0..FINE_CLOCK_STEP_NS).contains(&age),
            at: Instant::now(),
        }
    }

    /// Returns whether the directory, whose modification time is `modified_at` now, cannot have been modified since the
    /// listing.
    fn is_current(self, modified_at: i128) -> bool {
        let is_reused = !self.may_be_incomplete && self.at.elapsed() < RELIST_INTERVAL;
        self.modified_at == modified_at && (!self.may_change_unseen || is_reused)
    }
}

/// Returns the modification time of the directory of packs, in nanoseconds since 1970.
fn modified_at(files: &OpenFiles) -> io::Result<i128> {
    let status = rustix::fs::statat(files.directory(), StoreLayout::PACKS, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(i128::from(status.st_mtime) * 1_000_000_000 + i128::from(status.st_mtime_nsec))
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;
    use crate::disk::Wait;
    use crate::store::{Config, Store};

    #[test]
    fn packs_are_listed_again_only_after_the_directory_changed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let packs = std::fs::File::open(directory.path().join(StoreLayout::PACKS)).expect("made");
        let long_ago = SystemTime::now() - Duration::from_secs(100);
        packs.set_modified(long_ago).expect("owned");
        assert!(store.reload_packs_if_changed(), "its time has changed");
        assert!(!store.reload_packs_if_changed());
        let id = ObjectId::of(b"added");
        assert!(!store.has_object(id));
        let other = Store::open(directory.path()).expect("a repository");
        let writer = other.writer(Wait::No).expect("not locked");
        writer.put_object(id, b"added").expect("right");
        writer.flush().expect("durable");
        assert!(store.has_object(id));
        // A directory that was modified a moment ago may be modified again.
        packs.set_modified(SystemTime::now() - Duration::from_secs(1)).expect("owned");
        assert!(store.reload_packs_if_changed() && !store.reload_packs_if_changed());
        sleep(RELIST_INTERVAL);
        assert!(store.reload_packs_if_changed());
        packs.set_modified(SystemTime::now() + Duration::from_secs(1000)).expect("owned");
        assert!(store.reload_packs_if_changed() && !store.reload_packs_if_changed());
        sleep(RELIST_INTERVAL);
        assert!(!store.reload_packs_if_changed());
    }

    #[test]
    fn listings_within_a_clock_step_are_never_reused() {
        let fine = 1_700_000_000_123_456_789;
        let whole = 1_700_000_000_000_000_000;
        for (modified_at, age, expected) in [
            (fine, 0, false),
            (fine, FINE_CLOCK_STEP_NS - 1, false),
            (fine, FINE_CLOCK_STEP_NS, true),
            (fine, CLOCK_GRANULARITY_NS + 1, true),
            (fine, -1, true),
            // The clock may count seconds only: listing for each object during one would be too slow.
            (whole, 0, true),
        ] {
            let state = ListingState::aged(modified_at, age);
            assert_eq!(state.is_current(modified_at), expected, "{modified_at}, {age} ns ago");
            assert!(!state.is_current(modified_at + 1), "another time");
        }
    }
}
