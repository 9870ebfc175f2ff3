//! Imports a directory of this machine: names and metadata into a tree, contents into the repository.
//!
//! One thread walks and reads metadata; the others read and store contents. A file that changes while it is read is
//! read again; after [`READ_ATTEMPTS`] attempts the import fails and names it.
//!
//! *Not here*: the walk itself (`walk`).
//!
//! *Used by* `cli::commit`; [`extents_of`] also by `compose::staged`.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::Statx;

use super::foreign_xattrs::ForeignXattrs;
use super::walk::{OpenDirectory, WalkEntry, WalkOptions, device_of, identity_of, metadata_of, walk};
use super::{DirectoryError, Exclusions, ImportProgress, MountedImage};
use crate::disk::{self, FilesystemInstances, stat_of};
use crate::image::{NodeId, Tree};
use crate::model::{Content, Extent, FileKind, Metadata, NodeKind};
use crate::store::{FileIdentity, StatCache, StoreWriter, WriteError};

/// Most times that a file which changes meanwhile is read.
const READ_ATTEMPTS: u32 = 3;

/// Most files of one batch for a reader. Batches mean fewer queue operations, and files of one directory end up side by
/// side in a pack.
const BATCH_FILES: usize = 64;

/// Content in bytes at which a batch is sent before it has [`BATCH_FILES`] files.
const BATCH_BYTES: u64 = 4 << 20;

/// Most batches that wait in the queue. Each keeps directories open.
const QUEUED_BATCHES_MAX: usize = 32;

/// Options of [`read_directory`].
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Record this owner and group for everything instead of the real ones.
    pub owner: Option<(u32, u32)>,
    /// Record mount points as empty directories instead of descending.
    pub one_filesystem: bool,
    /// Number of threads that read contents.
    pub threads: usize,
    /// The current time in seconds since 1970. Files that changed just before are not put into the cache.
    pub now: i64,
    /// What is left out.
    pub exclusions: Exclusions,
    /// The image that is mounted where the directory is, if it is a mount of this program.
    pub mounted: Option<MountedImage>,
}

/// The result of [`read_directory`].
#[derive(Debug)]
pub struct ImportedTree {
    /// Names and metadata; the contents are in the repository.
    pub tree: Tree,
    /// The cache for the next import.
    pub(crate) cache: StatCache,
}

/// Reads the directory `root` into a tree and stores its contents through `writer`. Files that are unchanged according
/// to `cache` are not read. The repository itself is left out if it lies inside.
///
/// # Errors
/// [`DirectoryError`], which names the path.
pub fn read_directory(
    root: &Path,
    writer: &StoreWriter,
    cache: &StatCache,
    options: &ImportOptions,
    progress: &ImportProgress,
) -> Result<ImportedTree, DirectoryError> {
    let (send_jobs, jobs) = crossbeam_channel::bounded(QUEUED_BATCHES_MAX);
    let (send_done, done) = crossbeam_channel::unbounded();
    let repository = stat_of(writer.store().directory()).ok().map(|stat| (device_of(&stat), stat.stx_ino));
    let walk_options = WalkOptions {
        owner: options.owner,
        one_filesystem: options.one_filesystem,
        excluded: repository,
        path_max: None,
        exclusions: options.exclusions.clone(),
    };
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (jobs, send_done) = (jobs.clone(), send_done.clone());
            scope.spawn(move || read_batches(&jobs, &send_done, writer, options, progress));
        }
        drop((jobs, send_done));
        let mut queue = ReadQueue::new(writer, cache, options, progress, send_jobs);
        progress.add_found(0);
        let walked = walk(root, &walk_options, &mut |tree, found| queue.add_entry(tree, &found));
        queue.send_batch();
        let mut new_cache = queue.new_cache;
        drop(queue.jobs);
        // Dropping the sender ends the readers. Their error is returned first: the walk may have failed only because
        // no reader was left to take its jobs.
        let contents = collect(done)?;
        let mut tree = walked?;
        for (id, read) in contents {
            if let Some(metadata) = read.newer_metadata {
                tree.node_mut(id).metadata = metadata;
            }
            new_cache.insert(read.identity, read.content.clone(), options.now);
            tree.node_mut(id).kind = NodeKind::Regular(read.content);
        }
        Ok(ImportedTree { tree, cache: new_cache })
    })
}

fn collect(
    done: Receiver<Result<(NodeId, FileRead), DirectoryError>>,
) -> Result<Vec<(NodeId, FileRead)>, DirectoryError> {
    done.into_iter().collect()
}

/// A file whose content is to be read.
struct ReadJob {
    node: NodeId,
    directory: OpenDirectory,
    name: Box<[u8]>,
    listed: FileIdentity,
}

struct FileRead {
    content: Content,
    identity: FileIdentity,
    /// The metadata at the time of reading, if the file changed after it was listed.
    newer_metadata: Option<Metadata>,
}

/// Receives the entries of the walk and batches the files that have to be read.
struct ReadQueue<'a> {
    batch: Vec<ReadJob>,
    batch_bytes: u64,
    /// Whether all readers have ended, so that the walk should stop.
    readers_gone: bool,
    new_cache: StatCache,
    instances: FilesystemInstances,
    writer: &'a StoreWriter,
    cache: &'a StatCache,
    options: &'a ImportOptions,
    progress: &'a ImportProgress,
    jobs: Sender<Vec<ReadJob>>,
}

impl<'a> ReadQueue<'a> {
    fn new(
        writer: &'a StoreWriter,
        cache: &'a StatCache,
        options: &'a ImportOptions,
        progress: &'a ImportProgress,
        jobs: Sender<Vec<ReadJob>>,
    ) -> Self {
        let (batch, new_cache) = (Vec::new(), StatCache::default());
        let instances = FilesystemInstances::for_cache_in(writer.store().directory());
        Self {
            batch,
            batch_bytes: 0,
            readers_gone: false,
            new_cache,
            instances,
            writer,
            cache,
            options,
            progress,
            jobs,
        }
    }

    /// Handles an entry of the walk: a file gets its content from the cache or is added to the batch of files to read.
    fn add_entry(&mut self, tree: &mut Tree, found: &WalkEntry<'_>) -> ControlFlow<()> {
        if found.kind != FileKind::Regular || found.is_hard_link {
            self.progress.add_found(0);
            return ControlFlow::Continue(());
        }
        let listed = identity_of(found.stat, self.instances.of(&found.directory.fd, found.stat));
        self.progress.add_found(listed.size);
        if listed.size == 0 {
            return ControlFlow::Continue(());
        }
        if let Some(content) = self.stored_content(found, &listed) {
            self.writer.count_known();
            self.progress.add_reused(listed.size);
            self.new_cache.insert(listed, content.clone(), self.options.now);
            tree.node_mut(found.node).kind = NodeKind::Regular(content);
            return ControlFlow::Continue(());
        }
        self.batch_bytes += listed.size;
        self.batch.push(ReadJob {
            node: found.node,
            directory: found.directory.clone(),
            name: found.name.into(),
            listed,
        });
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.send_batch();
        }
        if self.readers_gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Returns the content of a file that need not be read, because it is unchanged and its object is in the repository.
    fn stored_content(&self, found: &WalkEntry<'_>, listed: &FileIdentity) -> Option<Content> {
        let mounted = || self.options.mounted.as_ref()?.content(found.directory.device, found.stat);
        let content = self.cache.get(listed).cloned().or_else(mounted)?;
        content.object.is_some_and(|id| self.writer.has_object(id)).then_some(content)
    }

    /// Sends the batch to the readers. If they have ended, one of them has failed and has sent its error.
    fn send_batch(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() && self.jobs.send(batch).is_err() {
            self.readers_gone = true;
        }
    }
}

fn read_batches(
    jobs: &Receiver<Vec<ReadJob>>,
    done: &Sender<Result<(NodeId, FileRead), DirectoryError>>,
    writer: &StoreWriter,
    options: &ImportOptions,
    progress: &ImportProgress,
) {
    for job in jobs.iter().flatten() {
        let result = read_file(&job, writer, options);
        let failed = result.is_err();
        if let Ok(read) = &result {
            progress.add_read(read.content.size);
        }
        // The receiver lives until all readers have ended; a failure ends the import.
        if done.send(result.map(|read| (job.node, read))).is_err() || failed {
            return;
        }
    }
}

fn read_file(job: &ReadJob, writer: &StoreWriter, options: &ImportOptions) -> Result<FileRead, DirectoryError> {
    let path = || job.directory.path.join(&job.name);
    let io_error = |action| move |source| DirectoryError::Io { action, path: path(), source };
    for _ in 0..READ_ATTEMPTS {
        let file = disk::open_file_at(&job.directory.fd, &job.name).map_err(io_error("open"))?;
        let before = stat_of(&file).map_err(io_error("stat"))?;
        let instance = job.listed.instance.filter(|_| device_of(&before) == job.listed.device);
        let identity = identity_of(&before, instance);
        let extents = extents_of(&file, &before).map_err(io_error("find the holes of"))?;
        let content = match writer.put_file(&file, identity.size, extents) {
            Ok(content) => content,
            // The file grew or shrank while it was read.
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
            // The walk has counted what is left out.
            Some(metadata_of(&job.directory, &job.name, &before, options.owner, &mut ForeignXattrs::default())?)
        };
        return Ok(FileRead { content, identity, newer_metadata });
    }
    Err(DirectoryError::Changing(path()))
}

/// Returns the data extents of a file, or `None` if it has no holes. It searches for holes only in files with fewer
/// allocated blocks than their size needs.
pub(crate) fn extents_of(file: &std::fs::File, stat: &Statx) -> io::Result<Option<Vec<Extent>>> {
    if stat.stx_blocks.saturating_mul(512) >= stat.stx_size {
        return Ok(None);
    }
    let extents = disk::data_extents(file, stat.stx_size)?;
    Ok(extents.map(|extents| extents.into_iter().map(|(offset, length)| Extent { offset, length }).collect()))
}
