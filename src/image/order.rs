//! Numbers a tree's entries: breadth first, siblings by name.
//!
//! *Used by* `image::encode` and `image::columns`.

use super::layout::ENTRIES_MAX;
use super::tree::{NodeId, Tree};
use super::{EncodeError, EntryFault};
use crate::model::{EntryName, ImagePath, NodeKind};

/// One entry: a name, the node that it names, and the numbers that refer to other entries.
pub(super) struct NumberedEntry<'t> {
    pub(crate) node: NodeId,
    /// `None` for the root.
    pub(crate) name: Option<&'t EntryName>,
    pub(crate) parent: u32,
    /// The first child and the number of children; zeros unless the node is a directory.
    pub(crate) children: (u32, u32),
    /// The first entry of the same inode.
    pub(crate) primary: u32,
    /// The link count; only valid for primaries.
    pub(crate) links: u32,
}

/// The entries of a tree in the order of their numbers.
pub(super) struct Order<'t> {
    pub(crate) entries: Vec<NumberedEntry<'t>>,
}

impl<'t> Order<'t> {
    /// Numbers the entries of `tree`.
    pub(crate) fn of(tree: &'t Tree) -> Result<Self, EncodeError> {
        let mut primaries = vec![u32::MAX; tree.slot_count()];
        let mut order = Self { entries: Vec::with_capacity(tree.slot_count()) };
        order.entries.push(NumberedEntry {
            node: tree.root(),
            name: None,
            parent: 0,
            children: (0, 0),
            primary: 0,
            links: 2,
        });
        primaries[tree.root().index()] = 0;
        let mut directory = 0;
        while directory < order.entries.len() {
            order.append_children(tree, directory, &mut primaries)?;
            directory += 1;
        }
        Ok(order)
    }

    /// Gives the next numbers to the entries of the directory `parent`.
    fn append_children(&mut self, tree: &'t Tree, parent: usize, primaries: &mut [u32]) -> Result<(), EncodeError> {
        let node = self.entries[parent].node;
        let children = tree.children(node);
        if tree.node(node).kind != NodeKind::Directory {
            return if children.len() == 0 { Ok(()) } else { Err(self.node_error(parent, EntryFault::Children)) };
        }
        let too_many = EncodeError::TooLarge { what: "entries" };
        let number = |index: usize| u32::try_from(index).ok().filter(|number| *number <= ENTRIES_MAX);
        let first = self.entries.len();
        let (Some(first_number), Some(end)) = (number(first), number(first + children.len())) else {
            return Err(too_many);
        };
        self.entries[parent].children = (first_number, end - first_number);
        for ((name, child), entry) in children.zip(first_number..end) {
            let is_directory = tree.node(child).kind == NodeKind::Directory;
            let primary = primaries[child.index()];
            let is_new = primary == u32::MAX;
            let primary = if is_new { entry } else { primary };
            primaries[child.index()] = primary;
            self.entries.push(NumberedEntry {
                node: child,
                name: Some(name),
                parent: number(parent).unwrap_or_default(),
                children: (0, 0),
                primary,
                links: if is_directory { 2 } else { 1 },
            });
            if is_directory && !is_new {
                return Err(self.node_error(entry as usize, EntryFault::HardLink));
            }
            if is_directory {
                self.entries[parent].links += 1;
            } else if !is_new {
                self.entries[primary as usize].links += 1;
            }
        }
        Ok(())
    }

    /// Returns the path of an entry.
    pub(crate) fn path(&self, entry: usize) -> ImagePath {
        let mut names = Vec::new();
        let mut at = entry;
        while let Some(name) = self.entries[at].name {
            names.push(name.clone());
            at = self.entries[at].parent as usize;
        }
        let mut path = ImagePath::root();
        names.into_iter().rev().for_each(|name| path.push(name));
        path
    }

    /// Returns the error for an entry whose node cannot be written.
    pub(crate) fn node_error(&self, entry: usize, fault: EntryFault) -> EncodeError {
        EncodeError::Node { path: self.path(entry), fault }
    }
}
