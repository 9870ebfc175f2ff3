//! Reads and stores the contents of a finished [`StagedTree`], with several threads.
//!
//! Files are read in the order of the tree, so that neighbours end up side by side in packs.
//!
//! *Used by* `pipeline`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use super::super::source::walk::identity_of;
use super::super::source::{DirectoryError, ImportProgress, extents_of};
use super::{DiskFile, StagedContent, StagedTree};
use crate::disk::{FilesystemInstances, stat_of};
use crate::image::{NodeId, Tree};
use crate::model::{Content, NodeKind};
use crate::store::{FileIdentity, StatCache, StoreWriter, WriteError};

/// The number of files in a batch for a reader.
const BATCH_FILES: usize = 64;

/// The number of batches in the queue at most.
const QUEUED_BATCHES_MAX: usize = 32;

/// Options of [`ingest`].
#[derive(Debug, Clone)]
pub(crate) struct IngestOptions {
    /// The number of threads that read contents.
    pub(crate) threads: usize,
    /// The current time in seconds since 1970: files that changed just before are not remembered as unchanged.
    pub(crate) now: i64,
}

struct StoredFile {
    node: NodeId,
    content: Content,
    identity: Option<FileIdentity>,
}

/// Stores the contents of all files of the tree. Files that `cache` knows to be unchanged are not read. Returns the tree with
/// its objects, and the cache for the next time.
///
/// # Errors
/// [`DirectoryError`], which names the file.
pub(crate) fn ingest(
    staged: StagedTree,
    writer: &StoreWriter,
    cache: &StatCache,
    options: &IngestOptions,
    progress: &ImportProgress,
) -> Result<(Tree, StatCache), DirectoryError> {
    let StagedTree { mut tree, mut sources, .. } = staged;
    let (job_sender, jobs) = crossbeam_channel::bounded::<Vec<(NodeId, StagedContent)>>(QUEUED_BATCHES_MAX);
    let (done_sender, done) = crossbeam_channel::unbounded();
    let stored: Vec<StoredFile> = std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (jobs, done_sender) = (jobs.clone(), done_sender.clone());
            scope.spawn(move || store_batches(&jobs, &done_sender, writer, cache, progress));
        }
        drop((jobs, done_sender));
        let mut batch = Vec::new();
        for id in regular_files(&tree, progress) {
            let Some(source) = sources.remove(&id) else { continue };
            batch.push((id, source));
            // If the readers have ended, one of them failed and reports why.
            if batch.len() >= BATCH_FILES && job_sender.send(std::mem::take(&mut batch)).is_err() {
                break;
            }
        }
        let _ = job_sender.send(batch);
        drop(job_sender);
        done.into_iter().collect::<Result<_, _>>()
    })?;
    let mut new_cache = StatCache::default();
    for StoredFile { node, content, identity } in stored {
        if let Some(identity) = identity {
            new_cache.insert(identity, content.clone(), options.now);
        }
        tree.node_mut(node).kind = NodeKind::Regular(content);
    }
    Ok((tree, new_cache))
}

/// Returns the regular files of a tree, each inode once, in the order of their paths.
fn regular_files(tree: &Tree, progress: &ImportProgress) -> Vec<NodeId> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut pending = vec![tree.root()];
    while let Some(id) = pending.pop() {
        match &tree.node(id).kind {
            NodeKind::Regular(content) => {
                let is_new = seen.insert(id);
                progress.add_found(if is_new { content.size } else { 0 });
                found.extend(is_new.then_some(id));
            }
            _ => progress.add_found(0),
        }
        let first = pending.len();
        pending.extend(tree.children(id).map(|(_, child)| child));
        pending[first..].reverse();
    }
    found
}

fn store_batches(
    jobs: &Receiver<Vec<(NodeId, StagedContent)>>,
    done: &Sender<Result<StoredFile, DirectoryError>>,
    writer: &StoreWriter,
    cache: &StatCache,
    progress: &ImportProgress,
) {
    let mut instances = FilesystemInstances::for_cache_in(writer.store().directory());
    for (node, source) in jobs.iter().flatten() {
        let result = match source {
            StagedContent::Memory(bytes) => {
                let content = writer.put(bytes.len() as u64, &mut &bytes[..]);
                let store_error = |source| DirectoryError::Store { path: PathBuf::from("a generated file"), source };
                content.map(|content| (content, None)).map_err(store_error)
            }
            StagedContent::Disk(file) => store_file(&file, &mut instances, writer, cache, progress),
        };
        let failed = result.is_err();
        let stored = result.map(|(content, identity)| StoredFile { node, content, identity });
        // The receiver lives until all readers have ended. A reader that failed ends, which ends the import.
        if done.send(stored).is_err() || failed {
            return;
        }
    }
}

fn store_file(
    on_disk: &DiskFile,
    instances: &mut FilesystemInstances,
    writer: &StoreWriter,
    cache: &StatCache,
    progress: &ImportProgress,
) -> Result<(Content, Option<FileIdentity>), DirectoryError> {
    let path = Path::new("/").join(&on_disk.path);
    let io_error = |action| {
        let path = path.clone();
        move |source| DirectoryError::Io { action, path, source }
    };
    let file = on_disk.open().map_err(io_error("open"))?;
    let stat = stat_of(&file).map_err(io_error("stat"))?;
    let identity = identity_of(&stat, instances.of(&file, &stat));
    if let Some(content) = cache.get(&identity)
        && content.object.is_some_and(|id| writer.has_object(id))
    {
        writer.count_known();
        progress.add_reused(identity.size);
        return Ok((content.clone(), Some(identity)));
    }
    let extents = extents_of(&file, &stat).map_err(io_error("find the holes of"))?;
    let content = match writer.put_file(&file, identity.size, extents) {
        Ok(content) => content,
        Err(WriteError::Length { .. }) => return Err(DirectoryError::Changing(path)),
        Err(WriteError::Read(source)) => return Err(io_error("read")(source)),
        Err(source) => return Err(DirectoryError::Store { path, source }),
    };
    progress.add_read(content.size);
    Ok((content, Some(identity)))
}
