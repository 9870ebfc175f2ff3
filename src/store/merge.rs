//! Purpose: keeps the packs few, however many commits there are.
//!
//! Each commit with new small objects makes one pack. While it is written, existing packs are merged into it, so that
//! each pack stays larger than all smaller ones together (`pack_limits`): their number grows with the
//! logarithm of their bytes, and each byte is written again a bounded number of times per level. Packs of
//! 64 MiB and more are left alone; when there are many, one index says which of them has an object (`pack_index`).
//!
//! Not here: which objects are garbage (`gc`). Invariants: an object is in a pack that has a name at every moment, since packs
//! that were merged are removed after the new one is durable under its name. A crash in between leaves objects twice, and the
//! next merge takes them once. A damaged object is not copied: its pack stays as it is for `fsck`. Used by: `write` when
//! objects are settled, `gc`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::Arc;

use super::open::Store;
use super::open_files::is_shortage;
use super::pack::Pack;
use super::pack_index;
use super::pack_limits::count_to_merge;
use super::recency::Seconds;
use super::write::{Settled, StoreWriter, WriteError};
use crate::disk;
use crate::model::ObjectId;

/// While packs are merged, so many bytes may be here twice: one part in so many of a bounded repository's limit.
const TWICE: u64 = 8;

/// Merging takes at most one part in so many of the space that is free, so that it is never what fills a disk.
const FREE_SHARE: u64 = 4;

/// Why a pack could not be copied.
pub(super) enum CopyError {
    /// It cannot be read, or an object in it is damaged.
    Read(io::Error),
    /// The new pack cannot be written.
    Write(WriteError),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Store {
    /// The packs that may be merged, smallest first.
    pub(super) fn mergeable_packs(&self) -> io::Result<Vec<Arc<Pack>>> {
        let mut packs = self.packs().unindexed(&self.inner.files)?;
        packs.retain(|pack| pack.size() < self.inner.pack_limits.large);
        packs.reverse();
        Ok(packs)
    }

    /// How many bytes may be copied at once.
    pub(super) fn merged_at_once(&self) -> u64 {
        let bounded = self.config().cache_size.map_or(u64::MAX, |limit| limit / TWICE);
        let available = disk::room(self.path()).ok().and_then(|room| room.available);
        let free = available.map_or(u64::MAX, |bytes| bytes / FREE_SHARE);
        self.inner.pack_limits.large.saturating_mul(2).min(bounded).min(free)
    }
}

impl StoreWriter {
    /// Copies the objects of small packs into the one that is being written, if any is. Returns the packs that are not needed
    /// any more once that one has its name.
    pub(super) fn absorb_small_packs(&self) -> Result<Vec<Arc<Pack>>, WriteError> {
        let new = self.unsettled_pack_bytes();
        if new == 0 || new >= self.store().inner.pack_limits.large {
            return Ok(Vec::new());
        }
        let failed = |source| self.packs_error("read", source);
        let mut packs = self.store().mergeable_packs().map_err(failed)?;
        let sizes: Vec<u64> = packs.iter().map(|pack| pack.size()).collect();
        if count_to_merge(new, &sizes, u64::MAX) == 0 {
            return Ok(Vec::new());
        }
        packs.truncate(count_to_merge(new, &sizes, self.store().merged_at_once()));
        let mut absorbed = Vec::new();
        for pack in packs {
            match self.copy_pack(&pack, &|_| true) {
                Ok(()) => absorbed.push(pack),
                Err(CopyError::Write(error)) => return Err(error),
                Err(CopyError::Read(source)) if is_shortage(&source) => return Err(failed(source)),
                // What was copied of it is sound, and here twice.
                Err(CopyError::Read(error)) => {
                    tracing::warn!(pack = &*pack.name, %error, "a pack is not merged; run 'sapwood fsck --all'");
                }
            }
        }
        Ok(absorbed)
    }

    /// Copies those objects of a pack that `keep` wants into the one that is being written, each compared with its name.
    pub(super) fn copy_pack(&self, pack: &Pack, keep: &dyn Fn(&ObjectId) -> bool) -> Result<(), CopyError> {
        let mut bytes_copied = 0;
        pack.read_all(&self.store().inner.files, |id, bytes| {
            if !keep(&id) {
                return Ok(());
            }
            let Some(bytes) = bytes.filter(|bytes| ObjectId::of(bytes) == id) else {
                let message = "an object in it is damaged; run 'sapwood fsck --repair' first";
                return Err(CopyError::Read(io::Error::new(io::ErrorKind::InvalidData, message)));
            };
            bytes_copied += bytes.len() as u64;
            self.append_to_pack(id, bytes).map(drop).map_err(CopyError::Write)
        })?;
        self.count_merged(bytes_copied);
        Ok(())
    }

    /// Removes packs all of whose objects are in those that were `settled`. Returns when their objects were used, if anybody
    /// asks: a new pack is as young as can be, and its objects are not. A pack that cannot be removed is merged again later.
    pub(super) fn remove_merged(&self, packs: &[Arc<Pack>], settled: &Settled) -> HashMap<ObjectId, Seconds> {
        let store = self.store();
        let mut uses = HashMap::new();
        let old: Vec<&Arc<Pack>> = packs.iter().filter(|pack| !settled.contains(&*pack.name)).collect();
        if old.is_empty() {
            return uses;
        }
        if store.remembers_uses() {
            for pack in &old {
                let ids = (0..pack.len()).map(|row| pack.row(row).0);
                uses.extend(ids.zip(store.uses_of(pack)));
            }
        }
        for pack in &old {
            // Not durably: one that comes back is merged again.
            if let Err(error) = fs::remove_file(store.layout().packs().join(&*pack.name)) {
                tracing::warn!(pack = &*pack.name, %error, "a pack that was merged stays");
            }
            store.forget_uses(&pack.name);
        }
        uses
    }

    /// Makes the index of large packs anew when it has become worthwhile. It is a cache, so that a failure costs time only.
    pub(super) fn refresh_pack_index(&self) {
        if let Err(error) = self.try_to_refresh_pack_index() {
            tracing::warn!(%error, "the index of packs is not up to date; look-ups take longer");
        }
    }

    fn try_to_refresh_pack_index(&self) -> io::Result<()> {
        let store = self.store();
        let (packs, files, limits) = (store.packs(), &store.inner.files, store.inner.pack_limits);
        let unindexed = packs.unindexed(files)?.iter().filter(|pack| pack.size() >= limits.large).count();
        let (indexed, gone) = packs.indexed_and_gone();
        if unindexed <= limits.unindexed && gone * 2 <= indexed {
            return Ok(());
        }
        let mut large = packs.all(files)?;
        large.retain(|pack| pack.size() >= limits.large && pack_index::can_list(pack));
        let index = pack_index::write(&store.layout().temporary(), &large)?;
        index.file().sync_all()?;
        index.persist(&store.layout().pack_index())?;
        disk::sync_directory(&store.layout().packs())?;
        store.reload_packs()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what a crash or a bad disk leaves is not made durably")]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::disk::Wait;
    use crate::store::layout::Layout;
    use crate::store::pack_limits::PackLimits;
    use crate::store::{Config, ObjectSource as _, Scope};

    /// 64 KiB: what a few hundred objects of some hundred bytes reach.
    const SMALL_LIMITS: PackLimits = PackLimits { large: 64 << 10, unindexed: 2 };

    fn repository(limits: PackLimits) -> (tempfile::TempDir, Store) {
        // In memory, where making hundreds of packs durable takes no time.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = memory.expect("a temporary directory");
        Store::init(directory.path(), &Config::default()).expect("empty");
        let store = Store::open_as_it_is(directory.path().to_owned(), limits).expect("just made");
        (directory, store)
    }

    fn content(number: usize) -> Vec<u8> {
        format!("{number:0500}").into_bytes()
    }

    fn id(number: usize) -> ObjectId {
        ObjectId::of(&content(number))
    }

    /// Settles each of the objects by itself, as commits with one new file do. Returns how many bytes were merged.
    fn settle_each(store: &Store, numbers: std::ops::Range<usize>) -> u64 {
        let writer = store.writer(Wait::No).expect("nobody else");
        for number in numbers {
            let content = content(number);
            writer.put(content.len() as u64, &mut &content[..]).expect("room");
            writer.settle().expect("durable");
        }
        writer.merged_bytes()
    }

    fn packs(repository: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(repository.join("packs")).expect("there").map(|entry| entry.expect("listed").path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "pack")).collect()
    }

    fn assert_all_are_here(store: &Store, numbers: std::ops::Range<usize>) {
        for number in numbers {
            assert_eq!(store.read_whole(id(number), 500).expect("here"), content(number));
        }
    }

    #[test]
    fn many_small_commits_leave_few_packs_that_older_readers_find_their_objects_in() {
        let (directory, store) = repository(PackLimits::default());
        settle_each(&store, 0..10);
        let reader = Store::open(directory.path()).expect("a repository");
        // It knows where each object was, and has closed all files.
        assert_all_are_here(&reader, 0..10);
        reader.forget_open_files();
        let merged = settle_each(&store, 10..300);
        assert!(packs(directory.path()).len() <= 9, "{} packs", packs(directory.path()).len());
        assert!(merged < 300 * 550 * 12, "{merged} bytes were copied");
        assert_all_are_here(&reader, 0..300);
        assert_all_are_here(&store, 0..300);
        let absent = reader.read_whole(id(301), 500);
        assert!(absent.is_err() && !reader.has_object(id(301)));
    }

    #[test]
    fn objects_stay_readable_while_others_merge_their_packs() {
        let (directory, store) = repository(SMALL_LIMITS);
        settle_each(&store, 0..20);
        let reader = Store::open(directory.path()).expect("a repository");
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| settle_each(&store, 20..400));
            while !writing.is_finished() {
                reader.forget_open_files();
                assert_all_are_here(&reader, 0..20);
            }
        });
        assert_all_are_here(&reader, 0..400);
    }

    #[test]
    fn an_object_in_many_large_packs_is_found_by_opening_one() {
        let (directory, store) = repository(SMALL_LIMITS);
        settle_each(&store, 0..1000);
        let large = |path: &PathBuf| fs::metadata(path).expect("there").len() >= SMALL_LIMITS.large;
        let count = packs(directory.path()).iter().filter(|path| large(path)).count();
        assert!(count > 3, "{count} large packs");
        assert!(directory.path().join(Layout::PACK_INDEX).exists());
        let opened = |wanted: usize| {
            let reader = Store::open(directory.path()).expect("a repository");
            let found = reader.has_object(id(wanted));
            (found, reader.packs().opened())
        };
        let unindexed = store.packs().unindexed(&store.inner.files).expect("there").len();
        assert!(unindexed < count, "{unindexed} packs are not in the index");
        for number in (0..1000).step_by(97) {
            let (found, opened) = opened(number);
            assert!(found && opened <= unindexed + 1, "{opened} packs were opened");
        }
        assert_eq!(opened(5000), (false, unindexed), "what is nowhere is looked for in the small packs only");
        // Without the index, and with a damaged one, everything is found all the same.
        let index = directory.path().join(Layout::PACK_INDEX);
        let bytes = fs::read(&index).expect("there");
        fs::remove_file(&index).expect("ours");
        fs::write(&index, &bytes[..bytes.len() - 1]).expect("ours");
        assert_all_are_here(&Store::open(directory.path()).expect("a repository"), 0..1000);
        // A flipped bit is damage that `fsck` finds, and dropping it costs nothing.
        let flipped: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 500)).collect();
        fs::write(&index, flipped).expect("ours");
        let store = Store::open(directory.path()).expect("a repository");
        let collector = store.collector(|| Wait::No).expect("nobody else");
        let report = crate::store::Fsck::run(&store, Scope::Changed, &|_, _| {}).expect("listed");
        assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        collector.drop_damaged(&report).expect("ours");
        drop(collector);
        assert!(crate::store::Fsck::run(&store, Scope::Changed, &|_, _| {}).expect("listed").damage.is_empty());
        assert_all_are_here(&store, 0..1000);
    }

    #[test]
    fn what_a_crash_leaves_twice_is_merged_into_once() {
        let (directory, store) = repository(PackLimits::default());
        settle_each(&store, 0..2);
        let before: Vec<(PathBuf, Vec<u8>)> =
            packs(directory.path()).into_iter().map(|path| (path.clone(), fs::read(path).expect("ours"))).collect();
        settle_each(&store, 2..4);
        // The power failed after the merged pack had its name and before the old ones were removed.
        before.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("ours"));
        settle_each(&store, 4..9);
        let all = store.packs().all(&store.inner.files).expect("there");
        let rows: usize = all.iter().map(|pack| pack.len()).sum();
        assert_eq!(rows, 9);
        assert_all_are_here(&Store::open(directory.path()).expect("a repository"), 0..9);
    }

    #[test]
    fn a_pack_with_a_damaged_object_is_not_merged_and_hides_nothing() {
        let (directory, store) = repository(PackLimits::default());
        settle_each(&store, 0..1);
        let damaged = packs(directory.path()).pop().expect("one");
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).expect("ours");
        fs::File::options().write(true).open(&damaged).expect("ours").write_all_at(b"X", 20).expect("ours");
        settle_each(&store, 1..30);
        assert!(packs(directory.path()).contains(&damaged), "fsck still has to find it");
        assert!(packs(directory.path()).len() <= 7);
        assert_all_are_here(&store, 1..30);
    }

    #[test]
    fn a_bounded_repository_keeps_the_ages_of_objects_and_never_holds_much_twice() {
        let (_directory, store) = repository(PackLimits::default());
        let config = store.change_config(|config| config.cache_size = Some(40_000)).expect("ours");
        let store = Store::open(store.path()).expect("a repository");
        assert_eq!(store.merged_at_once(), config.cache_size.expect("set") / TWICE);
        settle_each(&store, 0..1);
        let old: HashMap<ObjectId, Seconds> = [(id(0), 1000)].into();
        // Objects are never younger than a pack that was never noted, so it is made old first.
        for pack in packs(store.path()) {
            let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(500);
            fs::File::open(pack).expect("ours").set_modified(long_ago).expect("ours");
        }
        store.note_uses(&old);
        settle_each(&store, 1..2);
        let all = store.packs().all(&store.inner.files).expect("there");
        assert_eq!(all.len(), 1, "all were merged");
        let uses = store.uses_of(&all[0]);
        for (row, used) in uses.into_iter().enumerate() {
            let id = all[0].row(row).0;
            old.get(&id).map_or_else(|| assert!(used > 1_000_000_000), |old| assert_eq!(used, *old));
        }
        let names: HashSet<String> = fs::read_dir(store.layout().uses())
            .expect("made")
            .map(|entry| entry.expect("listed").file_name().into_string().expect("hex"))
            .collect();
        assert_eq!(names, HashSet::from([all[0].name.to_string()]), "uses of packs that are gone are forgotten");
    }
}
