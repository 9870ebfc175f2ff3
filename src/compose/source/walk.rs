//! Walks a directory of this machine and builds a tree of its names and metadata.
//!
//! *Not here*: contents of files; the callback of [`walk`] handles them.
//!
//! *Invariants*: one thread walks, in the order of names. It uses open directories and never a long path, so only the
//! kernel limits depth and length of names.
//!
//! *Used by* [`super::read_directory`], which reads contents meanwhile, and by `compose::staged`, which reads them later
//! or not at all.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Statx, StatxTimestamp};

use super::foreign_xattrs::ForeignXattrs;
use super::{DirectoryError, Exclusions};
use crate::disk::{self, DirectoryEntry, FilesystemInstance, stat_of};
use crate::image::{NodeId, Tree};
use crate::model::{Content, DeviceNumber, EntryName, FileKind, Metadata, Node, NodeKind, Timestamp, Xattrs};
use crate::store::FileIdentity;

/// Options of [`walk`].
#[derive(Debug, Clone, Default)]
pub(crate) struct WalkOptions {
    /// Record this owner and group for everything instead of the real ones.
    pub(crate) owner: Option<(u32, u32)>,
    /// Record mount points as empty directories instead of descending.
    pub(crate) one_filesystem: bool,
    /// Device and inode number of a directory that is left out.
    pub(crate) excluded: Option<(u64, u64)>,
    /// The longest path below the root in bytes, if it is limited.
    pub(crate) path_max: Option<usize>,
    /// The paths that are left out.
    pub(crate) exclusions: Exclusions,
}

/// An entry that was added to the tree.
pub(crate) struct WalkEntry<'a> {
    /// Its node. A regular file has no content yet.
    pub(crate) node: NodeId,
    /// The directory that contains it.
    pub(crate) directory: &'a OpenDirectory,
    /// Its name in the directory.
    pub(crate) name: &'a [u8],
    pub(crate) kind: FileKind,
    /// Its metadata from the filesystem.
    pub(crate) stat: &'a Statx,
    /// Whether this is another name (a hard link) of a node that was found before.
    pub(crate) is_hard_link: bool,
}

/// A directory on the way, so that a path can be named without being kept for each entry.
pub(crate) struct DirectoryPath {
    parent: Option<Arc<DirectoryPath>>,
    name: PathBuf,
    /// The number of bytes of the path below the root, each name with a slash.
    length: usize,
}

impl DirectoryPath {
    /// Returns the directory's path.
    pub(crate) fn to_path_buf(&self) -> PathBuf {
        let parents = std::iter::successors(Some(self), |path| path.parent.as_deref());
        let mut names: Vec<&Path> = parents.map(|path| path.name.as_path()).collect();
        names.reverse();
        names.into_iter().collect()
    }

    /// Returns the path of an entry of the directory below the top of the walk, with a leading slash.
    fn inner_path(&self, name: &[u8]) -> Vec<u8> {
        let below_top =
            std::iter::successors(Some(self), |path| path.parent.as_deref()).filter(|path| path.parent.is_some());
        let mut names: Vec<&[u8]> = below_top.map(|path| path.name.as_os_str().as_bytes()).collect();
        names.reverse();
        names.push(name);
        names.iter().flat_map(|name| [b"/".as_slice(), name]).flatten().copied().collect()
    }

    /// Returns the path of an entry of the directory.
    pub(crate) fn join(&self, name: &[u8]) -> PathBuf {
        self.to_path_buf().join(std::ffi::OsStr::from_bytes(name))
    }
}

impl Drop for DirectoryPath {
    /// Drops the paths above one after the other: a tree may be so deep that a nested drop would overflow the stack.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some(mut path) = above.and_then(Arc::into_inner) {
            above = path.parent.take();
        }
    }
}

/// An open directory and its path.
#[derive(Clone)]
pub(crate) struct OpenDirectory {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) path: Arc<DirectoryPath>,
    /// The device number of its filesystem.
    pub(crate) device: u64,
}

/// Reads the names and metadata of `root` and calls `on_entry` for each entry below it, until `on_entry` returns `Break`.
///
/// # Errors
/// [`DirectoryError`], which names the path.
pub(crate) fn walk(
    root: &Path,
    options: &WalkOptions,
    on_entry: &mut dyn FnMut(&mut Tree, WalkEntry<'_>) -> ControlFlow<()>,
) -> Result<Tree, DirectoryError> {
    let mut walk = DirectoryWalk::start(root, options)?;
    while let Some((node, parent, name)) = walk.pending.pop() {
        let directory = open_child(parent, &name)?;
        if walk.list_directory(node, &directory, on_entry)?.is_break() {
            break;
        }
    }
    walk.foreign.warn();
    Ok(walk.tree)
}

struct DirectoryWalk<'a> {
    tree: Tree,
    /// Directories still to be listed, the next one last.
    pending: Vec<(NodeId, OpenDirectory, Box<[u8]>)>,
    links: HashMap<(u64, u64), NodeId>,
    device: u64,
    foreign: ForeignXattrs,
    options: &'a WalkOptions,
}

impl<'a> DirectoryWalk<'a> {
    fn start(root: &Path, options: &'a WalkOptions) -> Result<Self, DirectoryError> {
        let io_error = |action| move |source| DirectoryError::Io { action, path: root.to_owned(), source };
        let fd = disk::open_directory(root).map_err(io_error("open"))?;
        let stat = stat_of(&fd).map_err(io_error("stat"))?;
        let path = Arc::new(DirectoryPath { parent: None, name: root.to_owned(), length: 0 });
        let directory = OpenDirectory { fd: Arc::new(fd), path, device: device_of(&stat) };
        let mut foreign = ForeignXattrs::default();
        let tree = Tree::new(metadata_of(&directory, b"", &stat, options.owner, &mut foreign)?);
        let pending = vec![(tree.root(), directory, Box::from(&b""[..]))];
        Ok(Self { tree, pending, links: HashMap::new(), device: device_of(&stat), foreign, options })
    }

    fn list_directory(
        &mut self,
        node: NodeId,
        directory: &OpenDirectory,
        on_entry: &mut dyn FnMut(&mut Tree, WalkEntry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DirectoryError> {
        let entries = disk::list(&directory.fd).map_err(|source| DirectoryError::Io {
            action: "list",
            path: directory.path.to_path_buf(),
            source,
        })?;
        let first = self.pending.len();
        for entry in entries {
            if self.add_entry(node, directory, entry, on_entry)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // Directories are popped from the end, so the first of these has to be last.
        self.pending[first..].reverse();
        Ok(ControlFlow::Continue(()))
    }

    fn add_entry(
        &mut self,
        parent: NodeId,
        directory: &OpenDirectory,
        entry: DirectoryEntry,
        on_entry: &mut dyn FnMut(&mut Tree, WalkEntry<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DirectoryError> {
        let DirectoryEntry { name, stat } = entry;
        let key = (device_of(&stat), stat.stx_ino);
        if Some(key) == self.options.excluded {
            tracing::warn!(path = %directory.path.join(&name).display(), "the repository itself is left out");
            return Ok(ControlFlow::Continue(()));
        }
        let kind = FileKind::from_mode(stat.stx_mode.into());
        let exclusions = &self.options.exclusions;
        if !exclusions.is_empty()
            && exclusions.contain(&directory.path.inner_path(&name), kind == Some(FileKind::Directory))
        {
            return Ok(ControlFlow::Continue(()));
        }
        let path = || directory.path.join(&name);
        if self.options.path_max.is_some_and(|longest| directory.path.length + name.len() > longest) {
            return Err(DirectoryError::Long(path()));
        }
        let entry_name = EntryName::new(name.clone())
            .map_err(|source| DirectoryError::Name { path: directory.path.to_path_buf(), source })?;
        let tree_error = |source| DirectoryError::Tree { path: path(), source };
        let kind = kind.ok_or_else(|| DirectoryError::Kind { path: path(), mode: stat.stx_mode })?;
        let linked = kind != FileKind::Directory && stat.stx_nlink > 1;
        if linked && let Some(&first) = self.links.get(&key) {
            self.tree.link(parent, entry_name, first).map_err(tree_error)?;
            return Ok(on_entry(
                &mut self.tree,
                WalkEntry { node: first, directory, name: &name, kind, stat: &stat, is_hard_link: true },
            ));
        }
        let metadata = metadata_of(directory, &name, &stat, self.options.owner, &mut self.foreign)?;
        let node_kind = node_kind(directory, &name, &stat, kind)?;
        let node = self.tree.insert(parent, entry_name, Node { metadata, kind: node_kind }).map_err(tree_error)?;
        if linked {
            self.links.insert(key, node);
        }
        let flow = on_entry(
            &mut self.tree,
            WalkEntry { node, directory, name: &name, kind, stat: &stat, is_hard_link: false },
        );
        let is_mount = key.0 != self.device;
        if kind == FileKind::Directory && !(is_mount && self.options.one_filesystem) {
            self.pending.push((node, directory.clone(), name));
        }
        Ok(flow)
    }
}

fn node_kind(directory: &OpenDirectory, name: &[u8], stat: &Statx, kind: FileKind) -> Result<NodeKind, DirectoryError> {
    let device = DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    Ok(match kind {
        FileKind::Regular => NodeKind::Regular(Content::default()),
        FileKind::Directory => NodeKind::Directory,
        FileKind::CharDevice => NodeKind::CharDevice(device),
        FileKind::BlockDevice => NodeKind::BlockDevice(device),
        FileKind::Fifo => NodeKind::Fifo,
        FileKind::Socket => NodeKind::Socket,
        FileKind::Symlink => {
            let target = rustix::fs::readlinkat(&directory.fd, name, Vec::new()).map_err(|error| {
                DirectoryError::Io { action: "read link", path: directory.path.join(name), source: error.into() }
            })?;
            NodeKind::Symlink(target.into_bytes().into_boxed_slice())
        }
    })
}

/// Opens the directory `name` of `parent`; an empty name is `parent` itself.
fn open_child(parent: OpenDirectory, name: &[u8]) -> Result<OpenDirectory, DirectoryError> {
    if name.is_empty() {
        return Ok(parent);
    }
    let fd = disk::open_file_at(&parent.fd, name).map_err(|source| DirectoryError::Io {
        action: "open",
        path: parent.path.join(name),
        source,
    })?;
    let stat =
        stat_of(&fd).map_err(|source| DirectoryError::Io { action: "stat", path: parent.path.join(name), source })?;
    let length = parent.path.length + name.len() + 1;
    let name = PathBuf::from(std::ffi::OsStr::from_bytes(name));
    let path = DirectoryPath { parent: Some(parent.path), name, length };
    Ok(OpenDirectory { fd: Arc::new(fd.into()), path: Arc::new(path), device: device_of(&stat) })
}

/// Returns the device number, the major number in the upper half.
pub(crate) fn device_of(stat: &Statx) -> u64 {
    (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor)
}

fn time_of(time: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

/// Returns the values by which a file on an instance of a filesystem is recognised as unchanged.
pub(crate) fn identity_of(stat: &Statx, instance: Option<FilesystemInstance>) -> FileIdentity {
    FileIdentity {
        instance,
        device: device_of(stat),
        inode: stat.stx_ino,
        size: stat.stx_size,
        mtime: time_of(stat.stx_mtime),
        ctime: time_of(stat.stx_ctime),
    }
}

/// Returns the metadata of the entry `name` of `directory`, or of the directory itself when the name is empty, without the
/// extended attributes that are then counted in `foreign`.
///
/// # Errors
/// [`DirectoryError`] when the extended attributes cannot be read.
pub(crate) fn metadata_of(
    directory: &OpenDirectory,
    name: &[u8],
    stat: &Statx,
    owner: Option<(u32, u32)>,
    foreign: &mut ForeignXattrs,
) -> Result<Metadata, DirectoryError> {
    let mut pairs = disk::read_xattrs(&directory.fd, name).map_err(|source| DirectoryError::Io {
        action: "read the extended attributes of",
        path: directory.path.join(name),
        source,
    })?;
    foreign.remove_from(&mut pairs);
    let xattrs =
        Xattrs::new(pairs).map_err(|source| DirectoryError::Xattrs { path: directory.path.join(name), source })?;
    let (uid, gid) = owner.unwrap_or((stat.stx_uid, stat.stx_gid));
    Ok(Metadata { permissions: stat.stx_mode & 0o7777, uid, gid, mtime: time_of(stat.stx_mtime), xattrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_any_depth_is_joined_and_dropped() {
        let top = Arc::new(DirectoryPath { parent: None, name: PathBuf::from("/top"), length: 0 });
        let deepen = |above: Arc<DirectoryPath>, _| {
            let length = above.length + 2;
            Arc::new(DirectoryPath { parent: Some(above), name: PathBuf::from("d"), length })
        };
        let path = (0..200_000).fold(top, deepen);
        let text = path.join(b"file");
        assert_eq!(text.as_os_str().len(), "/top/".len() + path.length + "file".len());
        assert!(text.starts_with("/top/d/d") && text.ends_with("d/file"));
    }
}
