//! Converts numbered entries into the bytes of the sections, and checks each inode.
//!
//! *Not here*: the order of entries (`order`), the header and the digests (`encode`).
//!
//! *Used by* `image::encode`.

use std::collections::HashMap;

use super::layout::{FILE_SIZE_MAX, NO_OBJECT};
use super::order::{NumberedEntry, Order};
use super::view::extents_are_legal;
use super::xattrs::encode_set;
use super::{EncodeError, EntryFault, Section, Tree};
use crate::model::{BLOCK_SIZE, Content, DeviceNumber, LARGE_OBJECT, Node, NodeKind, ObjectId, SYMLINK_MAX, Xattrs};

/// The sections of an image that is being written.
pub(super) struct Columns {
    sections: [Vec<u8>; Section::ALL.len() + 1],
    /// Sum of the sizes of all regular files, each inode once.
    pub(crate) content_bytes: u64,
}

/// Values that are stored already and to which further entries can refer.
#[derive(Default)]
struct Interned<'t> {
    xattrs: HashMap<&'t Xattrs, u32>,
    /// The attributes of the entry before: on an SELinux system most neighbours have the same label.
    last_xattrs: Option<(&'t Xattrs, u32)>,
    objects: HashMap<ObjectId, (u32, &'t Content)>,
}

/// The values of an entry that depend on its kind, and the number of its extended attributes.
#[derive(Clone, Copy)]
struct Payload {
    size: u64,
    data: u64,
    xattrs: u32,
}

impl Columns {
    /// Fills all sections; the subtree digests stay zero.
    pub(crate) fn fill<'t>(tree: &'t Tree, order: &Order<'t>) -> Result<Self, EncodeError> {
        let mut columns = Self { sections: Default::default(), content_bytes: 0 };
        let mut interned = Interned::default();
        let mut payloads: Vec<Payload> = Vec::with_capacity(order.entries.len());
        for section in Section::ALL {
            let count = if section.fixed_count(0).is_some() { order.entries.len() } else { 0 };
            columns.sections[section.number() as usize].reserve(count * section.element_size() as usize);
        }
        columns.put_u32(Section::NameOffsets, 0);
        for (index, placed) in order.entries.iter().enumerate() {
            let node = tree.node(placed.node);
            let primary = placed.primary as usize;
            let payload = if primary == index {
                columns.put_payload(node, placed, &mut interned).map_err(|fault| fault.at(order, index))?
            } else {
                columns.put_u32(Section::HardLinks, entry_number(index));
                columns.put_u32(Section::HardLinks, placed.primary);
                payloads[primary]
            };
            payloads.push(payload);
            columns.put_name(placed)?;
            columns.put_row(node, placed, order.entries[primary].links, payload);
            if node.kind == NodeKind::Directory {
                columns.put_u32(Section::Directories, entry_number(index));
                columns.put(Section::Subtrees, &[0; 32]);
            }
        }
        Ok(columns)
    }

    /// Returns the sections that the format requires to be written, in file order.
    pub(crate) fn finish(self) -> Vec<(Section, Vec<u8>)> {
        let is_omitted = |section: Section, bytes: &[u8]| {
            bytes.is_empty() || section.is_zero_optional() && bytes.iter().all(|byte| *byte == 0)
        };
        let [_, sections @ ..] = self.sections;
        Section::ALL.into_iter().zip(sections).filter(|(section, bytes)| !is_omitted(*section, bytes)).collect()
    }

    fn put(&mut self, section: Section, bytes: &[u8]) {
        self.sections[section.number() as usize].extend_from_slice(bytes);
    }

    fn put_u32(&mut self, section: Section, value: u32) {
        self.put(section, &value.to_le_bytes());
    }

    fn put_u64(&mut self, section: Section, value: u64) {
        self.put(section, &value.to_le_bytes());
    }

    /// Returns the number of elements that a section has so far.
    ///
    /// # Errors
    /// [`Fault::TooLarge`] if the number does not fit 32 bits.
    fn count(&self, section: Section) -> Result<u32, Fault> {
        let count = self.sections[section.number() as usize].len() / section.element_size() as usize;
        u32::try_from(count).map_err(|_| Fault::TooLarge(section.name()))
    }

    fn put_name(&mut self, placed: &NumberedEntry<'_>) -> Result<(), EncodeError> {
        let too_large = EncodeError::TooLarge { what: Section::Names.name() };
        self.put(Section::Names, placed.name.map_or(&[], |name| name.as_bytes()));
        let end = u32::try_from(self.sections[Section::Names.number() as usize].len()).map_err(|_| too_large)?;
        self.put_u32(Section::NameOffsets, end);
        Ok(())
    }

    fn put_row(&mut self, node: &Node, placed: &NumberedEntry<'_>, links: u32, payload: Payload) {
        let metadata = &node.metadata;
        // The type bits of every kind fit the 16 bits of the traditional mode.
        let kind = (node.kind.file_kind().mode_bits() & 0xffff) as u16;
        self.put(Section::Mode, &(kind | metadata.permissions).to_le_bytes());
        self.put_u32(Section::Uid, metadata.uid);
        self.put_u32(Section::Gid, metadata.gid);
        self.put(Section::Mtime, &metadata.mtime.seconds.to_le_bytes());
        self.put_u32(Section::MtimeNanoseconds, metadata.mtime.nanoseconds);
        self.put_u64(Section::Size, payload.size);
        self.put_u32(Section::Links, links);
        self.put_u32(Section::Parent, placed.parent);
        self.put_u64(Section::Data, payload.data);
        self.put_u32(Section::Xattrs, payload.xattrs);
    }

    /// Checks an inode and stores the values to which its row refers.
    fn put_payload<'t>(
        &mut self,
        node: &'t Node,
        placed: &NumberedEntry<'t>,
        interned: &mut Interned<'t>,
    ) -> Result<Payload, Fault> {
        if node.metadata.permissions > 0o7777 {
            return Err(EntryFault::Kind.into());
        }
        if node.metadata.mtime.nanoseconds >= 1_000_000_000 {
            return Err(EntryFault::Time.into());
        }
        let (size, data) = match &node.kind {
            NodeKind::Directory => (0, pack_pair(placed.children.0, placed.children.1)),
            NodeKind::Regular(content) => (content.size, self.put_content(content, placed.primary, interned)?),
            NodeKind::Symlink(target) => self.put_target(target)?,
            NodeKind::CharDevice(DeviceNumber { major, minor })
            | NodeKind::BlockDevice(DeviceNumber { major, minor }) => (0, pack_pair(*major, *minor)),
            NodeKind::Fifo | NodeKind::Socket => (0, 0),
        };
        Ok(Payload { size, data, xattrs: self.put_xattrs(&node.metadata.xattrs, interned)? })
    }

    fn put_target(&mut self, target: &[u8]) -> Result<(u64, u64), Fault> {
        if !(1..=SYMLINK_MAX).contains(&target.len()) || target.contains(&0) {
            return Err(EntryFault::Target.into());
        }
        let offset = self.sections[Section::Targets.number() as usize].len() as u64;
        self.put(Section::Targets, target);
        Ok((target.len() as u64, offset))
    }

    fn put_xattrs<'t>(&mut self, xattrs: &'t Xattrs, interned: &mut Interned<'t>) -> Result<u32, Fault> {
        if xattrs.is_empty() {
            return Ok(0);
        }
        if let Some((_, number)) = interned.last_xattrs.filter(|(last, _)| *last == xattrs) {
            return Ok(number);
        }
        if let Some(number) = interned.xattrs.get(xattrs) {
            interned.last_xattrs = Some((xattrs, *number));
            return Ok(*number);
        }
        if interned.xattrs.is_empty() {
            self.put_u64(Section::XattrOffsets, 0);
        }
        let number = self.count(Section::XattrOffsets)?;
        self.put(Section::XattrSets, &encode_set(xattrs));
        let end = self.sections[Section::XattrSets.number() as usize].len() as u64;
        self.put_u64(Section::XattrOffsets, end);
        interned.xattrs.insert(xattrs, number);
        Ok(number)
    }

    /// Stores the content of the regular file `entry`; returns the value of its `data` column.
    fn put_content<'t>(&mut self, content: &'t Content, entry: u32, interned: &mut Interned<'t>) -> Result<u64, Fault> {
        if content.size > FILE_SIZE_MAX || content.object.is_none() != (content.size == 0) {
            return Err(EntryFault::Size.into());
        }
        let total = self.content_bytes.checked_add(content.size);
        self.content_bytes = total.ok_or(Fault::TooLarge("bytes of content"))?;
        if let Some(extents) = &content.extents {
            if !extents_are_legal(content.size, extents.iter().copied()) {
                return Err(EntryFault::Extents.into());
            }
            self.put_u32(Section::Sparse, entry);
            let first = self.count(Section::Extents)?;
            self.put_u32(Section::Sparse, first);
            for extent in extents {
                self.put_u64(Section::Extents, extent.offset);
                self.put_u64(Section::Extents, extent.length);
            }
        }
        let Some(id) = content.object else {
            return if content.blocks.is_empty() { Ok(NO_OBJECT) } else { Err(EntryFault::Blocks.into()) };
        };
        if let Some((index, known)) = interned.objects.get(&id) {
            let agrees = known.size == content.size && known.blocks == content.blocks;
            return if agrees { Ok(u64::from(*index)) } else { Err(EntryFault::Object.into()) };
        }
        let index = self.put_object(id, content)?;
        interned.objects.insert(id, (index, content));
        Ok(u64::from(index))
    }

    /// Stores an object that no earlier entry has; returns its index.
    fn put_object(&mut self, id: ObjectId, content: &Content) -> Result<u32, Fault> {
        let blocks = if content.size > LARGE_OBJECT { content.size.div_ceil(BLOCK_SIZE) } else { 0 };
        if content.blocks.len() as u64 != blocks {
            return Err(EntryFault::Blocks.into());
        }
        let index = self.count(Section::Objects)?;
        self.put(Section::Objects, id.as_bytes());
        if blocks > 0 {
            self.put_u32(Section::LargeObjects, index);
            let first = self.count(Section::Blocks)?;
            self.put_u32(Section::LargeObjects, first);
            for block in &content.blocks {
                self.put(Section::Blocks, block.as_bytes());
            }
        }
        Ok(index)
    }
}

/// Why an inode cannot be stored, without the path of the inode.
enum Fault {
    Node(EntryFault),
    TooLarge(&'static str),
}

impl From<EntryFault> for Fault {
    fn from(fault: EntryFault) -> Self {
        Self::Node(fault)
    }
}

impl Fault {
    fn at(self, order: &Order<'_>, entry: usize) -> EncodeError {
        match self {
            Self::Node(fault) => order.node_error(entry, fault),
            Self::TooLarge(what) => EncodeError::TooLarge { what },
        }
    }
}

/// Returns the value of a `data` column that holds two numbers.
const fn pack_pair(lower: u32, upper: u32) -> u64 {
    lower as u64 | (upper as u64) << 32
}

/// Returns the number of an entry. [`Order`] has checked that it fits.
fn entry_number(index: usize) -> u32 {
    u32::try_from(index).expect("Order bounds the number of entries")
}
