//! Merges packs, so that there are few, however many commits there are.
//!
//! Each commit with new small objects makes one pack. While it is written, existing packs are merged into it, so that each pack
//! stays larger than all smaller ones together (`pack_limits`): their number grows with the logarithm of their bytes, and each
//! byte is written again a bounded number of times per level. Packs of 64 MiB and more are not merged; when there are many, one
//! index says which of them has an object (`pack_index`).
//!
//! *Not here*: which objects are garbage (`gc`); packs of the former form, which are never merged into others here
//! (`former_packs`).
//!
//! *Invariants*: every object is in a named pack at every moment, since merged packs are removed after the new one is durable
//! under its name. A crash meanwhile leaves objects twice, and the next merge stores them once. A damaged object is not copied:
//! its pack stays unchanged for `fsck`.
//!
//! *Used by* `store::write` when objects are flushed, and by `store::gc`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::Arc;

use super::open::Store;
use super::open_files::is_resource_shortage;
use super::pack::{Pack, PackForm};
use super::pack_index;
use super::pack_limits::count_to_merge;
use super::recency::Seconds;
use super::write::{FlushedPacks, StoreWriter, WriteError};
use crate::disk;
use crate::model::ObjectId;

/// While packs are merged, some bytes are stored twice: in a repository with a limit at most one part in this many of the
/// limit.
pub(super) const DUPLICATE_SHARE: u64 = 8;

/// Merging takes at most one part in this many of the free space, so that it does not fill the disk.
pub(super) const FREE_SHARE: u64 = 4;

/// Why a pack could not be copied.
pub(super) enum CopyError {
    /// The pack cannot be read, or an object in it is damaged.
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
    /// Returns the packs that may be merged, smallest first. Packs of the former form are not among them.
    pub(super) fn mergeable_packs(&self) -> io::Result<Vec<Arc<Pack>>> {
        let mut packs = self.packs().unindexed(&self.inner.files)?;
        packs.retain(|pack| pack.form == PackForm::Current && pack.size() < self.inner.pack_limits.large_bytes);
        packs.reverse();
        Ok(packs)
    }

    /// Returns the number of bytes that one merge may copy.
    pub(super) fn merge_bytes_max(&self) -> u64 {
        let bounded = self.config().cache_size.map_or(u64::MAX, |limit| limit / DUPLICATE_SHARE);
        let available = disk::free_space(self.path()).ok().and_then(|space| space.available);
        let free = available.map_or(u64::MAX, |bytes| bytes / FREE_SHARE);
        self.inner.pack_limits.large_bytes.saturating_mul(2).min(bounded).min(free)
    }
}

impl StoreWriter {
    /// Copies the objects of small packs into the pack that is being written, if there is one. Returns the packs that are not
    /// needed any more once that pack has its name.
    pub(super) fn copy_small_packs(&self) -> Result<Vec<Arc<Pack>>, WriteError> {
        let new = self.unflushed_pack_bytes();
        if new == 0 || new >= self.store().inner.pack_limits.large_bytes {
            return Ok(Vec::new());
        }
        let failed = |source| self.packs_error("read", source);
        let mut packs = self.store().mergeable_packs().map_err(failed)?;
        let sizes: Vec<u64> = packs.iter().map(|pack| pack.size()).collect();
        if count_to_merge(new, &sizes, u64::MAX) == 0 {
            return Ok(Vec::new());
        }
        packs.truncate(count_to_merge(new, &sizes, self.store().merge_bytes_max()));
        let mut copied = Vec::new();
        for pack in packs {
            match self.copy_pack(&pack, &|_| true) {
                Ok(()) => copied.push(pack),
                Err(CopyError::Write(error)) => return Err(error),
                Err(CopyError::Read(source)) if is_resource_shortage(&source) => return Err(failed(source)),
                // The objects that were copied before the error are intact, and are stored twice.
                Err(CopyError::Read(error)) => {
                    tracing::warn!(pack = &*pack.name, %error, "a pack is not merged; run 'sapwood fsck --all'");
                }
            }
        }
        Ok(copied)
    }

    /// Copies the objects of a pack for which `keep` holds into the pack that is being written, and verifies their digests.
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

    /// Removes merged packs, whose objects are all in the packs that were `flushed`. Returns the times at which the objects
    /// were last used, if the repository keeps them, since the file of the new pack is younger. A pack that cannot be removed
    /// is merged again later.
    pub(super) fn remove_merged(&self, packs: &[Arc<Pack>], flushed: &FlushedPacks) -> HashMap<ObjectId, Seconds> {
        let store = self.store();
        let mut uses = HashMap::new();
        let old: Vec<&Arc<Pack>> = packs.iter().filter(|pack| !flushed.contains(&*pack.name)).collect();
        if old.is_empty() {
            return uses;
        }
        if store.keeps_use_times() {
            for pack in &old {
                let ids = (0..pack.len()).map(|row| pack.row(row).0);
                uses.extend(ids.zip(store.use_times_of(pack)));
            }
        }
        for pack in &old {
            // The removal need not be durable: a pack that reappears after a crash is merged again.
            if let Err(error) = fs::remove_file(store.layout().packs().join(&*pack.name)) {
                tracing::warn!(pack = &*pack.name, %error, "cannot remove a merged pack");
            }
            store.remove_use_times(&pack.name);
        }
        uses
    }

    /// Rewrites the index of large packs if too many of them are not in it. The index is a cache, so a failure only costs time.
    pub(super) fn refresh_pack_index(&self) {
        if let Err(error) = self.try_to_refresh_pack_index() {
            tracing::warn!(%error, "the index of packs is not up to date; look-ups take longer");
        }
    }

    fn try_to_refresh_pack_index(&self) -> io::Result<()> {
        let store = self.store();
        let (packs, files, limits) = (store.packs(), &store.inner.files, store.inner.pack_limits);
        let unindexed = packs.unindexed(files)?.iter().filter(|pack| pack.size() >= limits.large_bytes).count();
        let (indexed, missing) = packs.indexed_and_missing();
        if unindexed <= limits.unindexed_max && missing * 2 <= indexed {
            return Ok(());
        }
        let mut large = packs.all(files)?;
        large.retain(|pack| pack.size() >= limits.large_bytes && pack_index::can_list(pack));
        let index = pack_index::write(&store.layout().temporary(), &large)?;
        index.file().sync_all()?;
        index.persist(&store.layout().pack_index())?;
        disk::sync_directory(&store.layout().packs())?;
        store.reload_packs()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make the state that a crash or a bad disk leaves")]
mod tests {
    use std::collections::HashSet;
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::disk::Wait;
    use crate::store::layout::StoreLayout;
    use crate::store::pack_limits::PackLimits;
    use crate::store::{Config, ObjectSource as _, Scope};

    /// 64 KiB are reached by a few hundred objects of some hundred bytes.
    const SMALL_LIMITS: PackLimits = PackLimits { large_bytes: 64 << 10, unindexed_max: 2 };

    fn repository(limits: PackLimits) -> (tempfile::TempDir, Store) {
        // The repository is in memory, where making hundreds of packs durable takes no time.
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = memory.expect("a temporary directory");
        Store::init(directory.path(), &Config::default()).expect("empty");
        let store = Store::open_uncanonicalized(directory.path().to_owned(), limits).expect("just made");
        (directory, store)
    }

    fn content(number: usize) -> Vec<u8> {
        format!("{number:0500}").into_bytes()
    }

    fn id(number: usize) -> ObjectId {
        ObjectId::of(&content(number))
    }

    /// Flushes each of the objects separately, as commits with one new file do. Returns the number of merged bytes.
    fn flush_each(store: &Store, numbers: std::ops::Range<usize>) -> u64 {
        let writer = store.writer(Wait::No).expect("not locked");
        for number in numbers {
            let content = content(number);
            writer.put(content.len() as u64, &mut &content[..]).expect("room");
            writer.flush().expect("durable");
        }
        writer.merged_bytes()
    }

    fn packs(repository: &Path) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(repository.join("packs")).expect("exists").map(|entry| entry.expect("listed").path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "objects")).collect()
    }

    fn assert_all_are_stored(store: &Store, numbers: std::ops::Range<usize>) {
        for number in numbers {
            assert_eq!(store.read_whole(id(number), 500).expect("stored"), content(number));
        }
    }

    #[test]
    fn small_commits_leave_few_packs_and_older_readers_find_objects() {
        let (directory, store) = repository(PackLimits::default());
        flush_each(&store, 0..10);
        let reader = Store::open(directory.path()).expect("a repository");
        // The reader has listed the packs, and has closed all files.
        assert_all_are_stored(&reader, 0..10);
        reader.forget_open_files();
        let merged = flush_each(&store, 10..300);
        assert!(packs(directory.path()).len() <= 9, "{} packs", packs(directory.path()).len());
        assert!(merged < 300 * 550 * 12, "{merged} bytes were copied");
        assert_all_are_stored(&reader, 0..300);
        assert_all_are_stored(&store, 0..300);
        let absent = reader.read_whole(id(301), 500);
        assert!(absent.is_err() && !reader.has_object(id(301)));
    }

    #[test]
    fn objects_stay_readable_while_another_process_merges_packs() {
        let (directory, store) = repository(SMALL_LIMITS);
        flush_each(&store, 0..20);
        let reader = Store::open(directory.path()).expect("a repository");
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| flush_each(&store, 20..400));
            while !writing.is_finished() {
                reader.forget_open_files();
                assert_all_are_stored(&reader, 0..20);
            }
        });
        assert_all_are_stored(&reader, 0..400);
    }

    #[test]
    fn object_in_many_large_packs_is_found_by_opening_one() {
        let (directory, store) = repository(SMALL_LIMITS);
        flush_each(&store, 0..1000);
        let large = |path: &PathBuf| fs::metadata(path).expect("exists").len() >= SMALL_LIMITS.large_bytes;
        let count = packs(directory.path()).iter().filter(|path| large(path)).count();
        assert!(count > 3, "{count} large packs");
        assert!(directory.path().join(StoreLayout::PACK_INDEX).exists());
        let opened = |wanted: usize| {
            let reader = Store::open(directory.path()).expect("a repository");
            let found = reader.has_object(id(wanted));
            (found, reader.packs().opened_count())
        };
        let unindexed = store.packs().unindexed(&store.inner.files).expect("exists").len();
        assert!(unindexed < count, "{unindexed} packs are not in the index");
        for number in (0..1000).step_by(97) {
            let (found, opened) = opened(number);
            assert!(found && opened <= unindexed + 1, "{opened} packs were opened");
        }
        assert_eq!(opened(5000), (false, unindexed), "an absent object is searched only in the small packs");
        // Without the index, and with a truncated one, all objects are found.
        let index = directory.path().join(StoreLayout::PACK_INDEX);
        let bytes = fs::read(&index).expect("exists");
        fs::remove_file(&index).expect("owned");
        fs::write(&index, &bytes[..bytes.len() - 1]).expect("owned");
        assert_all_are_stored(&Store::open(directory.path()).expect("a repository"), 0..1000);
        // A flipped bit is damage that `fsck` finds, and removing the damaged index loses no object.
        let flipped: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 500)).collect();
        fs::write(&index, flipped).expect("owned");
        let store = Store::open(directory.path()).expect("a repository");
        let collector = store.collector(|| Wait::No).expect("not locked");
        let report = crate::store::Fsck::run(&store, Scope::Changed, &|_, _| {}).expect("listed");
        assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        collector.drop_damaged(&report).expect("owned");
        drop(collector);
        assert!(crate::store::Fsck::run(&store, Scope::Changed, &|_, _| {}).expect("listed").damage.is_empty());
        assert_all_are_stored(&store, 0..1000);
    }

    #[test]
    fn objects_stored_twice_after_a_crash_are_merged_into_one() {
        let (directory, store) = repository(PackLimits::default());
        flush_each(&store, 0..2);
        let before: Vec<(PathBuf, Vec<u8>)> =
            packs(directory.path()).into_iter().map(|path| (path.clone(), fs::read(path).expect("owned"))).collect();
        flush_each(&store, 2..4);
        // The power failed after the merged pack had its name and before the old ones were removed.
        before.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("owned"));
        flush_each(&store, 4..9);
        let all = store.packs().all(&store.inner.files).expect("exists");
        let rows: usize = all.iter().map(|pack| pack.len()).sum();
        assert_eq!(rows, 9);
        assert_all_are_stored(&Store::open(directory.path()).expect("a repository"), 0..9);
    }

    #[test]
    fn pack_with_a_damaged_object_is_not_merged() {
        let (directory, store) = repository(PackLimits::default());
        flush_each(&store, 0..1);
        let damaged = packs(directory.path()).pop().expect("one");
        fs::set_permissions(&damaged, fs::Permissions::from_mode(0o644)).expect("owned");
        fs::File::options().write(true).open(&damaged).expect("owned").write_all_at(b"X", 20).expect("owned");
        flush_each(&store, 1..30);
        assert!(packs(directory.path()).contains(&damaged), "fsck still has to find it");
        assert!(packs(directory.path()).len() <= 7);
        assert_all_are_stored(&store, 1..30);
    }

    #[test]
    fn bounded_repository_keeps_use_times_and_bounds_copied_bytes() {
        let (_directory, store) = repository(PackLimits::default());
        let config = store.change_config(|config| config.cache_size = Some(40_000)).expect("owned");
        let store = Store::open(store.path()).expect("a repository");
        assert_eq!(store.merge_bytes_max(), config.cache_size.expect("set") / DUPLICATE_SHARE);
        flush_each(&store, 0..1);
        let old: HashMap<ObjectId, Seconds> = [(id(0), 1000)].into();
        // The time of the pack counts for objects without a recorded use, so the pack is made old first.
        for pack in packs(store.path()) {
            let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(500);
            fs::File::open(pack).expect("owned").set_modified(long_ago).expect("owned");
        }
        store.write_use_times(&old, None);
        flush_each(&store, 1..2);
        let all = store.packs().all(&store.inner.files).expect("exists");
        assert_eq!(all.len(), 1, "all were merged");
        let uses = store.use_times_of(&all[0]);
        for (row, used) in uses.into_iter().enumerate() {
            let id = all[0].row(row).0;
            old.get(&id).map_or_else(|| assert!(used > 1_000_000_000), |old| assert_eq!(used, *old));
        }
        let names: HashSet<String> = fs::read_dir(store.layout().use_times())
            .expect("made")
            .map(|entry| entry.expect("listed").file_name().into_string().expect("hex"))
            .collect();
        assert_eq!(names, HashSet::from([all[0].name.to_string()]), "use times of removed packs are removed");
    }
}
