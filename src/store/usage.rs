//! Computes how much of a repository each ref needs. Images of commits that were counted before are not read again (`history`).
//!
//! *Used by* `cli`.

use std::collections::{HashMap, HashSet};

use super::history::History;
use super::open::Store;
use super::reach::reachable;
use super::refs::RefError;
use super::source::ReadError;
use crate::image::ImageError;
use crate::model::{CommitId, ObjectId, RefName};

/// Why the usage could not be computed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// A ref could not be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// A commit or image could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The objects that a ref needs with its whole history, in numbers and bytes of content.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RefUsage {
    #[serde(rename = "ref")]
    pub(crate) name: RefName,
    /// The newest commit of the ref.
    pub(crate) commit: CommitId,
    /// The number of commits of its history in the repository.
    pub(crate) commits: usize,
    /// The number of objects; of lazy commits only those in the repository.
    pub(crate) objects: usize,
    /// The bytes of the objects, each object once.
    pub(crate) bytes: u64,
    /// The bytes of objects that another ref needs too.
    pub(crate) shared: u64,
    /// The bytes that become free when this ref is deleted.
    pub(crate) unique: u64,
}

/// The number of commits and the objects that one ref needs.
struct RefNeeds {
    commits: usize,
    objects: HashSet<ObjectId>,
}

/// Computes the usage of every ref.
///
/// # Errors
/// [`UsageError`] for the first thing that cannot be read.
pub(crate) fn usage(store: &Store) -> Result<Vec<RefUsage>, UsageError> {
    let refs = store.refs()?;
    let mut sizes = HashMap::new();
    let needs = if store.has_lazy_commits() {
        refs.iter().map(|(_, tip)| needs_of(store, *tip, &mut sizes)).collect::<Result<Vec<_>, _>>()?
    } else {
        remembered_needs(store, refs.iter().map(|(_, tip)| *tip), &mut sizes)?
    };
    let mut users: HashMap<ObjectId, u32> = HashMap::new();
    for object in needs.iter().flat_map(|needs| &needs.objects) {
        *users.entry(*object).or_default() += 1;
    }
    let size = |id: &ObjectId| sizes.get(id).copied().unwrap_or_default();
    let row = |((name, commit), needs): ((RefName, CommitId), RefNeeds)| {
        let bytes = needs.objects.iter().map(size).sum();
        let unique = needs.objects.iter().filter(|id| users.get(id) == Some(&1)).map(size).sum();
        let (commits, objects) = (needs.commits, needs.objects.len());
        RefUsage { name, commit, commits, objects, bytes, shared: bytes - unique, unique }
    };
    Ok(refs.into_iter().zip(needs).map(row).collect())
}

/// Returns what each of `tips` needs, by the stored history.
fn remembered_needs(
    store: &Store,
    tips: impl Iterator<Item = CommitId>,
    sizes: &mut HashMap<ObjectId, u64>,
) -> Result<Vec<RefNeeds>, UsageError> {
    let mut history = History::load(store);
    let mut needs = Vec::new();
    for tip in tips {
        history.extend(store, tip)?;
        let mut objects = HashSet::new();
        let commits = history.for_each_object(tip, |object, size| {
            objects.insert(object);
            sizes.insert(object, size);
        });
        needs.push(RefNeeds { commits, objects });
    }
    history.save(store);
    Ok(needs)
}

/// Returns what `tip` needs, by reading its images. Parts of lazy commits that are absent are not counted.
fn needs_of(store: &Store, tip: CommitId, sizes: &mut HashMap<ObjectId, u64>) -> Result<RefNeeds, UsageError> {
    let mut reachable = reachable(store, [tip], None)?;
    if reachable.has_lazy {
        reachable.objects.retain(|id| store.has_object(*id));
    }
    for &id in reachable.images.difference(&reachable.unread_images) {
        let damaged = |source: ImageError| ReadError::Image { id, source };
        for object in store.image(id)?.objects_with_sizes().map_err(damaged)? {
            let (object, size) = object.map_err(damaged)?;
            sizes.insert(object, size);
        }
    }
    Ok(RefNeeds { commits: reachable.commits.len(), objects: reachable.objects })
}
