//! Purpose: drops what a check found damaged, so that it can be fetched or committed again.
//!
//! Not here: finding damage (`fsck`), writing right bytes over wrong ones (`mend`). Invariant: only what is damaged goes; a
//! pack that has damage is written anew without it. Used by: `cli`, with the report of a check.

use std::collections::HashSet;
use std::sync::Arc;

use super::fsck::{Damaged, FsckError, FsckReport};
use super::gc::{Gc, remove_files};
use super::layout::Layout;
use super::milestone::Memory;
use super::pack::Pack;
use crate::disk::read_from;
use crate::model::ObjectId;

impl Gc {
    /// Drops what a check found damaged: damaged objects leave their packs, damaged files are removed. Refs stay, so
    /// that it remains known what they named. Returns how many things were dropped.
    ///
    /// # Errors
    /// [`FsckError`]; running it again goes on where it stopped.
    pub fn drop_damaged(&self, report: &FsckReport) -> Result<usize, FsckError> {
        let layout = self.writer.store().layout();
        if !report.damage.is_empty() {
            self.writer.store().forget(Memory::Checked);
        }
        let bad: HashSet<ObjectId> = report
            .damage
            .iter()
            .filter_map(|damage| match damage.what {
                Damaged::Object(id) => Some(id),
                _ => None,
            })
            .collect();
        for damage in &report.damage {
            let (path, directory) = match &damage.what {
                Damaged::Commit(id) => (layout.commit(*id), layout.commits()),
                Damaged::Image(id) => (layout.image(*id), layout.images()),
                Damaged::Object(id) => (layout.object(*id), layout.objects()),
                Damaged::Pack(name) if name == Layout::PACK_INDEX_NAME => (layout.pack_index(), layout.packs()),
                Damaged::Ref(_) | Damaged::Pack(_) => continue,
            };
            remove_files(std::iter::once(path), &directory)?;
        }
        self.writer.store().forget_open_files();
        let holders = self.packs_with_damage(&bad)?;
        let names: Vec<&str> = holders.iter().map(|(name, _)| &**name).collect();
        let unreadable: HashSet<ObjectId> = holders.iter().flat_map(|(_, ids)| ids).copied().collect();
        self.rewrite_packs(&names, &|id| !bad.contains(id) && !unreadable.contains(id))?;
        Ok(report.damage.iter().filter(|damage| !matches!(damage.what, Damaged::Ref(_))).count())
    }

    /// The packs that have a damaged object or index, each with all its objects that do not have their digest, be they
    /// reachable or not.
    fn packs_with_damage(&self, bad: &HashSet<ObjectId>) -> Result<Vec<(Arc<str>, Vec<ObjectId>)>, FsckError> {
        let has_damage = |pack: &Pack| !pack.index_is_intact() || bad.iter().any(|id| pack.find(id).is_some());
        let mut found = Vec::new();
        for pack in self.packs()?.iter().filter(|pack| has_damage(pack)) {
            let mut unreadable = Vec::new();
            // One by one: where the disk fails, everything but the object in that place is still to be had.
            for (id, slot) in (0..pack.len()).map(|row| pack.row(row)) {
                let file = self.writer.store().inner.files.pack(&pack.name);
                let intact = slot.is_some_and(|slot| {
                    let mut bytes = vec![0; slot.length as usize];
                    file.and_then(|file| read_from(&file, slot.offset, &mut bytes)).is_ok()
                        && ObjectId::of(&bytes) == id
                });
                if !intact {
                    unreadable.push(id);
                }
            }
            found.push((Arc::clone(&pack.name), unreadable));
        }
        Ok(found)
    }
}
