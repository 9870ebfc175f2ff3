//! The names and metadata of a directory of this machine, as a tree; contents are for whoever is called on the way.
//!
//! One thread walks, in order of names. It holds directory descriptors and never builds a long path, so depth and name
//! length have no limit but the kernel's. Used by [`super::read_directory`], which reads contents meanwhile, and by
//! `draft`, which reads them later or not at all.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Statx, StatxTimestamp};

use super::DirectoryError;
use crate::disk::{self, DirectoryEntry, Instance, stat_of};
use crate::image::{NodeId, Tree};
use crate::model::{Content, DeviceNumber, EntryName, FileKind, Metadata, Node, NodeKind, Timestamp, Xattrs};
use crate::store::FileIdentity;

/// What is recorded of a directory, and what is left out.
#[derive(Debug, Clone, Default)]
pub struct WalkOptions {
    /// Record this owner and group for everything instead of the real ones.
    pub owner: Option<(u32, u32)>,
    /// Record mount points as empty directories instead of descending.
    pub one_filesystem: bool,
    /// Device and inode of a directory that is left out.
    pub except: Option<(u64, u64)>,
}

/// An entry that was added to the tree.
pub struct Found<'a> {
    /// Its node. A regular file has no content yet.
    pub node: NodeId,
    /// The directory that holds it.
    pub directory: &'a Open,
    /// Its name there.
    pub name: &'a [u8],
    /// What it is.
    pub kind: FileKind,
    /// What the system says of it.
    pub stat: &'a Statx,
    /// Whether the node is that of an entry found before: a hard link.
    pub is_further_name: bool,
}

/// A directory on the way, so that a path can be named without being kept for each entry.
pub struct Place {
    above: Option<Arc<Place>>,
    name: PathBuf,
}

impl Place {
    /// The directory's path.
    pub fn path(&self) -> PathBuf {
        self.above.as_ref().map_or_else(|| self.name.clone(), |above| above.path().join(&self.name))
    }

    /// The path of an entry of it.
    pub fn entry(&self, name: &[u8]) -> PathBuf {
        self.path().join(std::ffi::OsStr::from_bytes(name))
    }
}

/// An open directory and where it is.
#[derive(Clone)]
pub struct Open {
    /// The directory.
    pub fd: Arc<OwnedFd>,
    /// Where.
    pub place: Arc<Place>,
    /// The number of its filesystem.
    pub device: u64,
}

/// Reads the names and metadata of `root` and calls `visit` for each entry below it, until that says to break.
///
/// # Errors
/// [`DirectoryError`], which names the path.
pub fn walk(
    root: &Path,
    options: &WalkOptions,
    visit: &mut dyn FnMut(&mut Tree, Found<'_>) -> ControlFlow<()>,
) -> Result<Tree, DirectoryError> {
    let mut walk = Walk::start(root, options)?;
    while let Some((node, parent, name)) = walk.pending.pop() {
        let directory = descend(parent, &name)?;
        if walk.list(node, &directory, visit)?.is_break() {
            break;
        }
    }
    Ok(walk.tree)
}

struct Walk<'a> {
    tree: Tree,
    /// Directories still to be listed, the next one last.
    pending: Vec<(NodeId, Open, Box<[u8]>)>,
    links: HashMap<(u64, u64), NodeId>,
    device: u64,
    options: &'a WalkOptions,
}

impl<'a> Walk<'a> {
    fn start(root: &Path, options: &'a WalkOptions) -> Result<Self, DirectoryError> {
        let io_error = |action| move |source| DirectoryError::Io { action, path: root.to_owned(), source };
        let fd = disk::open_directory(root).map_err(io_error("open"))?;
        let stat = stat_of(&fd).map_err(io_error("stat"))?;
        let place = Arc::new(Place { above: None, name: root.to_owned() });
        let directory = Open { fd: Arc::new(fd), place, device: device_of(&stat) };
        let tree = Tree::new(metadata_of(&directory, b"", &stat, options.owner)?);
        let pending = vec![(tree.root(), directory, Box::from(&b""[..]))];
        Ok(Self { tree, pending, links: HashMap::new(), device: device_of(&stat), options })
    }

    fn list(
        &mut self,
        node: NodeId,
        directory: &Open,
        visit: &mut dyn FnMut(&mut Tree, Found<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DirectoryError> {
        let entries = disk::list(&directory.fd).map_err(|source| DirectoryError::Io {
            action: "list",
            path: directory.place.path(),
            source,
        })?;
        let first = self.pending.len();
        for entry in entries {
            if self.add(node, directory, entry, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // The first of them is to be listed next.
        self.pending[first..].reverse();
        Ok(ControlFlow::Continue(()))
    }

    fn add(
        &mut self,
        parent: NodeId,
        directory: &Open,
        entry: DirectoryEntry,
        visit: &mut dyn FnMut(&mut Tree, Found<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DirectoryError> {
        let DirectoryEntry { name, stat } = entry;
        let key = (device_of(&stat), stat.stx_ino);
        if Some(key) == self.options.except {
            tracing::warn!(path = %directory.place.entry(&name).display(), "the repository itself is left out");
            return Ok(ControlFlow::Continue(()));
        }
        let path = || directory.place.entry(&name);
        let entry_name = EntryName::new(name.clone())
            .map_err(|source| DirectoryError::Name { path: directory.place.path(), source })?;
        let tree_error = |source| DirectoryError::Tree { path: path(), source };
        let kind = FileKind::from_mode(stat.stx_mode.into())
            .ok_or_else(|| DirectoryError::Kind { path: path(), mode: stat.stx_mode })?;
        let linked = kind != FileKind::Directory && stat.stx_nlink > 1;
        if linked && let Some(&first) = self.links.get(&key) {
            self.tree.link(parent, entry_name, first).map_err(tree_error)?;
            return Ok(visit(
                &mut self.tree,
                Found { node: first, directory, name: &name, kind, stat: &stat, is_further_name: true },
            ));
        }
        let metadata = metadata_of(directory, &name, &stat, self.options.owner)?;
        let node_kind = node_kind(directory, &name, &stat, kind)?;
        let node = self.tree.insert(parent, entry_name, Node { metadata, kind: node_kind }).map_err(tree_error)?;
        if linked {
            self.links.insert(key, node);
        }
        let flow =
            visit(&mut self.tree, Found { node, directory, name: &name, kind, stat: &stat, is_further_name: false });
        let is_mount = key.0 != self.device;
        if kind == FileKind::Directory && !(is_mount && self.options.one_filesystem) {
            self.pending.push((node, directory.clone(), name));
        }
        Ok(flow)
    }
}

fn node_kind(directory: &Open, name: &[u8], stat: &Statx, kind: FileKind) -> Result<NodeKind, DirectoryError> {
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
                DirectoryError::Io { action: "read link", path: directory.place.entry(name), source: error.into() }
            })?;
            NodeKind::Symlink(target.into_bytes().into_boxed_slice())
        }
    })
}

/// Opens the directory `name` of `parent`; an empty name is `parent` itself.
fn descend(parent: Open, name: &[u8]) -> Result<Open, DirectoryError> {
    if name.is_empty() {
        return Ok(parent);
    }
    let fd = disk::open_file_at(&parent.fd, name).map_err(|source| DirectoryError::Io {
        action: "open",
        path: parent.place.entry(name),
        source,
    })?;
    let stat =
        stat_of(&fd).map_err(|source| DirectoryError::Io { action: "stat", path: parent.place.entry(name), source })?;
    let place = Place { above: Some(parent.place), name: PathBuf::from(std::ffi::OsStr::from_bytes(name)) };
    Ok(Open { fd: Arc::new(fd.into()), place: Arc::new(place), device: device_of(&stat) })
}

/// The number of the filesystem.
pub fn device_of(stat: &Statx) -> u64 {
    (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor)
}

fn time_of(time: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

/// Returns by what a file on an instance of a filesystem is known to be unchanged.
pub fn identity_of(stat: &Statx, instance: Option<Instance>) -> FileIdentity {
    FileIdentity {
        instance,
        device: device_of(stat),
        inode: stat.stx_ino,
        size: stat.stx_size,
        mtime: time_of(stat.stx_mtime),
        ctime: time_of(stat.stx_ctime),
    }
}

/// The metadata of the entry `name` of `directory`, or of the directory itself when the name is empty.
///
/// # Errors
/// [`DirectoryError`] when its attributes cannot be read.
pub fn metadata_of(
    directory: &Open,
    name: &[u8],
    stat: &Statx,
    owner: Option<(u32, u32)>,
) -> Result<Metadata, DirectoryError> {
    let pairs = disk::read_xattrs(&directory.fd, name).map_err(|source| DirectoryError::Io {
        action: "read the extended attributes of",
        path: directory.place.entry(name),
        source,
    })?;
    let xattrs =
        Xattrs::new(pairs).map_err(|source| DirectoryError::Xattrs { path: directory.place.entry(name), source })?;
    let (uid, gid) = owner.unwrap_or((stat.stx_uid, stat.stx_gid));
    Ok(Metadata { permissions: stat.stx_mode & 0o7777, uid, gid, mtime: time_of(stat.stx_mtime), xattrs })
}
