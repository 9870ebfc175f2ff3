//! A filesystem tree in memory, which importers build and [`super::encode()`] writes.
//!
//! *Invariants*: nodes are inodes; a hard link is a second name of the same node. No operation can make a cycle. Neither this
//! file nor its users recurse, so that deep trees do not need a deep stack.
//!
//! *Used by* `compose` and `cli`, which build trees, and by `image`.

use std::collections::BTreeMap;

use super::TreeError;
use crate::model::{EntryName, ImagePath, Metadata, Node, NodeKind};

/// The handle of one inode of a [`Tree`]; not valid for another tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

impl NodeId {
    /// Returns the position among the tree's nodes, for tables with one element for each node.
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A filesystem tree in memory. A handle of another tree causes a panic or names another inode.
#[derive(Debug, Clone)]
pub struct Tree {
    slots: Vec<NodeSlot>,
}

#[derive(Debug, Clone)]
struct NodeSlot {
    node: Node,
    /// Empty unless the node is a directory.
    children: BTreeMap<EntryName, NodeId>,
}

impl Tree {
    /// Creates a tree of one empty directory.
    #[must_use]
    pub fn new(root: Metadata) -> Self {
        let mut tree = Self { slots: Vec::new() };
        tree.add(Node { metadata: root, kind: NodeKind::Directory });
        tree
    }

    /// Returns the root directory.
    #[must_use]
    pub const fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// Adds a new inode to a directory.
    ///
    /// # Errors
    /// [`TreeError::NotADirectory`], or [`TreeError::Exists`] when the name is taken.
    pub fn insert(&mut self, parent: NodeId, name: EntryName, node: Node) -> Result<NodeId, TreeError> {
        self.check_free(parent, &name)?;
        let id = self.add(node);
        self.slots[parent.index()].children.insert(name, id);
        Ok(id)
    }

    /// Adds another name of an inode that is not a directory.
    ///
    /// # Errors
    /// [`TreeError::DirectoryLink`] for a directory; otherwise as for [`Self::insert`].
    pub fn link(&mut self, parent: NodeId, name: EntryName, target: NodeId) -> Result<(), TreeError> {
        self.check_free(parent, &name)?;
        if self.node(target).kind == NodeKind::Directory {
            return Err(TreeError::DirectoryLink(name));
        }
        self.slots[parent.index()].children.insert(name, target);
        Ok(())
    }

    /// Removes a name, and with it everything that is reachable only through it. Returns the inode; its handle stays valid.
    pub fn remove(&mut self, parent: NodeId, name: &EntryName) -> Option<NodeId> {
        self.slots[parent.index()].children.remove(name)
    }

    /// Moves the entry `name` of `parent`, with everything below it, to the name `new_name` in `new_parent`.
    ///
    /// # Errors
    /// [`TreeError::Missing`] when there is no such name, [`TreeError::Inside`] when `new_parent` is the entry or below it,
    /// [`TreeError::NotADirectory`], or [`TreeError::Exists`] when the new name is taken. The tree is then unchanged.
    pub(crate) fn rename(
        &mut self,
        parent: NodeId,
        name: &EntryName,
        new_parent: NodeId,
        new_name: EntryName,
    ) -> Result<(), TreeError> {
        let moved = self.child(parent, name.as_bytes()).ok_or_else(|| TreeError::Missing(name.clone()))?;
        self.check_free(new_parent, &new_name)?;
        if self.contains(moved, new_parent) {
            return Err(TreeError::Inside(name.clone()));
        }
        self.slots[parent.index()].children.remove(name);
        self.slots[new_parent.index()].children.insert(new_name, moved);
        Ok(())
    }

    /// Returns whether `inner` is `top` or a directory below it.
    fn contains(&self, top: NodeId, inner: NodeId) -> bool {
        let mut pending = vec![top];
        while let Some(at) = pending.pop() {
            if at == inner {
                return true;
            }
            pending.extend(self.children(at).map(|(_, id)| id).filter(|id| self.node(*id).kind == NodeKind::Directory));
        }
        false
    }

    /// Returns the inode with the name `name` in `parent`.
    #[must_use]
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.slots[parent.index()].children.get(name).copied()
    }

    /// Returns the names in a directory, in bytewise order; no names if the inode is not a directory.
    pub fn children(&self, directory: NodeId) -> impl ExactSizeIterator<Item = (&EntryName, NodeId)> {
        self.slots[directory.index()].children.iter().map(|(name, id)| (name, *id))
    }

    /// Returns the inode at a path. Does not follow symbolic links.
    #[must_use]
    pub fn resolve(&self, path: &ImagePath) -> Option<NodeId> {
        path.components().iter().try_fold(self.root(), |at, name| self.child(at, name.as_bytes()))
    }

    /// Returns the data of an inode.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.slots[id.index()].node
    }

    /// Returns the data of an inode, to be changed. A directory that has entries must stay a directory, and an inode with
    /// several names must not become one: [`super::encode()`] refuses such a tree.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.slots[id.index()].node
    }

    /// Returns the number of handles that were given so far, those of removed inodes included.
    pub(super) const fn slot_count(&self) -> usize {
        self.slots.len()
    }

    fn add(&mut self, node: Node) -> NodeId {
        let id = u32::try_from(self.slots.len()).expect("2^32 nodes do not fit in memory: each takes over 100 bytes");
        self.slots.push(NodeSlot { node, children: BTreeMap::new() });
        NodeId(id)
    }

    fn check_free(&self, parent: NodeId, name: &EntryName) -> Result<(), TreeError> {
        if self.node(parent).kind != NodeKind::Directory {
            Err(TreeError::NotADirectory(name.clone()))
        } else if self.slots[parent.index()].children.contains_key(name) {
            Err(TreeError::Exists(name.clone()))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EntryName {
        EntryName::new(text.as_bytes()).expect("legal")
    }

    fn node(kind: NodeKind) -> Node {
        Node { metadata: Metadata::default(), kind }
    }

    #[test]
    fn tree_names_are_unique_sorted_and_only_in_directories() {
        let mut tree = Tree::new(Metadata::default());
        let pipe = tree.insert(tree.root(), name("b"), node(NodeKind::Fifo)).expect("free");
        tree.insert(tree.root(), name("a"), node(NodeKind::Directory)).expect("free");
        assert_eq!(tree.insert(tree.root(), name("a"), node(NodeKind::Fifo)), Err(TreeError::Exists(name("a"))));
        assert_eq!(tree.insert(pipe, name("x"), node(NodeKind::Fifo)), Err(TreeError::NotADirectory(name("x"))));
        assert_eq!(tree.children(tree.root()).map(|(name, _)| name.as_bytes()).collect::<Vec<_>>(), [b"a", b"b"]);
    }

    #[test]
    fn hard_link_is_the_same_node_and_outlives_the_first_name() {
        let mut tree = Tree::new(Metadata::default());
        let pipe = tree.insert(tree.root(), name("a"), node(NodeKind::Fifo)).expect("free");
        tree.link(tree.root(), name("b"), pipe).expect("free");
        assert_eq!(tree.link(tree.root(), name("c"), tree.root()), Err(TreeError::DirectoryLink(name("c"))));
        assert_eq!(tree.remove(tree.root(), &name("a")), Some(pipe));
        assert_eq!(tree.child(tree.root(), b"a"), None);
        assert_eq!(tree.child(tree.root(), b"b"), Some(pipe));
    }

    #[test]
    fn rename_moves_a_directory_with_its_entries_not_into_itself() {
        let mut tree = Tree::new(Metadata::default());
        let outer = tree.insert(tree.root(), name("outer"), node(NodeKind::Directory)).expect("free");
        let inner = tree.insert(outer, name("inner"), node(NodeKind::Directory)).expect("free");
        let pipe = tree.insert(inner, name("pipe"), node(NodeKind::Fifo)).expect("free");
        assert_eq!(tree.rename(tree.root(), &name("outer"), inner, name("x")), Err(TreeError::Inside(name("outer"))));
        assert_eq!(tree.rename(outer, &name("x"), tree.root(), name("y")), Err(TreeError::Missing(name("x"))));
        assert_eq!(
            tree.rename(outer, &name("inner"), tree.root(), name("outer")),
            Err(TreeError::Exists(name("outer")))
        );
        tree.rename(outer, &name("inner"), tree.root(), name("moved")).expect("free");
        let path = ImagePath::parse(b"/moved/pipe").expect("legal");
        assert_eq!(tree.resolve(&path), Some(pipe));
        assert_eq!(tree.children(outer).len(), 0);
    }
}
