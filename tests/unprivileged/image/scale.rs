//! Sizes that would break recursion, quadratic loops and narrow integers.

use sapwood::image::{Image, Ino, NodeId, Tree, diff};
use sapwood::model::{EntryName, ImagePath, Metadata, Node, NodeKind};

use super::arbitrary::numbered_content;
use super::round_trip::open;

fn name(text: &str) -> EntryName {
    EntryName::new(text.as_bytes()).expect("legal")
}

fn directory(tree: &mut Tree, parent: NodeId, text: &str) -> NodeId {
    let node = Node { metadata: Metadata::default(), kind: NodeKind::Directory };
    tree.insert(parent, name(text), node).expect("free")
}

fn pipe(tree: &mut Tree, parent: NodeId, text: &str) -> NodeId {
    tree.insert(parent, name(text), Node { metadata: Metadata::default(), kind: NodeKind::Fifo }).expect("free")
}

fn count_changes(old: &Image, new: &Image) -> usize {
    let mut count = 0;
    diff(old, new, &mut |_| count += 1).expect("good");
    count
}

#[test]
fn ten_thousand_levels_cost_no_stack() {
    let mut tree = Tree::new(Metadata::default());
    let mut at = tree.root();
    let mut path = ImagePath::root();
    for _ in 0..10_000 {
        at = directory(&mut tree, at, "d");
        path.push(name("d"));
    }
    let before = open(&tree);
    let bottom = pipe(&mut tree, at, "bottom");
    tree.link(tree.root(), name("top"), bottom).expect("free");
    tree.link(at, name("beside"), bottom).expect("free");
    let after = open(&tree);
    assert_eq!(after.verify(), Ok(()));
    assert_eq!(after.resolve(&path).expect("good").map(Ino::get), Some(10_002));
    let read = after.tree().expect("good");
    assert_eq!(read.children(read.resolve(&path).expect("it exists")).len(), 2);
    assert_eq!(count_changes(&before, &after), 3);
    path.push(name("beside"));
    let link = after.resolve(&path).expect("good").expect("it exists");
    assert_eq!((link, after.attributes(link).expect("good").nlink), (Ino::from_raw(3).expect("legal"), 3));
}

#[test]
fn a_directory_may_have_a_hundred_thousand_entries() {
    let mut tree = Tree::new(Metadata::default());
    let root = tree.root();
    let many = directory(&mut tree, root, "many");
    for number in (0..100_000).rev() {
        pipe(&mut tree, many, &format!("{number:06}"));
    }
    let image = open(&tree);
    let many = image.lookup(Ino::ROOT, b"many").expect("good").expect("it exists");
    let names = image.children(many, 0).expect("directory").map(|child| child.expect("good").index);
    assert!(names.eq(0..100_000));
    for number in [0, 1, 49_999, 99_999] {
        let found = image.lookup(many, format!("{number:06}").as_bytes()).expect("good").map(Ino::get);
        assert_eq!(found, Some(number + 3));
    }
    assert_eq!(image.lookup(many, b"100000"), Ok(None));
    assert_eq!(image.verify(), Ok(()));
}

#[test]
fn a_file_of_a_terabyte_has_all_its_blocks() {
    let mut tree = Tree::new(Metadata::default());
    let mut content = numbered_content(5);
    content.size = 1 << 40;
    let first = content.blocks[0];
    content.blocks = vec![first; (content.size / sapwood::model::BLOCK_SIZE) as usize];
    let node = Node { metadata: Metadata::default(), kind: NodeKind::Regular(content.clone()) };
    tree.insert(tree.root(), name("huge"), node).expect("free");
    let image = open(&tree);
    let huge = image.lookup(Ino::ROOT, b"huge").expect("good").expect("it exists");
    assert_eq!(image.attributes(huge).expect("good").blocks, (1 << 40) / 512);
    assert_eq!(image.blocks(huge).expect("file").len(), content.blocks.len());
    assert_eq!(image.verify(), Ok(()));
}
