//! Tests of the merge: a table of expected results, and rules that hold for the full product of states and for random trees.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::decision::{Difference, SIDECAR_SUFFIX};
use super::item::MERGED_BYTES_MAX;
use super::item::examples::{directory, file, item, symlink, tree};
use super::*;
use crate::image::Aspect;
use crate::model::{DeviceNumber, ObjectId};

/// A [`ContentReader`] that finds contents by the digests of a few known texts, and local files by their path.
struct KnownContents<'a>(&'a EtcTree);

const TEXTS: [&str; 9] = ["", "A", "B", "C", "a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n", "x\nb\nc\nd\n", "child"];

impl ContentReader for KnownContents<'_> {
    fn read_local(&self, path: &[u8]) -> Result<Vec<u8>, ContentError> {
        match self.0.get(path).map(|item| &item.body) {
            Some(Body::File { content, .. }) => self.read_object(*content, 0),
            _ => Err(ContentError::NotFetched),
        }
    }

    fn read_object(&self, id: ObjectId, _: u64) -> Result<Vec<u8>, ContentError> {
        let found = TEXTS.iter().find(|text| ObjectId::of(text.as_bytes()) == id);
        found.map(|text| text.as_bytes().to_vec()).ok_or(ContentError::NotFetched)
    }
}

fn merged(old: &EtcTree, local: &EtcTree, new: &EtcTree) -> EtcPlan {
    plan(old, local, new, &MergeRules::default(), &KnownContents(local)).expect("contents are known")
}

fn result(plan: &EtcPlan) -> EtcTree {
    EtcTree { entries: plan.entries.iter().map(|(path, planned)| (path.clone(), planned.item.clone())).collect() }
}

/// Returns the entries at and below the path `p` in a state, which is written as in the table.
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

/// Returns a tree whose path `p` is in this state, with other paths that do not change.
fn scene(state_of_p: &str) -> EtcTree {
    let mut entries = state(state_of_p);
    entries.extend([("o", file("A")), ("p-", file("B")), ("q/r", file("C"))]);
    tree(&entries)
}

/// The rows of the table of OSTree's semantics with the expected results: old default, local, new default, the resulting
/// state, and a decision about `p` or a path below it.
#[test]
fn merge_matches_every_row_of_the_table() {
    use MergeOutcome::{
        Added, Conflict, InDeletedDirectory, Kept, KeptWithoutDefault, Merged, Removed, StaysDeleted, TypeConflict,
        Updated,
    };
    type Row = (&'static str, &'static str, &'static str, &'static str, Option<MergeOutcome>);
    let table: &[Row] = &[
        // nothing changed locally: the new default
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
        // content changed locally
        ("A", "B", "A", "B", Some(Kept)),
        ("A", "B", "C", "B", Some(Conflict)),
        ("A", "B", "-", "B", Some(KeptWithoutDefault)),
        ("A", "B", "B", "B", None),
        ("A", "B", "A600", "B600", Some(Merged)),
        // mode, owner and attributes changed locally: the content follows (OSTree freezes or loses)
        ("A", "A600", "B", "B600", Some(Merged)),
        ("A", "A600", "A", "A600", Some(Kept)),
        ("A", "A600", "A640", "A600", Some(Conflict)),
        ("A", "A600", "-", "A600", Some(KeptWithoutDefault)),
        ("A", "Auser", "A", "Auser", Some(Kept)),
        ("A", "Axattr", "A", "Axattr", Some(Kept)),
        // deleted locally
        ("A", "-", "A", "-", Some(Kept)),
        ("A", "-", "B", "-", Some(StaysDeleted)),
        ("A", "-", "-", "-", None),
        ("A", "-", "dir/A", "-", Some(StaysDeleted)),
        ("dir/A", "-", "dir/A", "-", Some(Kept)),
        ("dir/A", "-", "dir/A,new", "-", Some(InDeletedDirectory)),
        // added locally
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
        // a directory that became a file locally (OSTree: hard error although nothing changed upstream)
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
            // the local addition is kept, the unchanged entry is removed with its default
            wanted = tree(&[("p/n", file("child")), ("o", file("A")), ("p-", file("B")), ("q/r", file("C"))]);
        }
        assert_eq!(found, wanted, "{name}");
        let outcomes: Vec<MergeOutcome> = plan.decisions.iter().map(|decision| decision.outcome).collect();
        match outcome {
            Some(outcome) => assert!(outcomes.contains(&outcome), "{name}: {outcomes:?}"),
            None => assert_eq!(outcomes, [], "{name}"),
        }
    }
}

/// Returns the aspects of an entry as values that can be compared.
fn aspects(item: &Item) -> BTreeMap<Aspect, String> {
    let mut found = BTreeMap::from([(Aspect::Content, format!("{:?}", item.body))]);
    found.insert(Aspect::Mode, item.mode.to_string());
    found.insert(Aspect::Owner, format!("{:?}", item.owner));
    found.insert(Aspect::Xattrs, format!("{:?}", item.xattrs));
    found
}

/// Checks the rules that hold for any merge.
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
        assert_eq!(all, *new, "{name}: nothing changed locally, so the result is the default");
    }
    if old == new || local == new {
        assert_eq!(all, *local, "{name}: the default did not change or is equal, so the result is the local tree");
    }
    let is_sidecar = |path: &[u8]| path.windows(SIDECAR_SUFFIX.len()).any(|window| window == SIDECAR_SUFFIX);
    for (path, local) in &local.entries {
        let (Some(found), old) = (all.get(path), old.get(path)) else {
            let unchanged = old.get(path).is_some_and(|old| old.is_same(local));
            let is_replaced = local.body.is_directory() || unchanged;
            assert!(is_replaced, "{name}: {} was changed locally and is missing", path.escape_ascii());
            continue;
        };
        let (local_aspects, base, new_aspects) = (aspects(local), old.map(aspects), new.get(path).map(aspects));
        let result = aspects(found);
        for (aspect, value) in &local_aspects {
            let base = base.as_ref().map(|base| &base[aspect]);
            if base != Some(value)
                && local.body.is_like(&found.body)
                && old.is_none_or(|old| old.body.is_like(&local.body))
            {
                assert_eq!(result[aspect], *value, "{name}: {aspect:?} was changed locally and is lost");
            }
            if base == Some(value)
                && let Some(new_aspects) = &new_aspects
                && found.body.is_like(&local.body)
                && old.is_some_and(|old| old.body.is_like(&local.body))
                && new.get(path).is_some_and(|new| new.body.is_like(&local.body))
            {
                assert_eq!(
                    result[aspect],
                    new_aspects[aspect],
                    "{name}: {aspect:?} of the default of {} was not taken",
                    path.escape_ascii()
                );
            }
        }
    }
    for path in old.entries.keys().filter(|path| local.get(path).is_none() && !is_sidecar(path)) {
        let above_replaced = (1..).scan(&path[..], |at, _| {
            *at = parent(at)?;
            Some(local.get(at).is_some_and(|item| !item.body.is_directory()) || local.get(at).is_none())
        });
        if !above_replaced.clone().any(|replaced| replaced) {
            assert!(all.get(path).is_none(), "{name}: {} was deleted locally and is there again", path.escape_ascii());
        }
    }
    for decision in &plan.decisions {
        let both = decision.local != Difference::Same && decision.default != Difference::Same;
        let below = |tree: &EtcTree| old.below(&decision.path).ne(tree.below(&decision.path));
        let is_real = both || (below(local) && below(new));
        assert!(!decision.outcome.is_conflict() || is_real, "{name}: {decision:?} is not a conflict");
        if let Some(sidecar) = &decision.sidecar {
            assert_eq!(all.get(sidecar), new.get(&decision.path), "{name}: the sidecar is not the default");
        }
    }
    for path in local.entries.keys().filter(|path| all.get(path).is_some() && new.get(path).is_some()) {
        let (Some(local), Some(new), Some(base)) = (local.get(path), new.get(path), old.get(path)) else { continue };
        let both_changed = local.body != base.body && new.body != base.body && local.body != new.body;
        let is_reported =
            plan.decisions.iter().any(|decision| decision.path == *path && decision.outcome.is_conflict());
        assert!(!both_changed || is_reported, "{name}: {} is a conflict that is not reported", path.escape_ascii());
    }
    assert_eq!(result(&merged(new, &all, new)), all, "{name}: with the same defaults nothing changes");
    assert_eq!(result(&merged(old, &all, new)), all, "{name}: merging twice is merging once");
}

#[test]
fn full_product_of_states_obeys_the_rules() {
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

/// Generates three trees over a few names, so that they overlap.
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
                // Entries are added only below directories.
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
        assert_rules(&old, &old, &new, "nothing changed locally");
        assert_rules(&old, &local, &old, "no default changed");
    }
}

#[test]
fn first_deployment_gets_the_defaults() {
    let new = scene("dir/A");
    let plan = merged(&EtcTree::default(), &EtcTree::default(), &new);
    assert_eq!(result(&plan), new);
    assert!(plan.decisions.iter().all(|decision| decision.outcome == MergeOutcome::Added));
}

#[test]
fn rules_override_the_merge() {
    let rules = MergeRules::parse("local = ['p']\ndefault = ['o']\ntext = ['t']").expect("legal");
    let with = |p: &str, o: &str, t: &str| {
        let mut entries = state(p);
        entries.extend([("o", file(o)), ("t", file(t))]);
        tree(&entries)
    };
    let run = |old: &EtcTree, local: &EtcTree, new: &EtcTree| {
        plan(old, local, new, &rules, &KnownContents(local)).expect("contents are known")
    };
    let (base, top, end) = ("a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n");
    // a path ruled local is kept although it is unchanged; a path ruled default is replaced although it was changed
    let plan = run(&with("A", "A", base), &with("A", "B", top), &with("B", "C", end));
    let text = b"A\nb\nc\nD\n".to_vec();
    assert_eq!(plan.entries[b"p".as_slice()].item, file("A"));
    assert_eq!(plan.entries[b"p".as_slice()].content, PlannedContent::Local(b"p".as_slice().into()));
    assert_eq!(plan.entries[b"o".as_slice()].item, file("C"));
    assert_eq!(plan.entries[b"t".as_slice()].content, PlannedContent::Made(text.clone()));
    assert_eq!(plan.entries[b"t".as_slice()].item.body, file(std::str::from_utf8(&text).expect("ascii")).body);
    let outcomes: Vec<MergeOutcome> = plan.decisions.iter().map(|decision| decision.outcome).collect();
    assert_eq!(outcomes, [MergeOutcome::ByRule, MergeOutcome::ByRule, MergeOutcome::Merged]);
    // both sides changed the same lines: the local text is kept, and a conflict is reported
    let plan = run(&with("A", "A", base), &with("A", "A", top), &with("A", "A", "x\nb\nc\nd\n"));
    assert_eq!(plan.entries[b"t".as_slice()].item.body, file(top).body);
    assert_eq!(plan.decisions[0].outcome, MergeOutcome::Conflict);
    assert_eq!(plan.decisions[0].details, ["the same lines were changed"]);
    // a ruled path keeps its directory, whatever the default makes of the directory
    for new in ["-", "B"] {
        let rules = MergeRules::parse("local = ['p/c']").expect("legal");
        let plan = super::plan(&scene("dir/A"), &scene("dir/A"), &scene(new), &rules, &KnownContents(&scene("dir/A")))
            .expect("known");
        assert_eq!(result(&plan), scene("dir/A"), "{new}");
    }
}

#[test]
fn accounts_are_merged_by_entry_without_a_rule() {
    struct Accounts;
    impl ContentReader for Accounts {
        fn read_local(&self, _: &[u8]) -> Result<Vec<u8>, ContentError> {
            Ok(b"root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\n".to_vec())
        }
        fn read_object(&self, id: ObjectId, _: u64) -> Result<Vec<u8>, ContentError> {
            let text = "root:x:0:0::/:/bin/sh\n";
            let added = if id == ObjectId::of(b"new") { "svc:x:101:101::/:/bin/false\n" } else { "" };
            Ok(format!("{text}{added}").into_bytes())
        }
    }
    let one = |content: &str| tree(&[("passwd", file(content))]);
    let plan = plan(&one("old"), &one("local"), &one("new"), &MergeRules::default(), &Accounts).expect("readable");
    let PlannedContent::Made(text) = &plan.entries[b"passwd".as_slice()].content else { panic!("{plan:?}") };
    let names: Vec<&str> =
        std::str::from_utf8(text).expect("ascii").lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["root", "me", "svc"]);
    assert_eq!(plan.decisions[0].outcome, MergeOutcome::Merged);
}

#[test]
fn contents_that_are_not_fetched_leave_paths_undecided() {
    struct Nothing;
    impl ContentReader for Nothing {
        fn read_local(&self, _: &[u8]) -> Result<Vec<u8>, ContentError> {
            Ok(Vec::new())
        }
        fn read_object(&self, _: ObjectId, _: u64) -> Result<Vec<u8>, ContentError> {
            Err(ContentError::NotFetched)
        }
    }
    let one = |content: &str| tree(&[("passwd", file(content))]);
    let plan = plan(&one("A"), &one("B"), &one("C"), &MergeRules::default(), &Nothing).expect("planned");
    assert_eq!(plan.decisions[0].outcome, MergeOutcome::Undecided);
    assert_eq!(result(&plan), one("B"));
}

#[test]
fn files_over_the_size_limit_are_not_merged() {
    let rules = MergeRules::parse("text = [\"big\"]").expect("rules");
    let of = |content: &str, size: u64| {
        let mut item = file(content);
        item.body = Body::File { content: ObjectId::of(content.as_bytes()), size };
        tree(&[("big", item)])
    };
    let plan_of = |size| {
        let (old, new) = (of(TEXTS[4], size), of(TEXTS[6], size));
        let local = of(TEXTS[5], size);
        plan(&old, &local, &new, &rules, &KnownContents(&local)).expect("planned")
    };
    assert_eq!(plan_of(MERGED_BYTES_MAX).decisions[0].outcome, MergeOutcome::Merged);
    let too_large = plan_of(MERGED_BYTES_MAX + 1);
    assert_eq!(too_large.decisions[0].outcome, MergeOutcome::Conflict);
    assert_eq!(result(&too_large), of(TEXTS[5], MERGED_BYTES_MAX + 1));
}
