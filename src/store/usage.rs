//! How much of a repository each ref accounts for.

use std::collections::HashMap;

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

/// The usage of every ref.
///
/// # Errors
/// [`UsageError`] for the first thing that cannot be read.
pub fn usage(store: &Store) -> Result<Vec<RefUsage>, UsageError> {
    let refs = store.refs()?;
    let mut sizes = HashMap::new();
    let mut users: HashMap<ObjectId, u32> = HashMap::new();
    let mut needs = Vec::with_capacity(refs.len());
    for (_, commit) in &refs {
        let mut reachable = reachable(store, [*commit], None)?;
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
        for object in &reachable.objects {
            *users.entry(*object).or_default() += 1;
        }
        needs.push(reachable);
    }
    let size = |id: &ObjectId| sizes.get(id).copied().unwrap_or_default();
    let row = |((name, commit), needs): ((RefName, CommitId), super::Reachable)| {
        let bytes = needs.objects.iter().map(size).sum();
        let unique = needs.objects.iter().filter(|id| users.get(id) == Some(&1)).map(size).sum();
        RefUsage {
            name,
            commit,
            commits: needs.commits.len(),
            objects: needs.objects.len(),
            bytes,
            shared: bytes - unique,
            unique,
        }
    };
    Ok(refs.into_iter().zip(needs).map(row).collect())
}
