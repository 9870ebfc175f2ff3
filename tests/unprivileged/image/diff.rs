//! The list of `diff` is complete and minimal.

use proptest::prelude::*;
use sapwood::image::{Aspect, Aspects, Change, ChangeKind, Image, diff};
use sapwood::model::{EntryName, FileKind, ImagePath, Metadata, Node, NodeKind};

use super::arbitrary::{build, metadata, step, steps};
use super::listing::{self, Item, Listing};
use super::round_trip::open;

fn changes(old: &Image, new: &Image) -> Vec<Change> {
    let mut changes = Vec::new();
    diff(old, new, &mut |change| changes.push(change)).expect("both are good");
    changes
}

/// Copies only the changed aspects, so that a forgotten one is noticed.
fn modify(item: &mut Item, new: &Item, aspects: Aspects) {
    if aspects.contains(Aspect::Type) {
        *item = new.clone();
        return;
    }
    let (metadata, wanted) = (&mut item.node.metadata, &new.node.metadata);
    for aspect in aspects.iter() {
        match aspect {
            Aspect::Mode => metadata.permissions = wanted.permissions,
            Aspect::Owner => (metadata.uid, metadata.gid) = (wanted.uid, wanted.gid),
            Aspect::Mtime => metadata.mtime = wanted.mtime,
            Aspect::Xattrs => metadata.xattrs = wanted.xattrs.clone(),
            Aspect::Content => {
                let (NodeKind::Regular(old), NodeKind::Regular(new)) = (&mut item.node.kind, &new.node.kind) else {
                    panic!("content of something else than a file");
                };
                let extents = old.extents.take();
                *old = new.clone();
                old.extents = extents;
            }
            Aspect::Holes => {
                let (NodeKind::Regular(old), NodeKind::Regular(new)) = (&mut item.node.kind, &new.node.kind) else {
                    panic!("holes in something else than a file");
                };
                old.extents = new.extents.clone();
            }
            Aspect::Target | Aspect::Device => item.node.kind = new.node.kind.clone(),
            Aspect::Links => {}
            Aspect::Type => unreachable!("handled above"),
        }
    }
}

fn apply(old: &Listing, new: &Listing, changes: &[Change]) -> Listing {
    let mut listing = old.clone();
    for change in changes {
        let path = change.path.to_bytes();
        match change.kind {
            ChangeKind::Removed => assert!(listing.remove(&path).is_some()),
            ChangeKind::Added => assert!(listing.insert(path.clone(), new[&path].clone()).is_none()),
            ChangeKind::Modified(aspects) => {
                assert!(!aspects.is_empty() && old[&path] != new[&path], "{path:?} is as it was");
                modify(listing.get_mut(&path).expect("modified only where it was"), &new[&path], aspects);
            }
        }
    }
    listing
}

/// Returns what `diff` compares of links: their number, and the first one in the order of an image.
fn link_identity(item: &Item) -> (usize, Option<ImagePath>) {
    let paths = item.links.iter().map(|path| ImagePath::parse(path).expect("legal"));
    (item.links.len(), paths.min_by_key(|path| (path.components().len(), path.clone())))
}

/// Returns the paths in both whose links differ though their types do not.
fn relinked(old: &Listing, new: &Listing) -> Vec<Vec<u8>> {
    let both = old.iter().filter_map(|(path, item)| Some((path, item, new.get(path)?)));
    both.filter(|(_, old, new)| old.node.kind.file_kind() == new.node.kind.file_kind())
        .filter(|(_, old, new)| link_identity(old) != link_identity(new))
        .map(|(path, ..)| path.clone())
        .collect()
}

fn without_links(mut listing: Listing) -> Listing {
    listing.values_mut().for_each(|item| item.links.clear());
    listing
}

proptest! {
    #[test]
    fn applying_the_diff_to_the_old_tree_gives_the_new_one(
        root in metadata(),
        base in steps(50),
        new_root in prop_oneof![3 => Just(None).boxed(), 1 => metadata().prop_map(Some).boxed()],
        edits in proptest::collection::vec((any::<usize>(), prop_oneof![Just(None).boxed(), step().prop_map(Some).boxed()]), 0..8),
    ) {
        let mut changed = base.clone();
        for (at, edit) in edits {
            let at = at % (changed.len() + 1);
            match edit {
                Some(step) => changed.insert(at, step),
                None if at < changed.len() => drop(changed.remove(at)),
                None => {}
            }
        }
        let old = open(&build(&root, &base));
        let new = open(&build(new_root.as_ref().unwrap_or(&root), &changed));
        let (before, after) = (listing::of_image(&old), listing::of_image(&new));
        let list = changes(&old, &new);
        prop_assert_eq!(without_links(apply(&before, &after, &list)), without_links(after.clone()));
        let has_links = |change: &&Change| matches!(change.kind, ChangeKind::Modified(aspects) if aspects.contains(Aspect::Links));
        let mut seen: Vec<_> = list.iter().filter(has_links).map(|change| change.path.to_bytes()).collect();
        seen.sort();
        prop_assert_eq!(seen, relinked(&before, &after));
        prop_assert_eq!(list.is_empty(), old.id() == new.id());
        let paths: Vec<_> = list.iter().map(|change| change.path.clone()).collect();
        prop_assert!(paths.is_sorted(), "directories come before what is in them, siblings by name");
        for change in &list {
            prop_assert_eq!(change.old, old.resolve(&change.path).expect("good"));
            prop_assert_eq!(change.new, new.resolve(&change.path).expect("good"));
        }
    }

    #[test]
    fn an_image_does_not_differ_from_itself((root, steps) in (metadata(), steps(50))) {
        let image = open(&build(&root, &steps));
        prop_assert_eq!(changes(&image, &image.clone()), []);
    }
}

fn name(text: &str) -> EntryName {
    EntryName::new(text.as_bytes()).expect("legal")
}

fn node(kind: NodeKind) -> Node {
    Node { metadata: Metadata::default(), kind }
}

/// Makes two directories of two files each, which are linked in one way or the other. Nothing else differs.
fn crossed(pairs: [(&str, &str); 2]) -> Image {
    let mut tree = sapwood::image::Tree::new(Metadata::default());
    let left = tree.insert(tree.root(), name("left"), node(NodeKind::Directory)).expect("free");
    let right = tree.insert(tree.root(), name("right"), node(NodeKind::Directory)).expect("free");
    for (first, second) in pairs {
        let pipe = tree.insert(left, name(first), node(NodeKind::Fifo)).expect("free");
        tree.link(right, name(second), pipe).expect("free");
    }
    open(&tree)
}

#[test]
fn diff_finds_hard_links_that_change_partners() {
    let straight = crossed([("a", "a"), ("b", "b")]);
    let across = crossed([("a", "b"), ("b", "a")]);
    let list = changes(&straight, &across);
    let seen: Vec<_> = list.iter().map(|change| (change.path.to_string(), format!("{:?}", change.kind))).collect();
    let links = "Modified({Links})".to_owned();
    assert_eq!(seen, [("/right/a".into(), links.clone()), ("/right/b".into(), links)]);
}

#[test]
fn file_that_became_a_directory_is_a_modification() {
    let mut tree = sapwood::image::Tree::new(Metadata::default());
    let x = tree.insert(tree.root(), name("x"), node(NodeKind::Fifo)).expect("free");
    let old = open(&tree);
    tree.node_mut(x).kind = NodeKind::Directory;
    tree.insert(x, name("y"), node(NodeKind::Socket)).expect("free");
    let new = open(&tree);
    let seen =
        |old, new| changes(old, new).iter().map(|c| format!("{} {}", c.kind.letter(), c.path)).collect::<Vec<_>>();
    assert_eq!(seen(&old, &new), ["M /x", "A /x/y"]);
    assert_eq!(seen(&new, &old), ["M /x", "D /x/y"]);
    assert_eq!(
        new.kind(new.resolve(&ImagePath::parse(b"x").expect("legal")).expect("good").expect("it exists")),
        Ok(FileKind::Directory)
    );
}
