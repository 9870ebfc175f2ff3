//! Trees that are encoded are read back unchanged.

use proptest::prelude::*;
use sapwood::image::{Image, Tree, encode};
use sapwood::model::{EntryName, ImagePath, Metadata, Node, NodeKind};
use sapwood::sys::Mapping;

use super::arbitrary::{build, metadata, steps};
use super::listing::{self, Listing};

pub fn open(tree: &Tree) -> Image {
    let encoded = encode(tree).expect("the tree is legal");
    let image = Image::open(Mapping::of_bytes(encoded.bytes)).expect("just written");
    assert_eq!(image.id(), encoded.id);
    assert_eq!((u64::from(image.entries()), image.content_bytes()), (encoded.entries, encoded.content_bytes));
    image
}

/// Builds the listed tree from the last path to the first, directories as late as possible, and with detours.
fn rebuild(listing: &Listing) -> Tree {
    let mut tree = Tree::new(listing[&b"/"[..]].node.metadata.clone());
    let junk = EntryName::new(&b"zzzz-not-in-any-tree"[..]).expect("legal");
    for (path, item) in listing.iter().rev().filter(|(path, _)| *path != b"/") {
        let path = ImagePath::parse(path).expect("legal");
        let mut parent = tree.root();
        let (name, above) = path.components().split_last().expect("not the root");
        for name in above {
            let placeholder = Node { metadata: Metadata::default(), kind: NodeKind::Directory };
            parent = match tree.child(parent, name.as_bytes()) {
                Some(child) => child,
                None => tree.insert(parent, name.clone(), placeholder).expect("free"),
            };
        }
        let detour = tree.insert(parent, junk.clone(), Node { metadata: Metadata::default(), kind: NodeKind::Fifo });
        assert_eq!(tree.remove(parent, &junk), detour.ok());
        let other = item.links.iter().find_map(|link| tree.resolve(&ImagePath::parse(link).expect("legal")));
        match (tree.child(parent, name.as_bytes()), other) {
            (Some(placeholder), _) => *tree.node_mut(placeholder) = item.node.clone(),
            (None, Some(first)) => tree.link(parent, name.clone(), first).expect("free"),
            (None, None) => drop(tree.insert(parent, name.clone(), item.node.clone()).expect("free")),
        }
    }
    tree
}

proptest! {
    #[test]
    fn tree_is_read_back_unchanged((root, steps) in (metadata(), steps(60))) {
        let tree = build(&root, &steps);
        let image = open(&tree);
        prop_assert_eq!(image.verify(), Ok(()));
        let expected = listing::of_tree(&tree);
        prop_assert_eq!(&listing::of_image(&image), &expected);
        prop_assert_eq!(expected.len(), image.entries() as usize);
        let again = image.tree().expect("verified");
        prop_assert_eq!(&listing::of_tree(&again), &expected);
        prop_assert_eq!(encode(&again).expect("legal").id, image.id());
    }

    #[test]
    fn insertion_order_does_not_change_the_image((root, steps) in (metadata(), steps(60))) {
        let tree = build(&root, &steps);
        let other = rebuild(&listing::of_tree(&tree));
        prop_assert!(encode(&tree).expect("legal") == encode(&other).expect("legal"));
    }

    #[test]
    fn objects_are_listed_once_with_their_sizes((root, steps) in (metadata(), steps(60))) {
        let tree = build(&root, &steps);
        let image = open(&tree);
        let mut expected: Vec<_> = listing::of_tree(&tree).into_values().filter_map(|item| match item.node.kind {
            NodeKind::Regular(content) => content.object.map(|object| (object, content.size)),
            _ => None,
        }).collect();
        expected.sort_unstable();
        expected.dedup();
        let sizes = image.objects_with_sizes().expect("good").collect::<Result<Vec<_>, _>>();
        let mut found = sizes.expect("good");
        prop_assert_eq!(image.objects().expect("good").collect::<Vec<_>>(), found.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        found.sort_unstable();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn a_listing_continues_from_any_position((root, steps) in (metadata(), steps(60)), from in 0..20_u32) {
        let image = open(&build(&root, &steps));
        let whole: Vec<_> = image.children(image.root(), 0).expect("directory").collect();
        let rest: Vec<_> = image.children(image.root(), from).expect("directory").collect();
        prop_assert_eq!(&whole[whole.len().min(from as usize)..], &rest[..]);
        prop_assert_eq!(image.child_count(image.root()), Ok(whole.len() as u32));
    }
}
