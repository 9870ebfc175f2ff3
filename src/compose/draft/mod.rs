//! A root filesystem on its way to an image: a tree in memory whose contents are still where they were found.
//!
//! The directory that was scanned is never changed. Names, owners, modes, times and labels are edited here, in memory,
//! which needs no privileges and costs no disk; a file that an edit replaces has its new bytes here too. Only what is
//! left at the end is read and stored, by [`ingest`]. So the steps of [`super::layout`] are functions of a draft, and
//! their tests build theirs from nothing.
//!
//! Paths are bytes, absolute, and symbolic links are never followed.

mod ingest;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use ingest::{IngestOptions, ingest};

use super::source::DirectoryError;
use super::source::walk::{WalkOptions, walk};
use crate::image::{NodeId, Tree, TreeError};
use crate::model::{Content, EntryName, FileKind, Metadata, NameError, Node, NodeKind, Timestamp};

/// Largest file that is read whole to be edited.
const EDIT_MAX: u64 = 256 << 20;

/// Why an edit is not possible.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// The tree does not allow it.
    #[error("cannot place {path}")]
    Tree {
        /// What was to be placed.
        path: String,
        /// Why not.
        source: TreeError,
    },
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file's path in the root.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is where a file was expected.
    #[error("{path} is not a file but a {kind}")]
    NotAFile {
        /// The path.
        path: String,
        /// What is there.
        kind: &'static str,
    },
    /// A file that should be text.
    #[error("{0} is not UTF-8 text")]
    NotText(String),
}

/// Where the content of a file is.
#[derive(Debug, Clone)]
enum Source {
    Disk(PathBuf),
    Memory(Arc<[u8]>),
}

/// A tree and where its contents are.
#[derive(Debug)]
pub struct Draft {
    tree: Tree,
    sources: HashMap<NodeId, Source>,
    /// The time of what edits make.
    time: Timestamp,
}

impl Draft {
    /// The tree of the directory `root`, whose mount points are empty directories in it.
    ///
    /// # Errors
    /// [`DirectoryError`], which names the path.
    pub fn scan(root: &Path) -> Result<Self, DirectoryError> {
        let mut sources = HashMap::new();
        let options = WalkOptions { one_filesystem: true, ..WalkOptions::default() };
        let tree = walk(root, &options, &mut |tree, found| {
            if found.kind == FileKind::Regular && !found.is_further_name && found.stat.stx_size > 0 {
                let size = found.stat.stx_size;
                tree.node_mut(found.node).kind = NodeKind::Regular(Content { size, ..Content::default() });
                sources.insert(found.node, Source::Disk(found.directory.place.entry(found.name)));
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self { tree, sources, time: Timestamp::default() })
    }

    /// An empty root.
    #[must_use]
    pub fn empty() -> Self {
        let root = Metadata { permissions: 0o755, ..Metadata::default() };
        Self { tree: Tree::new(root), sources: HashMap::new(), time: Timestamp::default() }
    }

    /// Gives what edits make from now on this time.
    pub const fn set_time(&mut self, seconds: i64) {
        self.time = Timestamp { seconds, nanoseconds: 0 };
    }

    /// The time of what edits make.
    #[must_use]
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// The tree as it is. Files have sizes but no objects yet.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tree, for changes of metadata.
    pub(in crate::compose) const fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// The inode at a path.
    #[must_use]
    pub fn find(&self, path: impl AsRef<[u8]>) -> Option<NodeId> {
        parts(path.as_ref()).try_fold(self.tree.root(), |at, name| self.tree.child(at, name))
    }

    /// What is at a path.
    #[must_use]
    pub fn node(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        self.find(path).map(|id| self.tree.node(id))
    }

    /// The metadata of an inode, to be changed.
    pub fn metadata_mut(&mut self, id: NodeId) -> &mut Metadata {
        &mut self.tree.node_mut(id).metadata
    }

    /// Whether a directory is at a path.
    #[must_use]
    pub fn is_directory(&self, path: impl AsRef<[u8]>) -> bool {
        self.node(path).is_some_and(|node| node.kind == NodeKind::Directory)
    }

    /// The target of the symbolic link at a path.
    #[must_use]
    pub fn link_target(&self, path: impl AsRef<[u8]>) -> Option<&[u8]> {
        match &self.node(path)?.kind {
            NodeKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// The names in a directory; none when there is no such directory.
    #[must_use]
    pub fn list(&self, path: impl AsRef<[u8]>) -> Vec<EntryName> {
        self.find(path).map_or_else(Vec::new, |id| self.tree.children(id).map(|(name, _)| name.clone()).collect())
    }

    /// Every entry below a path, parents before children, each with its path from the top of the root.
    #[must_use]
    pub fn below(&self, path: impl AsRef<[u8]>) -> Vec<(Vec<u8>, NodeId)> {
        let path = clean(path.as_ref());
        let mut entries = Vec::new();
        let mut pending: Vec<(Vec<u8>, NodeId)> = self.find(&path).map(|id| (path, id)).into_iter().collect();
        while let Some((path, id)) = pending.pop() {
            let children: Vec<_> =
                self.tree.children(id).map(|(name, child)| (join(&path, name.as_bytes()), child)).collect();
            entries.extend(children.iter().cloned());
            pending.extend(children.into_iter().rev());
        }
        entries
    }

    /// The content of the file at a path; `None` when nothing is there.
    ///
    /// # Errors
    /// [`DraftError::NotAFile`] and [`DraftError::Read`].
    pub fn read(&self, path: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, DraftError> {
        let path = path.as_ref();
        let Some(id) = self.find(path) else { return Ok(None) };
        let kind = self.tree.node(id).kind.file_kind();
        if kind != FileKind::Regular {
            return Err(DraftError::NotAFile { path: words(path), kind: kind.word() });
        }
        match self.sources.get(&id) {
            None => Ok(Some(Vec::new())),
            Some(Source::Memory(bytes)) => Ok(Some(bytes.to_vec())),
            Some(Source::Disk(file)) => {
                let mut bytes = Vec::new();
                File::open(file)
                    .and_then(|file| file.take(EDIT_MAX).read_to_end(&mut bytes))
                    .map_err(|source| DraftError::Read { path: words(path), source })?;
                Ok(Some(bytes))
            }
        }
    }

    /// The text of the file at a path; `None` when nothing is there.
    ///
    /// # Errors
    /// As for [`Self::read`], and [`DraftError::NotText`].
    pub fn text(&self, path: impl AsRef<[u8]>) -> Result<Option<String>, DraftError> {
        let path = path.as_ref();
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| DraftError::NotText(words(path)))
    }

    /// Makes a file hold `bytes`. One that is there keeps its owner and mode; a new one is root's and has this mode.
    ///
    /// # Errors
    /// [`DraftError`].
    pub fn write(
        &mut self,
        path: impl AsRef<[u8]>,
        bytes: impl Into<Arc<[u8]>>,
        permissions: u16,
    ) -> Result<(), DraftError> {
        let (path, bytes) = (path.as_ref(), bytes.into());
        let content = Content { size: bytes.len() as u64, ..Content::default() };
        let id = match self.find(path) {
            Some(id) => {
                let kind = self.tree.node(id).kind.file_kind();
                if kind != FileKind::Regular {
                    return Err(DraftError::NotAFile { path: words(path), kind: kind.word() });
                }
                self.tree.node_mut(id).kind = NodeKind::Regular(content);
                self.tree.node_mut(id).metadata.mtime = self.time;
                id
            }
            None => self.insert(path, NodeKind::Regular(content), permissions)?,
        };
        if bytes.is_empty() {
            self.sources.remove(&id);
        } else {
            self.sources.insert(id, Source::Memory(bytes));
        }
        Ok(())
    }

    /// Sees to it that a directory is there; a new one is root's and has this mode; those made above it have 0755.
    ///
    /// # Errors
    /// [`DraftError`] when something else is there.
    pub fn directory(&mut self, path: impl AsRef<[u8]>, permissions: u16) -> Result<NodeId, DraftError> {
        let mut at = self.tree.root();
        let mut done = Vec::new();
        let mut names = parts(path.as_ref()).peekable();
        while let Some(name) = names.next() {
            done = join(&done, name);
            let permissions = if names.peek().is_some() { 0o755 } else { permissions };
            at = match self.tree.child(at, name) {
                Some(id) if self.tree.node(id).kind == NodeKind::Directory => id,
                Some(id) => {
                    let kind = self.tree.node(id).kind.file_kind().word();
                    return Err(DraftError::NotAFile { path: words(&done), kind });
                }
                None => self.add(at, name, NodeKind::Directory, permissions, &done)?,
            };
        }
        Ok(at)
    }

    /// Makes a symbolic link, in place of whatever is there.
    ///
    /// # Errors
    /// [`DraftError`].
    pub fn symlink(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Result<(), DraftError> {
        let path = path.as_ref();
        self.remove(path);
        self.insert(path, NodeKind::Symlink(target.as_ref().into()), 0o777).map(drop)
    }

    /// Makes a new inode, and the directories above it.
    ///
    /// # Errors
    /// [`DraftError`].
    pub fn insert(&mut self, path: &[u8], kind: NodeKind, permissions: u16) -> Result<NodeId, DraftError> {
        let (above, name) = split(path);
        let parent = self.directory(above, 0o755)?;
        self.add(parent, name, kind, permissions, path)
    }

    fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        permissions: u16,
        path: &[u8],
    ) -> Result<NodeId, DraftError> {
        let metadata = Metadata { permissions, mtime: self.time, ..Metadata::default() };
        let tree_error = |source| DraftError::Tree { path: words(path), source };
        self.tree.insert(parent, EntryName::new(name)?, Node { metadata, kind }).map_err(tree_error)
    }

    /// Removes a name and all below it; says whether there was one.
    pub fn remove(&mut self, path: impl AsRef<[u8]>) -> bool {
        let (above, name) = split(path.as_ref());
        match (self.find(above), EntryName::new(name)) {
            (Some(parent), Ok(name)) => self.tree.remove(parent, &name).is_some(),
            _ => false,
        }
    }

    /// Removes everything in a directory; says how many names that were.
    pub fn clear(&mut self, path: impl AsRef<[u8]>) -> usize {
        let path = path.as_ref();
        let names = self.list(path);
        names.iter().filter(|name| self.remove(join(path, name.as_bytes()))).count()
    }

    /// Moves a name with all below it; says whether there was one. What is in the way is an error.
    ///
    /// # Errors
    /// [`DraftError`].
    pub fn rename(&mut self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<bool, DraftError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        if self.find(from).is_none() {
            return Ok(false);
        }
        let (from_above, from_name) = split(from);
        let (to_above, to_name) = split(to);
        let target = self.directory(to_above, 0o755)?;
        let Some(parent) = self.find(from_above) else { return Ok(false) };
        let tree_error = |source| DraftError::Tree { path: words(to), source };
        self.tree.rename(parent, &EntryName::new(from_name)?, target, EntryName::new(to_name)?).map_err(tree_error)?;
        Ok(true)
    }
}

/// A path with one more name.
#[must_use]
pub fn join(path: &[u8], name: impl AsRef<[u8]>) -> Vec<u8> {
    [path.strip_suffix(b"/").unwrap_or(path), b"/", name.as_ref()].concat()
}

/// A path as messages show it.
#[must_use]
pub fn words(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

fn clean(path: &[u8]) -> Vec<u8> {
    parts(path).fold(Vec::new(), |path, name| join(&path, name))
}

/// The directory and the last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_seen_by_reads() {
        let mut draft = Draft::empty();
        draft.write("/etc/passwd", *b"root", 0o644).expect("free");
        draft.write("/etc/empty", *b"", 0o600).expect("free");
        assert_eq!(draft.read("/etc/passwd").expect("a file"), Some(b"root".to_vec()));
        assert_eq!(draft.text("etc/empty/").expect("a file"), Some(String::new()));
        assert_eq!(draft.read("/etc/shadow").expect("nothing"), None);
        assert!(matches!(draft.read("/etc"), Err(DraftError::NotAFile { kind: "directory", .. })));
        draft.write("/etc/passwd", *b"", 0o600).expect("there");
        let node = draft.node("/etc/passwd").expect("there");
        assert_eq!((node.metadata.permissions, draft.read("/etc/passwd").expect("a file")), (0o644, Some(vec![])));
        assert!(draft.rename("/etc", "/usr/etc").expect("free"));
        assert!(!draft.rename("/etc", "/usr/share").expect("nothing to do"));
        draft.symlink("/lib", "usr/lib").expect("free");
        let below: Vec<_> = draft.below("/").into_iter().map(|(path, _)| words(&path)).collect();
        assert_eq!(below, ["/lib", "/usr", "/usr/etc", "/usr/etc/empty", "/usr/etc/passwd"]);
        assert_eq!(draft.link_target("/lib"), Some(&b"usr/lib"[..]));
        assert_eq!(draft.clear("/usr/etc"), 2);
        assert!(draft.remove("/usr/etc") && !draft.remove("/usr/etc"));
    }

    #[test]
    fn nothing_is_placed_below_what_is_no_directory() {
        let mut draft = Draft::empty();
        draft.symlink("/lib", "usr/lib").expect("free");
        assert!(matches!(draft.write("/lib/x", *b"x", 0o644), Err(DraftError::NotAFile { kind: "symlink", .. })));
        assert!(draft.directory("/lib", 0o755).is_err());
    }
}
