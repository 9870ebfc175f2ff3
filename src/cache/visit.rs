//! From a ref of a remote to a commit that can be opened: asked for, or as it was last seen when nobody answers.
//!
//! What is learned is written down at once, so that the same can be mounted again without a network: the commit, its
//! signatures, where its parts are, and the local ref that names it.

use std::time::{Duration, Instant};

use super::beginning::Beginning;
use super::image::bring_head;
use super::shelf::chain;
use super::tree::{LazyError, LazyOptions, LazyTree, Source};
use crate::disk::{self, LockError, Wait};
use crate::model::{Commit, CommitId, RefName};
use crate::remote::format::Placement;
use crate::remote::transport::Transport;
use crate::remote::{Remote, RemoteError, RemotesError, Tip};
use crate::store::{Expect, ReadError, RefEdit, RefError, Store, StoreWriter, WriteError};

/// How long a repository that another process writes is waited for. The mount works without, and remembers less.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no commit to open.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// The remote refuses, or is refused.
    #[error(transparent)]
    Remote(Box<RemoteError>),
    /// Nobody answers, and nothing of it is here.
    #[error("cannot reach the remote, and '{name}' was never here")]
    NeverSeen {
        /// The ref.
        name: RefName,
        /// Why nobody answers.
        source: Box<RemoteError>,
    },
    /// The local ref.
    #[error(transparent)]
    Ref(#[from] RefError),
    /// The local commit.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why what was learned is not remembered.
#[derive(Debug, thiserror::Error)]
enum RememberError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Ref(#[from] RefError),
    #[error(transparent)]
    Remotes(#[from] RemotesError),
    #[error("write what is known of a commit")]
    Marker(#[source] std::io::Error),
}

/// A visit in bytes, for a process that is to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VisitRecord {
    id: String,
    commit: Vec<u8>,
    placement: Option<Vec<u8>>,
}

/// A commit, and where its missing parts are.
#[derive(Debug)]
pub struct Visit {
    source: Source,
}

impl Visit {
    /// Asks `remote` for the newest commit of `name`. Whatever it answers that cannot be used, and if no place answers, it is the
    /// one that was seen last.
    ///
    /// # Errors
    /// [`VisitError`]. That the remote is refused is an error only if nothing of it is here.
    pub fn remote(store: &Store, remote: &Remote, name: &RefName) -> Result<Self, VisitError> {
        match tip(store, remote, name) {
            Ok((tip, beginning)) => {
                if let Err(error) = remember(store, remote, &tip) {
                    tracing::warn!("'{name}' cannot be mounted without a network later: {}", chain(&error));
                }
                let (id, transport) = (tip.record.commit, remote.transport().clone());
                let commit = tip.commit.into_inner();
                let source = Source { id, commit, remote: Some((transport, tip.placement)), beginning };
                Ok(Self { source })
            }
            Err(error) if error.is_about_answers() => {
                let local = remote.name().local_ref(name);
                if store.read_ref(&local)?.is_none() && !matches!(error, RemoteError::Transport { .. }) {
                    return Err(VisitError::Remote(Box::new(error)));
                }
                let mut visit = Self::seen_last(store, &local, error)?;
                let placement = read_placement(store, visit.id());
                visit.source.remote = placement.map(|placement| (remote.transport().clone(), placement));
                Ok(visit)
            }
            Err(other) => Err(VisitError::Remote(Box::new(other))),
        }
    }

    /// The commit that a remote's ref named when it was seen last, under its local name; `error` says why nobody answers.
    ///
    /// # Errors
    /// [`VisitError::NeverSeen`] when nothing of it is here.
    pub fn seen_last(store: &Store, name: &RefName, error: RemoteError) -> Result<Self, VisitError> {
        let Some(id) = store.read_ref(name)? else {
            return Err(VisitError::NeverSeen { name: name.clone(), source: Box::new(error) });
        };
        tracing::warn!("{}: '{name}' is mounted as it was seen last", chain(&error));
        Self::local(store, id)
    }

    /// A commit of which parts are here, and nothing is known of where the others are.
    ///
    /// # Errors
    /// [`VisitError::Read`].
    pub fn local(store: &Store, id: CommitId) -> Result<Self, VisitError> {
        Ok(Self { source: Source { id, commit: store.commit(id)?, remote: None, beginning: None } })
    }

    /// The same, with what is missing to be had by `transport`, if it was ever learned where it is there.
    #[must_use]
    pub fn through(mut self, store: &Store, transport: Transport) -> Self {
        self.source.remote = read_placement(store, self.source.id).map(|placement| (transport, placement));
        self
    }

    /// Whether it is known where its parts can be had.
    #[must_use]
    pub const fn is_fetchable(&self) -> bool {
        self.source.remote.is_some()
    }

    /// The commit's id.
    #[must_use]
    pub const fn id(&self) -> CommitId {
        self.source.id
    }

    /// The commit.
    #[must_use]
    pub const fn commit(&self) -> &Commit {
        &self.source.commit
    }

    /// All of it but the way to the remote.
    #[must_use]
    pub fn record(&self) -> VisitRecord {
        let Source { id, commit, remote, .. } = &self.source;
        let placement = remote.as_ref().map(|(_, placement)| placement.render());
        VisitRecord { id: id.to_string(), commit: commit.encode(), placement }
    }

    /// The visit that was recorded, with a way to the remote if it is to be asked.
    ///
    /// # Errors
    /// `InvalidData` when the record is none of ours.
    pub fn again(record: &VisitRecord, transport: Option<Transport>) -> std::io::Result<Self> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        let id: CommitId = record.id.parse().map_err(|_| invalid())?;
        let commit = Commit::decode(&record.commit, id).map_err(|_| invalid())?;
        let placement = record.placement.as_deref().map(Placement::parse).transpose().map_err(|_| invalid())?;
        Ok(Self { source: Source { id, commit, remote: transport.zip(placement), beginning: None } })
    }

    /// Opens the commit.
    ///
    /// # Errors
    /// [`LazyError`].
    pub fn open(&self, store: &Store, options: LazyOptions) -> Result<std::sync::Arc<LazyTree>, LazyError> {
        LazyTree::open(store, self.source.clone(), options)
    }
}

/// Asks for the commit, and at the same time for the beginning of its image if that is not here. The tip is one only when
/// what opening it takes is here: until then the one that was seen last is better.
fn tip(store: &Store, remote: &Remote, name: &RefName) -> Result<(Tip, Option<Beginning>), RemoteError> {
    let pointer = remote.pointer(name)?;
    let place = pointer.placement().image;
    let layout = store.layout();
    let is_here = place.id.is_none_or(|id| layout.image(id).exists() || layout.image_head(id).exists());
    let beginning = if is_here { None } else { Beginning::request(remote.transport(), &place) };
    let tip = remote.tip_of(pointer)?;
    let (id, place) = (tip.commit.image, tip.placement.image);
    let on_its_way = beginning.as_ref().filter(|beginning| beginning.id() == id);
    bring_head(store, remote.transport(), id, &place, on_its_way, remote.until())
        .map_err(|source| RemoteError::Transport { url: remote.transport().url().into(), source })?;
    Ok((tip, beginning))
}

fn remember(store: &Store, remote: &Remote, tip: &Tip) -> Result<(), RememberError> {
    let id = tip.record.commit;
    let is_whole = store.commit(id).is_ok() && !store.is_lazy(id);
    let name = remote.name().local_ref(&tip.record.name);
    let is_known = store.read_ref(&name)? == Some(id) && (is_whole || read_placement(store, id).is_some());
    if !is_known {
        let writer = writer(store)?;
        if !is_whole {
            // Also the marker: before the commit, so that nobody takes it for whole.
            writer.mark_lazy(id, &tip.placement.render())?;
        }
        writer.put_signatures(id, &tip.envelope)?;
        writer.put_commit(&tip.commit)?;
        writer.edit_ref(&RefEdit { name, expect: Expect::Any, to: Some(id) })?;
    } else if !is_whole && read_placement(store, id).as_ref() != Some(&tip.placement) {
        disk::replace(&store.layout().lazy_commit(id), &tip.placement.render()).map_err(RememberError::Marker)?;
    }
    Ok(remote.remember(tip)?)
}

/// The marker of a lazy commit holds where its parts are.
fn read_placement(store: &Store, id: CommitId) -> Option<Placement> {
    Placement::parse(&std::fs::read(store.layout().lazy_commit(id)).ok()?).ok()
}

fn writer(store: &Store) -> Result<StoreWriter, WriteError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match store.writer(Wait::No) {
            Err(WriteError::Lock(LockError::Held { .. })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}
