//! Removes the things that a check found damaged, so that they can be fetched or committed again.
//!
//! *Not here*: finding damage (`fsck`), writing correct bytes over damaged ones (`repair`).
//!
//! *Invariants*: only damaged things are removed; a pack with damaged objects is rewritten without them, in the former
//! form if an earlier program may need it (`former_packs`).
//!
//! *Used by* `cli`, with the report of a check.

use std::collections::HashSet;
use std::sync::Arc;

use super::fsck::{Damaged, FsckError, FsckReport};
use super::gc::{Gc, remove_files};
use super::layout::StoreLayout;
use super::milestone::MilestoneKind;
use super::pack::{Pack, PackForm};
use crate::disk::read_from;
use crate::model::ObjectId;

impl Gc {
    /// Removes the things that a check found damaged: objects from their packs, and damaged files. Refs stay, so that it
    /// remains known what they named. Returns the number of removed things.
    ///
    /// # Errors
    /// [`FsckError`]; another run continues where this one stopped.
    pub(crate) fn drop_damaged(&self, report: &FsckReport) -> Result<usize, FsckError> {
        let layout = self.writer.store().layout();
        if !report.damage.is_empty() {
            self.writer.store().remove_milestone(MilestoneKind::Checked);
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
                Damaged::Pack(name) if name == StoreLayout::PACK_INDEX_NAME => (layout.pack_index(), layout.packs()),
                Damaged::Ref(_) | Damaged::Pack(_) => continue,
            };
            remove_files(std::iter::once(path), &directory)?;
        }
        self.writer.store().forget_open_files();
        let holders = self.packs_with_damage(&bad)?;
        let unreadable: HashSet<ObjectId> = holders.iter().flat_map(|(_, ids)| ids).copied().collect();
        let keeps_former = self.writer.store().must_keep_former_packs();
        let is_former = |name: &str| keeps_former && PackForm::of_name(name) == Some(PackForm::Former);
        let names = holders.iter().map(|(name, _)| &**name);
        let (former, others): (Vec<&str>, Vec<&str>) = names.partition(|name| is_former(name));
        for (names, form) in [(former, PackForm::Former), (others, PackForm::Current)] {
            self.rewrite_packs(&names, form, &|id| !bad.contains(id) && !unreadable.contains(id))?;
        }
        Ok(report.damage.iter().filter(|damage| !matches!(damage.what, Damaged::Ref(_))).count())
    }

    /// Returns the packs that have a damaged object, magic or index, each with all its objects that do not have the digest of
    /// their names, reachable or not.
    fn packs_with_damage(&self, bad: &HashSet<ObjectId>) -> Result<Vec<(Arc<str>, Vec<ObjectId>)>, FsckError> {
        let has_damage = |pack: &Pack| pack.problem().is_some() || bad.iter().any(|id| pack.find(id).is_some());
        let mut found = Vec::new();
        for pack in self.packs()?.iter().filter(|pack| has_damage(pack)) {
            let mut unreadable = Vec::new();
            // One by one, so that a read error of the disk affects only the object at that position.
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
