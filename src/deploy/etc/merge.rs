//! The three-way merge of one entry, separately for each of its aspects.
//!
//! The aspects are content, mode, owner, and each extended attribute. An aspect that only one side changed gets the value of
//! that side. If both changed it differently, the local value is kept and a conflict is reported. So after a local chmod a file
//! still gets new content, and after a local edit it still gets a new owner.
//!
//! *Not here*: contents that are merged by line or by entry, and directories (`plan`). Everything in this file is pure.
//!
//! *Used by* `plan`.

use super::item::{Item, is_same_owner};
use crate::image::Aspect;
use crate::model::{Timestamp, Xattrs};

/// The side of a merge from which a value is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergeSide {
    /// The local tree.
    Local,
    /// The defaults of the new commit.
    Default,
}

/// The result of merging an entry that both the local tree and the new defaults have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MergedItem {
    /// The merged entry.
    pub(crate) item: Item,
    /// The aspects that only the new default changed: they are taken from it.
    pub(crate) taken: Vec<Aspect>,
    /// The aspects that only the administrator changed: they are kept.
    pub(crate) kept: Vec<Aspect>,
    /// The aspects that both sides changed differently: the local value is kept.
    pub(crate) conflicts: Vec<Aspect>,
}

/// Merges an entry of which either both versions are directories or neither is.
#[must_use]
pub fn merge(old: Option<&Item>, local: &Item, new: &Item) -> MergedItem {
    let mut merged = MergedItem { item: local.clone(), taken: Vec::new(), kept: Vec::new(), conflicts: Vec::new() };
    let aspect = local.body.difference(&new.body).unwrap_or(Aspect::Content);
    let body = merged.choose(aspect, old.map(|old| &old.body), &local.body, &new.body, |a, b| a == b);
    let chosen = if body == MergeSide::Local { local } else { new };
    merged.item = chosen.clone();
    merged.item.mtime = merged_mtime(old, local, new, body);
    // Attributes are merged only between entries of the same kind: the mode of a link means nothing for a file.
    let is_same_kind = |item: &&Item| item.body.is_like(&chosen.body);
    let base = old.filter(is_same_kind);
    let (Some(local), Some(new)) = (Some(local).filter(is_same_kind), Some(new).filter(is_same_kind)) else {
        return merged;
    };
    let mode = merged.choose(Aspect::Mode, base.map(|base| &base.mode), &local.mode, &new.mode, |a, b| a == b);
    merged.item.mode = if mode == MergeSide::Local { local.mode } else { new.mode };
    let owner = merged
        .choose(Aspect::Owner, base.map(|base| &base.owner), &local.owner, &new.owner, |a, b| is_same_owner(*a, *b));
    merged.item.owner = if owner == MergeSide::Local { local.owner.or(new.owner) } else { new.owner };
    merged.merge_xattrs(base.map(|base| &base.xattrs), &local.xattrs, &new.xattrs);
    merged
}

impl MergedItem {
    /// Chooses the side from which an aspect is taken, and notes the aspect in the list that fits.
    fn choose<T>(
        &mut self,
        aspect: Aspect,
        old: Option<&T>,
        local: &T,
        new: &T,
        same: impl Fn(&T, &T) -> bool,
    ) -> MergeSide {
        if same(local, new) {
            // Both sides already have the same value.
            return MergeSide::Local;
        }
        match old {
            Some(old) if same(old, local) => {
                self.taken.push(aspect);
                MergeSide::Default
            }
            Some(old) if same(old, new) => {
                self.kept.push(aspect);
                MergeSide::Local
            }
            _ => {
                self.conflicts.push(aspect);
                MergeSide::Local
            }
        }
    }

    /// Merges each extended attribute separately, so that a changed label does not prevent a new capability.
    fn merge_xattrs(&mut self, old: Option<&Xattrs>, local: &Xattrs, new: &Xattrs) {
        let mut names: Vec<&[u8]> = local.iter().chain(new.iter()).map(|(name, _)| name).collect();
        names.extend(old.into_iter().flat_map(|old| old.iter().map(|(name, _)| name)));
        names.sort_unstable();
        names.dedup();
        let (taken, kept, conflicts) = (self.taken.len(), self.kept.len(), self.conflicts.len());
        let mut result = Xattrs::default();
        for name in names {
            let (local, new) = (local.get(name), new.get(name));
            let value =
                match self.choose(Aspect::Xattrs, old.map(|old| old.get(name)).as_ref(), &local, &new, |a, b| a == b) {
                    MergeSide::Local => local,
                    MergeSide::Default => new,
                };
            // The names and values come from valid sets, so this cannot fail.
            value.into_iter().for_each(|value| drop(result.set(name, value)));
        }
        self.item.xattrs = result;
        for (list, before) in [(&mut self.taken, taken), (&mut self.kept, kept), (&mut self.conflicts, conflicts)] {
            list.truncate(before + usize::from(list.len() > before));
        }
    }
}

/// Returns the time of the merged entry: that of the chosen content. A local time without a local content is kept if the
/// content of the default did not change.
fn merged_mtime(old: Option<&Item>, local: &Item, new: &Item, body: MergeSide) -> Timestamp {
    let is_touched = old.is_none_or(|old| old.mtime != local.mtime);
    match body {
        MergeSide::Local if local.body != new.body || is_touched => local.mtime,
        _ => new.mtime,
    }
}

#[cfg(test)]
mod tests {
    use super::super::item::examples::{file, symlink};
    use super::*;

    fn with(change: impl FnOnce(&mut Item)) -> Item {
        let mut item = file("old");
        change(&mut item);
        item
    }

    #[test]
    fn merge_keeps_local_mode_and_takes_new_content() {
        let (old, local) = (file("old"), with(|item| item.mode = 0o600));
        let mut new = file("new");
        new.owner = Some((5, 5));
        let merged = merge(Some(&old), &local, &new);
        assert_eq!((merged.item.mode, merged.item.owner), (0o600, Some((5, 5))));
        assert_eq!(merged.item.body, new.body);
        assert_eq!((&merged.taken[..], &merged.kept[..]), (&[Aspect::Content, Aspect::Owner][..], &[Aspect::Mode][..]));
        assert_eq!(merged.conflicts, []);
    }

    #[test]
    fn merge_treats_each_xattr_separately() {
        let set = |pairs: &[(&str, &str)]| {
            let mut item = file("old");
            pairs.iter().for_each(|(n, v)| item.xattrs.set(n.as_bytes(), v.as_bytes()).expect("legal"));
            item
        };
        let old = set(&[("user.a", "1"), ("user.b", "1"), ("user.c", "1"), ("user.d", "1")]);
        let local = set(&[("user.a", "2"), ("user.b", "1"), ("user.c", "2"), ("user.e", "2")]);
        let new = set(&[("user.a", "1"), ("user.b", "3"), ("user.c", "3"), ("user.d", "1")]);
        let merged = merge(Some(&old), &local, &new);
        assert_eq!(
            merged.item.xattrs,
            set(&[("user.a", "2"), ("user.b", "3"), ("user.c", "2"), ("user.e", "2")]).xattrs
        );
        assert_eq!((merged.taken.len(), merged.kept.len(), merged.conflicts.len()), (1, 1, 1));
    }

    #[test]
    fn merge_does_not_mix_modes_of_link_and_file() {
        let merged = merge(Some(&file("old")), &symlink("x"), &with(|item| item.mode = 0o600));
        assert_eq!(merged.item, symlink("x"));
        assert_eq!((merged.kept, merged.conflicts), (vec![Aspect::Type], vec![]));
        let merged = merge(Some(&file("old")), &symlink("x"), &file("new"));
        assert_eq!(merged.conflicts, [Aspect::Type]);
    }

    #[test]
    fn mtime_follows_content_and_keeps_local_touch() {
        let at = |content: &str, seconds| {
            let mut item = file(content);
            item.mtime.seconds = seconds;
            item
        };
        let table = [
            (at("o", 1), at("o", 1), at("n", 3), 3, "new content"),
            (at("o", 1), at("l", 2), at("o", 1), 2, "local content"),
            (at("o", 1), at("l", 2), at("n", 3), 2, "both"),
            (at("o", 1), at("o", 2), at("o", 1), 2, "touched locally"),
            (at("o", 1), at("o", 1), at("o", 3), 3, "built again"),
            (at("o", 1), at("o", 2), at("n", 3), 3, "touched locally, new content"),
        ];
        for (old, local, new, expected, why) in table {
            assert_eq!(merge(Some(&old), &local, &new).item.mtime.seconds, expected, "{why}");
        }
    }
}
