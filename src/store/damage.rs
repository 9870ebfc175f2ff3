//! What was found damaged here, until it is mended. Knows nothing of files but their permissions.

use std::collections::HashSet;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use parking_lot::RwLock;

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
    pub(super) fn offset(self) -> u64 {
        u64::from(self.block.unwrap_or(0)).saturating_mul(BLOCK_SIZE)
    }
}

/// What is known to be damaged.
#[derive(Debug, Default)]
pub(super) struct Suspects(RwLock<HashSet<DamagedPart>>);

impl Suspects {
    /// Returns whether it is news.
    pub fn add(&self, part: DamagedPart) -> bool {
        self.0.write().insert(part)
    }

    pub fn has(&self, part: DamagedPart) -> bool {
        let suspects = self.0.read();
        !suspects.is_empty() && suspects.contains(&part)
    }

    pub fn remove(&self, part: DamagedPart) {
        self.0.write().remove(&part);
    }

    /// Forgets all parts of an object; returns whether there were any.
    pub fn remove_object(&self, object: ObjectId) -> bool {
        let mut suspects = self.0.write();
        let before = suspects.len();
        suspects.retain(|part| part.object != object);
        suspects.len() < before
    }
}

/// Does something that takes the permission to write to a file of which nobody has it.
pub(super) fn while_writable<T>(file: &File, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = file.metadata()?.permissions();
    file.set_permissions(Permissions::from_mode(before.mode() | 0o200))?;
    let done = act();
    file.set_permissions(before)?;
    done
}
