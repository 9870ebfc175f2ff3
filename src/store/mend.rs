//! Damage is noted, and mended.
//!
//! What is found counts as absent in this process until its bytes have come again, from wherever they come; these are then
//! written to where the damaged ones are. That is the one exception to the rule that nothing here ever changes, and none to
//! what the rule is for: the name says what the bytes are, and readers who check them see damage until all are right. A crash in
//! between leaves what was there before: something damaged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::damage::{DamagedPart, while_writable};
use super::layout::Layout;
use super::open::Store;
use super::read::Place;
use super::write::{StoreWriter, WriteError};
use crate::model::ObjectId;

impl Store {
    /// Takes notice that something is not what its name says. Returns whether that is news.
    pub fn condemn(&self, part: DamagedPart) -> bool {
        self.inner.suspects.add(part)
    }

    /// Whether something was found damaged and is not mended.
    #[must_use]
    pub fn is_condemned(&self, part: DamagedPart) -> bool {
        self.inner.suspects.has(part)
    }

    /// Takes notice that an object has a new file.
    pub(super) fn replaced(&self, object: ObjectId) {
        if self.inner.suspects.remove_object(object) {
            self.inner.files.forget(object);
        }
    }

    /// The file that has the object, where in it, and under what name.
    fn whereabouts(&self, object: ObjectId) -> Option<(PathBuf, u64)> {
        match self.place(object).ok()? {
            Place::Packed { pack, slot, .. } => Some((Path::new(Layout::PACKS).join(&*pack.name), slot.offset)),
            Place::File(_) => Some((Layout::object_relative(object), 0)),
        }
    }
}

impl StoreWriter {
    /// Writes `bytes` to where the damaged ones are. Durable on return.
    fn mend(&self, part: DamagedPart, bytes: &[u8]) -> Result<(), WriteError> {
        let store = self.store();
        let Some((path, start)) = store.whereabouts(part.object) else {
            store.inner.suspects.remove(part);
            return Ok(());
        };
        let mended = overwrite(store, &path, start.saturating_add(part.offset()), bytes);
        mended.map_err(|source| WriteError::Write { action: "mend", path: store.path().join(&path), source })?;
        store.inner.suspects.remove(part);
        tracing::warn!(object = %part.object, block = part.block, "damage is mended");
        Ok(())
    }

    /// Writes `bytes`, which must have been verified, to where the damaged ones are. If that cannot be, as with a file that
    /// the kernel watches (fs-verity), what is damaged stays so, is not read, and the log says what to do.
    pub fn mend_or_log(&self, part: DamagedPart, bytes: &[u8]) {
        if let Err(error) = self.mend(part, bytes) {
            let why = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
            tracing::warn!(object = %part.object, block = part.block, "{error}: {why}; 'sapwood fsck --repair' drops it");
        }
    }
}

/// Everything in a repository is read-only, also for us.
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
    fn what_is_condemned_is_absent_until_it_comes_again_and_is_then_right() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let put = |content: &[u8]| {
            let writer = store.writer(Wait::No).expect("nobody else");
            writer.put(content.len() as u64, &mut &*content).expect("room");
            writer.settle().expect("durable");
        };
        // In a pack, and in a file of its own.
        for content in [vec![7; 1000], vec![8; 100_000]] {
            put(&content);
            let object = ObjectId::of(&content);
            let (path, start) = store.whereabouts(object).expect("here");
            overwrite(&store, &path, start + 10, b"damage").expect("ours");
            let whole = DamagedPart { object, block: None };
            assert!(store.condemn(whole) && !store.condemn(whole), "it is news once");
            assert!(!store.has_object(object));
            put(&content);
            assert!(store.has_object(object) && !store.is_condemned(whole));
            assert_eq!(store.read_whole(object, content.len() as u64).expect("here"), content);
            let mode = std::fs::metadata(directory.path().join(&path)).expect("there").permissions();
            assert!(mode.readonly(), "nobody may write to it");
        }
    }
}
