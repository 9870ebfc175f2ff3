//! How much of a repository each ref accounts for. Images of commits that were counted before are not read again (`history`).

use std::collections::{HashMap, HashSet};

use super::history::History;
use super::open::Store;
use super::reach::reachable;
use super::refs::RefError;
use super::source::ReadError;
use crate::image::ImageError;
use crate::model::{CommitId, ObjectId, RefName};

/// Why sizes could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A ref could not be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// A commit or image could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The objects a ref needs with its whole history, in bytes of content.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RefUsage {
    /// The ref.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// Its newest commit.
    pub commit: CommitId,
    /// Commits of its history that are here.
    pub commits: usize,
    /// Number of objects, of lazy commits those that are here.
    pub objects: usize,
    /// Their bytes, each object once.
    pub bytes: u64,
    /// Bytes of those that another ref needs too.
    pub shared: u64,
    /// Bytes that deleting this ref would make free.
    pub unique: u64,
}

/// What one ref leads to.
struct Needs {
    commits: usize,
    objects: HashSet<ObjectId>,
}

/// The usage of every ref.
///
/// # Errors
/// [`UsageError`] for the first thing that cannot be read.
pub fn usage(store: &Store) -> Result<Vec<RefUsage>, UsageError> {
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
    let row = |((name, commit), needs): ((RefName, CommitId), Needs)| {
        let bytes = needs.objects.iter().map(size).sum();
        let unique = needs.objects.iter().filter(|id| users.get(id) == Some(&1)).map(size).sum();
        let (commits, objects) = (needs.commits, needs.objects.len());
        RefUsage { name, commit, commits, objects, bytes, shared: bytes - unique, unique }
    };
    Ok(refs.into_iter().zip(needs).map(row).collect())
}

/// What each of `tips` leads to, by what is remembered of each commit.
fn remembered_needs(
    store: &Store,
    tips: impl Iterator<Item = CommitId>,
    sizes: &mut HashMap<ObjectId, u64>,
) -> Result<Vec<Needs>, UsageError> {
    let mut history = History::load(store);
    let mut needs = Vec::new();
    for tip in tips {
        history.extend(store, tip)?;
        let mut objects = HashSet::new();
        let commits = history.visit(tip, |object, size| {
            objects.insert(object);
            sizes.insert(object, size);
        });
        needs.push(Needs { commits, objects });
    }
    history.save(store);
    Ok(needs)
}

/// What `tip` leads to, of which parts may not be here.
fn needs_of(store: &Store, tip: CommitId, sizes: &mut HashMap<ObjectId, u64>) -> Result<Needs, UsageError> {
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
    Ok(Needs { commits: reachable.commits.len(), objects: reachable.objects })
}
