//! Which extended attributes a tree keeps: those that Linux lets be set on every filesystem.
//!
//! Others belong to one filesystem or system: `btrfs.compression`, `com.apple.*`, `system.nfs4_acl`. They cannot be set when the
//! tree is copied, and would make the ids of equal trees depend on where these were.
//!
//! *Invariants*: they are left out, and said once for an import.
//!
//! *Used by* `walk`, `directory` and `tar`.

use std::collections::BTreeMap;

use crate::model::{ACL_ACCESS, ACL_DEFAULT};

/// The beginnings of the names of attributes that are kept, besides the two ACLs.
const KEPT: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Most names that the warning lists.
const NAMES_SHOWN: usize = 5;

/// The attributes that an import left out: how often each name.
#[derive(Debug, Default)]
pub(crate) struct ForeignXattrs(BTreeMap<Box<[u8]>, u64>);

impl ForeignXattrs {
    /// Removes the attributes that are not kept from `pairs`, and counts them.
    pub(super) fn remove_from(&mut self, pairs: &mut Vec<(Box<[u8]>, Box<[u8]>)>) {
        pairs.retain(|(name, _)| {
            let is_kept = is_kept(name);
            if !is_kept {
                *self.0.entry(name.clone()).or_default() += 1;
            }
            is_kept
        });
    }

    /// Logs a warning if attributes were left out.
    pub(super) fn warn(&self) {
        if self.0.is_empty() {
            return;
        }
        let names: Vec<String> = self.0.keys().take(NAMES_SHOWN).map(|name| name.escape_ascii().to_string()).collect();
        let more = if self.0.len() > NAMES_SHOWN { ", …" } else { "" };
        let count: u64 = self.0.values().sum();
        tracing::warn!(
            "{count} extended attributes are left out, since other filesystems of Linux cannot hold them: {}{more}",
            names.join(", ")
        );
    }
}

/// Returns whether an attribute is kept. An empty name is, so that it is refused as one.
fn is_kept(name: &[u8]) -> bool {
    name.is_empty() || name == ACL_ACCESS || name == ACL_DEFAULT || KEPT.iter().any(|start| name.starts_with(start))
}
