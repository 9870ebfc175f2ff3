//! Resolves a ref of a remote to a commit that can be opened: the newest one, or the last known one if the remote does not
//! answer.
//!
//! What the remote answers is stored at once, so that the same commit can be mounted later without a network: the commit, its
//! signatures, where its parts are, and the local ref that names it.
//!
//! *Not here*: which keys are trusted (`trust`), and fetching contents (`tree`).
//!
//! *Used by* `source` and `cli`.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::image::ensure_head;
use crate::cache::image::head::ImageHead;
use crate::cache::objects::change::{ContentWriter, lock_within};
use crate::cache::tree::{LazyError, LazyOptions, LazySource, LazyTree};
use crate::disk;
use crate::error::chain;
use crate::model::{Commit, CommitId, RefName};
use crate::remote::format::Placement;
use crate::remote::transport::Transport;
use crate::remote::{Head, Remote, RemoteError, RemotesError};
use crate::store::{Expect, ReadError, RefEdit, RefError, Store, WriteError};

/// How long to wait for the repository while another process writes to it. Without the lock the mount works, but what was
/// learned is not stored.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a ref cannot be resolved to a commit.
#[derive(Debug, thiserror::Error)]
pub enum ResolveCommitError {
    /// The remote refused the request, or its answer was not accepted.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// The remote cannot be reached, and the ref was never fetched.
    #[error("cannot reach the remote, and '{name}' was never here")]
    NeverSeen {
        /// The ref, under its local name.
        name: RefName,
        /// Why the remote cannot be reached.
        source: Box<RemoteError>,
    },
    /// The local ref cannot be read.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The local commit cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why the answer of a remote could not be stored.
#[derive(Debug, thiserror::Error)]
enum RememberError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Ref(#[from] RefError),
    #[error(transparent)]
    Remotes(#[from] RemotesError),
    #[error("write the placement of a commit")]
    Marker(#[source] std::io::Error),
}

/// A [`ResolvedCommit`] in serialised form, for handing it over to another process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ResolvedRecord {
    id: String,
    commit: Vec<u8>,
    placement: Option<Vec<u8>>,
}

/// A commit, and where its missing parts can be fetched.
#[derive(Debug)]
pub struct ResolvedCommit {
    source: LazySource,
}

impl ResolvedCommit {
    /// Asks `remote` for the newest commit of `name`. Returns the last known commit if no place of the remote answers, or if
    /// its answer cannot be used.
    ///
    /// # Errors
    /// [`ResolveCommitError`]. An unusable answer is an error only if no commit of the ref is known.
    pub fn from_remote(store: &Store, remote: &Remote, name: &RefName) -> Result<Self, ResolveCommitError> {
        match resolve_head(store, remote, name) {
            Ok((head, image_head)) => {
                if let Err(error) = remember(store, remote, &head) {
                    tracing::warn!("'{name}' cannot be mounted without a network later: {}", chain(&error));
                }
                let (id, transport) = (head.record.commit, remote.transport().clone());
                let commit = head.commit.into_inner();
                let source = LazySource { id, commit, remote: Some((transport, head.placement)), image_head };
                Ok(Self { source })
            }
            Err(error) if error.is_about_answers() => {
                let local = remote.name().local_ref(name);
                if store.read_ref(&local)?.is_none() && !matches!(error, RemoteError::Transport { .. }) {
                    return Err(ResolveCommitError::Remote(Box::new(error)));
                }
                let mut resolved = Self::last_known(store, &local, error)?;
                let placement = read_placement(store, resolved.id());
                resolved.source.remote = placement.map(|placement| (remote.transport().clone(), placement));
                Ok(resolved)
            }
            Err(other) => Err(ResolveCommitError::Remote(Box::new(other))),
        }
    }

    /// Returns the commit that a remote's ref named when it was last fetched. `name` is its local name, and `error` says why
    /// the remote cannot be used now.
    ///
    /// # Errors
    /// [`ResolveCommitError::NeverSeen`] when the ref was never fetched.
    pub(crate) fn last_known(store: &Store, name: &RefName, error: RemoteError) -> Result<Self, ResolveCommitError> {
        let Some(id) = store.read_ref(name)? else {
            return Err(ResolveCommitError::NeverSeen { name: name.clone(), source: Box::new(error) });
        };
        tracing::warn!("{}: '{name}' is mounted as it was seen last", chain(&error));
        Self::from_store(store, id)
    }

    /// Returns a commit of the repository without a source for its missing parts.
    pub(crate) fn from_store(store: &Store, id: CommitId) -> Result<Self, ResolveCommitError> {
        Ok(Self { source: LazySource { id, commit: store.commit(id)?, remote: None, image_head: None } })
    }

    /// Sets `transport` as the source of missing parts, if the repository knows the placement of the commit.
    pub(crate) fn with_transport(mut self, store: &Store, transport: Transport) -> Self {
        self.source.remote = read_placement(store, self.source.id).map(|placement| (transport, placement));
        self
    }

    /// Returns whether missing parts can be fetched.
    pub(crate) const fn is_fetchable(&self) -> bool {
        self.source.remote.is_some()
    }

    pub(crate) const fn id(&self) -> CommitId {
        self.source.id
    }

    pub(crate) const fn commit(&self) -> &Commit {
        &self.source.commit
    }

    /// Serialises everything but the transport.
    pub(crate) fn to_record(&self) -> ResolvedRecord {
        let LazySource { id, commit, remote, .. } = &self.source;
        let placement = remote.as_ref().map(|(_, placement)| placement.render());
        ResolvedRecord { id: id.to_string(), commit: commit.encode(), placement }
    }

    /// Restores a serialised commit. Missing parts can be fetched if there is a `transport`.
    ///
    /// # Errors
    /// `InvalidData` when the record cannot be parsed.
    pub(crate) fn from_record(record: &ResolvedRecord, transport: Option<Transport>) -> std::io::Result<Self> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let id: CommitId = record.id.parse().map_err(|_| invalid())?;
        let commit = Commit::decode(&record.commit, id).map_err(|_| invalid())?;
        let placement = record.placement.as_deref().map(Placement::parse).transpose().map_err(|_| invalid())?;
        Ok(Self { source: LazySource { id, commit, remote: transport.zip(placement), image_head: None } })
    }

    /// Opens the commit. What is fetched is stored by this process.
    ///
    /// # Errors
    /// [`LazyError`] when the image cannot be opened, or a thread cannot be started.
    pub fn open(&self, store: &Store, options: LazyOptions) -> Result<Arc<LazyTree>, LazyError> {
        LazyTree::open(store, self.source.clone(), options, None)
    }

    /// Opens the commit like [`Self::open`]; `writer` stores what is fetched.
    pub(crate) fn open_with(
        &self,
        store: &Store,
        options: LazyOptions,
        writer: Arc<dyn ContentWriter>,
    ) -> Result<Arc<LazyTree>, LazyError> {
        LazyTree::open(store, self.source.clone(), options, Some(writer))
    }
}

/// Asks for the newest commit, and at the same time for the head of its image if that is not stored. Succeeds only when the
/// head of the image is available: a commit that cannot be opened is of less use than the last known one.
fn resolve_head(store: &Store, remote: &Remote, name: &RefName) -> Result<(Head, Option<ImageHead>), RemoteError> {
    let ref_head = remote.fetch_ref_head(name)?;
    let place = ref_head.placement().image;
    let layout = store.layout();
    let partial = layout.partial_of(ref_head.commit());
    let is_stored = place.id.is_none_or(|id| layout.image(id).exists() || partial.image_head(id).exists());
    let image_head = if is_stored { None } else { ImageHead::request(remote.transport(), &place) };
    let head = remote.complete_head(ref_head)?;
    let (id, place) = ((head.record.commit, head.commit.image), head.placement.image);
    let early_head = image_head.as_ref().filter(|image_head| image_head.id() == id.1);
    ensure_head(store, remote.transport(), id, &place, early_head, remote.deadline())
        .map_err(|source| RemoteError::Transport { url: remote.transport().url().into(), source })?;
    Ok((head, image_head))
}

fn remember(store: &Store, remote: &Remote, head: &Head) -> Result<(), RememberError> {
    let id = head.record.commit;
    let is_complete = store.commit(id).is_ok() && !store.is_lazy(id);
    let name = remote.name().local_ref(&head.record.name);
    let is_known = store.read_ref(&name)? == Some(id) && (is_complete || read_placement(store, id).is_some());
    if !is_known {
        let writer = lock_within(store, LOCK_TIMEOUT)?;
        if !is_complete {
            // The placement is also the marker of a lazy commit. It is written before the commit, so that no reader takes the
            // commit for complete.
            writer.mark_lazy(id, &head.placement.render())?;
        }
        writer.put_signatures(id, &head.envelope)?;
        writer.put_commit(&head.commit)?;
        writer.edit_ref(&RefEdit { name, expect: Expect::Any, to: Some(id) })?;
    }
    // A key that was replaced no longer counts, so the signatures of a known commit may have to follow.
    if is_known && std::fs::read(store.layout().commit_signatures(id)).ok().as_deref() != Some(&*head.envelope) {
        lock_within(store, LOCK_TIMEOUT)?.put_signatures(id, &head.envelope)?;
    }
    if is_known && !is_complete && read_placement(store, id).as_ref() != Some(&head.placement) {
        disk::replace(&store.layout().lazy_commit(id), &head.placement.render()).map_err(RememberError::Marker)?;
    }
    Ok(remote.remember(head)?)
}

/// Reads the placement of a lazy commit from its marker file.
fn read_placement(store: &Store, id: CommitId) -> Option<Placement> {
    Placement::parse(&std::fs::read(store.layout().lazy_commit(id)).ok()?).ok()
}
