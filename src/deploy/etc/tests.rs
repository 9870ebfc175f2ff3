//! The merge matrix: a table of what is expected, the full product of states held to rules, and random trees.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::item::MERGED_MAX;
use super::item::examples::{directory, file, item, symlink, tree};
use super::*;
use crate::image::Aspect;
use crate::model::{DeviceNumber, ObjectId};

/// Contents are found by the digests of a few known texts; local files by their path.
struct Known<'a>(&'a EtcTree);

const TEXTS: [&str; 9] = ["", "A", "B", "C", "a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n", "x\nb\nc\nd\n", "child"];

impl Contents for Known<'_> {
    fn local(&self, path: &[u8]) -> Result<Vec<u8>, ContentError> {
        match self.0.get(path).map(|item| &item.body) {
            Some(Body::File { content, .. }) => self.object(*content, 0),
            _ => Err(ContentError::Absent),
        }
    }

    fn object(&self, id: ObjectId, _: u64) -> Result<Vec<u8>, ContentError> {
        let found = TEXTS.iter().find(|text| ObjectId::of(text.as_bytes()) == id);
        found.map(|text| text.as_bytes().to_vec()).ok_or(ContentError::Absent)
    }
}

fn merged(old: &EtcTree, local: &EtcTree, new: &EtcTree) -> EtcPlan {
    plan(old, local, new, &Rules::default(), &Known(local)).expect("contents are known")
}

fn result(plan: &EtcPlan) -> EtcTree {
    EtcTree { entries: plan.entries.iter().map(|(path, planned)| (path.clone(), planned.item.clone())).collect() }
}

/// States of the path `p` and what is below it, as people write them in the table.
fn state(text: &str) -> Vec<(&'static str, Item)> {
    let with = |change: fn(&mut Item)| {
        let mut changed = file("A");
        change(&mut changed);
        vec![("p", changed)]
    };
    match text {
        "-" => vec![],
        "A" | "B" | "C" => vec![("p", file(text))],
        "A600" => with(|item| item.mode = 0o600),
        "A640" => with(|item| item.mode = 0o640),
        "Auser" => with(|item| item.owner = Some((7, 7))),
        "Axattr" => with(|item| item.xattrs.set(b"user.x", b"1").expect("legal")),
        "B600" => {
            let mut changed = file("B");
            changed.mode = 0o600;
            vec![("p", changed)]
        }
        "->x" => vec![("p", symlink("x"))],
        "->y" => vec![("p", symlink("y"))],
        "dir" => vec![("p", directory())],
        "dir700" => vec![("p", item(Body::Directory, 0o700))],
        "dir/A" => vec![("p", directory()), ("p/c", file("A"))],
        "dir/B" => vec![("p", directory()), ("p/c", file("B"))],
        "dir/A,new" => vec![("p", directory()), ("p/c", file("A")), ("p/n", file("child"))],
        "dir700/A" => vec![("p", item(Body::Directory, 0o700)), ("p/c", file("A"))],
        "fifo" => vec![("p", item(Body::Fifo, 0o644))],
        "socket" => vec![("p", item(Body::Socket, 0o644))],
        "null" => vec![("p", item(Body::CharDevice(DeviceNumber { major: 1, minor: 3 }), 0o644))],
        "disk" => vec![("p", item(Body::BlockDevice(DeviceNumber { major: 8, minor: 0 }), 0o644))],
        other => panic!("no state {other}"),
    }
}

const STATES: [&str; 20] = [
    "-",
    "A",
    "B",
    "C",
    "A600",
    "A640",
    "Auser",
    "Axattr",
    "B600",
    "->x",
    "->y",
    "dir",
    "dir700",
    "dir/A",
    "dir/B",
    "dir/A,new",
    "dir700/A",
    "fifo",
    "null",
    "disk",
];

/// The tree whose path `p` is in this state, among others that do not change.
fn scene(state_of_p: &str) -> EtcTree {
    let mut entries = state(state_of_p);
    entries.extend([("o", file("A")), ("p-", file("B")), ("q/r", file("C"))]);
    tree(&entries)
}

/// The rows of the table of OSTree's semantics, and what is expected here: old default, local, new default, the state
/// that comes out, and what is said about `p` or what is in it.
#[test]
fn every_row_of_the_matrix() {
    use Outcome::{
        Added, Conflict, InDeletedDirectory, Kept, KeptWithoutDefault, Merged, Removed, StaysDeleted, TypeConflict,
        Updated,
    };
    type Row = (&'static str, &'static str, &'static str, &'static str, Option<Outcome>);
    let table: &[Row] = &[
        // nobody changed anything here: the default, whatever it is
        ("A", "A", "A", "A", None),
        ("A", "A", "B", "B", Some(Updated)),
        ("A", "A", "A600", "A600", Some(Updated)),
        ("A", "A", "-", "-", Some(Removed)),
        ("A", "A", "->x", "->x", Some(Updated)),
        ("A", "A", "dir/A", "dir/A", Some(Updated)),
        ("->x", "->x", "->y", "->y", Some(Updated)),
        ("dir/A", "dir/A", "B", "B", Some(Updated)),
        ("dir/A", "dir/A", "-", "-", Some(Removed)),
        ("-", "-", "A", "A", Some(Added)),
        ("-", "-", "dir/A", "dir/A", Some(Added)),
        // content changed here
        ("A", "B", "A", "B", Some(Kept)),
        ("A", "B", "C", "B", Some(Conflict)),
        ("A", "B", "-", "B", Some(KeptWithoutDefault)),
        ("A", "B", "B", "B", None),
        ("A", "B", "A600", "B600", Some(Merged)),
        // mode, owner and attributes changed here: the content follows (OSTree freezes or loses)
        ("A", "A600", "B", "B600", Some(Merged)),
        ("A", "A600", "A", "A600", Some(Kept)),
        ("A", "A600", "A640", "A600", Some(Conflict)),
        ("A", "A600", "-", "A600", Some(KeptWithoutDefault)),
        ("A", "Auser", "A", "Auser", Some(Kept)),
        ("A", "Axattr", "A", "Axattr", Some(Kept)),
        // deleted here
        ("A", "-", "A", "-", Some(Kept)),
        ("A", "-", "B", "-", Some(StaysDeleted)),
        ("A", "-", "-", "-", None),
        ("A", "-", "dir/A", "-", Some(StaysDeleted)),
        ("dir/A", "-", "dir/A", "-", Some(Kept)),
        ("dir/A", "-", "dir/A,new", "-", Some(InDeletedDirectory)),
        // added here
        ("-", "A", "-", "A", Some(Kept)),
        ("-", "A", "A", "A", None),
        ("-", "A", "B", "A", Some(Conflict)),
        ("-", "dir", "-", "dir", Some(Kept)),
        ("-", "->x", "A", "->x", Some(TypeConflict)),
        ("-", "dir/A", "B", "dir/A", Some(TypeConflict)),
        ("-", "fifo", "-", "fifo", Some(Kept)),
        ("-", "null", "-", "null", Some(Kept)),
        ("-", "disk", "A", "disk", Some(TypeConflict)),
        // links
        ("A", "->x", "A", "->x", Some(Kept)),
        ("A", "->x", "B", "->x", Some(TypeConflict)),
        ("->x", "->y", "->x", "->y", Some(Kept)),
        ("->x", "A", "->y", "A", Some(TypeConflict)),
        // directories' own attributes (OSTree loses them)
        ("dir/A", "dir700/A", "dir/A", "dir700/A", Some(Kept)),
        ("dir", "dir700", "dir", "dir700", Some(Kept)),
        ("dir", "dir700", "-", "dir700", Some(KeptWithoutDefault)),
        ("dir/A", "dir/A", "dir700/A", "dir700/A", Some(Updated)),
        // changes below a directory that the default removes, or makes a file (OSTree: hard error)
        ("dir/A", "dir/B", "-", "dir/B", Some(KeptWithoutDefault)),
        ("dir/A", "dir/B", "C", "dir/B", Some(TypeConflict)),
        ("dir/A", "dir/A,new", "-", "dir", Some(Kept)),
        // a file that the default makes a directory (OSTree: hard error)
        ("A", "B", "dir/A", "B", Some(TypeConflict)),
        ("-", "A", "dir/A", "A", Some(TypeConflict)),
        // a directory made a file here (OSTree: hard error although nothing changed upstream)
        ("dir/A", "B", "dir/A", "B", Some(Kept)),
        ("dir/A", "B", "dir/B", "B", Some(TypeConflict)),
        ("dir/A", "B", "dir", "B", Some(TypeConflict)),
        ("dir/A", "->x", "-", "->x", Some(KeptWithoutDefault)),
    ];
    for &(old, local, new, expected, outcome) in table {
        let plan = merged(&scene(old), &scene(local), &scene(new));
        let name = format!("{old} {local} {new}");
        let mut found = result(&plan);
        found.entries.retain(|path, _| !path.starts_with(b"p.sapwood-new"));
        let mut wanted = scene(expected);
        if expected == "dir" && local == "dir/A,new" {
            // what was added here stays, what was not changed goes with its default
            wanted = tree(&[("p/n", file("child")), ("o", file("A")), ("p-", file("B")), ("q/r", file("C"))]);
        }
        assert_eq!(found, wanted, "{name}");
        let said: Vec<Outcome> = plan.decisions.iter().map(|decision| decision.outcome).collect();
        match outcome {
            Some(outcome) => assert!(said.contains(&outcome), "{name}: {said:?}"),
            None => assert_eq!(said, [], "{name}"),
        }
    }
}

/// An aspect of an entry as something that can be compared.
fn aspects(item: &Item) -> BTreeMap<Aspect, String> {
    let mut found = BTreeMap::from([(Aspect::Content, format!("{:?}", item.body))]);
    found.insert(Aspect::Mode, item.mode.to_string());
    found.insert(Aspect::Owner, format!("{:?}", item.owner));
    found.insert(Aspect::Xattrs, format!("{:?}", item.xattrs));
    found
}

/// What must hold of any merge.
fn assert_rules(old: &EtcTree, local: &EtcTree, new: &EtcTree, name: &str) {
    let plan = merged(old, local, new);
    let all = result(&plan);
    for path in all.entries.keys() {
        if let Some(above) = parent(path) {
            let is_directory = all.get(above).is_some_and(|item| item.body.is_directory());
            assert!(is_directory, "{name}: {} has no directory", path.escape_ascii());
        }
    }
    if old == local {
        assert_eq!(all, *new, "{name}: nothing was changed here, so the default it is");
    }
    if old == new || local == new {
        assert_eq!(all, *local, "{name}: no default changed, or it says the same");
    }
    let is_aside = |path: &[u8]| path.windows(ASIDE_SUFFIX.len()).any(|window| window == ASIDE_SUFFIX);
    for (path, local) in &local.entries {
        let (Some(found), old) = (all.get(path), old.get(path)) else {
            let unchanged = old.get(path).is_some_and(|old| old.is_same(local));
            let is_replaced = local.body.is_directory() || unchanged;
            assert!(is_replaced, "{name}: {} was changed here and is gone", path.escape_ascii());
            continue;
        };
        let (here, base, there) = (aspects(local), old.map(aspects), new.get(path).map(aspects));
        let result = aspects(found);
        for (aspect, value) in &here {
            let base = base.as_ref().map(|base| &base[aspect]);
            if base != Some(value)
                && local.body.is_like(&found.body)
                && old.is_none_or(|old| old.body.is_like(&local.body))
            {
                assert_eq!(result[aspect], *value, "{name}: {aspect:?} was changed here and is lost");
            }
            if base == Some(value)
                && let Some(there) = &there
                && found.body.is_like(&local.body)
                && old.is_some_and(|old| old.body.is_like(&local.body))
                && new.get(path).is_some_and(|new| new.body.is_like(&local.body))
            {
                assert_eq!(
                    result[aspect],
                    there[aspect],
                    "{name}: {aspect:?} of the default of {} did not arrive",
                    path.escape_ascii()
                );
            }
        }
    }
    for path in old.entries.keys().filter(|path| local.get(path).is_none() && !is_aside(path)) {
        let above_replaced = (1..).scan(&path[..], |at, _| {
            *at = parent(at)?;
            Some(local.get(at).is_some_and(|item| !item.body.is_directory()) || local.get(at).is_none())
        });
        if !above_replaced.clone().any(|replaced| replaced) {
            assert!(all.get(path).is_none(), "{name}: {} was deleted here and came back", path.escape_ascii());
        }
    }
    for decision in &plan.decisions {
        let both = decision.here != Difference::Same && decision.default != Difference::Same;
        let below = |tree: &EtcTree| old.below(&decision.path).ne(tree.below(&decision.path));
        let is_real = both || (below(local) && below(new));
        assert!(!decision.outcome.is_conflict() || is_real, "{name}: {decision:?} is no conflict");
        if let Some(beside) = &decision.aside {
            assert_eq!(all.get(beside), new.get(&decision.path), "{name}: the default is not beside it");
        }
    }
    for path in local.entries.keys().filter(|path| all.get(path).is_some() && new.get(path).is_some()) {
        let (Some(here), Some(there), Some(base)) = (local.get(path), new.get(path), old.get(path)) else { continue };
        let both_changed = here.body != base.body && there.body != base.body && here.body != there.body;
        let said = plan.decisions.iter().any(|decision| decision.path == *path && decision.outcome.is_conflict());
        assert!(!both_changed || said, "{name}: {} is a conflict that nobody reports", path.escape_ascii());
    }
    assert_eq!(result(&merged(new, &all, new)), all, "{name}: with the same defaults nothing changes");
    assert_eq!(result(&merged(old, &all, new)), all, "{name}: merging twice is merging once");
}

#[test]
fn the_full_product_of_states_obeys_the_rules() {
    let mut cases = 0;
    for old in STATES {
        for local in STATES {
            for new in STATES {
                assert_rules(&scene(old), &scene(local), &scene(new), &format!("{old} {local} {new}"));
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 8000);
}

/// Three trees over a few names, so that they meet.
fn trees() -> impl Strategy<Value = [EtcTree; 3]> {
    let name = prop::sample::select(vec!["p", "p/c", "p/c/d", "p/n", "q", "q/r", "p-"]);
    let leaf =
        prop::sample::select(vec![file("A"), file("B"), file("C"), symlink("x"), directory(), item(Body::Fifo, 0o600)]);
    let changed = (leaf, prop::option::of(0_u16..4), prop::option::of(0_u32..2)).prop_map(|(mut item, mode, owner)| {
        if !matches!(item.body, Body::Symlink(_)) {
            item.mode = mode.map_or(item.mode, |mode| 0o600 + mode);
        }
        item.owner = owner.map(|owner| (owner, owner)).or(item.owner);
        item
    });
    let one = prop::collection::vec((name, changed), 0..7);
    [one.clone(), one.clone(), one].prop_map(|trees| {
        trees.map(|entries| {
            let mut built = tree(&[]);
            for (path, item) in entries {
                let mut above = parent(path.as_bytes());
                // Only below directories.
                let fits = std::iter::from_fn(|| {
                    let at = above?;
                    above = parent(at);
                    Some(built.get(at).is_some_and(|item| item.body.is_directory()))
                });
                let is_free = built.below(path.as_bytes()).count() == 0;
                if fits.into_iter().all(|fits| fits) && is_free {
                    built.entries.insert(path.as_bytes().into(), item);
                }
            }
            built
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_obey_the_rules([old, local, new] in trees()) {
        assert_rules(&old, &local, &new, "random");
        assert_rules(&old, &old, &new, "nothing changed here");
        assert_rules(&old, &local, &old, "no default changed");
    }
}

#[test]
fn a_first_deployment_is_the_defaults() {
    let new = scene("dir/A");
    let plan = merged(&EtcTree::default(), &EtcTree::default(), &new);
    assert_eq!(result(&plan), new);
    assert!(plan.decisions.iter().all(|decision| decision.outcome == Outcome::Added));
}

#[test]
fn rules_decide_before_the_merge() {
    let rules = Rules::parse("local = ['p']\ndefault = ['o']\ntext = ['t']").expect("legal");
    let with = |p: &str, o: &str, t: &str| {
        let mut entries = state(p);
        entries.extend([("o", file(o)), ("t", file(t))]);
        tree(&entries)
    };
    let run = |old: &EtcTree, local: &EtcTree, new: &EtcTree| {
        plan(old, local, new, &rules, &Known(local)).expect("contents are known")
    };
    let (base, top, end) = ("a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n");
    // what is pinned to here stays though nobody changed it; what is pinned to the default follows though somebody did
    let plan = run(&with("A", "A", base), &with("A", "B", top), &with("B", "C", end));
    let text = b"A\nb\nc\nD\n".to_vec();
    assert_eq!(plan.entries[b"p".as_slice()].item, file("A"));
    assert_eq!(plan.entries[b"p".as_slice()].content, PlannedContent::Local(b"p".as_slice().into()));
    assert_eq!(plan.entries[b"o".as_slice()].item, file("C"));
    assert_eq!(plan.entries[b"t".as_slice()].content, PlannedContent::Made(text.clone()));
    assert_eq!(plan.entries[b"t".as_slice()].item.body, file(std::str::from_utf8(&text).expect("ascii")).body);
    let outcomes: Vec<Outcome> = plan.decisions.iter().map(|decision| decision.outcome).collect();
    assert_eq!(outcomes, [Outcome::ByRule, Outcome::ByRule, Outcome::Merged]);
    // the same lines: what is here stays, and it is said
    let plan = run(&with("A", "A", base), &with("A", "A", top), &with("A", "A", "x\nb\nc\nd\n"));
    assert_eq!(plan.entries[b"t".as_slice()].item.body, file(top).body);
    assert_eq!(plan.decisions[0].outcome, Outcome::Conflict);
    assert_eq!(plan.decisions[0].details, ["the same lines were changed"]);
    // what is pinned keeps its directory, whatever the default makes of that
    for new in ["-", "B"] {
        let rules = Rules::parse("local = ['p/c']").expect("legal");
        let plan =
            super::plan(&scene("dir/A"), &scene("dir/A"), &scene(new), &rules, &Known(&scene("dir/A"))).expect("known");
        assert_eq!(result(&plan), scene("dir/A"), "{new}");
    }
}

#[test]
fn accounts_are_merged_by_entry_without_a_rule() {
    struct Accounts;
    impl Contents for Accounts {
        fn local(&self, _: &[u8]) -> Result<Vec<u8>, ContentError> {
            Ok(b"root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\n".to_vec())
        }
        fn object(&self, id: ObjectId, _: u64) -> Result<Vec<u8>, ContentError> {
            let text = "root:x:0:0::/:/bin/sh\n";
            let added = if id == ObjectId::of(b"new") { "svc:x:101:101::/:/bin/false\n" } else { "" };
            Ok(format!("{text}{added}").into_bytes())
        }
    }
    let one = |content: &str| tree(&[("passwd", file(content))]);
    let plan = plan(&one("old"), &one("local"), &one("new"), &Rules::default(), &Accounts).expect("readable");
    let PlannedContent::Made(text) = &plan.entries[b"passwd".as_slice()].content else { panic!("{plan:?}") };
    let names: Vec<&str> =
        std::str::from_utf8(text).expect("ascii").lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["root", "me", "svc"]);
    assert_eq!(plan.decisions[0].outcome, Outcome::Merged);
}

#[test]
fn what_is_not_fetched_yet_is_left_undecided() {
    struct Nothing;
    impl Contents for Nothing {
        fn local(&self, _: &[u8]) -> Result<Vec<u8>, ContentError> {
            Ok(Vec::new())
        }
        fn object(&self, _: ObjectId, _: u64) -> Result<Vec<u8>, ContentError> {
            Err(ContentError::Absent)
        }
    }
    let one = |content: &str| tree(&[("passwd", file(content))]);
    let plan = plan(&one("A"), &one("B"), &one("C"), &Rules::default(), &Nothing).expect("planned");
    assert_eq!(plan.decisions[0].outcome, Outcome::Undecided);
    assert_eq!(result(&plan), one("B"));
}

#[test]
fn files_that_are_too_large_to_be_merged_stay_as_they_are_here() {
    let rules = Rules::parse("text = [\"big\"]").expect("rules");
    let of = |content: &str, size: u64| {
        let mut item = file(content);
        item.body = Body::File { content: ObjectId::of(content.as_bytes()), size };
        tree(&[("big", item)])
    };
    let plan_of = |size| {
        let (old, new) = (of(TEXTS[4], size), of(TEXTS[6], size));
        let local = of(TEXTS[5], size);
        plan(&old, &local, &new, &rules, &Known(&local)).expect("planned")
    };
    assert_eq!(plan_of(MERGED_MAX).decisions[0].outcome, Outcome::Merged);
    let whole = plan_of(MERGED_MAX + 1);
    assert_eq!(whole.decisions[0].outcome, Outcome::Conflict);
    assert_eq!(result(&whole), of(TEXTS[5], MERGED_MAX + 1));
}
