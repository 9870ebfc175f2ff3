//! Writes a [`Tree`] as an image, in three steps: number the entries (`order`), fill the columns (`columns`), assemble header,
//! digests and sections (here).
//!
//! *Invariants*: the bytes depend on the tree alone, not on the order in which it was built.
//!
//! *Used by* `compose` and `cli`, which commit trees.

use sha2::{Digest as _, Sha256};

use super::column::Sections;
use super::columns::Columns;
use super::header::{ImageHeader, SectionRow, usize_of};
use super::layout::{HASH_SIZE, IMAGE_BLOCK, SECTION_ALIGNMENT};
use super::order::Order;
use super::presence::ImageBytes;
use super::view::ImageView;
use super::{EncodeError, Section, Tree, subtree};
use crate::model::ImageId;

/// An image in memory, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedImage {
    /// The id.
    pub id: ImageId,
    /// The bytes of the whole file.
    pub bytes: Vec<u8>,
    /// Number of entries, the root counted.
    pub entries: u64,
    /// Sum of the sizes of all regular files in bytes, each inode once.
    pub content_bytes: u64,
}

/// Writes a tree as an image. Equal trees give equal bytes.
///
/// # Errors
/// [`EncodeError::Node`] for an inode that Linux could not have or that breaks a rule of the model, such as extents out of
/// order; [`EncodeError::TooLarge`] when a number does not fit the format, which has 32 bits for most.
pub fn encode(tree: &Tree) -> Result<EncodedImage, EncodeError> {
    let order = Order::of(tree)?;
    let columns = Columns::fill(tree, &order)?;
    let entries = u32::try_from(order.entries.len()).map_err(|_| EncodeError::TooLarge { what: "entries" })?;
    drop(order);
    let content_bytes = columns.content_bytes;
    let (header, mut bytes) = assemble(columns, entries)?;
    write_subtrees(&header, &mut bytes);
    write_hashes(&header, &mut bytes);
    let id = ImageId::of(&bytes[..usize_of(header.header_length)]);
    Ok(EncodedImage { id, bytes, entries: u64::from(entries), content_bytes })
}

/// Returns the header and the whole file, in which the subtree digests and the block hashes are still zero.
fn assemble(columns: Columns, entries: u32) -> Result<(ImageHeader, Vec<u8>), EncodeError> {
    let content_bytes = columns.content_bytes;
    let sections = columns.finish();
    let mut rows = Vec::with_capacity(sections.len());
    let mut end = 0_u64;
    for (section, content) in &sections {
        let offset = end.next_multiple_of(SECTION_ALIGNMENT);
        let length = content.len() as u64;
        rows.push(SectionRow { number: section.number(), element_size: section.element_size(), offset, length });
        end = offset + length;
    }
    let count = u32::try_from(rows.len()).map_err(|_| EncodeError::TooLarge { what: "sections" })?;
    let header =
        ImageHeader::plan(entries, content_bytes, count, end).ok_or(EncodeError::TooLarge { what: "bytes" })?;
    rows.iter_mut().for_each(|row| row.offset += header.body());
    let mut bytes = header.write(&rows);
    bytes.reserve_exact(usize_of(header.file_length).saturating_sub(bytes.len()));
    for (row, (_, content)) in rows.iter().zip(sections) {
        bytes.resize(usize_of(row.offset), 0);
        bytes.extend_from_slice(&content);
    }
    Ok((header, bytes))
}

/// Fills the section of subtree digests, which are computed from all other sections by the same code that checks them.
fn write_subtrees(header: &ImageHeader, bytes: &mut [u8]) {
    let sections = Sections::resolve(bytes, header).expect("assemble() wrote the table that resolve() reads");
    let digests = subtree::digests(ImageView { bytes: ImageBytes::complete(bytes), sections: &sections })
        .expect("the columns were just filled in order");
    let row = header.rows(bytes).find(|row| row.number == Section::Subtrees.number());
    let start = usize_of(row.expect("every image has subtree digests").offset);
    for (digest, place) in digests.iter().zip(bytes[start..].chunks_exact_mut(digests[0].as_bytes().len())) {
        place.copy_from_slice(digest.as_bytes());
    }
}

/// Fills the block hash table.
fn write_hashes(header: &ImageHeader, bytes: &mut [u8]) {
    let (head, body) = bytes.split_at_mut(usize_of(header.body()));
    let table = &mut head[usize_of(header.hashes())..usize_of(header.header_length)];
    for (place, block) in table.chunks_exact_mut(usize_of(HASH_SIZE)).zip(body.chunks(IMAGE_BLOCK as usize)) {
        place.copy_from_slice(&Sha256::digest(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, Ino};
    use crate::model::{Content, EntryName, FileKind, ImagePath, Metadata, Node, NodeKind, ObjectId};
    use crate::sys::Mapping;

    fn name(text: &str) -> EntryName {
        EntryName::new(text.as_bytes()).expect("legal")
    }

    fn node(kind: NodeKind) -> Node {
        Node { metadata: Metadata { permissions: 0o755, ..Metadata::default() }, kind }
    }

    fn open(tree: &Tree) -> Image {
        let encoded = encode(tree).expect("legal");
        let image = Image::open(Mapping::of_bytes(encoded.bytes)).expect("just written");
        assert_eq!(image.id(), encoded.id);
        assert_eq!(u64::from(image.entries()), encoded.entries);
        image
    }

    #[test]
    fn empty_root_encodes_as_an_image() {
        let image = open(&Tree::new(Metadata::default()));
        assert_eq!(image.entries(), 1);
        assert_eq!(image.children(image.root(), 0).expect("directory").count(), 0);
        assert_eq!(image.parent(image.root()), Ok(image.root()));
        assert_eq!(image.attributes(image.root()).expect("root").nlink, 2);
    }

    #[test]
    fn entries_are_found_by_name_and_number() {
        let mut tree = Tree::new(Metadata::default());
        let root = tree.root();
        let usr = tree.insert(root, name("usr"), node(NodeKind::Directory)).expect("free");
        let content = Content { object: Some(ObjectId::of(b"abc")), size: 3, ..Content::default() };
        let file = tree.insert(usr, name("file"), node(NodeKind::Regular(content.clone()))).expect("free");
        tree.link(root, name("zlink"), file).expect("free");
        tree.insert(root, name("bin"), node(NodeKind::Symlink(b"usr/bin"[..].into()))).expect("free");
        let image = open(&tree);

        let names: Vec<_> =
            image.children(Ino::ROOT, 0).expect("directory").map(|entry| entry.expect("good")).collect();
        assert_eq!(names.iter().map(|entry| entry.name).collect::<Vec<_>>(), [&b"bin"[..], b"usr", b"zlink"]);
        let link = image.lookup(Ino::ROOT, b"zlink").expect("good").expect("exists");
        let path = ImagePath::parse(b"/usr/file").expect("legal");
        assert_eq!(image.resolve(&path), Ok(Some(link)));
        assert_eq!(names[2].ino, link);
        let attributes = image.attributes(link).expect("good");
        assert_eq!((attributes.nlink, attributes.size, attributes.kind), (2, 3, FileKind::Regular));
        assert_eq!(image.content(link), Ok(content));
        assert_eq!(image.symlink(names[0].ino), Ok(&b"usr/bin"[..]));
        assert_eq!(encode(&image.tree().expect("good")).expect("legal").id, image.id());
    }
}
