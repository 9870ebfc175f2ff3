//! Records damage, and repairs it by writing verified bytes over the damaged ones.
//!
//! A part that is found damaged counts as absent in this process until its bytes are added again, whatever their origin; these
//! are then written over the damaged ones.
//!
//! *Not here*: removing damaged things (`drop_damaged`).
//!
//! *Invariants*: this is the only exception to the rule that files of a repository never change. It keeps the purpose of the
//! rule: the name says what the bytes are, and readers that verify them see damage until all of them are correct. A crash
//! meanwhile leaves a damaged file, as before.
//!
//! *Used by* `store::write` and `store::checked`, and by `cache`, which fetches damaged parts again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

use super::damage::{DamagedPart, while_writable};
use super::layout::StoreLayout;
use super::open::Store;
use super::partial;
use super::read::LocalObject;
use super::write::{StoreWriter, WriteError};
use crate::disk::{TemporaryFile, read_from, sync_directory};
use crate::model::{BLOCK_SIZE, ContentHasher, ObjectId};

impl Store {
    /// Records that a part does not have the digest of its name. Returns whether that was not known before.
    pub(crate) fn mark_bad(&self, part: DamagedPart) -> bool {
        self.inner.known_bad.add(part)
    }

    /// Returns whether a part was found damaged and has not been repaired.
    pub(crate) fn is_known_bad(&self, part: DamagedPart) -> bool {
        self.inner.known_bad.has(part)
    }

    /// Removes the record of damage of an object that has a new file.
    pub(crate) fn forget_damage(&self, object: ObjectId) {
        if self.inner.known_bad.remove_object(object) {
            self.inner.files.close_object(object);
        }
    }

    /// Returns the file that has the object, relative to the repository, and the position of the object in it.
    fn file_position(&self, object: ObjectId) -> Option<(PathBuf, u64)> {
        match self.locate(object).ok()? {
            LocalObject::Packed { pack, slot, .. } => {
                Some((Path::new(StoreLayout::PACKS).join(&*pack.name), slot.offset))
            }
            LocalObject::File(_) => Some((StoreLayout::object_relative(object), 0)),
        }
    }
}

/// The outcome of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// The object has the digest of its name again.
    Done,
    /// Other parts of the object are damaged, too. Nothing was changed.
    StillDamaged,
}

impl StoreWriter {
    /// Replaces the file of a damaged large object by a copy with these blocks, if the copy has the digest of the name. Durable
    /// on return.
    pub(crate) fn replace_damaged_blocks(
        &self,
        object: ObjectId,
        blocks: &BTreeMap<u32, Bytes>,
    ) -> Result<Repair, WriteError> {
        let path = self.store().layout().object(object);
        let failed = |action| {
            let path = path.clone();
            move |source| WriteError::Write { action, path, source }
        };
        let Some(file) = partial::open_if_exists(&path).map_err(failed("open"))? else { return Ok(Repair::Done) };
        let size = file.metadata().map_err(failed("read"))?.len();
        let copy = TemporaryFile::create(&self.store().layout().temporary()).map_err(failed("copy"))?;
        let (mut hasher, mut bytes) = (ContentHasher::new(size), vec![0; BLOCK_SIZE as usize]);
        for block in 0..u32::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX) {
            let start = u64::from(block) * BLOCK_SIZE;
            let length = read_from(&file, start, &mut bytes).map_err(failed("read"))?;
            let right = blocks.get(&block).filter(|right| right.len() == length);
            let block = right.map_or(&bytes[..length], |right| right);
            copy.file().write_all_at(block, start).map_err(failed("copy"))?;
            hasher.update(block);
        }
        if hasher.finish().and_then(|content| content.object) != Some(object) {
            return Ok(Repair::StillDamaged);
        }
        copy.file().sync_all().map_err(failed("sync a copy of"))?;
        copy.persist(&path).map_err(failed("replace"))?;
        path.parent().map_or(Ok(()), sync_directory).map_err(failed("sync the directory of"))?;
        self.store().forget_damage(object);
        tracing::warn!(%object, "damage is repaired");
        Ok(Repair::Done)
    }

    /// Writes `bytes` over the damaged ones. Durable on return.
    fn repair_part(&self, part: DamagedPart, bytes: &[u8]) -> Result<(), WriteError> {
        let store = self.store();
        let Some((path, start)) = store.file_position(part.object) else {
            store.inner.known_bad.remove(part);
            return Ok(());
        };
        let repaired = overwrite(store, &path, start.saturating_add(part.offset()), bytes);
        repaired.map_err(|source| WriteError::Write { action: "repair", path: store.path().join(&path), source })?;
        store.inner.known_bad.remove(part);
        tracing::warn!(object = %part.object, block = part.block, "damage is repaired");
        Ok(())
    }

    /// Writes `bytes`, which must have been verified, over the damaged ones. If that is impossible, as with a file that the
    /// kernel checks (fs-verity), the part stays damaged and is not read, and the log says what to do.
    pub(super) fn repair_or_log(&self, part: DamagedPart, bytes: &[u8]) {
        if let Err(error) = self.repair_part(part, bytes) {
            let why = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
            tracing::warn!(object = %part.object, block = part.block, "{error}: {why}; 'sapwood fsck --repair' drops it");
        }
    }
}

/// Writes `bytes` to a file of the repository. All its files are read-only, so the permission is changed meanwhile.
fn overwrite(store: &Store, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let open = |flags| rustix::fs::openat(store.directory(), path, flags | OFlags::CLOEXEC, Mode::empty());
    let reader = File::from(open(OFlags::RDONLY | OFlags::NOFOLLOW)?);
    while_writable(&reader, || {
        let file = File::from(open(OFlags::WRONLY | OFlags::NOFOLLOW)?);
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Wait;
    use crate::store::{Config, ObjectSource as _};

    #[test]
    fn bad_object_is_absent_until_it_is_added_again_and_repaired() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let put = |content: &[u8]| {
            let writer = store.writer(Wait::No).expect("not locked");
            writer.put(content.len() as u64, &mut &*content).expect("room");
            writer.flush().expect("durable");
        };
        // In a pack, and in a file of its own.
        for content in [vec![7; 1000], vec![8; 100_000]] {
            put(&content);
            let object = ObjectId::of(&content);
            let (path, start) = store.file_position(object).expect("stored");
            overwrite(&store, &path, start + 10, b"damage").expect("owned");
            let whole = DamagedPart { object, block: None };
            assert!(store.mark_bad(whole) && !store.mark_bad(whole), "it is new once");
            assert!(!store.has_object(object));
            put(&content);
            assert!(store.has_object(object) && !store.is_known_bad(whole));
            assert_eq!(store.read_whole(object, content.len() as u64).expect("stored"), content);
            let mode = std::fs::metadata(directory.path().join(&path)).expect("exists").permissions();
            assert!(mode.readonly(), "no process may write to it");
        }
    }
}
