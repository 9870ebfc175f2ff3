//! What was found damaged here, and how it is mended.
//!
//! What is found counts as absent in this process until its bytes have come again, from wherever they come; these are then
//! written to where the damaged ones are. That is the one exception to the rule that nothing here ever changes, and none to
//! what the rule is for: the name says what the bytes are, and readers who check them see damage until all are right. A crash in
//! between leaves what was there before: something damaged.

use std::collections::HashSet;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags};

use super::layout::Layout;
use super::open::Store;
use super::read::Place;
use super::write::{StoreWriter, WriteError};
use crate::model::{BLOCK_SIZE, ObjectId};

/// What is damaged: an object, or one block of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DamagedPart {
    /// The object.
    pub object: ObjectId,
    /// The block; of a small object none.
    pub block: Option<u32>,
}

impl DamagedPart {
    /// Where it begins within its object.
    fn offset(self) -> u64 {
        u64::from(self.block.unwrap_or(0)).saturating_mul(BLOCK_SIZE)
    }
}

/// What is known to be damaged.
#[derive(Debug, Default)]
pub(super) struct Suspects(RwLock<HashSet<DamagedPart>>);

impl Store {
    /// Takes notice that something is not what its name says. Returns whether that is news.
    pub fn condemn(&self, part: DamagedPart) -> bool {
        self.inner.suspects.0.write().insert(part)
    }

    /// Whether something was found damaged and is not mended.
    #[must_use]
    pub fn is_condemned(&self, part: DamagedPart) -> bool {
        let suspects = self.inner.suspects.0.read();
        !suspects.is_empty() && suspects.contains(&part)
    }

    /// Takes notice that an object has a new file.
    pub(super) fn replaced(&self, object: ObjectId) {
        let mut suspects = self.inner.suspects.0.write();
        if !suspects.is_empty() {
            suspects.retain(|part| part.object != object);
            self.inner.open_files.forget(object);
        }
    }

    fn acquit(&self, part: DamagedPart) {
        self.inner.suspects.0.write().remove(&part);
    }

    /// The file that has the object, where in it, and under what name.
    fn whereabouts(&self, object: ObjectId) -> Option<(std::path::PathBuf, u64)> {
        match self.place(object).ok()? {
            Place::Packed(pack, slot) => Some((Path::new(Layout::PACKS).join(&pack.name), slot.offset)),
            Place::File(_) => Some((Layout::object_relative(object), 0)),
        }
    }
}

impl StoreWriter {
    /// Writes `bytes`, which must have been verified, to where the damaged ones are. Durable on return.
    ///
    /// # Errors
    /// [`WriteError::Write`]; what is damaged stays so, and is not read.
    pub fn mend(&self, part: DamagedPart, bytes: &[u8]) -> Result<(), WriteError> {
        let store = self.store();
        let Some((path, start)) = store.whereabouts(part.object) else {
            store.acquit(part);
            return Ok(());
        };
        let mended = overwrite(store, &path, start.saturating_add(part.offset()), bytes);
        mended.map_err(|source| WriteError::Write { action: "mend", path: store.path().join(&path), source })?;
        store.acquit(part);
        tracing::warn!(object = %part.object, block = part.block, "damage is mended");
        Ok(())
    }
}

impl StoreWriter {
    /// The same where something else goes on if it cannot be: a file that the kernel watches (fs-verity) cannot be written to.
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

/// Does something that takes the permission to write to a file of which nobody has it.
pub(super) fn while_writable<T>(file: &File, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = file.metadata()?.permissions();
    file.set_permissions(Permissions::from_mode(before.mode() | 0o200))?;
    let done = act();
    file.set_permissions(before)?;
    done
}
