//! Reads a whole image into a [`Tree`], which can be changed and written again.
//!
//! *Used by* `compose`.

use super::view::entry_error;
use super::{EntryFault, Image, ImageError, Ino, Section, Tree, TreeError};
use crate::model::EntryName;

impl Image {
    /// Reads the whole image into a tree in memory.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn tree(&self) -> Result<Tree, ImageError> {
        let view = self.view();
        let mut tree = Tree::new(self.metadata(Ino::ROOT)?);
        // Parents and primaries have smaller numbers, so their nodes exist when they are needed.
        let mut nodes = vec![tree.root()];
        for entry in 1..view.entries() {
            let (parent, primary) = (view.parent(entry)?, view.primary(entry)?);
            let name = EntryName::new(view.raw_name(entry)?);
            let name = name.map_err(|_| entry_error(Section::Names, entry, EntryFault::Name))?;
            let parent = nodes[parent as usize];
            let added = if primary == entry {
                tree.insert(parent, name, self.node(Ino::of_entry(entry))?)
            } else {
                let first = nodes[primary as usize];
                tree.link(parent, name, first).map(|()| first)
            };
            nodes.push(added.map_err(|error| match error {
                TreeError::Exists(_) => entry_error(Section::Names, entry, EntryFault::NameOrder),
                TreeError::NotADirectory(_) | TreeError::Missing(_) | TreeError::Inside(_) => {
                    entry_error(Section::Parent, entry, EntryFault::Parent)
                }
                TreeError::DirectoryLink(_) => entry_error(Section::HardLinks, entry, EntryFault::HardLink),
            })?);
        }
        Ok(tree)
    }
}
