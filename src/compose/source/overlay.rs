//! Lays a tree over another one, as unpacking one archive after the other does.
//!
//! *Not here*: archives, which are read over an earlier tree by `tar` itself.
//!
//! *Invariants*: what the upper tree has is in the result as it is there; a directory of both keeps the entries of both. Symbolic
//! links are not followed.
//!
//! *Used by* `cli::commit`.

use std::collections::HashMap;

use crate::image::{NodeId, Tree, TreeError};
use crate::model::{ImagePath, NodeKind};

/// Why two trees do not fit over each other.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// Something else would replace a directory that has entries.
    #[error("{path} is a directory with entries in an earlier tree and something else in a later one")]
    DirectoryInTheWay {
        /// The path.
        path: ImagePath,
    },
    /// The tree refuses an entry.
    #[error("cannot add an entry to {path}")]
    Tree {
        /// The directory.
        path: ImagePath,
        /// The cause.
        source: TreeError,
    },
}

/// Adds the directory `top` of `upper`, with everything below it, to `lower`.
///
/// # Errors
/// [`OverlayError`]; `lower` then has a part of the entries.
pub(crate) fn overlay(lower: &mut Tree, upper: &Tree, top: NodeId) -> Result<(), OverlayError> {
    // The nodes that were added, for further names of them.
    let mut added: HashMap<NodeId, NodeId> = HashMap::new();
    let root = lower.root();
    lower.node_mut(root).metadata = upper.node(top).metadata.clone();
    let mut pending = vec![(root, top, ImagePath::root())];
    while let Some((to, from, path)) = pending.pop() {
        let tree_error = |source| OverlayError::Tree { path: path.clone(), source };
        for (name, child) in upper.children(from) {
            let node = upper.node(child);
            let is_directory = node.kind == NodeKind::Directory;
            if let Some(existing) = lower.child(to, name.as_bytes()) {
                if is_directory && lower.node(existing).kind == NodeKind::Directory {
                    lower.node_mut(existing).metadata = node.metadata.clone();
                    pending.push((existing, child, path.join(name.clone())));
                    continue;
                }
                if lower.children(existing).next().is_some() {
                    return Err(OverlayError::DirectoryInTheWay { path: path.join(name.clone()) });
                }
                lower.remove(to, name);
            }
            if let Some(copy) = added.get(&child) {
                lower.link(to, name.clone(), *copy).map_err(tree_error)?;
                continue;
            }
            let copy = lower.insert(to, name.clone(), node.clone()).map_err(tree_error)?;
            added.insert(child, copy);
            if is_directory {
                pending.push((copy, child, path.join(name.clone())));
            }
        }
    }
    Ok(())
}
