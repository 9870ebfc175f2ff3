//! A tree as a flat list of paths, made by independent code, with which images are compared.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use sapwood::image::{Image, ImageError, Tree};
use sapwood::model::{EntryName, FileKind, ImagePath, Node};

/// The node at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub node: Node,
    /// All paths of its inode; none for a directory.
    pub links: Vec<Vec<u8>>,
}

/// Everything in a tree by path.
pub type Listing = BTreeMap<Vec<u8>, Item>;

/// Lists a tree in memory.
pub fn of_tree(tree: &Tree) -> Listing {
    let mut found = Vec::new();
    let mut pending = vec![(tree.root(), ImagePath::root())];
    while let Some((id, path)) = pending.pop() {
        found.push((path.to_bytes(), tree.node(id).clone(), u64::from(u32::MAX) + hash_of(id)));
        pending.extend(tree.children(id).map(|(name, child)| (child, path.join(name.clone()))));
    }
    group(found)
}

/// Lists an image through its public operations.
pub fn of_image(image: &Image) -> Listing {
    let mut found = Vec::new();
    let mut pending = vec![(image.root(), ImagePath::root())];
    while let Some((ino, path)) = pending.pop() {
        assert_eq!(image.resolve(&path), Ok(Some(ino)));
        found.push((path.to_bytes(), image.node(ino).expect("good"), ino.get()));
        if image.kind(ino) != Ok(FileKind::Directory) {
            continue;
        }
        for child in image.children(ino, 0).expect("directory") {
            let child = child.expect("good");
            assert_eq!(image.lookup(ino, child.name), Ok(Some(child.ino)));
            assert_eq!(image.kind(child.ino), Ok(child.kind));
            pending.push((child.ino, path.join(EntryName::new(child.name).expect("legal"))));
        }
    }
    let listing = group(found);
    check_walk(image, &listing);
    for (path, item) in &listing {
        let ino = image.resolve(&ImagePath::parse(path).expect("legal")).expect("good").expect("it exists");
        check_attributes(image, ino, item, &listing, path);
    }
    listing
}

/// Checks that `walk` finds the same paths, each after its parent.
fn check_walk(image: &Image, listing: &Listing) {
    let mut met = BTreeSet::from([b"/".to_vec()]);
    let walked = image.walk::<ImageError>(image.root(), &mut |path, ino, kind| {
        let mut parent = path.clone();
        parent.pop();
        assert!(met.contains(&parent.to_bytes()), "{path} comes before its parent");
        assert!(met.insert(path.to_bytes()), "{path} comes twice");
        assert_eq!((image.resolve(path)?, image.kind(ino)?), (Some(ino), kind));
        Ok(())
    });
    assert_eq!(walked, Ok(()));
    assert!(met.iter().eq(listing.keys()));
}

/// Checks that the attributes follow from the listing.
fn check_attributes(image: &Image, ino: sapwood::image::Ino, item: &Item, listing: &Listing, path: &[u8]) {
    let attributes = image.attributes(ino).expect("good");
    let metadata = &item.node.metadata;
    assert_eq!((attributes.uid, attributes.gid, attributes.mtime), (metadata.uid, metadata.gid, metadata.mtime));
    assert_eq!((attributes.kind, attributes.permissions), (item.node.kind.file_kind(), metadata.permissions));
    let links = if attributes.kind == FileKind::Directory {
        let below = if path == b"/" { Vec::new() } else { path.to_vec() };
        let is_child = |other: &[u8]| {
            other != b"/"
                && other
                    .strip_prefix(&below[..])
                    .is_some_and(|rest| rest.iter().filter(|b| **b == b'/').count() == 1 && rest[0] == b'/')
        };
        2 + listing
            .iter()
            .filter(|(other, item)| item.node.kind.file_kind() == FileKind::Directory && is_child(other))
            .count()
    } else {
        item.links.len()
    };
    assert_eq!(attributes.nlink as usize, links, "{}", path.escape_ascii());
}

fn hash_of(id: sapwood::image::NodeId) -> u64 {
    // The number inside a handle is private; its Debug text identifies it as well.
    format!("{id:?}").bytes().filter(u8::is_ascii_digit).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

fn group(found: Vec<(Vec<u8>, Node, u64)>) -> Listing {
    let mut links: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, node, inode) in &found {
        if node.kind.file_kind() != FileKind::Directory {
            links.entry(*inode).or_default().push(path.clone());
        }
    }
    links.values_mut().for_each(|paths| paths.sort());
    let mut listing = Listing::new();
    for (path, node, inode) in found {
        match listing.entry(path) {
            Entry::Vacant(place) => {
                place.insert(Item { node, links: links.get(&inode).cloned().unwrap_or_default() });
            }
            Entry::Occupied(place) => panic!("{} is listed twice", place.key().escape_ascii()),
        }
    }
    listing
}
