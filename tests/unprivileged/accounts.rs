//! The merge of account files against a model of its rules that is written from the documentation, simple and slow, on random
//! states of the old defaults, the machine and the new defaults.

use std::collections::{BTreeMap, BTreeSet};

use sapwood::deploy::etc::{AccountFile, merge_accounts};

use crate::common::random::Random;

/// The number of states that are tried.
const STATES: u64 = 4000;

type Entries = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

/// Returns a random entry of `passwd`: its fields.
fn entry(random: &mut Random, name: &[u8]) -> Vec<Vec<u8>> {
    let texts: [&[u8]; 4] = [b"", b"Jos\xe9", b"x", b"\xff\xfe"];
    let numbers: [&[u8]; 6] = [b"7", b"101", b"102", b"999", b"1000", b"1001"];
    let (gecos, home) = (random.choose(&texts).to_vec(), random.choose(&texts).to_vec());
    let number = random.choose(&numbers).to_vec();
    vec![name.to_vec(), b"x".to_vec(), number, b"100".to_vec(), gecos, home, b"/bin/sh".to_vec()]
}

fn random_state(random: &mut Random) -> [Entries; 3] {
    let names: [&[u8]; 5] = [b"a", b"b", b"c", b"d\xe9", b"e"];
    let mut sides = [Entries::new(), Entries::new(), Entries::new()];
    for name in names {
        let base = entry(random, name);
        for side in &mut sides {
            match random.below(4) {
                0 => {}
                1 => _ = side.insert(name.to_vec(), entry(random, name)),
                _ => _ = side.insert(name.to_vec(), base.clone()),
            }
        }
    }
    sides
}

fn line(fields: &[Vec<u8>]) -> Vec<u8> {
    fields.join(&b':')
}

fn file(entries: &Entries) -> Vec<u8> {
    entries.values().flat_map(|fields| [line(fields), b"\n".to_vec()].concat()).collect()
}

/// Returns the lines that the rules give, and the names in conflict.
fn model([old, local, new]: &[Entries; 3]) -> (Entries, BTreeSet<Vec<u8>>) {
    let (mut result, mut conflicts) = (Entries::new(), BTreeSet::new());
    for (name, mine) in local {
        let merged = match (old.get(name), new.get(name)) {
            // Unchanged here: as in the new defaults.
            (Some(base), Some(theirs)) if base == mine => theirs.clone(),
            (Some(base), None) if base == mine => continue,
            (_, None) => mine.clone(),
            (base, Some(theirs)) => (0..mine.len())
                .map(|field| {
                    let is_mine = base.is_none_or(|base| base[field] != mine[field]);
                    let is_theirs = base.is_none_or(|base| base[field] != theirs[field]);
                    if is_mine && is_theirs && mine[field] != theirs[field] {
                        conflicts.insert(name.clone());
                    }
                    if is_mine { mine[field].clone() } else { theirs[field].clone() }
                })
                .collect(),
        };
        result.insert(name.clone(), merged);
    }
    let before = result.clone();
    for (name, theirs) in new {
        if local.contains_key(name) || old.contains_key(name) {
            continue;
        }
        let number = |fields: &Vec<Vec<u8>>| {
            String::from_utf8(fields[2].clone()).expect("digits").parse::<u32>().expect("a number")
        };
        let wanted = number(theirs);
        let is_held = before.iter().any(|(other, fields)| {
            number(fields) == wanted && new.get(other).is_none_or(|shared| number(shared) != wanted)
        });
        if !is_held {
            result.insert(name.clone(), theirs.clone());
        } else if wanted < 1000 {
            let taken: BTreeSet<u32> = result.values().chain(new.values()).map(number).collect();
            let free = (101..=999).rev().find(|number| !taken.contains(number)).expect("there are many");
            let mut moved = theirs.clone();
            moved[2] = free.to_string().into_bytes();
            result.insert(name.clone(), moved);
        } else {
            conflicts.insert(name.clone());
        }
    }
    (result, conflicts)
}

#[test]
fn account_merge_follows_the_model_of_its_rules() {
    let mut random = Random::new(7);
    let (mut with_conflicts, mut moved) = (0, 0);
    for state in 0..STATES {
        let sides = random_state(&mut random);
        let [old, local, new] = sides.each_ref().map(file);
        // Lines that are no entries, and an end without a newline, stay as they are.
        let odds: [&[u8]; 4] = [b"", b"# \xff\n", b"\n+nis::::::\n", b"+::::::"];
        let odd = *random.choose(&odds);
        let merged = merge_accounts(AccountFile::Passwd, &old, &[&local[..], odd].concat(), &new);
        let (expected, conflicts) = model(&sides);
        let shown = String::from_utf8_lossy(&merged.text).into_owned();
        assert!(merged.text.ends_with(odd), "{state}: {shown}");
        let mut lines: Vec<&[u8]> = merged.text[..merged.text.len() - odd.len()].split(|byte| *byte == b'\n').collect();
        lines.retain(|line| !line.is_empty());
        lines.sort_unstable();
        let mut expected: Vec<Vec<u8>> = expected.values().map(|fields| line(fields)).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected, "{state}: {shown}");
        assert_eq!(merged.conflicts.is_empty(), conflicts.is_empty(), "{state}: {:?}", merged.conflicts);
        with_conflicts += u64::from(!conflicts.is_empty());
        moved += merged.renumbered.len();
    }
    assert!(with_conflicts > STATES / 10 && moved > 100, "{with_conflicts} conflicts, {moved} numbers");
}
