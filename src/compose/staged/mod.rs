//! A root filesystem that is prepared for an image: a tree in memory whose contents are still in the files of the root.
//!
//! Names, owners, modes, times and labels are edited in memory, which needs no privileges and costs no disk; the new bytes of
//! an edited file are in memory too. Only what is left at the end is read and stored, by [`ingest()`]. So the steps of the
//! layout are functions of a staged tree, and their tests build one from nothing.
//!
//! *Invariants*: the directory that was scanned is never changed. Paths are bytes and absolute; symbolic links are never
//! followed.
//!
//! *Used by* `layout`, `selinux`, `metadata` and `pipeline`.

mod ingest;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use ingest::{IngestOptions, ingest};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::source::DirectoryError;
use super::source::walk::{WalkOptions, walk};
use crate::disk;
use crate::image::{NodeId, Tree, TreeError};
use crate::model::{Content, EntryName, FileKind, Metadata, NameError, Node, NodeKind, Timestamp};

/// The largest number of bytes of a file that are read to be edited.
const EDIT_MAX: u64 = 256 << 20;

/// The longest path in bytes that the kernel opens, without its final zero. Lists of paths stay small with it, too.
const PATH_MAX: usize = 4095;

/// Why an edit is not possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StagedTreeError {
    /// The tree refuses the entry.
    #[error("cannot place {path}")]
    Tree {
        /// The path of the entry.
        path: String,
        source: TreeError,
    },
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file's path in the root.
        path: String,
        source: io::Error,
    },
    /// Something else is at the path of a file or directory.
    #[error("{path} is not a file but a {kind}")]
    NotAFile { path: String, kind: &'static str },
    /// A file is not text.
    #[error("{0} is not UTF-8 text")]
    NotText(String),
}

/// The place of a file's content.
#[derive(Debug, Clone)]
enum StagedContent {
    Disk(DiskFile),
    Memory(Arc<[u8]>),
}

/// A regular file in the directory that was scanned.
#[derive(Debug, Clone)]
struct DiskFile {
    root: Arc<OwnedFd>,
    /// Its path in the root, without a slash at the beginning.
    path: PathBuf,
}

impl DiskFile {
    /// Opens the file. A directory given by its user may change meanwhile: what has become a link, a pipe or a device is
    /// refused.
    fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = File::from(rustix::fs::openat2(&self.root, &self.path, flags, Mode::empty(), resolve)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file any more")) }
    }
}

/// A tree, and the places of its contents.
#[derive(Debug)]
pub(crate) struct StagedTree {
    tree: Tree,
    sources: HashMap<NodeId, StagedContent>,
    /// The modification time that edited and new entries get.
    edit_time: Timestamp,
}

impl StagedTree {
    /// Returns an empty root.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        let root = crate::model::Metadata { permissions: 0o755, ..crate::model::Metadata::default() };
        Self { tree: Tree::new(root), sources: HashMap::new(), edit_time: Timestamp::default() }
    }

    /// Reads the names and metadata of the directory `root`; mount points become empty directories.
    ///
    /// # Errors
    /// [`DirectoryError`], which names the path.
    pub(crate) fn scan(root: &Path) -> Result<Self, DirectoryError> {
        let mut sources = HashMap::new();
        let io_error = |source| DirectoryError::Io { action: "open", path: root.to_owned(), source };
        let directory = Arc::new(disk::open_directory(root).map_err(io_error)?);
        let options = WalkOptions { one_filesystem: true, path_max: Some(PATH_MAX), ..WalkOptions::default() };
        let tree = walk(root, &options, &mut |tree, found| {
            if found.kind == FileKind::Regular && !found.is_hard_link && found.stat.stx_size > 0 {
                let size = found.stat.stx_size;
                tree.node_mut(found.node).kind = NodeKind::Regular(Content { size, ..Content::default() });
                let path = found.directory.path.join(found.name);
                let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
                sources.insert(found.node, StagedContent::Disk(DiskFile { root: directory.clone(), path }));
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self { tree, sources, edit_time: Timestamp::default() })
    }

    /// Sets the modification time that edited and new entries get from now on.
    pub(crate) const fn set_edit_time(&mut self, seconds: i64) {
        self.edit_time = Timestamp { seconds, nanoseconds: 0 };
    }

    /// Returns the modification time that edited and new entries get.
    pub(crate) const fn edit_time(&self) -> Timestamp {
        self.edit_time
    }

    /// Returns the tree. Files have sizes but no objects yet.
    pub(crate) const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the tree, for changes of metadata.
    pub(in crate::compose) const fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// Returns the inode at a path.
    pub(crate) fn find(&self, path: impl AsRef<[u8]>) -> Option<NodeId> {
        components(path.as_ref()).try_fold(self.tree.root(), |at, name| self.tree.child(at, name))
    }

    /// Returns the node at a path.
    pub(crate) fn node(&self, path: impl AsRef<[u8]>) -> Option<&Node> {
        self.find(path).map(|id| self.tree.node(id))
    }

    /// Returns the metadata of an inode, to be changed.
    pub(crate) fn metadata_mut(&mut self, id: NodeId) -> &mut Metadata {
        &mut self.tree.node_mut(id).metadata
    }

    /// Returns whether a directory is at a path.
    pub(crate) fn is_directory(&self, path: impl AsRef<[u8]>) -> bool {
        self.node(path).is_some_and(|node| node.kind == NodeKind::Directory)
    }

    /// Returns the target of the symbolic link at a path.
    pub(crate) fn link_target(&self, path: impl AsRef<[u8]>) -> Option<&[u8]> {
        match &self.node(path)?.kind {
            NodeKind::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Returns the names in a directory; none if there is no such directory.
    pub(crate) fn list(&self, path: impl AsRef<[u8]>) -> Vec<EntryName> {
        self.find(path).map_or_else(Vec::new, |id| self.tree.children(id).map(|(name, _)| name.clone()).collect())
    }

    /// Returns every entry below a path, parents before children, each with its absolute path.
    pub(crate) fn descendants(&self, path: impl AsRef<[u8]>) -> Vec<(Vec<u8>, NodeId)> {
        let path = normalise(path.as_ref());
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

    /// Returns the content of the file at a path; `None` if nothing is there.
    pub(crate) fn read(&self, path: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, StagedTreeError> {
        let path = path.as_ref();
        let Some(id) = self.find(path) else { return Ok(None) };
        let kind = self.tree.node(id).kind.file_kind();
        if kind != FileKind::Regular {
            return Err(StagedTreeError::NotAFile { path: lossy_text(path), kind: kind.word() });
        }
        match self.sources.get(&id) {
            None => Ok(Some(Vec::new())),
            Some(StagedContent::Memory(bytes)) => Ok(Some(bytes.to_vec())),
            Some(StagedContent::Disk(file)) => {
                let mut bytes = Vec::new();
                let error = |source| StagedTreeError::Read { path: lossy_text(path), source };
                let read = file.open().and_then(|file| file.take(EDIT_MAX + 1).read_to_end(&mut bytes));
                match read.map_err(error)? as u64 {
                    0..=EDIT_MAX => Ok(Some(bytes)),
                    _ => Err(error(io::ErrorKind::FileTooLarge.into())),
                }
            }
        }
    }

    /// Returns the text of the file at a path; `None` if nothing is there.
    ///
    /// # Errors
    /// As for [`Self::read`], and [`StagedTreeError::NotText`].
    pub(crate) fn read_text(&self, path: impl AsRef<[u8]>) -> Result<Option<String>, StagedTreeError> {
        let path = path.as_ref();
        let Some(bytes) = self.read(path)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| StagedTreeError::NotText(lossy_text(path)))
    }

    /// Writes `bytes` as the content of a file. An existing file keeps its owner and mode; a new one belongs to root and has
    /// the mode `permissions`.
    pub(crate) fn write(
        &mut self,
        path: impl AsRef<[u8]>,
        bytes: impl Into<Arc<[u8]>>,
        permissions: u16,
    ) -> Result<(), StagedTreeError> {
        let (path, bytes) = (path.as_ref(), bytes.into());
        let content = Content { size: bytes.len() as u64, ..Content::default() };
        let id = match self.find(path) {
            Some(id) => {
                let kind = self.tree.node(id).kind.file_kind();
                if kind != FileKind::Regular {
                    return Err(StagedTreeError::NotAFile { path: lossy_text(path), kind: kind.word() });
                }
                self.tree.node_mut(id).kind = NodeKind::Regular(content);
                self.tree.node_mut(id).metadata.mtime = self.edit_time;
                id
            }
            None => self.insert(path, NodeKind::Regular(content), permissions)?,
        };
        if bytes.is_empty() {
            self.sources.remove(&id);
        } else {
            self.sources.insert(id, StagedContent::Memory(bytes));
        }
        Ok(())
    }

    /// Makes a directory unless it exists. A new one belongs to root and has the mode `permissions`; new ones above it have
    /// 0755.
    ///
    /// # Errors
    /// [`StagedTreeError`] if something else is at the path.
    pub(crate) fn ensure_directory(
        &mut self,
        path: impl AsRef<[u8]>,
        permissions: u16,
    ) -> Result<NodeId, StagedTreeError> {
        let mut at = self.tree.root();
        let mut done = Vec::new();
        let mut names = components(path.as_ref()).peekable();
        while let Some(name) = names.next() {
            done = join(&done, name);
            let permissions = if names.peek().is_some() { 0o755 } else { permissions };
            at = match self.tree.child(at, name) {
                Some(id) if self.tree.node(id).kind == NodeKind::Directory => id,
                Some(id) => {
                    let kind = self.tree.node(id).kind.file_kind().word();
                    return Err(StagedTreeError::NotAFile { path: lossy_text(&done), kind });
                }
                None => self.insert_child(at, name, NodeKind::Directory, permissions, &done)?,
            };
        }
        Ok(at)
    }

    /// Makes a symbolic link, replacing anything at its path.
    pub(crate) fn symlink(&mut self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Result<(), StagedTreeError> {
        let path = path.as_ref();
        self.remove(path);
        self.insert(path, NodeKind::Symlink(target.as_ref().into()), 0o777).map(drop)
    }

    /// Makes a new inode, and the directories above it.
    pub(crate) fn insert(&mut self, path: &[u8], kind: NodeKind, permissions: u16) -> Result<NodeId, StagedTreeError> {
        let (directory, name) = split_last_name(path);
        let parent = self.ensure_directory(directory, 0o755)?;
        self.insert_child(parent, name, kind, permissions, path)
    }

    fn insert_child(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        permissions: u16,
        path: &[u8],
    ) -> Result<NodeId, StagedTreeError> {
        let metadata = Metadata { permissions, mtime: self.edit_time, ..Metadata::default() };
        let tree_error = |source| StagedTreeError::Tree { path: lossy_text(path), source };
        self.tree.insert(parent, EntryName::new(name)?, Node { metadata, kind }).map_err(tree_error)
    }

    /// Removes a name with everything below it; returns whether it existed.
    pub(crate) fn remove(&mut self, path: impl AsRef<[u8]>) -> bool {
        let (directory, name) = split_last_name(path.as_ref());
        match (self.find(directory), EntryName::new(name)) {
            (Some(parent), Ok(name)) => self.tree.remove(parent, &name).is_some(),
            _ => false,
        }
    }

    /// Removes everything in a directory; returns the number of names removed.
    pub(crate) fn clear(&mut self, path: impl AsRef<[u8]>) -> usize {
        let path = path.as_ref();
        let names = self.list(path);
        names.iter().filter(|name| self.remove(join(path, name.as_bytes()))).count()
    }

    /// Moves a name with everything below it; returns whether it existed. An existing entry at the new path is an error.
    pub(crate) fn rename(&mut self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<bool, StagedTreeError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        if self.find(from).is_none() {
            return Ok(false);
        }
        let (from_directory, from_name) = split_last_name(from);
        let (to_directory, to_name) = split_last_name(to);
        let target = self.ensure_directory(to_directory, 0o755)?;
        let Some(parent) = self.find(from_directory) else { return Ok(false) };
        let tree_error = |source| StagedTreeError::Tree { path: lossy_text(to), source };
        self.tree.rename(parent, &EntryName::new(from_name)?, target, EntryName::new(to_name)?).map_err(tree_error)?;
        Ok(true)
    }
}

/// Appends a name to a path.
pub(crate) fn join(path: &[u8], name: impl AsRef<[u8]>) -> Vec<u8> {
    [path.strip_suffix(b"/").unwrap_or(path), b"/", name.as_ref()].concat()
}

/// Returns a path or name as text; bytes that are not UTF-8 are replaced.
pub(crate) fn lossy_text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

fn normalise(path: &[u8]) -> Vec<u8> {
    components(path).fold(Vec::new(), |path, name| join(&path, name))
}

/// Splits a path into its directory and its last name.
fn split_last_name(path: &[u8]) -> (&[u8], &[u8]) {
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
        let mut staged = StagedTree::empty();
        staged.write("/etc/passwd", *b"root", 0o644).expect("free");
        staged.write("/etc/empty", *b"", 0o600).expect("free");
        assert_eq!(staged.read("/etc/passwd").expect("a file"), Some(b"root".to_vec()));
        assert_eq!(staged.read_text("etc/empty/").expect("a file"), Some(String::new()));
        assert_eq!(staged.read("/etc/shadow").expect("nothing"), None);
        assert!(matches!(staged.read("/etc"), Err(StagedTreeError::NotAFile { kind: "directory", .. })));
        staged.write("/etc/passwd", *b"", 0o600).expect("there");
        let node = staged.node("/etc/passwd").expect("there");
        assert_eq!((node.metadata.permissions, staged.read("/etc/passwd").expect("a file")), (0o644, Some(vec![])));
        assert!(staged.rename("/etc", "/usr/etc").expect("free"));
        assert!(!staged.rename("/etc", "/usr/share").expect("nothing to do"));
        staged.symlink("/lib", "usr/lib").expect("free");
        let below: Vec<_> = staged.descendants("/").into_iter().map(|(path, _)| lossy_text(&path)).collect();
        assert_eq!(below, ["/lib", "/usr", "/usr/etc", "/usr/etc/empty", "/usr/etc/passwd"]);
        assert_eq!(staged.link_target("/lib"), Some(&b"usr/lib"[..]));
        assert_eq!(staged.clear("/usr/etc"), 2);
        assert!(staged.remove("/usr/etc") && !staged.remove("/usr/etc"));
    }

    #[test]
    fn file_that_is_replaced_after_the_scan_is_not_followed() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (root, secret) = (directory.path().join("root"), directory.path().join("secret"));
        for name in ["link", "above/file", "fifo", "kept", "sparse"] {
            disk::make_directories(root.join(name).parent().expect("it has one")).expect("writable");
            disk::replace(&root.join(name), b"text").expect("writable");
        }
        disk::make_directories(&secret).expect("writable");
        disk::replace(&secret.join("file"), b"secret").expect("writable");
        let staged = StagedTree::scan(&root).expect("a directory");
        for name in ["link", "fifo"] {
            disk::remove_file(&root.join(name)).expect("removable");
        }
        symlink(secret.join("file"), root.join("link")).expect("writable");
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .expect("made");
        disk::remove_directory(&root.join("above")).expect("removable");
        symlink(&secret, root.join("above")).expect("writable");
        File::options().write(true).open(root.join("sparse")).and_then(|file| file.set_len(1 << 34)).expect("a hole");
        for path in ["/link", "/above/file", "/fifo", "/sparse"] {
            assert!(matches!(staged.read(path), Err(StagedTreeError::Read { .. })), "{path}");
        }
        assert_eq!(staged.read("/kept").expect("a file"), Some(b"text".to_vec()));
    }

    #[test]
    fn entries_cannot_be_made_below_a_symlink() {
        let mut staged = StagedTree::empty();
        staged.symlink("/lib", "usr/lib").expect("free");
        assert!(matches!(staged.write("/lib/x", *b"x", 0o644), Err(StagedTreeError::NotAFile { kind: "symlink", .. })));
        assert!(staged.ensure_directory("/lib", 0o755).is_err());
    }
}
