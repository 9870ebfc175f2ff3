//! The trusted way from a ref's name to its commit.
//!
//! Knows which files of a published repository hold what, and lets nothing out that was not checked: a [`Tip`] exists only
//! after the ref record and the commit passed [`Trust`]. The placement beside them is advice. Used by `pull`, by lazy
//! mounts and by the publisher, who must know what is there.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::{PLACEMENT_SIZE_MAX, Placement};
use super::layout;
use super::remotes::{RemoteConfig, RemoteName, Remotes, RemotesError};
use super::transport::{Mutability, Refusal, Transport, TransportError, without_secret};
use crate::model::{Commit, CommitId, RefName};
use crate::store::Store;
use crate::trust::{
    Announcement, ENVELOPE_SIZE_MAX, Keyring, PublicKey, RefRecord, SignatureError, Trust, TrustError, Verified,
};

/// Largest ref file in bytes: a record, its signatures, and a placement.
const REF_SIZE_MAX: u64 = PLACEMENT_SIZE_MAX as u64 + (64 << 10);

/// Largest announcement of a key in bytes.
const ANNOUNCEMENT_SIZE_MAX: u64 = 64 << 10;

/// So many changes of keys are followed back at most.
const ANNOUNCEMENTS_MAX: usize = 8;

/// So many unknown signers are looked for at most.
const STRANGERS_MAX: usize = 4;

/// Why a remote gave no commit.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The remote's configuration.
    #[error(transparent)]
    Config(#[from] RemotesError),
    /// No answer.
    #[error("{url}")]
    Transport {
        /// The remote.
        url: Box<str>,
        /// What went wrong.
        source: TransportError,
    },
    /// The remote has no such ref.
    #[error("{url} has no ref '{name}'")]
    NoSuchRef {
        /// The remote.
        url: Box<str>,
        /// The ref.
        name: RefName,
    },
    /// The remote says that a commit is its newest and does not have it.
    #[error("{url} does not have commit {id}")]
    NoSuchCommit {
        /// The remote.
        url: Box<str>,
        /// The commit.
        id: CommitId,
    },
    /// The ref is refused.
    #[error("ref '{name}' of {url} is refused")]
    Ref {
        /// The remote.
        url: Box<str>,
        /// The ref.
        name: RefName,
        /// The reason.
        source: Box<TransportError>,
    },
    /// The commit is refused.
    #[error("commit {id} of {url} is refused")]
    Commit {
        /// The remote.
        url: Box<str>,
        /// The commit.
        id: CommitId,
        /// The reason.
        source: Box<TransportError>,
    },
}

impl RemoteError {
    /// Returns whether it is about what the remote answered, or did not, rather than about this machine.
    #[must_use]
    pub const fn is_about_answers(&self) -> bool {
        !matches!(self, Self::Config(_))
    }
}

/// What a ref says: its record, checked, and advice about its commit, which was not looked at yet.
#[derive(Debug, Clone)]
pub struct Pointer {
    record: Verified<RefRecord>,
    placement: Placement,
}

impl Pointer {
    /// Where the parts of the commit are.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// The newest commit of a ref, checked.
#[derive(Debug, Clone)]
pub struct Tip {
    /// What the ref says.
    pub record: Verified<RefRecord>,
    /// The commit it names.
    pub commit: Verified<Commit>,
    /// The commit as it was published, with its signatures.
    pub envelope: Bytes,
    /// Where its parts are.
    pub placement: Placement,
}

/// A published repository and whom to believe there.
pub struct Remote {
    name: RemoteName,
    transport: Transport,
    remotes: Remotes,
    store: Store,
    trust: Mutex<Trust>,
    learned: Mutex<Vec<PublicKey>>,
    /// Signers whom no announcement leads to.
    strangers: Mutex<HashSet<PublicKey>>,
    /// When asking for refs and commits is to be over.
    until: Option<Instant>,
}

impl Remote {
    /// The remote of `config`, as `store` knows it. Sends nothing yet.
    ///
    /// # Errors
    /// [`RemoteError`] when nobody is trusted or the URL cannot be used.
    pub fn open(store: &Store, name: RemoteName, config: &RemoteConfig) -> Result<Self, RemoteError> {
        let trust = config.trust()?;
        let transport = Transport::open(&config.url, &config.transport)
            .map_err(|source| RemoteError::Transport { url: without_secret(&config.url).into(), source })?;
        let (remotes, store) = (Remotes::of(store), store.clone());
        Ok(Self {
            name,
            transport,
            remotes,
            store,
            trust: Mutex::new(trust),
            learned: Mutex::default(),
            strangers: Mutex::default(),
            until: None,
        })
    }

    /// The same for somebody who has something to go on with: all questions together take no longer than `patience`.
    #[must_use]
    pub fn impatient(mut self, patience: Duration) -> Self {
        self.until = Some(Instant::now() + patience);
        self
    }

    /// When asking is to be over, if it is.
    #[must_use]
    pub const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Its name, for refs and messages.
    #[must_use]
    pub const fn name(&self) -> &RemoteName {
        &self.name
    }

    /// The way there.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Asks what a ref names now: two requests, one if the commit is known.
    ///
    /// # Errors
    /// [`RemoteError`]; nothing was believed then.
    pub fn tip(&self, name: &RefName) -> Result<Tip, RemoteError> {
        self.tip_of(self.pointer(name)?)
    }

    /// The first half of [`Self::tip`], for whoever has something to ask for beside the commit.
    ///
    /// # Errors
    /// As for [`Self::tip`].
    pub fn pointer(&self, name: &RefName) -> Result<Pointer, RemoteError> {
        let seen = self.remotes.seen(&self.name, name)?;
        let path = layout::reference(name);
        let check = |bytes: &Bytes| {
            let accepted = self.learning(|trust| trust.accept_ref(bytes, name, seen));
            let (record, rest) = accepted.map_err(refusal)?;
            let placement = Placement::parse(rest).map_err(Refusal::wrong)?;
            Ok(Pointer { record, placement })
        };
        match self.asking().get_checked(&path, REF_SIZE_MAX, Mutability::Mutable, &check) {
            Ok(Some((pointer, _))) => Ok(pointer),
            Ok(None) => Err(RemoteError::NoSuchRef { url: self.url(), name: name.clone() }),
            Err(source @ TransportError::Wrong { .. }) => {
                Err(RemoteError::Ref { url: self.url(), name: name.clone(), source: source.into() })
            }
            Err(source) => Err(RemoteError::Transport { url: self.url(), source }),
        }
    }

    /// The second half of [`Self::tip`].
    ///
    /// # Errors
    /// As for [`Self::tip`].
    pub fn tip_of(&self, pointer: Pointer) -> Result<Tip, RemoteError> {
        let Pointer { record, placement } = pointer;
        let (commit, envelope) = self.commit(&record)?;
        Ok(Tip { record, commit, envelope, placement })
    }

    fn commit(&self, record: &RefRecord) -> Result<(Verified<Commit>, Bytes), RemoteError> {
        let id = record.commit;
        // A signature kept from an earlier visit may be by a key that is no longer trusted: then the remote is asked.
        if let Ok(bytes) = std::fs::read(self.store.layout().commit_signatures(id))
            && let Ok(commit) = self.trust.lock().accept_commit(&bytes, record)
        {
            return Ok((commit, bytes.into()));
        }
        // The ref that names it came from there, so it is there or is about to be.
        let check = |bytes: &Bytes| self.learning(|trust| trust.accept_commit(bytes, record)).map_err(refusal);
        let found = self.commit_checked(id, &self.asking().required(), &check)?;
        found.ok_or_else(|| RemoteError::NoSuchCommit { url: self.url(), id })
    }

    /// The parent of a commit that was checked, as it was published. `None` when it has none.
    ///
    /// # Errors
    /// [`RemoteError::NoSuchCommit`] when the remote no longer has it.
    pub fn parent(&self, child: &Verified<Commit>) -> Result<Option<(Verified<Commit>, Bytes)>, RemoteError> {
        let Some(id) = child.parent else { return Ok(None) };
        let check = |bytes: &Bytes| child.parent(bytes).map_err(refusal);
        match self.commit_checked(id, &self.asking(), &check)? {
            Some((parent, bytes)) => Ok(parent.map(|parent| (parent, bytes))),
            None => Err(RemoteError::NoSuchCommit { url: self.url(), id }),
        }
    }

    /// What `check` makes of the file of a commit, and the file; `None` when it is not there.
    fn commit_checked<T>(
        &self,
        id: CommitId,
        transport: &Transport,
        check: &dyn Fn(&Bytes) -> Result<T, Refusal>,
    ) -> Result<Option<(T, Bytes)>, RemoteError> {
        let both = |bytes: &Bytes| Ok((check(bytes)?, bytes.clone()));
        // A cache may have one that fewer keys have signed; then it is asked for again past caches.
        let found = transport.get_checked(&layout::commit(id), ENVELOPE_SIZE_MAX as u64, Mutability::Immutable, &both);
        match found {
            Ok(found) => Ok(found.map(|(found, _)| found)),
            Err(source @ TransportError::Wrong { .. }) => {
                Err(RemoteError::Commit { url: self.url(), id, source: source.into() })
            }
            Err(source) => Err(RemoteError::Transport { url: self.url(), source }),
        }
    }

    /// Where the parts of a commit are. For a tip it came with the ref.
    ///
    /// # Errors
    /// [`RemoteError::NoSuchCommit`] when the remote does not have the commit any more.
    pub fn placement(&self, id: CommitId) -> Result<Placement, RemoteError> {
        let check = |bytes: &Bytes| Placement::parse(bytes).map_err(Refusal::wrong);
        let path = layout::placement(id);
        let found = self.asking().get_checked(&path, PLACEMENT_SIZE_MAX as u64, Mutability::Mutable, &check);
        let found = found.map_err(|source| RemoteError::Transport { url: self.url(), source })?;
        found.map(|(placement, _)| placement).ok_or_else(|| RemoteError::NoSuchCommit { url: self.url(), id })
    }

    /// Remembers the tip, so that nothing older is accepted from now on, and the keys that were learned on the way.
    ///
    /// # Errors
    /// [`RemotesError`] when the repository cannot be written.
    pub fn remember(&self, tip: &Tip) -> Result<(), RemotesError> {
        self.remotes.remember(&self.name, &tip.record.name, tip.record.seen())?;
        let learned = std::mem::take(&mut *self.learned.lock());
        if learned.is_empty() {
            return Ok(());
        }
        match self.remotes.read(&self.name) {
            Ok(mut config) => {
                config.keys.extend(learned);
                self.remotes.write(&self.name, &config)
            }
            // A bare URL: the keys were given with it, and will be again.
            Err(RemotesError::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs a check; if only strangers signed, looks whether one of them was announced by a trusted key, and runs it
    /// again.
    fn learning<T>(&self, check: impl Fn(&Trust) -> Result<T, TrustError>) -> Result<T, TrustError> {
        let first = check(&self.trust.lock());
        let Err(TrustError::Signature(SignatureError::UnknownKey { keys })) = &first else { return first };
        let Trust::Keys(mut ring) = self.trust.lock().clone() else { return first };
        // Each stranger costs requests, and a server may list as many as it likes.
        let known = self.strangers.lock().clone();
        for key in keys.iter().take(STRANGERS_MAX).filter(|key| !known.contains(key)) {
            if self.follow_announcements(*key, &mut ring) {
                *self.trust.lock() = Trust::Keys(ring);
                return check(&self.trust.lock());
            }
            // The same record is asked for once more, past caches.
            self.strangers.lock().insert(*key);
        }
        first
    }

    /// Goes from `unknown` back to the key that announced it and so on. If that ends at a trusted one, all on the way are
    /// trusted from then on.
    fn follow_announcements(&self, unknown: PublicKey, ring: &mut Keyring) -> bool {
        let mut chain: Vec<(PublicKey, Bytes)> = Vec::new();
        let mut key = unknown;
        while chain.len() < ANNOUNCEMENTS_MAX && !chain.iter().any(|(seen, _)| *seen == key) {
            let Some((signers, bytes)) = self.announcement(key) else { return false };
            chain.push((key, bytes));
            if signers.iter().any(|signer| ring.contains(*signer)) {
                return self.trust_chain(&chain, ring);
            }
            let Some(next) = signers.first() else { return false };
            key = *next;
        }
        false
    }

    /// The announcement of a key and who claims to have signed it, if there is one.
    fn announcement(&self, key: PublicKey) -> Option<(Vec<PublicKey>, Bytes)> {
        let check = |bytes: &Bytes| match Announcement::claimed_signers(bytes, key) {
            Ok(signers) => Ok((signers, bytes.clone())),
            Err(error) => Err(Refusal::wrong(error)),
        };
        let (path, transport) = (layout::key(&key.to_string()), self.asking().optional());
        match transport.get_checked(&path, ANNOUNCEMENT_SIZE_MAX, Mutability::Mutable, &check) {
            Ok(found) => found.map(|(found, _)| found),
            Err(error) => {
                tracing::debug!("no announcement of key {}: {error}", key.short());
                None
            }
        }
    }

    fn trust_chain(&self, chain: &[(PublicKey, Bytes)], ring: &mut Keyring) -> bool {
        let mut grown = ring.clone();
        for (key, bytes) in chain.iter().rev() {
            if let Err(error) = Announcement::check(bytes, *key, &grown) {
                tracing::warn!("the announcement of key {} is refused: {error}", key.short());
                return false;
            }
            tracing::info!("key {} of {} is trusted from now on: an older one announces it", key.short(), self.url());
            grown.add(*key);
        }
        self.learned.lock().extend(chain.iter().map(|(key, _)| *key));
        *ring = grown;
        true
    }

    /// The way there for refs and commits.
    fn asking(&self) -> Transport {
        self.until.map_or_else(|| self.transport.clone(), |until| self.transport.until(until))
    }

    fn url(&self) -> Box<str> {
        self.transport.url().into()
    }
}

/// What waiting may do about a record that is refused: nothing about who signed it, nor about an older state; another answer
/// may bring other bytes.
fn refusal(error: TrustError) -> Refusal {
    match error {
        TrustError::Older { .. }
        | TrustError::Rewritten { .. }
        | TrustError::Signature(SignatureError::Unsigned | SignatureError::UnknownKey { .. }) => {
            Refusal::settled(error)
        }
        other => Refusal::wrong(other),
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({} at {})", self.name, self.transport.url())
    }
}
