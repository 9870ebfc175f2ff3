//! Which numbers users and groups get, so that files on a machine keep their owners from one commit to the next.
//!
//! Package scripts hand out numbers in the order in which they run. Here each name that the parent had gets the parent's
//! number back; a new name whose number is thereby taken gets a free one. Numbers of names that went are not given to
//! others: they are remembered, and a name that comes back finds its number.

use std::collections::{BTreeMap, BTreeSet};

use super::super::LayoutError;

/// Numbers that packages hand out as they please; others are fixed by the distribution.
const DYNAMIC: std::ops::RangeInclusive<u32> = 100..=999;

/// Old number to new number; numbers that are not in it stay.
pub type Renumbering = BTreeMap<u32, u32>;

/// Decides the numbers: `new` are names with the numbers they were given, `kept` those they should have, `reserved`
/// numbers nobody new may get.
///
/// # Errors
/// [`LayoutError::NoFreeId`].
pub fn assign<'a>(
    new: impl Iterator<Item = (&'a str, u32)> + Clone,
    kept: &BTreeMap<String, u32>,
    reserved: &BTreeMap<String, u32>,
) -> Result<Renumbering, LayoutError> {
    let wanted = |name: &str| kept.get(name).or_else(|| reserved.get(name)).copied();
    // Of somebody whom the parent knew. What new names share among each other stays shared.
    let mut taken: BTreeSet<u32> = kept.values().chain(reserved.values()).copied().collect();
    let mut renumbering = Renumbering::new();
    let mut homeless = Vec::new();
    // Several names may share a number, as sync and nobody's groups do elsewhere: the first decides.
    for (name, id) in new.clone() {
        match wanted(name) {
            Some(kept) if kept != id => _ = renumbering.entry(id).or_insert(kept),
            Some(_) => {}
            None if taken.contains(&id) && DYNAMIC.contains(&id) => homeless.push((name, id)),
            None => {}
        }
    }
    for (name, id) in homeless {
        let free = DYNAMIC.clone().find(|id| !taken.contains(id) && !new.clone().any(|(_, other)| other == *id));
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
    fn names_keep_their_numbers_and_new_ones_make_room() {
        let new = [("root", 0), ("sshd", 100), ("new", 101), ("dbus", 102), ("same", 105)];
        let kept = map(&[("root", 0), ("sshd", 101), ("dbus", 102), ("same", 105)]);
        let done = assign(new.into_iter(), &kept, &map(&[("gone", 100)])).expect("room");
        // sshd takes 101 back, the new one leaves it; 100 stays reserved, 102 and 105 are taken.
        assert_eq!(done, Renumbering::from([(100, 101), (101, 103)]));
    }

    #[test]
    fn a_name_that_comes_back_finds_its_number() {
        let done = assign([("back", 104)].into_iter(), &BTreeMap::new(), &map(&[("back", 100)])).expect("room");
        assert_eq!(done, Renumbering::from([(104, 100)]));
    }

    #[test]
    fn without_a_parent_nothing_changes() {
        let new = [("root", 0), ("a", 100), ("b", 100)];
        assert_eq!(assign(new.into_iter(), &BTreeMap::new(), &BTreeMap::new()).expect("room"), Renumbering::new());
    }
}
