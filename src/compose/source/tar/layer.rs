//! What is special about an archive that is a layer of a container image: it is laid over the layers below as programs for
//! containers do, which unpack it to a directory.
//!
//! - `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` everything that they have in its directory. What the layer itself
//!   adds stays, before or after. Other names that begin with `.wh..wh.` are notes of a storage driver, and no entries.
//! - A path leads through symbolic links, which are followed inside the tree. A whiteout below a link that the layer itself makes
//!   is of the directory that was there before, and so has nothing left to remove.
//! - Anything replaces anything, also a directory with entries.
//!
//! Source: the image layer specification of the OCI, and what umoci, skopeo and containerd do where it is silent.
//!
//! *Invariants*: no path leads out of the tree.
//!
//! *Used by* `tree_builder`.

use super::tree_builder::{Missing, TarEntryError, TreeBuilder};
use crate::image::NodeId;
use crate::model::{EntryName, ImagePath, NodeKind};

/// The beginning of names that stand for a removed entry.
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// The rest of the name that stands for everything in its directory.
const OPAQUE: &[u8] = b".wh..opq";

/// The beginning of the rest of names that are no whiteouts.
const DRIVER_PREFIX: &[u8] = b".wh.";

/// Number of links that a path may lead through, as in Linux.
const LINKS_MAX: usize = 40;

/// Returns whether a path leads through a directory with the name of a whiteout, which is one of a storage driver's notes.
pub(super) fn is_below_whiteout(path: &ImagePath) -> bool {
    let parents = path.components().split_last().map_or(&[][..], |(_, parents)| parents);
    parents.iter().any(|name| name.as_bytes().starts_with(WHITEOUT_PREFIX))
}

impl TreeBuilder {
    /// Removes from the layers below what an entry with the name `.wh.` and `rest` in a directory stands for.
    pub(super) fn apply_whiteout(&mut self, path: &ImagePath, rest: &[u8]) -> Result<(), TarEntryError> {
        let Some((_, parents)) = path.components().split_last() else { return Ok(()) };
        let is_own_link = |builder: &Self, node: NodeId| {
            let is_own = builder.layer.as_ref().is_some_and(|layer| layer.own.contains(&node));
            is_own && matches!(builder.tree.node(node).kind, NodeKind::Symlink(_))
        };
        let Some(directory) = self.follow(parents, Missing::Left, &is_own_link)? else { return Ok(()) };
        if rest == OPAQUE {
            self.remove_lower_children(directory);
        } else if !rest.starts_with(DRIVER_PREFIX)
            && let Ok(name) = EntryName::new(rest)
        {
            self.remove_lower(directory, &name);
        }
        Ok(())
    }

    /// Removes an entry of the layers below, with everything below it that is not of this layer.
    fn remove_lower(&mut self, directory: NodeId, name: &EntryName) {
        let Some(node) = self.tree.child(directory, name.as_bytes()) else { return };
        if self.layer.as_ref().is_some_and(|layer| layer.own.contains(&node)) {
            self.remove_lower_children(node);
        } else {
            self.tree.remove(directory, name);
        }
    }

    fn remove_lower_children(&mut self, directory: NodeId) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let children: Vec<_> = self.tree.children(directory).map(|(name, node)| (name.clone(), node)).collect();
            for (name, node) in children {
                if self.layer.as_ref().is_some_and(|layer| layer.own.contains(&node)) {
                    pending.push(node);
                } else {
                    self.tree.remove(directory, &name);
                }
            }
        }
    }

    /// Returns the directory that a path leads to, through symbolic links. `None` when it leads to nothing, and where it meets what
    /// `is_end` says.
    pub(super) fn follow(
        &mut self,
        path: &[EntryName],
        missing: Missing,
        is_end: &dyn Fn(&Self, NodeId) -> bool,
    ) -> Result<Option<NodeId>, TarEntryError> {
        let mut rest: Vec<Vec<u8>> = path.iter().rev().map(|name| name.as_bytes().to_vec()).collect();
        let mut above = vec![self.tree.root()];
        let mut links = 0;
        while let Some(name) = rest.pop() {
            let here = *above.last().expect("the root stays");
            if name == b".." {
                // As in a directory that is the root of a process.
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let Some(node) = self.tree.child(here, &name) else {
                let Ok(name) = EntryName::new(name.as_slice()) else { return Ok(None) };
                if missing == Missing::Left {
                    return Ok(None);
                }
                above.push(self.make_directory(here, name)?);
                continue;
            };
            if is_end(self, node) {
                return Ok(None);
            }
            match &self.tree.node(node).kind {
                NodeKind::Directory => above.push(node),
                NodeKind::Symlink(target) if links < LINKS_MAX => {
                    links += 1;
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    let parts = target.split(|byte| *byte == b'/').rev();
                    rest.extend(parts.filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec));
                }
                _ if missing == Missing::Left => return Ok(None),
                _ => {
                    let known = path.iter().cloned().fold(ImagePath::root(), |path, name| path.join(name));
                    return Err(TarEntryError::NotADirectory(known));
                }
            }
        }
        if missing == Missing::Made
            && let Some(layer) = &mut self.layer
        {
            layer.own.extend(&above);
        }
        Ok(above.pop())
    }
}
