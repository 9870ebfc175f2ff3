//! From a finished draft to a tree whose contents are stored.
//!
//! Files are read in the order of the tree, so that neighbours lie side by side in packs, by several threads.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender};

use super::super::source::walk::identity_of;
use super::super::source::{DirectoryError, Progress, extents_of};
use super::{Draft, Source};
use crate::disk::{Instances, stat_of};
use crate::image::{NodeId, Tree};
use crate::model::{Content, NodeKind};
use crate::store::{FileIdentity, StatCache, StoreWriter, WriteError};

/// Files handed to a reader at a time.
const BATCH_FILES: usize = 64;

/// Batches that wait at most.
const QUEUE: usize = 32;

/// How contents are read.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Threads that read.
    pub threads: usize,
    /// The time now in seconds since 1970: files changed just before are not remembered as unchanged.
    pub now: i64,
}

struct Stored {
    node: NodeId,
    content: Content,
    identity: Option<FileIdentity>,
}

/// Stores every content that the draft leads to. Files that `cache` knows to be unchanged are not read.
///
/// # Errors
/// [`DirectoryError`], which names the file.
pub fn ingest(
    draft: Draft,
    writer: &StoreWriter,
    cache: &StatCache,
    options: &IngestOptions,
    progress: &Progress,
) -> Result<(Tree, StatCache), DirectoryError> {
    let Draft { mut tree, mut sources, .. } = draft;
    let (send_jobs, jobs) = crossbeam_channel::bounded::<Vec<(NodeId, Source)>>(QUEUE);
    let (send_done, done) = crossbeam_channel::unbounded();
    let stored: Vec<Stored> = std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (jobs, send_done) = (jobs.clone(), send_done.clone());
            scope.spawn(move || store_all(&jobs, &send_done, writer, cache, progress));
        }
        drop((jobs, send_done));
        let mut batch = Vec::new();
        for id in files(&tree, progress) {
            let Some(source) = sources.remove(&id) else { continue };
            batch.push((id, source));
            // When the readers are gone, one of them has failed and says why.
            if batch.len() >= BATCH_FILES && send_jobs.send(std::mem::take(&mut batch)).is_err() {
                break;
            }
        }
        let _ = send_jobs.send(batch);
        drop(send_jobs);
        done.into_iter().collect::<Result<_, _>>()
    })?;
    let mut new_cache = StatCache::default();
    for Stored { node, content, identity } in stored {
        if let Some(identity) = identity {
            new_cache.insert(identity, content.clone(), options.now);
        }
        tree.node_mut(node).kind = NodeKind::Regular(content);
    }
    Ok((tree, new_cache))
}

/// The regular files of a tree, each inode once, in order of their paths.
fn files(tree: &Tree, progress: &Progress) -> Vec<NodeId> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut pending = vec![tree.root()];
    while let Some(id) = pending.pop() {
        match &tree.node(id).kind {
            NodeKind::Regular(content) => {
                let is_new = seen.insert(id);
                progress.found(if is_new { content.size } else { 0 });
                found.extend(is_new.then_some(id));
            }
            _ => progress.found(0),
        }
        let first = pending.len();
        pending.extend(tree.children(id).map(|(_, child)| child));
        pending[first..].reverse();
    }
    found
}

fn store_all(
    jobs: &Receiver<Vec<(NodeId, Source)>>,
    done: &Sender<Result<Stored, DirectoryError>>,
    writer: &StoreWriter,
    cache: &StatCache,
    progress: &Progress,
) {
    let mut instances = Instances::beside(writer.store().directory());
    for (node, source) in jobs.iter().flatten() {
        let result = match source {
            Source::Memory(bytes) => {
                let content = writer.put(bytes.len() as u64, &mut &bytes[..]);
                let store_error = |source| DirectoryError::Store { path: PathBuf::from("a generated file"), source };
                content.map(|content| (content, None)).map_err(store_error)
            }
            Source::Disk(path) => store_file(&path, &mut instances, writer, cache, progress),
        };
        let failed = result.is_err();
        let stored = result.map(|(content, identity)| Stored { node, content, identity });
        // The receiver lives until all readers have ended; a failure ends the work.
        if done.send(stored).is_err() || failed {
            return;
        }
    }
}

fn store_file(
    path: &Path,
    instances: &mut Instances,
    writer: &StoreWriter,
    cache: &StatCache,
    progress: &Progress,
) -> Result<(Content, Option<FileIdentity>), DirectoryError> {
    let io_error = |action| move |source| DirectoryError::Io { action, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io_error("open"))?;
    let stat = stat_of(&file).map_err(io_error("stat"))?;
    let identity = identity_of(&stat, instances.of(&file, &stat));
    if let Some(content) = cache.get(&identity)
        && content.object.is_some_and(|id| writer.has_object(id))
    {
        writer.count_known();
        progress.reused(identity.size);
        return Ok((content.clone(), Some(identity)));
    }
    let extents = extents_of(&file, &stat).map_err(io_error("find the holes of"))?;
    let content = match writer.put_file(&file, identity.size, extents) {
        Ok(content) => content,
        Err(WriteError::Length { .. }) => return Err(DirectoryError::Changing(path.to_owned())),
        Err(WriteError::Read(source)) => return Err(io_error("read")(source)),
        Err(source) => return Err(DirectoryError::Store { path: path.to_owned(), source }),
    };
    progress.read(content.size);
    Ok((content, Some(identity)))
}
