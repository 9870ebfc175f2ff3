//! One wrong value at a time in a valid image: what `verify` reports, and that readers do not panic.

use sapwood::image::{EncodeError, EntryFault, Image, ImageError, Ino, Section, SectionFault, Tree, encode};
use sapwood::model::{Content, EntryName, Extent, Metadata, Node, NodeKind, ObjectId};
use sapwood::sys::Mapping;

use super::arbitrary::numbered_content;
use super::golden;
use crate::fuzzed::image::exercise::{exercise, reseal};

/// Returns where a section of the golden image begins.
fn start(bytes: &[u8], section: Section) -> usize {
    let sections = u32::from_le_bytes(bytes[68..72].try_into().expect("four bytes")) as usize;
    let row =
        (0..sections).map(|row| &bytes[72 + row * 24..][..24]).find(|row| row[..4] == section.number().to_le_bytes());
    let offset = row.expect("the golden image has one of everything")[8..16].try_into().expect("eight bytes");
    u64::from_le_bytes(offset) as usize
}

/// Overwrites an element of the golden image, corrects its block digests, and opens it.
fn with(section: Section, index: usize, value: &[u8]) -> Image {
    let mut bytes = encode(&golden::tree()).expect("legal").bytes;
    let at = start(&bytes, section) + index * section.element_size() as usize;
    bytes[at..at + value.len()].copy_from_slice(value);
    reseal(&mut bytes);
    Image::open(Mapping::of_bytes(bytes)).expect("the header is as it was")
}

/// The element to overwrite, its new value, and the section, the entry and the fault that are reported.
type Corruption<'a> = (Section, usize, &'a [u8], Section, u32, EntryFault);

#[test]
fn every_rule_of_entries_is_checked() {
    use EntryFault as Fault;
    // Entries: 0 / 1 bin 2 disk 3 null 4 pipe 5 socket 6 usr 7 usr/bin 8 usr/empty 9 usr/linked, then the files in usr/bin:
    // 10 large 11 nothing 12 small 13 sparse 14 twin.
    let cases: &[Corruption<'_>] = &[
        (Section::Mode, 4, &[0, 0], Section::Mode, 4, Fault::Kind),
        (Section::Mode, 0, &[0xed, 0x81], Section::Mode, 0, Fault::Kind),
        (Section::MtimeNanoseconds, 4, &1_000_000_000_u32.to_le_bytes(), Section::MtimeNanoseconds, 4, Fault::Time),
        (Section::Size, 4, &[1], Section::Size, 4, Fault::Size),
        (Section::Size, 1, &[0], Section::Size, 1, Fault::Size),
        (Section::Size, 11, &[1], Section::Size, 11, Fault::Size),
        (Section::Size, 14, &[6], Section::Size, 14, Fault::Object),
        (Section::Links, 6, &[3], Section::Links, 6, Fault::Links),
        (Section::Links, 4, &[2], Section::Links, 4, Fault::Links),
        (Section::Links, 12, &[1], Section::HardLinks, 12, Fault::HardLink),
        (Section::Uid, 12, &[9], Section::HardLinks, 12, Fault::HardLink),
        (Section::HardLinks, 0, &[12, 0, 0, 0, 13], Section::Links, 9, Fault::Links),
        (Section::Parent, 0, &[1], Section::Parent, 0, Fault::Parent),
        (Section::Parent, 4, &[6], Section::Parent, 4, Fault::Parent),
        (Section::Data, 0, &[0], Section::Data, 0, Fault::Children),
        (Section::Data, 0, &[2], Section::Data, 0, Fault::Children),
        (Section::Data, 7, &[10, 0, 0, 0, 9], Section::Data, 7, Fault::Children),
        (Section::Data, 4, &[1], Section::Data, 4, Fault::Data),
        (Section::Data, 1, &[1], Section::Data, 1, Fault::Data),
        (Section::Names, 0, b"/", Section::Names, 1, Fault::Name),
        (Section::Names, 0, b"z", Section::Names, 2, Fault::NameOrder),
        (Section::Targets, 0, &[0], Section::Targets, 1, Fault::Target),
        (Section::Xattrs, 1, &[9], Section::XattrOffsets, 9, Fault::Xattrs),
        (Section::Xattrs, 0, &[2], Section::XattrSets, 0, Fault::Xattrs),
        (Section::XattrSets, 6, &[0], Section::XattrSets, 0, Fault::Xattrs),
        (Section::Directories, 1, &[5], Section::Directories, 6, Fault::Data),
        (Section::Extents, 0, &[255, 255], Section::Extents, 13, Fault::Extents),
        (Section::Extents, 1, &[100], Section::Subtrees, 7, Fault::Subtree),
        (Section::LargeObjects, 0, &[0], Section::LargeObjects, 10, Fault::Blocks),
        (Section::Subtrees, 0, &[0; 32], Section::Subtrees, 0, Fault::Subtree),
    ];
    for (section, index, value, said, entry, fault) in cases {
        let image = with(*section, *index, value);
        let expected = ImageError::Entry { section: *said, entry: *entry, fault: *fault };
        let found = image.verify().expect_err("the image is wrong");
        assert!(
            found == expected || matches!(found, ImageError::OutOfRange { .. }),
            "{section} {index}: {found} instead of {expected}"
        );
        exercise(&image);
    }
}

#[test]
fn tables_with_unused_rows_are_refused() {
    let cases = [
        (Section::HardLinks, 0, &[12_u8, 0, 0, 0, 9][..]),
        (Section::Sparse, 0, &[4]),
        (Section::NameOffsets, 15, &[1]),
        (Section::XattrOffsets, 2, &[1]),
    ];
    for (section, index, value) in &cases[1..] {
        assert!(with(*section, *index, value).verify().is_err(), "{section}");
    }
    assert_eq!(with(cases[0].0, cases[0].1, cases[0].2).verify(), Ok(()));
}

#[test]
fn every_field_of_the_header_is_checked() {
    let good = encode(&golden::tree()).expect("legal").bytes;
    let open = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        Image::open(Mapping::of_bytes(bytes)).and_then(|image| image.verify())
    };
    assert_eq!(open(0, b"X"), Err(ImageError::NotAnImage));
    assert_eq!(open(8, &[2]), Err(ImageError::TooNew { version: 2, features: 0 }));
    assert_eq!(open(32, &[4]), Err(ImageError::TooNew { version: 1, features: 4 }));
    assert_eq!(open(16, &[4]), Ok(()), "compatible features are ignored");
    assert_eq!(open(48, &[0; 8]), Err(ImageError::Header { field: "content bytes" }));
    let fields =
        [(12, "length"), (40, "file length"), (56, "entries"), (60, "block size"), (64, "blocks"), (68, "sections")];
    for (at, field) in fields {
        for value in [&[0; 4], &[255; 4]] {
            assert!(open(at, value).is_err(), "{field}");
        }
    }
    for row in 0..(good[68] as usize) {
        for (at, value) in [(0, &[255; 4][..]), (4, &[3]), (8, &[255; 8]), (8, &[0; 8]), (16, &[255; 8]), (16, &[0; 8])]
        {
            assert!(open(72 + row * 24 + at, value).is_err(), "row {row}");
        }
    }
}

#[test]
fn padding_between_sections_must_be_zero() {
    let mut bytes = encode(&golden::tree()).expect("legal").bytes;
    bytes[4095] = 1; // before the body: covered by no block
    let image = Image::open(Mapping::of_bytes(bytes)).expect("the header is as it was");
    assert!(matches!(image.verify(), Err(ImageError::Padding { .. })));
}

#[test]
fn missing_section_is_refused() {
    let mut bytes = encode(&golden::tree()).expect("legal").bytes;
    bytes[72..76].copy_from_slice(&[0; 4]); // `mode` becomes an unknown kind
    let missing = ImageError::Section { section: Section::Mode, fault: SectionFault::Presence };
    let opened = Image::open(Mapping::of_bytes(bytes)).map(|image| image.entries());
    assert!(opened == Err(missing) || opened == Err(ImageError::UnknownSection { number: 0 }));
}

#[test]
fn further_link_has_the_attributes_of_its_primary() {
    let image = Image::open(Mapping::of_bytes(encode(&golden::tree()).expect("legal").bytes)).expect("good");
    let (link, primary) = (Ino::from_raw(13).expect("legal"), Ino::from_raw(10).expect("legal"));
    assert_eq!(image.attributes(link), image.attributes(primary));
    assert_eq!(image.attributes(link).expect("good").ino, primary);
    assert_eq!(image.path(link).expect("good").to_string(), "/usr/linked");
}

#[test]
fn sparse_file_reports_fewer_blocks_than_its_length() {
    let image = Image::open(Mapping::of_bytes(encode(&golden::tree()).expect("legal").bytes)).expect("good");
    let blocks = |number| image.attributes(Ino::from_raw(number).expect("legal")).expect("good").blocks;
    assert_eq!(blocks(14), 8, "both extents are in one unit");
    assert_eq!(blocks(11), numbered_content(6).size / 512);
    assert_eq!(blocks(12), 0);
}

#[test]
fn impossible_trees_are_refused() {
    let file = |content: Content| NodeKind::Regular(content);
    let small = || numbered_content(2);
    let extent = |offset, length| Extent { offset, length };
    let with_extents = |extents: Vec<Extent>| file(Content { extents: Some(extents), ..small() });
    let cases = [
        (NodeKind::Symlink(Box::default()), EntryFault::Target),
        (NodeKind::Symlink(vec![b'x'; 4096].into()), EntryFault::Target),
        (NodeKind::Symlink(b"a\0"[..].into()), EntryFault::Target),
        (file(Content { object: None, ..small() }), EntryFault::Size),
        (file(Content { size: 0, ..small() }), EntryFault::Size),
        (file(Content { size: 1 << 63, ..small() }), EntryFault::Size),
        (file(Content { blocks: Vec::new(), ..numbered_content(6) }), EntryFault::Blocks),
        (file(Content { blocks: numbered_content(6).blocks, ..small() }), EntryFault::Blocks),
        (with_extents(vec![extent(0, 5)]), EntryFault::Extents),
        (with_extents(vec![extent(0, 0)]), EntryFault::Extents),
        (with_extents(vec![extent(4, 2)]), EntryFault::Extents),
        (with_extents(vec![extent(0, 1), extent(1, 1)]), EntryFault::Extents),
        (with_extents(vec![extent(2, 1), extent(0, 1)]), EntryFault::Extents),
        (file(Content { extents: Some(Vec::new()), ..Content::default() }), EntryFault::Extents),
    ];
    for (kind, expected) in cases {
        let mut tree = Tree::new(Metadata::default());
        let node = Node { metadata: Metadata::default(), kind };
        tree.insert(tree.root(), EntryName::new(&b"x"[..]).expect("legal"), node.clone()).expect("free");
        match encode(&tree) {
            Err(EncodeError::Node { path, fault }) => assert_eq!((path.to_string(), fault), ("/x".into(), expected)),
            other => panic!("{node:?}: {:?}", other.map(|encoded| encoded.id)),
        }
    }
}

#[test]
fn one_object_cannot_have_two_sizes() {
    let mut tree = Tree::new(Metadata::default());
    for (name, size) in [("a", 1), ("b", 2)] {
        let kind = NodeKind::Regular(Content { object: Some(ObjectId::of(b"x")), size, ..Content::default() });
        let node = Node { metadata: Metadata::default(), kind };
        tree.insert(tree.root(), EntryName::new(name.as_bytes()).expect("legal"), node).expect("free");
    }
    assert!(matches!(encode(&tree), Err(EncodeError::Node { fault: EntryFault::Object, .. })));
}

#[test]
fn directory_made_from_a_linked_file_is_refused() {
    let mut tree = Tree::new(Metadata::default());
    let name = |text: &str| EntryName::new(text.as_bytes()).expect("legal");
    let pipe = Node { metadata: Metadata::default(), kind: NodeKind::Fifo };
    let linked = tree.insert(tree.root(), name("a"), pipe).expect("free");
    tree.link(tree.root(), name("b"), linked).expect("free");
    tree.node_mut(linked).kind = NodeKind::Directory;
    assert!(matches!(encode(&tree), Err(EncodeError::Node { fault: EntryFault::HardLink, .. })));
}
