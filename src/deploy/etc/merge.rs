//! The three-way merge of one entry: every attribute for itself. Pure.
//!
//! For each of content, mode, owner and each extended attribute: what the default did not change stays as it is here, what
//! nobody changed here follows the default, and where both changed, what is here wins and is reported. So a local chmod
//! does not freeze a file's content, and a local edit does not freeze its owner.

use super::item::{Item, is_same_owner};
use crate::image::Aspect;
use crate::model::{Timestamp, Xattrs};

/// Which of the three trees something comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The tree on this machine.
    Local,
    /// The defaults of the new commit.
    Default,
}

/// One entry that is in the local tree and in the new defaults, merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// What comes out.
    pub item: Item,
    /// What was changed by the new default and arrives.
    pub taken: Vec<Aspect>,
    /// What was changed here and stays.
    pub kept: Vec<Aspect>,
    /// What both changed, differently: what is here wins.
    pub conflicts: Vec<Aspect>,
}

/// Merges an entry of which neither version is a directory, or both are.
#[must_use]
pub fn merge(old: Option<&Item>, local: &Item, new: &Item) -> Merged {
    let mut merged = Merged { item: local.clone(), taken: Vec::new(), kept: Vec::new(), conflicts: Vec::new() };
    let aspect = local.body.difference(&new.body).unwrap_or(Aspect::Content);
    let body = merged.choose(aspect, old.map(|old| &old.body), &local.body, &new.body, |a, b| a == b);
    let chosen = if body == Side::Local { local } else { new };
    merged.item = chosen.clone();
    merged.item.mtime = mtime(old, local, new, body);
    // The mode of a link says nothing about a file: attributes are merged between entries of one kind only.
    let alike = |item: &&Item| item.body.is_like(&chosen.body);
    let (base, here, there) = (old.filter(alike), Some(local).filter(alike), Some(new).filter(alike));
    let (Some(here), Some(there)) = (here, there) else { return merged };
    if merged.choose(Aspect::Mode, base.map(|base| &base.mode), &here.mode, &there.mode, |a, b| a == b) == Side::Default
    {
        merged.item.mode = there.mode;
    } else {
        merged.item.mode = here.mode;
    }
    let owner = merged
        .choose(Aspect::Owner, base.map(|base| &base.owner), &here.owner, &there.owner, |a, b| is_same_owner(*a, *b));
    merged.item.owner = if owner == Side::Local { here.owner.or(there.owner) } else { there.owner };
    merged.xattrs(base.map(|base| &base.xattrs), &here.xattrs, &there.xattrs);
    merged
}

impl Merged {
    /// Chooses between `local` and `new`, and notes why.
    fn choose<T>(
        &mut self,
        aspect: Aspect,
        old: Option<&T>,
        local: &T,
        new: &T,
        same: impl Fn(&T, &T) -> bool,
    ) -> Side {
        if same(local, new) {
            // Whoever was first: now they agree.
            return Side::Local;
        }
        match old {
            Some(old) if same(old, local) => {
                self.taken.push(aspect);
                Side::Default
            }
            Some(old) if same(old, new) => {
                self.kept.push(aspect);
                Side::Local
            }
            _ => {
                self.conflicts.push(aspect);
                Side::Local
            }
        }
    }

    /// Each extended attribute is a thing of its own: a label and a capability do not hold each other.
    fn xattrs(&mut self, old: Option<&Xattrs>, local: &Xattrs, new: &Xattrs) {
        let mut names: Vec<&[u8]> = local.iter().chain(new.iter()).map(|(name, _)| name).collect();
        names.extend(old.into_iter().flat_map(|old| old.iter().map(|(name, _)| name)));
        names.sort_unstable();
        names.dedup();
        let (taken, kept, conflicts) = (self.taken.len(), self.kept.len(), self.conflicts.len());
        let mut result = Xattrs::default();
        for name in names {
            let (here, there) = (local.get(name), new.get(name));
            let value = match self.choose(
                Aspect::Xattrs,
                old.map(|old| old.get(name)).as_ref(),
                &here,
                &there,
                |a, b| a == b,
            ) {
                Side::Local => here,
                Side::Default => there,
            };
            // Names and values come from sets that were checked, so this cannot fail.
            value.into_iter().for_each(|value| drop(result.set(name, value)));
        }
        self.item.xattrs = result;
        for (list, before) in [(&mut self.taken, taken), (&mut self.kept, kept), (&mut self.conflicts, conflicts)] {
            list.truncate(before + usize::from(list.len() > before));
        }
    }
}

/// The time goes with the content. A bare touch is kept as long as the content is.
fn mtime(old: Option<&Item>, local: &Item, new: &Item, body: Side) -> Timestamp {
    let is_touched = old.is_none_or(|old| old.mtime != local.mtime);
    match body {
        Side::Local if local.body != new.body || is_touched => local.mtime,
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
    fn a_local_chmod_keeps_its_mode_and_takes_the_new_content() {
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
    fn extended_attributes_are_merged_one_by_one() {
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
    fn a_link_here_and_a_file_there_do_not_mix_their_modes() {
        let merged = merge(Some(&file("old")), &symlink("x"), &with(|item| item.mode = 0o600));
        assert_eq!(merged.item, symlink("x"));
        assert_eq!((merged.kept, merged.conflicts), (vec![Aspect::Type], vec![]));
        let merged = merge(Some(&file("old")), &symlink("x"), &file("new"));
        assert_eq!(merged.conflicts, [Aspect::Type]);
    }

    #[test]
    fn times_go_with_contents_and_touches_stay() {
        let at = |content: &str, seconds| {
            let mut item = file(content);
            item.mtime.seconds = seconds;
            item
        };
        let table = [
            (at("o", 1), at("o", 1), at("n", 3), 3, "new content"),
            (at("o", 1), at("l", 2), at("o", 1), 2, "local content"),
            (at("o", 1), at("l", 2), at("n", 3), 2, "both"),
            (at("o", 1), at("o", 2), at("o", 1), 2, "touched here"),
            (at("o", 1), at("o", 1), at("o", 3), 3, "built again"),
            (at("o", 1), at("o", 2), at("n", 3), 3, "touched here, new content"),
        ];
        for (old, local, new, expected, why) in table {
            assert_eq!(merge(Some(&old), &local, &new).item.mtime.seconds, expected, "{why}");
        }
    }
}
