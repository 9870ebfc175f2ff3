//! Records which objects and blocks were found damaged, until they are repaired.
//!
//! *Not here*: finding damage (`checked`, `fsck`), writing correct bytes (`repair`).
//!
//! *Used by* `store::repair`, `store::checked`, `store::read` and `store::write`.

use std::collections::HashSet;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use parking_lot::RwLock;

use crate::model::{BLOCK_SIZE, ObjectId};

/// A damaged part: an object, or one block of a large object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DamagedPart {
    pub(crate) object: ObjectId,
    /// The block of a large object; `None` for a small object.
    pub(crate) block: Option<u32>,
}

impl DamagedPart {
    /// Returns the position within the object at which the part begins.
    pub(super) fn offset(self) -> u64 {
        u64::from(self.block.unwrap_or(0)).saturating_mul(BLOCK_SIZE)
    }
}

/// The set of parts that are known to be damaged.
#[derive(Debug, Default)]
pub(super) struct KnownBad(RwLock<HashSet<DamagedPart>>);

impl KnownBad {
    /// Adds a part; returns whether it was not in the set before.
    pub(crate) fn add(&self, part: DamagedPart) -> bool {
        self.0.write().insert(part)
    }

    pub(crate) fn has(&self, part: DamagedPart) -> bool {
        let parts = self.0.read();
        !parts.is_empty() && parts.contains(&part)
    }

    pub(crate) fn remove(&self, part: DamagedPart) {
        self.0.write().remove(&part);
    }

    /// Removes all parts of an object; returns whether there were any.
    pub(crate) fn remove_object(&self, object: ObjectId) -> bool {
        let mut parts = self.0.write();
        let before = parts.len();
        parts.retain(|part| part.object != object);
        parts.len() < before
    }
}

/// Calls `act` while the owner of a read-only file is permitted to write to it.
pub(super) fn while_writable<T>(file: &File, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = file.metadata()?.permissions();
    file.set_permissions(Permissions::from_mode(before.mode() | 0o200))?;
    let done = act();
    file.set_permissions(before)?;
    done
}
