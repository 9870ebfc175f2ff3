//! Decides the ids of users and groups, so that files on a machine keep their owners from one commit to the next.
//!
//! Package scripts assign ids in the order in which they run. Here each name that the parent had gets the parent's id back; a
//! new name whose id is thereby taken gets a free one. The ids of removed names are not reused: they stay reserved, and a
//! name that returns gets its id back.

use std::collections::{BTreeMap, BTreeSet};

use super::super::LayoutError;

/// The ids that package scripts assign in order; the distribution fixes the others.
const DYNAMIC_IDS: std::ops::RangeInclusive<u32> = 100..=999;

/// Old id to new id; an id without an entry stays.
pub(crate) type Renumbering = BTreeMap<u32, u32>;

/// Decides the ids: `new` are names with the ids that scripts gave them, `kept` the ids that names must have, `reserved` the
/// ids of removed names, which no new name may get.
///
/// # Errors
/// [`LayoutError::NoFreeId`].
pub(crate) fn plan_renumbering<'a>(
    new: impl Iterator<Item = (&'a str, u32)> + Clone,
    kept: &BTreeMap<String, u32>,
    reserved: &BTreeMap<String, u32>,
) -> Result<Renumbering, LayoutError> {
    let wanted = |name: &str| kept.get(name).or_else(|| reserved.get(name)).copied();
    // The ids of names that the parent had. Ids that new names share with each other stay shared.
    let mut taken: BTreeSet<u32> = kept.values().chain(reserved.values()).copied().collect();
    let mut renumbering = Renumbering::new();
    let mut displaced = Vec::new();
    // Several names may share an id, as groups of `sync` and `nobody` do on some systems: the first name decides.
    for (name, id) in new.clone() {
        match wanted(name) {
            Some(kept) if kept != id => _ = renumbering.entry(id).or_insert(kept),
            Some(_) => {}
            None if taken.contains(&id) && DYNAMIC_IDS.contains(&id) => displaced.push((name, id)),
            None => {}
        }
    }
    for (name, id) in displaced {
        let free = DYNAMIC_IDS.clone().find(|id| !taken.contains(id) && !new.clone().any(|(_, other)| other == *id));
        let free = free.ok_or_else(|| LayoutError::NoFreeId(name.to_owned()))?;
        taken.insert(free);
        renumbering.entry(id).or_insert(free);
    }
    Ok(renumbering)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
        pairs.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
    }

    #[test]
    fn known_names_keep_ids_and_new_names_get_free_ids() {
        let new = [("root", 0), ("sshd", 100), ("new", 101), ("dbus", 102), ("same", 105)];
        let kept = map(&[("root", 0), ("sshd", 101), ("dbus", 102), ("same", 105)]);
        let done = plan_renumbering(new.into_iter(), &kept, &map(&[("gone", 100)])).expect("room");
        // sshd gets 101 back, so the new name gets another id; 100 stays reserved, 102 and 105 are taken.
        assert_eq!(done, Renumbering::from([(100, 101), (101, 103)]));
    }

    #[test]
    fn returning_name_gets_its_reserved_id() {
        let done =
            plan_renumbering([("back", 104)].into_iter(), &BTreeMap::new(), &map(&[("back", 100)])).expect("room");
        assert_eq!(done, Renumbering::from([(104, 100)]));
    }

    #[test]
    fn nothing_is_renumbered_without_a_parent() {
        let new = [("root", 0), ("a", 100), ("b", 100)];
        assert_eq!(
            plan_renumbering(new.into_iter(), &BTreeMap::new(), &BTreeMap::new()).expect("room"),
            Renumbering::new()
        );
    }
}
