//! A directory of this machine as a tree.
//!
//! One thread walks, in order of names, and looks at metadata; the others read and store contents. The walk holds
//! directory descriptors and never builds a long path, so depth and name length have no limit but the kernel's. A file
//! that changes while it is read is read again, and after a few times the import fails and names it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp};

use super::Progress;
use crate::disk::{self, DirectoryEntry};
use crate::image::{NodeId, Tree, TreeError};
use crate::model::{
    Content, DeviceNumber, EntryName, Extent, FileKind, Metadata, NameError, Node, NodeKind, Timestamp, XattrError,
    Xattrs,
};
use crate::store::{FileIdentity, StatCache, StoreWriter, WriteError};

/// How often a file that changes is tried.
const ATTEMPTS: u32 = 3;

/// Files handed to a reader at a time: fewer hand-overs, and neighbours end up side by side in a pack.
const BATCH_FILES: usize = 64;

/// A batch is handed over early at this many bytes.
const BATCH_BYTES: u64 = 4 << 20;

/// Batches that wait at most; more would hold more directories open.
const QUEUE: usize = 32;

/// How a directory is read.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// Record this owner and group for everything instead of the real ones.
    pub owner: Option<(u32, u32)>,
    /// Record mount points as empty directories instead of descending.
    pub one_filesystem: bool,
    /// Threads that read contents.
    pub threads: usize,
    /// The time now in seconds since 1970: files changed just before are not remembered as unchanged.
    pub now: i64,
}

/// A tree that was read.
#[derive(Debug)]
pub struct Imported {
    /// Names and metadata; the contents are in the repository.
    pub tree: Tree,
    /// What to keep for the next time.
    pub cache: StatCache,
}

/// Why a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file did not keep still.
    #[error("{} kept changing while it was read; stop what writes to it and commit again", .0.display())]
    Changing(PathBuf),
    /// A file could not be stored.
    #[error("cannot store {}", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: WriteError,
    },
    /// A name no tree can have.
    #[error("bad name in {}", .path.display())]
    Name {
        /// The directory.
        path: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// Extended attributes no tree can have.
    #[error("bad extended attributes of {}", .path.display())]
    Xattrs {
        /// The entry.
        path: PathBuf,
        /// What is wrong with them.
        source: XattrError,
    },
    /// An inode of a kind that is not known.
    #[error("{} is of an unknown kind (mode {mode:o})", .path.display())]
    Kind {
        /// The entry.
        path: PathBuf,
        /// Its mode.
        mode: u16,
    },
    /// The tree took no more entries.
    #[error("cannot add {}", .path.display())]
    Tree {
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: TreeError,
    },
}

/// Reads the directory `root` into a tree, its contents into `writer`. Files that `cache` knows to be unchanged are not
/// read. The repository itself is left out if it lies inside.
///
/// # Errors
/// [`DirectoryError`], which names the path.
pub fn read_directory(
    root: &Path,
    writer: &StoreWriter,
    cache: &StatCache,
    options: &DirectoryOptions,
    progress: &Progress,
) -> Result<Imported, DirectoryError> {
    let (send_jobs, jobs) = crossbeam_channel::bounded(QUEUE);
    let (send_done, done) = crossbeam_channel::unbounded();
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (jobs, send_done) = (jobs.clone(), send_done.clone());
            scope.spawn(move || read_batches(&jobs, &send_done, writer, options, progress));
        }
        drop((jobs, send_done));
        let walk = Walk::start(root, writer, cache, options, progress, send_jobs)?;
        let walked = walk.run();
        // Readers end when the walk has dropped its end of the queue; what failed there is more telling than a walk that
        // stopped since nobody took its jobs.
        let contents = collect(done)?;
        let (mut tree, mut new_cache) = walked?;
        for (id, read) in contents {
            if let Some(metadata) = read.newer_metadata {
                tree.node_mut(id).metadata = metadata;
            }
            new_cache.insert(read.identity, read.content.clone(), options.now);
            tree.node_mut(id).kind = NodeKind::Regular(read.content);
        }
        Ok(Imported { tree, cache: new_cache })
    })
}

fn collect(
    done: Receiver<Result<(NodeId, FileRead), DirectoryError>>,
) -> Result<Vec<(NodeId, FileRead)>, DirectoryError> {
    done.into_iter().collect()
}

/// A directory on the way, so that a path can be named without being kept for each entry.
struct Place {
    above: Option<Arc<Place>>,
    name: PathBuf,
}

impl Place {
    fn path(&self) -> PathBuf {
        self.above.as_ref().map_or_else(|| self.name.clone(), |above| above.path().join(&self.name))
    }

    fn entry(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.path().join(std::ffi::OsStr::from_bytes(name))
    }
}

/// An open directory and where it is.
#[derive(Clone)]
struct Open {
    fd: Arc<OwnedFd>,
    place: Arc<Place>,
}

/// One file whose content is to be read.
struct Job {
    node: NodeId,
    directory: Open,
    name: Box<[u8]>,
    listed: FileIdentity,
}

/// What was read.
struct FileRead {
    content: Content,
    identity: FileIdentity,
    /// Set when the file changed between being listed and being read.
    newer_metadata: Option<Metadata>,
}

struct Walk<'a> {
    tree: Tree,
    /// Directories still to be listed, the next one last.
    pending: Vec<(NodeId, Open, Box<[u8]>)>,
    links: HashMap<(u64, u64), NodeId>,
    batch: Vec<Job>,
    batch_bytes: u64,
    /// Set when no reader is left to take files.
    abandoned: bool,
    new_cache: StatCache,
    device: u64,
    repository: Option<(u64, u64)>,
    writer: &'a StoreWriter,
    cache: &'a StatCache,
    options: &'a DirectoryOptions,
    progress: &'a Progress,
    jobs: Sender<Vec<Job>>,
}

impl<'a> Walk<'a> {
    fn start(
        root: &Path,
        writer: &'a StoreWriter,
        cache: &'a StatCache,
        options: &'a DirectoryOptions,
        progress: &'a Progress,
        jobs: Sender<Vec<Job>>,
    ) -> Result<Self, DirectoryError> {
        let io_error = |action| move |source| DirectoryError::Io { action, path: root.to_owned(), source };
        let fd = disk::open_directory(root).map_err(io_error("open"))?;
        let stat = stat_of(&fd).map_err(io_error("stat"))?;
        let place = Arc::new(Place { above: None, name: root.to_owned() });
        let directory = Open { fd: Arc::new(fd), place };
        let repository = stat_of(writer.store().directory()).ok().map(|stat| (device_of(&stat), stat.stx_ino));
        progress.found(0);
        let metadata = metadata_of(&directory, b"", &stat, options)?;
        let tree = Tree::new(metadata);
        let pending = vec![(tree.root(), directory, Box::from(&b""[..]))];
        Ok(Self {
            tree,
            pending,
            links: HashMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            abandoned: false,
            new_cache: StatCache::default(),
            device: device_of(&stat),
            repository,
            writer,
            cache,
            options,
            progress,
            jobs,
        })
    }

    fn run(mut self) -> Result<(Tree, StatCache), DirectoryError> {
        while !self.abandoned
            && let Some((node, parent, name)) = self.pending.pop()
        {
            let directory = descend(parent, &name)?;
            self.list(node, &directory)?;
        }
        self.hand_over();
        Ok((self.tree, self.new_cache))
    }

    fn list(&mut self, node: NodeId, directory: &Open) -> Result<(), DirectoryError> {
        let entries = disk::list(&directory.fd).map_err(|source| DirectoryError::Io {
            action: "list",
            path: directory.place.path(),
            source,
        })?;
        let first = self.pending.len();
        for entry in entries {
            self.add(node, directory, entry)?;
        }
        // The first of them is to be listed next.
        self.pending[first..].reverse();
        Ok(())
    }

    fn add(&mut self, parent: NodeId, directory: &Open, entry: DirectoryEntry) -> Result<(), DirectoryError> {
        let DirectoryEntry { name, stat } = entry;
        let key = (device_of(&stat), stat.stx_ino);
        if Some(key) == self.repository {
            tracing::warn!(path = %directory.place.entry(&name).display(), "the repository itself is left out");
            return Ok(());
        }
        let path = || directory.place.entry(&name);
        let entry_name = EntryName::new(name.clone())
            .map_err(|source| DirectoryError::Name { path: directory.place.path(), source })?;
        let tree_error = |source| DirectoryError::Tree { path: path(), source };
        let kind = FileKind::from_mode(stat.stx_mode.into())
            .ok_or_else(|| DirectoryError::Kind { path: path(), mode: stat.stx_mode })?;
        let linked = kind != FileKind::Directory && stat.stx_nlink > 1;
        if linked && let Some(&first) = self.links.get(&key) {
            self.progress.found(0);
            return self.tree.link(parent, entry_name, first).map_err(tree_error);
        }
        let metadata = metadata_of(directory, &name, &stat, self.options)?;
        let node_kind = self.kind(directory, &name, &stat, kind)?;
        let node = self.tree.insert(parent, entry_name, Node { metadata, kind: node_kind }).map_err(tree_error)?;
        if linked {
            self.links.insert(key, node);
        }
        match kind {
            FileKind::Directory => {
                self.progress.found(0);
                let is_mount = key.0 != self.device;
                if !(is_mount && self.options.one_filesystem) {
                    self.pending.push((node, directory.clone(), name));
                }
            }
            FileKind::Regular => self.content(node, directory, name, &stat),
            _ => self.progress.found(0),
        }
        Ok(())
    }

    fn kind(&self, directory: &Open, name: &[u8], stat: &Statx, kind: FileKind) -> Result<NodeKind, DirectoryError> {
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

    /// Takes the content of a file from the cache, or puts the file on the list of those to be read.
    fn content(&mut self, node: NodeId, directory: &Open, name: Box<[u8]>, stat: &Statx) {
        let listed = identity_of(stat);
        self.progress.found(listed.size);
        if listed.size == 0 {
            return;
        }
        if let Some(content) = self.cache.get(&listed)
            && content.object.is_some_and(|id| self.writer.has_object(id))
        {
            self.writer.count_known();
            self.progress.reused(listed.size);
            self.new_cache.insert(listed, content.clone(), self.options.now);
            self.tree.node_mut(node).kind = NodeKind::Regular(content.clone());
            return;
        }
        self.batch_bytes += listed.size;
        self.batch.push(Job { node, directory: directory.clone(), name, listed });
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.hand_over();
        }
    }

    /// Gives the readers what was gathered. When they are gone, one of them has failed and says why.
    fn hand_over(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() && self.jobs.send(batch).is_err() {
            self.abandoned = true;
        }
    }
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
    use std::os::unix::ffi::OsStrExt;
    let place = Place { above: Some(parent.place), name: PathBuf::from(std::ffi::OsStr::from_bytes(name)) };
    Ok(Open { fd: Arc::new(fd.into()), place: Arc::new(place) })
}

fn read_batches(
    jobs: &Receiver<Vec<Job>>,
    done: &Sender<Result<(NodeId, FileRead), DirectoryError>>,
    writer: &StoreWriter,
    options: &DirectoryOptions,
    progress: &Progress,
) {
    for job in jobs.iter().flatten() {
        let result = read_file(&job, writer, options);
        let failed = result.is_err();
        if let Ok(read) = &result {
            progress.read(read.content.size);
        }
        // The receiver lives until all readers have ended; a failure ends the import.
        if done.send(result.map(|read| (job.node, read))).is_err() || failed {
            return;
        }
    }
}

fn read_file(job: &Job, writer: &StoreWriter, options: &DirectoryOptions) -> Result<FileRead, DirectoryError> {
    let path = || job.directory.place.entry(&job.name);
    let io_error = |action| move |source| DirectoryError::Io { action, path: path(), source };
    for _ in 0..ATTEMPTS {
        let file = disk::open_file_at(&job.directory.fd, &job.name).map_err(io_error("open"))?;
        let before = stat_of(&file).map_err(io_error("stat"))?;
        let identity = identity_of(&before);
        let extents = extents_of(&file, &before).map_err(io_error("find the holes of"))?;
        let content = match writer.put_file(&file, identity.size, extents) {
            Ok(content) => content,
            // It grew or shrank under our hands.
            Err(WriteError::Length { .. }) => continue,
            Err(WriteError::Read(source)) => return Err(io_error("read")(source)),
            Err(source) => return Err(DirectoryError::Store { path: path(), source }),
        };
        if identity_of(&stat_of(&file).map_err(io_error("stat"))?) != identity {
            continue;
        }
        let newer_metadata =
            if identity == job.listed { None } else { Some(metadata_of(&job.directory, &job.name, &before, options)?) };
        return Ok(FileRead { content, identity, newer_metadata });
    }
    Err(DirectoryError::Changing(path()))
}

/// Holes cost a search only where fewer blocks are allocated than the size needs.
fn extents_of(file: &std::fs::File, stat: &Statx) -> io::Result<Option<Vec<Extent>>> {
    if stat.stx_blocks.saturating_mul(512) >= stat.stx_size {
        return Ok(None);
    }
    let extents = disk::data_extents(file, stat.stx_size)?;
    Ok(extents.map(|extents| extents.into_iter().map(|(offset, length)| Extent { offset, length }).collect()))
}

fn stat_of(fd: impl std::os::fd::AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?)
}

fn device_of(stat: &Statx) -> u64 {
    (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor)
}

fn time_of(time: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}

fn identity_of(stat: &Statx) -> FileIdentity {
    FileIdentity {
        device: device_of(stat),
        inode: stat.stx_ino,
        size: stat.stx_size,
        mtime: time_of(stat.stx_mtime),
        ctime: time_of(stat.stx_ctime),
    }
}

/// The metadata of the entry `name` of `directory`, or of the directory itself when the name is empty.
fn metadata_of(
    directory: &Open,
    name: &[u8],
    stat: &Statx,
    options: &DirectoryOptions,
) -> Result<Metadata, DirectoryError> {
    let pairs = disk::read_xattrs(&directory.fd, name).map_err(|source| DirectoryError::Io {
        action: "read the extended attributes of",
        path: directory.place.entry(name),
        source,
    })?;
    let xattrs =
        Xattrs::new(pairs).map_err(|source| DirectoryError::Xattrs { path: directory.place.entry(name), source })?;
    let (uid, gid) = options.owner.unwrap_or((stat.stx_uid, stat.stx_gid));
    Ok(Metadata { permissions: stat.stx_mode & 0o7777, uid, gid, mtime: time_of(stat.stx_mtime), xattrs })
}
