//! Reads a whole image back into a [`Tree`], to be changed and written again.

use super::view::wrong;
use super::{EntryFault, Image, ImageError, Ino, Section, Tree, TreeError};
use crate::model::EntryName;

impl Image {
    /// The tree in memory.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn tree(&self) -> Result<Tree, ImageError> {
        let view = self.view();
        let mut tree = Tree::new(self.metadata(Ino::ROOT)?);
        // Parents and primaries have smaller numbers, so they are here when they are needed.
        let mut nodes = vec![tree.root()];
        for entry in 1..view.entries() {
            let (parent, primary) = (view.parent(entry)?, view.primary(entry)?);
            let name = EntryName::new(view.raw_name(entry)?);
            let name = name.map_err(|_| wrong(Section::Names, entry, EntryFault::Name))?;
            let parent = nodes[parent as usize];
            let added = if primary == entry {
                tree.insert(parent, name, self.node(Ino::of_entry(entry))?)
            } else {
                let first = nodes[primary as usize];
                tree.link(parent, name, first).map(|()| first)
            };
            nodes.push(added.map_err(|error| match error {
                TreeError::Exists(_) => wrong(Section::Names, entry, EntryFault::NameOrder),
                TreeError::NotADirectory(_) | TreeError::Missing(_) | TreeError::Inside(_) => {
                    wrong(Section::Parent, entry, EntryFault::Parent)
                }
                TreeError::DirectoryLink(_) => wrong(Section::HardLinks, entry, EntryFault::HardLink),
            })?);
        }
        Ok(tree)
    }
}
