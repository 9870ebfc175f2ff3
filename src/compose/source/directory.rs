//! A directory of this machine as a tree, with all contents.
//!
//! One thread walks and looks at metadata; the others read and store contents. A file that changes while it is read is
//! read again, and after a few times the import fails and names it.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::Statx;

use super::walk::{Found, Open, WalkOptions, device_of, identity_of, metadata_of, walk};
use super::{DirectoryError, MountedImage, Progress};
use crate::disk::{self, Instances, stat_of};
use crate::image::{NodeId, Tree};
use crate::model::{Content, Extent, FileKind, Metadata, NodeKind};
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
    /// The image that is mounted where the directory is, if one of ours is.
    pub mounted: Option<MountedImage>,
}

/// A tree that was read.
#[derive(Debug)]
pub struct Imported {
    /// Names and metadata; the contents are in the repository.
    pub tree: Tree,
    /// What to keep for the next time.
    pub cache: StatCache,
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
    let repository = stat_of(writer.store().directory()).ok().map(|stat| (device_of(&stat), stat.stx_ino));
    let walking = WalkOptions { owner: options.owner, one_filesystem: options.one_filesystem, except: repository };
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (jobs, send_done) = (jobs.clone(), send_done.clone());
            scope.spawn(move || read_batches(&jobs, &send_done, writer, options, progress));
        }
        drop((jobs, send_done));
        let mut gathering = Gathering::new(writer, cache, options, progress, send_jobs);
        progress.found(0);
        let walked = walk(root, &walking, &mut |tree, found| gathering.take(tree, &found));
        gathering.hand_over();
        let mut new_cache = gathering.new_cache;
        drop(gathering.jobs);
        // Readers end when the queue has lost its end here; what failed there is more telling than a walk that stopped
        // since nobody took its jobs.
        let contents = collect(done)?;
        let mut tree = walked?;
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

/// The files that the walk came by, on their way to the readers.
struct Gathering<'a> {
    batch: Vec<Job>,
    batch_bytes: u64,
    /// Set when no reader is left to take files.
    abandoned: bool,
    new_cache: StatCache,
    instances: Instances,
    writer: &'a StoreWriter,
    cache: &'a StatCache,
    options: &'a DirectoryOptions,
    progress: &'a Progress,
    jobs: Sender<Vec<Job>>,
}

impl<'a> Gathering<'a> {
    fn new(
        writer: &'a StoreWriter,
        cache: &'a StatCache,
        options: &'a DirectoryOptions,
        progress: &'a Progress,
        jobs: Sender<Vec<Job>>,
    ) -> Self {
        let (batch, new_cache) = (Vec::new(), StatCache::default());
        let instances = Instances::beside(writer.store().directory());
        Self { batch, batch_bytes: 0, abandoned: false, new_cache, instances, writer, cache, options, progress, jobs }
    }

    /// Takes an entry: the content of a file comes from the cache, or the file goes on the list of those to be read.
    fn take(&mut self, tree: &mut Tree, found: &Found<'_>) -> ControlFlow<()> {
        if found.kind != FileKind::Regular || found.is_further_name {
            self.progress.found(0);
            return ControlFlow::Continue(());
        }
        let listed = identity_of(found.stat, self.instances.of(&found.directory.fd, found.stat));
        self.progress.found(listed.size);
        if listed.size == 0 {
            return ControlFlow::Continue(());
        }
        if let Some(content) = self.known(found, &listed) {
            self.writer.count_known();
            self.progress.reused(listed.size);
            self.new_cache.insert(listed, content.clone(), self.options.now);
            tree.node_mut(found.node).kind = NodeKind::Regular(content);
            return ControlFlow::Continue(());
        }
        self.batch_bytes += listed.size;
        self.batch.push(Job { node: found.node, directory: found.directory.clone(), name: found.name.into(), listed });
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.hand_over();
        }
        if self.abandoned { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Returns the content of a file that need not be read: all of it is in the repository.
    fn known(&self, found: &Found<'_>, listed: &FileIdentity) -> Option<Content> {
        let mounted = || self.options.mounted.as_ref()?.content(found.directory.device, found.stat);
        let content = self.cache.get(listed).cloned().or_else(mounted)?;
        content.object.is_some_and(|id| self.writer.has_object(id)).then_some(content)
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
        let instance = job.listed.instance.filter(|_| device_of(&before) == job.listed.device);
        let identity = identity_of(&before, instance);
        let extents = extents_of(&file, &before).map_err(io_error("find the holes of"))?;
        let content = match writer.put_file(&file, identity.size, extents) {
            Ok(content) => content,
            // It grew or shrank under our hands.
            Err(WriteError::Length { .. }) => continue,
            Err(WriteError::Read(source)) => return Err(io_error("read")(source)),
            Err(source) => return Err(DirectoryError::Store { path: path(), source }),
        };
        if identity_of(&stat_of(&file).map_err(io_error("stat"))?, instance) != identity {
            continue;
        }
        let newer_metadata = if identity == job.listed {
            None
        } else {
            Some(metadata_of(&job.directory, &job.name, &before, options.owner)?)
        };
        return Ok(FileRead { content, identity, newer_metadata });
    }
    Err(DirectoryError::Changing(path()))
}

/// Holes cost a search only where fewer blocks are allocated than the size needs.
pub fn extents_of(file: &std::fs::File, stat: &Statx) -> io::Result<Option<Vec<Extent>>> {
    if stat.stx_blocks.saturating_mul(512) >= stat.stx_size {
        return Ok(None);
    }
    let extents = disk::data_extents(file, stat.stx_size)?;
    Ok(extents.map(|extents| extents.into_iter().map(|(offset, length)| Extent { offset, length }).collect()))
}
