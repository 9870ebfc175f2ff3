//! The identity under which a repository is published.
//!
//! It is made when something is first published, and kept in the file `state/identity`. A destination that has an identity
//! keeps it: a repository that has none takes it over, so that the builders of a fleet publish to one place; a repository
//! that has another is refused unless the user names the identity that is meant.
//!
//! *Not here*: what clients remember (`memory`).
//!
//! *Used by* `cli`.

use std::fs;
use std::io;

use super::error::PublishError;
use super::existing::Survey;
use crate::disk;
use crate::store::Store;
use crate::trust::{Keyring, PublicKey, RepositoryId};

/// Returns the identity to publish as: the one that is `given`, else the one of the refs at the destination that one of
/// `signers` signed, else that of `store`, else `new`. Keeps it, if `store` has none.
///
/// # Errors
/// [`PublishError::OtherRepository`] when the destination is another repository than `store` publishes as and none is given.
pub(crate) fn choose_identity(
    store: &Store,
    survey: &Survey,
    signers: &[PublicKey],
    given: Option<RepositoryId>,
    new: RepositoryId,
) -> Result<RepositoryId, PublishError> {
    if let Some(given) = given {
        return Ok(given);
    }
    let keys = Keyring::new(signers.iter().copied());
    let mut published =
        survey.refs.values().filter(|it| it.is_own(&keys)).filter_map(|published| published.record.repository());
    let found = published.next();
    if let (Some(one), Some(other)) = (found, published.find(|id| found != Some(*id))) {
        return Err(PublishError::SeveralRepositories(one, other));
    }
    let kept = kept(store)?;
    if kept.is_none()
        && found.is_none()
        && let Some(other) = survey.refs.values().find_map(|published| published.record.repository())
    {
        return Err(PublishError::UnsignedIdentity(other));
    }
    match (kept, found) {
        (Some(own), Some(found)) if own != found => Err(PublishError::OtherRepository { own, found }),
        (Some(own), _) => Ok(own),
        (None, found) => {
            let chosen = found.unwrap_or(new);
            let path = store.layout().identity();
            let written = disk::replace(&path, format!("{chosen}\n").as_bytes());
            written.map_err(|source| PublishError::Identity { action: "write", path, source })?;
            Ok(chosen)
        }
    }
}

/// Returns the identity that `store` publishes as; `None` when it has never published.
fn kept(store: &Store) -> Result<Option<RepositoryId>, PublishError> {
    let path = store.layout().identity();
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other,
    };
    let parsed = text.and_then(|text| text.trim_end().parse().map_err(io::Error::other));
    parsed.map(Some).map_err(|source| PublishError::Identity { action: "read", path, source })
}
