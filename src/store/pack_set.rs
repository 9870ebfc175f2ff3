//! Purpose: the packs of a repository, as they were when they were listed last, and whether there may be others by now.
//!
//! Not here: which packs there should be (`merge`), descriptors (`open_files`). Invariants: a pack is opened when an object is
//! looked for in it, and holds a mapping and no descriptor. Packs come and go while the set is in use: one that is gone is
//! passed over, and its objects are in another pack since before it went. Used by: `read` for look-ups; `merge`, `gc`, `evict`
//! and `fsck` for all packs.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::layout::Layout;
use super::open_files::{OpenFiles, is_shortage};
use super::pack::{Pack, Slot};
use super::pack_index::PackIndex;
use crate::model::ObjectId;

/// Filesystems note times by a clock that stands still for some milliseconds, some by one of whole seconds. A directory that
/// changed less long ago may change once more without showing it.
const TICK: i128 = 2_000_000_000;

/// In such a case it is listed again, but not for each object that is looked for.
const AGAIN: Duration = Duration::from_millis(50);

/// All packs of a repository.
pub(super) struct PackSet {
    entries: Vec<Entry>,
    /// Which entry has which name.
    by_name: HashMap<Arc<str>, usize>,
    index: Option<PackIndex>,
    /// Which entry each pack of the index is, by its number; none for one that is gone.
    numbered: Vec<Option<usize>>,
    has_missed: AtomicBool,
    listed: Listed,
}

/// One pack.
struct Entry {
    name: Arc<str>,
    is_indexed: bool,
    /// Opened when first needed; none inside for one that is gone or damaged.
    pack: OnceLock<Option<Arc<Pack>>>,
}

/// What the directory showed when it was listed.
#[derive(Debug, Clone, Copy)]
struct Listed {
    /// When it had changed last, in nanoseconds since 1970.
    changed: i128,
    /// That was a moment ago, so that it does not tell this listing from later ones.
    may_come_again: bool,
    at: Instant,
}

impl PackSet {
    /// Lists the packs. Those that `previous` has open stay open.
    pub(super) fn load(files: &OpenFiles, previous: Option<&Self>) -> io::Result<Self> {
        let listed = Listed::now(changed(files)?);
        let mut stream = rustix::fs::Dir::new(files.open_directory(Layout::PACKS)?)?;
        let (mut names, mut has_index) = (Vec::new(), false);
        while let Some(entry) = stream.read() {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok(name) if name.ends_with(Layout::PACK_SUFFIX) => names.push(Arc::<str>::from(name)),
                Ok(name) => has_index |= name == Layout::PACK_INDEX_NAME,
                Err(_) => {}
            }
        }
        drop(stream);
        let index = if has_index { PackIndex::open(files)? } else { None };
        let by_name: HashMap<Arc<str>, usize> = names.iter().cloned().zip(0..).collect();
        let numbered: Vec<Option<usize>> =
            index.iter().flat_map(PackIndex::names).map(|name| by_name.get(&*name).copied()).collect();
        let mut entries: Vec<Entry> = names.iter().map(Entry::new).collect();
        numbered.iter().flatten().for_each(|&number| entries[number].is_indexed = true);
        for (old, pack) in previous.iter().flat_map(|set| &set.entries).filter_map(|old| Some((old, old.pack.get()?))) {
            if let (Some(&number), Some(_)) = (by_name.get(&old.name), pack) {
                entries[number].pack = OnceLock::from(pack.clone());
            }
        }
        Ok(Self { entries, by_name, index, numbered, has_missed: AtomicBool::new(false), listed })
    }

    /// Whether no pack can have been added or removed since.
    pub(super) fn is_current(&self, files: &OpenFiles) -> bool {
        changed(files).is_ok_and(|changed| self.listed.is_current(changed))
    }

    /// Whether a pack was gone when it was to be opened, so that its objects are elsewhere by now.
    pub(super) fn has_missed(&self) -> bool {
        self.has_missed.load(Ordering::Relaxed)
    }

    /// The names of the packs that there were when they were listed.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.iter().map(|entry| &entry.name)
    }

    /// Whether there was a pack of that name.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether two listings show the same packs.
    pub(super) fn has_same_names(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len() && self.names().all(|name| other.has_name(name))
    }

    /// The packs, largest first.
    pub(super) fn all(&self, files: &OpenFiles) -> io::Result<Vec<Arc<Pack>>> {
        self.open_those(files, |_| true)
    }

    /// The packs that are not in the index, largest first.
    pub(super) fn unindexed(&self, files: &OpenFiles) -> io::Result<Vec<Arc<Pack>>> {
        self.open_those(files, |entry| !entry.is_indexed)
    }

    /// How many packs the index lists, and how many of those are gone.
    pub(super) fn indexed_and_gone(&self) -> (usize, usize) {
        (self.numbered.len(), self.numbered.iter().filter(|entry| entry.is_none()).count())
    }

    /// Whether there is an index whose bytes are not those that were written.
    pub(super) fn has_damaged_index(&self) -> bool {
        self.index.as_ref().is_some_and(|index| !index.is_intact())
    }

    /// How many packs were opened since they were listed.
    #[cfg(test)]
    pub(super) fn opened(&self) -> usize {
        self.entries.iter().filter(|entry| entry.pack.get().is_some()).count()
    }

    fn open_those(&self, files: &OpenFiles, wanted: impl Fn(&Entry) -> bool) -> io::Result<Vec<Arc<Pack>>> {
        let mut packs = Vec::new();
        for entry in self.entries.iter().filter(|entry| wanted(entry)) {
            packs.extend(self.open(files, entry)?.cloned());
        }
        packs.sort_by(|a, b| b.size().cmp(&a.size()).then_with(|| a.name.cmp(&b.name)));
        Ok(packs)
    }

    /// Opens a pack. One that cannot be read is left out with a warning: its objects then count as missing, and everything
    /// else still works. That this process may open no more is no reason to leave one out but an error.
    fn open<'a>(&self, files: &OpenFiles, entry: &'a Entry) -> io::Result<Option<&'a Arc<Pack>>> {
        if let Some(pack) = entry.pack.get() {
            return Ok(pack.as_ref());
        }
        let opened = match Pack::open(files, &entry.name) {
            Ok(pack) => Some(Arc::new(pack)),
            Err(error) if is_shortage(&error) => return Err(error),
            // Merged or removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.has_missed.store(true, Ordering::Relaxed);
                None
            }
            Err(error) => {
                tracing::warn!(pack = &*entry.name, %error, "a pack cannot be used; run 'sapwood fsck'");
                None
            }
        };
        Ok(entry.pack.get_or_init(|| opened).as_ref())
    }

    /// Where `id` is, if it is in any pack.
    pub(super) fn find(&self, files: &OpenFiles, id: &ObjectId) -> io::Result<Option<(Arc<Pack>, Slot)>> {
        let found = self.search(files, id, |pack, row| pack.row(row).1)?;
        Ok(found.map(|(pack, slot)| (Arc::clone(pack), slot)))
    }

    /// In which row of which pack `id` is, if it is in any.
    pub(super) fn find_row(&self, files: &OpenFiles, id: &ObjectId) -> io::Result<Option<(Arc<Pack>, usize)>> {
        let found = self.search(files, id, |_, row| Some(row))?;
        Ok(found.map(|(pack, row)| (Arc::clone(pack), row)))
    }

    /// Looks for `id` in the packs, and for `what` about it; the next pack is asked where there is none of that.
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

impl Entry {
    fn new(name: &Arc<str>) -> Self {
        Self { name: Arc::clone(name), is_indexed: false, pack: OnceLock::new() }
    }
}

impl Listed {
    /// Of a directory that changed at `changed`. A time to come is that of a clock that was set back since.
    fn now(changed: i128) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        Self { changed, may_come_again: (now - TICK..=now).contains(&changed), at: Instant::now() }
    }

    /// Whether the directory, which changed last at `changed`, cannot have changed since.
    fn is_current(self, changed: i128) -> bool {
        self.changed == changed && (!self.may_come_again || self.at.elapsed() < AGAIN)
    }
}

/// When the directory of packs has changed last, in nanoseconds since 1970.
fn changed(files: &OpenFiles) -> io::Result<i128> {
    let status = rustix::fs::statat(files.directory(), Layout::PACKS, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(i128::from(status.st_mtime) * 1_000_000_000 + i128::from(status.st_mtime_nsec))
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;
    use crate::disk::Wait;
    use crate::store::{Config, Store};

    #[test]
    fn packs_of_others_are_noticed_and_quiet_directories_are_not_listed_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let packs = std::fs::File::open(directory.path().join(Layout::PACKS)).expect("made");
        let long_ago = SystemTime::now() - Duration::from_secs(100);
        packs.set_modified(long_ago).expect("ours");
        assert!(store.look_for_new_packs(), "its time is another");
        assert!(!store.look_for_new_packs());
        let id = ObjectId::of(b"brought");
        assert!(!store.has_object(id));
        let other = Store::open(directory.path()).expect("a repository");
        let writer = other.writer(Wait::No).expect("nobody else");
        writer.put_object(id, b"brought").expect("right");
        writer.settle().expect("durable");
        assert!(store.has_object(id));
        // What changed a moment ago may change once more.
        packs.set_modified(SystemTime::now()).expect("ours");
        assert!(store.look_for_new_packs() && !store.look_for_new_packs());
        sleep(AGAIN);
        assert!(store.look_for_new_packs());
        packs.set_modified(SystemTime::now() + Duration::from_secs(1000)).expect("ours");
        assert!(store.look_for_new_packs() && !store.look_for_new_packs());
        sleep(AGAIN);
        assert!(!store.look_for_new_packs());
    }
}
