//! Rewrites packs of the former form, which earlier versions wrote, to packs of the current form (`pack`).
//!
//! A commit does so after its ref has moved, and a collection after it has removed garbage.
//!
//! *Not here*: merging small packs (`merge`), removing garbage from packs (`gc`).
//!
//! *Invariants*: an earlier program finds no object that is only in a pack of the current form. So packs of the former form
//! stay byte for byte as long as an earlier program may need them, which is while one of these exists:
//!
//! - a ref of a deployment: the initramfs of an old deployment has the program of its time, which mounts the old commit after a
//!   rollback;
//! - a running mount of the repository: its program may be an earlier one, until the mount ends.
//!
//! Meanwhile new objects go to new packs beside them, and no pull, upgrade, commit or merge copies objects out of them. A
//! collection or an eviction removes such a pack only as a whole, when no ref, mount or complete commit needs any of its
//! objects. Only `fsck --repair` replaces one: a pack with damaged objects by a pack of the former form without them.
//!
//! A pack is removed after the new one is durable under its name. A crash meanwhile leaves objects twice, and the next commit or
//! collection rewrites the old pack again. A pack with a damaged object stays as it is for `fsck`.
//!
//! *Used by* `compose::commit`, `store::gc`, `store::evict` and `store::drop_damaged`.

use std::io;
use std::sync::Arc;

use super::layout::StoreLayout;
use super::merge::{CopyError, DUPLICATE_SHARE, FREE_SHARE};
use super::open::Store;
use super::open_files::is_resource_shortage;
use super::pack::{PACK_TARGET, Pack, PackForm};
use super::write::{StoreWriter, WriteError};
use crate::disk;

impl Store {
    /// Returns whether packs of the former form must stay, since an earlier program may need them. They also stay if that
    /// cannot be determined.
    pub(super) fn must_keep_former_packs(&self) -> bool {
        let is_of_deployment = |name: &str| name.split('/').next() == Some(StoreLayout::DEPLOYMENT_REFS);
        let has_deployment = self.ref_names().map(|names| names.iter().any(|name| is_of_deployment(name.as_str())));
        has_deployment.unwrap_or(true) || self.has_running_mount().unwrap_or(true)
    }

    /// Returns the packs of the former form that no earlier program needs, smallest first.
    pub(super) fn former_packs_to_rewrite(&self) -> io::Result<Vec<Arc<Pack>>> {
        let is_former = |name: &Arc<str>| PackForm::of_name(name) == Some(PackForm::Former);
        if !self.packs().names().any(is_former) || self.must_keep_former_packs() {
            return Ok(Vec::new());
        }
        let mut packs = self.packs().all(&self.inner.files)?;
        packs.retain(|pack| pack.form == PackForm::Former);
        packs.reverse();
        Ok(packs)
    }
}

impl StoreWriter {
    /// Rewrites the packs of the former form that no earlier program needs. Some are left for the next call if there is too
    /// little room for their copies. Everything added before must have been flushed.
    ///
    /// # Errors
    /// [`WriteError::Write`]; every object is still in a pack.
    pub(crate) fn rewrite_former_packs(&self) -> Result<(), WriteError> {
        let store = self.store();
        let failed = |source| self.packs_error("read", source);
        let batch_max = store.config().cache_size.map_or(PACK_TARGET, |limit| PACK_TARGET.min(limit / DUPLICATE_SHARE));
        let (mut batch, mut bytes) = (Vec::new(), 0_u64);
        for pack in store.former_packs_to_rewrite().map_err(failed)? {
            if bytes > 0 && bytes + pack.size() > batch_max {
                self.flush_and_remove(&std::mem::take(&mut batch))?;
                bytes = 0;
            }
            let available = disk::free_space(store.path()).ok().and_then(|space| space.available);
            if available.is_some_and(|available| pack.size() > available / FREE_SHARE) {
                tracing::warn!(pack = &*pack.name, "there is too little room to rewrite this pack and larger ones");
                break;
            }
            match self.copy_pack(&pack, &|_| true) {
                Ok(()) => {
                    bytes += pack.size();
                    batch.push(pack);
                }
                Err(CopyError::Write(error)) => return Err(error),
                Err(CopyError::Read(source)) if is_resource_shortage(&source) => return Err(failed(source)),
                // The objects that were copied before the error are intact, and are stored twice.
                Err(CopyError::Read(error)) => {
                    tracing::warn!(pack = &*pack.name, %error, "a pack is not rewritten; run 'sapwood fsck --all'");
                }
            }
        }
        self.flush_and_remove(&batch)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make what earlier versions, crashes and bad disks leave")]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::disk::Wait;
    use crate::image::{Tree, encode};
    use crate::model::{Commit, CommitId, Content, EntryName, Metadata, Node, NodeKind, ObjectId, Timestamp, Xattrs};
    use crate::store::pack_limits::PackLimits;
    use crate::store::{Config, Fsck, FsckReport, ObjectSource as _, Scope};

    const CURRENT: &str = StoreLayout::PACK_SUFFIX;
    const FORMER: &str = StoreLayout::FORMER_PACK_SUFFIX;

    /// Makes a repository with the objects `0..count`, one in each flush.
    fn repository(count: usize, limits: PackLimits) -> (tempfile::TempDir, Store) {
        let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = memory.expect("a temporary directory");
        Store::init(directory.path(), &Config::default()).expect("empty");
        let store = Store::open_uncanonicalized(directory.path().to_owned(), limits).expect("just made");
        add(&store, 0..count);
        (directory, store)
    }

    fn content(number: usize) -> Vec<u8> {
        format!("{number:0500}").into_bytes()
    }

    fn add(store: &Store, numbers: std::ops::Range<usize>) {
        let writer = store.writer(Wait::No).expect("not locked");
        for content in numbers.map(content) {
            writer.put(content.len() as u64, &mut &content[..]).expect("room");
            writer.flush().expect("durable");
        }
    }

    /// Returns the packs by name, with their bytes.
    fn packs(store: &Store) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(store.layout().packs()).expect("exists").map(|entry| entry.expect("listed"));
        let packs = entries.filter(|entry| entry.file_name() != *StoreLayout::PACK_INDEX_NAME);
        packs
            .map(|entry| (entry.file_name().into_string().expect("ASCII"), fs::read(entry.path()).expect("owned")))
            .collect()
    }

    /// Gives all packs the form in which earlier versions wrote them.
    fn make_former(store: &Store) {
        for (name, mut bytes) in packs(store) {
            bytes[..8].copy_from_slice(b"SAPWPCK\0");
            fs::write(store.layout().packs().join(name.replace(CURRENT, FORMER)), bytes).expect("owned");
            fs::remove_file(store.layout().packs().join(name)).expect("owned");
        }
        store.reload_packs().expect("listed");
    }

    fn rewrite(store: &Store) {
        store.writer(Wait::No).expect("not locked").rewrite_former_packs().expect("durable");
    }

    fn assert_all_are_stored(store: &Store, count: usize) {
        let reader = Store::open(store.path()).expect("a repository");
        for content in (0..count).map(content) {
            assert_eq!(reader.read_whole(ObjectId::of(&content), 500).expect("stored"), content);
        }
    }

    fn have_suffix(packs: &BTreeMap<String, Vec<u8>>, suffix: &str) -> bool {
        packs.keys().all(|name| name.ends_with(suffix))
    }

    #[test]
    fn former_packs_are_read_and_rewritten_to_the_same_objects() {
        let (_directory, store) = repository(30, PackLimits::default());
        make_former(&store);
        let former = packs(&store);
        assert!(former.len() > 1 && have_suffix(&former, FORMER));
        assert_all_are_stored(&store, 30);
        add(&store, 30..40);
        let kept =
            |found: &BTreeMap<String, Vec<u8>>| former.iter().all(|(name, bytes)| found.get(name) == Some(bytes));
        assert!(kept(&packs(&store)), "a flush, such as that of a pull, rewrites none");
        rewrite(&store);
        let rewritten = packs(&store);
        assert!(
            have_suffix(&rewritten, CURRENT) && rewritten.values().all(|bytes| bytes.starts_with(b"SAPWOBJ\0\x01"))
        );
        assert_all_are_stored(&store, 40);
        rewrite(&store);
        assert_eq!(packs(&store), rewritten);
        // The power failed after the new pack had its name.
        for (name, bytes) in &former {
            fs::write(store.layout().packs().join(name), bytes).expect("owned");
        }
        assert_all_are_stored(&store, 40);
        rewrite(&store);
        assert!(have_suffix(&packs(&store), CURRENT));
        assert_all_are_stored(&store, 40);
    }

    #[test]
    fn former_packs_stay_while_deployment_or_mount_may_need_them() {
        let (_directory, store) = repository(30, PackLimits::default());
        make_former(&store);
        let former = packs(&store);
        let reference = store.layout().refs().join("deployments/main/0123456789ab.0");
        fs::create_dir_all(reference.parent().expect("has one")).expect("owned");
        fs::write(&reference, "no commit").expect("owned");
        rewrite(&store);
        assert_eq!(packs(&store), former, "even if the ref is damaged");
        fs::remove_dir_all(store.layout().refs().join("deployments")).expect("owned");
        let mount = store.register_mount(CommitId::of(b"any")).expect("not locked");
        rewrite(&store);
        assert_eq!(packs(&store), former);
        drop(mount);
        fs::write(store.layout().mounts().join("1-0"), "left by a killed process").expect("owned");
        fs::write(store.layout().refs().join("deployments-of-others"), "no commit").expect("owned");
        rewrite(&store);
        assert!(have_suffix(&packs(&store), CURRENT));
    }

    #[test]
    fn index_lists_large_packs_of_both_forms() {
        let limits = PackLimits { large_bytes: 64 << 10, unindexed_max: 2 };
        let (directory, store) = repository(1000, limits);
        let index = directory.path().join(StoreLayout::PACK_INDEX);
        let unindexed = |store: &Store| store.packs().unindexed(&store.inner.files).expect("listed").len();
        let before = unindexed(&store);
        make_former(&store);
        assert_eq!(unindexed(&store), before, "the index leads to packs of the former form, too");
        fs::remove_file(&index).expect("owned");
        let store = Store::open_uncanonicalized(directory.path().to_owned(), limits).expect("a repository");
        add(&store, 1000..1001);
        assert!(index.exists() && unindexed(&store) <= before + 1, "{} packs are not in the index", unindexed(&store));
        assert_all_are_stored(&store, 1001);
        rewrite(&store);
        assert_all_are_stored(&store, 1001);
        assert!(have_suffix(&packs(&store), CURRENT));
    }

    fn check(store: &Store) -> FsckReport {
        Fsck::run(store, Scope::All, &|_, _| {}).expect("listed")
    }

    fn repair(store: &Store, report: &FsckReport) {
        store.collector(|| Wait::No).expect("not locked").drop_damaged(report).expect("room");
        // Another process, since this one keeps a pack open whose file was replaced under its name.
        assert!(check(&Store::open(store.path()).expect("a repository")).damage.is_empty());
    }

    #[test]
    fn fsck_names_packs_whose_magic_and_suffix_do_not_agree() {
        for (suffix, magic) in [(CURRENT, b"SAPWPCK\0"), (FORMER, b"SAPWOBJ\0")] {
            let (_directory, store) = repository(1, PackLimits::default());
            let (name, mut bytes) = packs(&store).pop_first().expect("one");
            bytes[..8].copy_from_slice(magic);
            let wrong = name.replace(CURRENT, suffix);
            fs::remove_file(store.layout().packs().join(&name)).expect("owned");
            fs::write(store.layout().packs().join(&wrong), bytes).expect("owned");
            let store = Store::open(store.path()).expect("a repository");
            let report = check(&store);
            let found: Vec<String> =
                report.damage.iter().map(|damage| format!("{}: {}", damage.what, damage.problem)).collect();
            assert_eq!(found, [format!("pack {wrong}: its magic and its suffix do not agree")]);
            assert_all_are_stored(&store, 1);
            repair(&store, &report);
            assert_all_are_stored(&store, 1);
            assert!(have_suffix(&packs(&store), CURRENT));
        }
    }

    /// Changes a byte of an object in the only pack.
    fn damage_object(store: &Store, number: usize) {
        let (name, mut bytes) = packs(store).pop_first().expect("one");
        let content = content(number);
        let at = bytes.windows(content.len()).position(|window| window == content).expect("stored");
        bytes[at] ^= 1;
        fs::remove_file(store.layout().packs().join(&name)).expect("owned");
        fs::write(store.layout().packs().join(&name), bytes).expect("owned");
        store.reload_packs().expect("listed");
    }

    #[test]
    fn damaged_former_pack_is_repaired_in_its_form_while_needed() {
        for (keeps, suffix) in [(true, FORMER), (false, CURRENT)] {
            let (_directory, store) = repository(1, PackLimits::default());
            rewrite(&store);
            let writer = store.writer(Wait::No).expect("not locked");
            for content in [content(1), content(2)] {
                writer.put(content.len() as u64, &mut &content[..]).expect("room");
            }
            writer.flush().expect("durable");
            drop(writer);
            make_former(&store);
            damage_object(&store, 1);
            rewrite(&store);
            let left = packs(&store);
            assert!(left.keys().any(|name| name.ends_with(FORMER)), "a damaged pack is left for fsck");
            let mount = keeps.then(|| store.register_mount(CommitId::of(b"any")).expect("not locked"));
            let store = Store::open(store.path()).expect("a repository");
            let mut report = check(&store);
            report.damage.push(crate::store::fsck::Damage {
                what: crate::store::fsck::Damaged::Object(ObjectId::of(&content(1))),
                problem: "damaged".into(),
                paths: Vec::new(),
                path_count: 0,
                commits: std::collections::BTreeSet::new(),
            });
            repair(&store, &report);
            let repaired = packs(&store);
            let (name, _) = repaired.iter().find(|(name, _)| !left.contains_key(*name)).expect("a new one");
            assert!(name.ends_with(suffix), "{name}");
            assert!(!Store::open(store.path()).expect("a repository").has_object(ObjectId::of(&content(1))));
            for intact in [content(0), content(2)] {
                assert_eq!(store.read_whole(ObjectId::of(&intact), 500).expect("stored"), intact);
            }
            drop(mount);
        }
    }

    /// Makes a commit with one file, whose content must be stored, in a repository with all the others.
    fn commit_of(store: &Store, number: usize) -> CommitId {
        let metadata =
            Metadata { permissions: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Xattrs::default() };
        let content = content(number);
        let (object, size) = (Some(ObjectId::of(&content)), content.len() as u64);
        let file = Content { object, size, blocks: Vec::new(), extents: None };
        let mut tree = Tree::new(metadata.clone());
        let name = EntryName::new(*b"file").expect("legal");
        let node = Node { metadata, kind: NodeKind::Regular(file) };
        tree.insert(tree.root(), name, node).expect("new");
        let image = encode(&tree).expect("small");
        let writer = store.writer(Wait::No).expect("not locked");
        writer.put_image(&image).expect("room");
        let commit = Commit {
            image: image.id,
            parent: None,
            ref_name: "main".parse().expect("legal"),
            sequence: 1,
            timestamp: 0,
            subject: String::new(),
            version: None,
            entries: image.entries,
            content_bytes: image.content_bytes,
            extra: BTreeMap::new(),
        };
        writer.put_commit(&commit).expect("room")
    }

    #[test]
    fn eviction_removes_a_kept_former_pack_whole_or_not_at_all() {
        for is_needed in [true, false] {
            let (_directory, store) = repository(20, PackLimits::default());
            make_former(&store);
            let former = packs(&store);
            let id = commit_of(&store, 0);
            if !is_needed {
                store.writer(Wait::No).expect("not locked").mark_lazy(id, b"").expect("room");
            }
            let _mount = store.register_mount(id).expect("not locked");
            add(&store, 20..21);
            let collector = store.collector(|| Wait::No).expect("not locked");
            let holder = ObjectId::of(&content(0));
            let holder = store.packs().find(&store.inner.files, &holder).expect("readable").expect("stored").0;
            let plan = collector.plan_eviction(0, 0).expect("readable");
            collector.evict(&plan).expect("room");
            let left = packs(&store);
            assert!(have_suffix(&left, FORMER), "the new pack is evicted");
            let expected: Vec<&String> = former.keys().filter(|name| is_needed && ***name == *holder.name).collect();
            assert!(left.keys().eq(expected.iter().copied()), "{expected:?}, {:?}", left.keys());
            assert!(left.iter().all(|(name, bytes)| former.get(name) == Some(bytes)));
            let plan = collector.plan_eviction(0, 0).expect("readable");
            assert_eq!((plan.used, plan.objects), (0, 0), "nothing is left that may be evicted");
        }
    }

    #[test]
    fn eviction_of_half_a_former_pack_removes_all_of_it() {
        let (_directory, store) = repository(0, PackLimits::default());
        let writer = store.writer(Wait::No).expect("not locked");
        for content in (0..10).map(content) {
            writer.put(content.len() as u64, &mut &content[..]).expect("room");
        }
        writer.flush().expect("durable");
        drop(writer);
        make_former(&store);
        let id = commit_of(&store, 0);
        store.writer(Wait::No).expect("not locked").mark_lazy(id, b"").expect("room");
        let _mount = store.register_mount(id).expect("not locked");
        let collector = store.collector(|| Wait::No).expect("not locked");
        let half = collector.plan_eviction(5000, 2500).expect("readable");
        assert!(half.objects == 10 && half.freed >= half.used, "{half:?}");
        collector.evict(&half).expect("room");
        assert!(packs(&store).is_empty());
    }
}
