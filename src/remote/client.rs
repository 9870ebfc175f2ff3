//! The client of a published repository: resolves a ref's name to its commit and checks every answer.
//!
//! *Not here*: requests and retries (`transport`), and what to do with a commit (`pull`).
//!
//! *Invariants*: a [`Head`] exists only after the ref record and the commit passed [`Trust`]. The placement in it is
//! unsigned advice.
//!
//! *Used by* `pull`, by lazy mounts (`cache`), and by the command line.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::{PLACEMENT_SIZE_MAX, Placement};
use super::freshness::{self, ExpiredPolicy, Staleness};
use super::layout;
use super::memory::Memory;
use super::remotes::{RemoteConfig, RemoteName, Remotes, RemotesError};
use super::transport::{Mutability, Rejection, Transport, TransportError, without_secret};
use crate::model::{Commit, CommitId, RefName};
use crate::store::Store;
use crate::trust::{
    Announcement, ENVELOPE_SIZE_MAX, Keyring, LastSeen, PublicKey, RefRecord, RepositoryId, SignatureError, Trust,
    TrustError, Verified,
};

/// Largest ref file in bytes: a record, its signatures, and a placement.
const REF_SIZE_MAX: u64 = PLACEMENT_SIZE_MAX as u64 + (64 << 10);

/// Largest announcement of a key in bytes.
const ANNOUNCEMENT_SIZE_MAX: u64 = 64 << 10;

/// The longest chain of key announcements that is followed back to a trusted key.
const ANNOUNCEMENTS_MAX: usize = 8;

/// The most unknown signers of one record whose announcements are requested.
const UNKNOWN_SIGNERS_MAX: usize = 4;

/// The reason why a remote gave no commit.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The remote's configuration cannot be used.
    #[error(transparent)]
    Config(#[from] RemotesError),
    /// The remote did not answer.
    #[error("{url}")]
    Transport {
        /// The remote.
        url: Box<str>,
        /// The cause.
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
    /// The remote names a commit that it does not have.
    #[error("{url} does not have commit {id}")]
    NoSuchCommit {
        /// The remote.
        url: Box<str>,
        /// The commit.
        id: CommitId,
    },
    /// The ref record did not pass its check.
    #[error("ref '{name}' of {url} is refused")]
    Ref {
        /// The remote.
        url: Box<str>,
        /// The ref.
        name: RefName,
        /// The reason.
        source: Box<TransportError>,
    },
    /// The commit did not pass its check.
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
    /// Returns whether the error concerns the remote's answer or its absence, rather than this machine.
    pub(crate) const fn is_about_answers(&self) -> bool {
        !matches!(self, Self::Config(_))
    }
}

/// A checked ref record with the placement beside it. The commit that it names has not been fetched yet.
#[derive(Debug, Clone)]
pub(crate) struct RefHead {
    record: Verified<RefRecord>,
    placement: Placement,
}

impl RefHead {
    /// Returns the commit that the ref names.
    pub(crate) fn commit(&self) -> CommitId {
        self.record.commit
    }

    /// Returns where the parts of the commit are.
    pub(crate) const fn placement(&self) -> &Placement {
        &self.placement
    }
}

/// The newest commit of a ref, with its checked ref record and commit.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The ref record.
    pub(crate) record: Verified<RefRecord>,
    /// The commit that the record names.
    pub(crate) commit: Verified<Commit>,
    /// The commit as it was published, with its signatures.
    pub(crate) envelope: Bytes,
    /// Where the parts of the commit are.
    pub(crate) placement: Placement,
}

/// A published repository, with the keys that are trusted for it.
pub struct Remote {
    name: RemoteName,
    transport: Transport,
    remotes: Remotes,
    memory: Memory,
    /// The repository that is followed: the one that was configured, or seen first at the URL.
    repository: Option<RepositoryId>,
    expired: ExpiredPolicy,
    max_age: Option<u32>,
    /// The current time in seconds since 1970, to judge the age of records.
    now: Option<i64>,
    store: Store,
    trust: Mutex<Trust>,
    learned_keys: Mutex<Vec<PublicKey>>,
    /// Signers for which no chain of announcements to a trusted key was found.
    unknown_signers: Mutex<HashSet<PublicKey>>,
    /// When requests for refs and commits have to be finished.
    deadline: Option<Instant>,
}

impl Remote {
    /// Opens the remote of `config`, with what `store` has recorded of it. Sends nothing yet.
    ///
    /// # Errors
    /// [`RemoteError`] when no key is trusted or the URL cannot be used.
    pub fn open(store: &Store, name: RemoteName, config: &RemoteConfig) -> Result<Self, RemoteError> {
        let trust = config.trust()?;
        let transport = Transport::open(&config.url, &config.transport)
            .map_err(|source| RemoteError::Transport { url: without_secret(&config.url).into(), source })?;
        let memory = Memory::of(store, &name, &config.url);
        let repository = config.identity.map_or_else(|| memory.pinned(), |id| Ok(Some(id)))?;
        let (remotes, store) = (Remotes::of(store), store.clone());
        Ok(Self {
            name,
            transport,
            remotes,
            memory,
            repository,
            expired: config.expired,
            max_age: config.max_age,
            now: None,
            store,
            trust: Mutex::new(trust),
            learned_keys: Mutex::default(),
            unknown_signers: Mutex::default(),
            deadline: None,
        })
    }

    /// Returns the remote with a limit on the total time of all requests for refs and commits. Callers that can go on
    /// with an older state use it.
    pub(crate) fn with_time_limit(mut self, limit: Duration) -> Self {
        self.deadline = Some(Instant::now() + limit);
        self
    }

    /// Returns the remote with a clock that shows `now`, in seconds since 1970. Without a clock no age is judged.
    pub(crate) const fn at_time(mut self, now: i64) -> Self {
        self.now = Some(now);
        self
    }

    /// Returns when requests have to be finished, if there is a limit.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns the remote's name, for refs and messages.
    pub(crate) const fn name(&self) -> &RemoteName {
        &self.name
    }

    /// Returns the transport to the remote.
    pub(crate) const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Fetches and checks what a ref names now. Takes two requests, or one if the commit is in the store.
    ///
    /// # Errors
    /// [`RemoteError`]; nothing was accepted then.
    pub(crate) fn fetch_head(&self, name: &RefName) -> Result<Head, RemoteError> {
        self.complete_head(self.fetch_ref_head(name)?)
    }

    /// Fetches and checks the ref record only, so that the caller can make other requests while the commit is fetched.
    ///
    /// # Errors
    /// As for [`Self::fetch_head`].
    pub(crate) fn fetch_ref_head(&self, name: &RefName) -> Result<RefHead, RemoteError> {
        let path = layout::reference(name);
        let check = |bytes: &Bytes| {
            let accepted = self.with_key_rotation(|trust| trust.accept_ref(bytes, name, self.repository));
            let (record, rest) = accepted.map_err(rejection_of)?;
            let seen = self.memory.read_seen(&record).map_err(Rejection::permanent)?;
            record.check_newer(seen).map_err(rejection_of)?;
            self.judge_age(&record, seen).map_err(Rejection::permanent)?;
            let placement = Placement::parse(rest).map_err(Rejection::wrong)?;
            Ok(RefHead { record, placement })
        };
        match self.request_transport().get_checked(&path, REF_SIZE_MAX, Mutability::Mutable, &check) {
            Ok(Some((ref_head, _))) => Ok(ref_head),
            Ok(None) => Err(RemoteError::NoSuchRef { url: self.url(), name: name.clone() }),
            Err(source @ TransportError::Wrong { .. }) => {
                Err(RemoteError::Ref { url: self.url(), name: name.clone(), source: source.into() })
            }
            Err(source) => Err(RemoteError::Transport { url: self.url(), source }),
        }
    }

    /// Warns of a record that is too old, or refuses it if that is configured. What was accepted before is not refused.
    fn judge_age(&self, record: &RefRecord, seen: Option<LastSeen>) -> Result<(), Staleness> {
        let Some(found) = self.now.and_then(|now| freshness::judge(record, seen, self.max_age, now)) else {
            return Ok(());
        };
        let is_known = seen.is_some_and(|seen| seen.commit == record.commit);
        if self.expired == ExpiredPolicy::Refuse && found != Staleness::ClockBehind && !is_known {
            return Err(found);
        }
        tracing::warn!("ref '{}' of {}: {found}", record.name, self.url());
        Ok(())
    }

    /// Fetches and checks the commit that a ref head names.
    ///
    /// # Errors
    /// As for [`Self::fetch_head`].
    pub(crate) fn complete_head(&self, ref_head: RefHead) -> Result<Head, RemoteError> {
        let RefHead { record, placement } = ref_head;
        let (commit, envelope) = self.fetch_commit(&record)?;
        Ok(Head { record, commit, envelope, placement })
    }

    fn fetch_commit(&self, record: &RefRecord) -> Result<(Verified<Commit>, Bytes), RemoteError> {
        let id = record.commit;
        // The stored signatures may be by a key that is no longer trusted; the remote is asked then.
        if let Ok(bytes) = std::fs::read(self.store.layout().commit_signatures(id))
            && let Ok(commit) = self.trust.lock().accept_commit(&bytes, record)
        {
            return Ok((commit, bytes.into()));
        }
        // The remote names this commit, so the file exists there or is about to appear.
        let check =
            |bytes: &Bytes| self.with_key_rotation(|trust| trust.accept_commit(bytes, record)).map_err(rejection_of);
        let found = self.fetch_checked_commit(id, &self.request_transport().required(), &check)?;
        found.ok_or_else(|| RemoteError::NoSuchCommit { url: self.url(), id })
    }

    /// Fetches the parent of a checked commit, with the bytes of its file; `None` when the commit has no parent.
    ///
    /// # Errors
    /// [`RemoteError::NoSuchCommit`] when the remote no longer has it.
    pub(crate) fn fetch_parent(
        &self,
        child: &Verified<Commit>,
    ) -> Result<Option<(Verified<Commit>, Bytes)>, RemoteError> {
        let Some(id) = child.parent else { return Ok(None) };
        let check = |bytes: &Bytes| child.parent(bytes).map_err(rejection_of);
        match self.fetch_checked_commit(id, &self.request_transport(), &check)? {
            Some((parent, bytes)) => Ok(parent.map(|parent| (parent, bytes))),
            None => Err(RemoteError::NoSuchCommit { url: self.url(), id }),
        }
    }

    /// Fetches the file of a commit and returns the result of `check` with the file's bytes; `None` when there is no
    /// such file.
    fn fetch_checked_commit<T>(
        &self,
        id: CommitId,
        transport: &Transport,
        check: &dyn Fn(&Bytes) -> Result<T, Rejection>,
    ) -> Result<Option<(T, Bytes)>, RemoteError> {
        let both = |bytes: &Bytes| Ok((check(bytes)?, bytes.clone()));
        // A cache may hold a copy with fewer signatures. When `check` refuses it, the transport asks again and bypasses
        // caches.
        let found = transport.get_checked(&layout::commit(id), ENVELOPE_SIZE_MAX as u64, Mutability::Immutable, &both);
        match found {
            Ok(found) => Ok(found.map(|(found, _)| found)),
            Err(source @ TransportError::Wrong { .. }) => {
                Err(RemoteError::Commit { url: self.url(), id, source: source.into() })
            }
            Err(source) => Err(RemoteError::Transport { url: self.url(), source }),
        }
    }

    /// Fetches the placement of a commit. The placement of a head comes with the ref.
    ///
    /// # Errors
    /// [`RemoteError::NoSuchCommit`] when the remote does not have the commit any more.
    pub(crate) fn fetch_placement(&self, id: CommitId) -> Result<Placement, RemoteError> {
        let check = |bytes: &Bytes| Placement::parse(bytes).map_err(Rejection::wrong);
        let path = layout::placement(id);
        let found = self.request_transport().get_checked(&path, PLACEMENT_SIZE_MAX as u64, Mutability::Mutable, &check);
        let found = found.map_err(|source| RemoteError::Transport { url: self.url(), source })?;
        found.map(|(placement, _)| placement).ok_or_else(|| RemoteError::NoSuchCommit { url: self.url(), id })
    }

    /// Records the head, so that nothing older is accepted from now on, and the keys that were learned from
    /// announcements.
    ///
    /// # Errors
    /// [`RemotesError`] when the repository cannot be written.
    pub(crate) fn remember(&self, head: &Head) -> Result<(), RemotesError> {
        self.memory.remember(&head.record)?;
        let learned = std::mem::take(&mut *self.learned_keys.lock());
        if learned.is_empty() {
            return Ok(());
        }
        match self.remotes.read(&self.name) {
            Ok(mut config) => {
                config.keys.extend(learned);
                self.remotes.write(&self.name, &config)
            }
            // A bare URL has no configuration to extend: its keys are given on each command line.
            Err(RemotesError::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs a check. If only unknown keys signed, looks for announcements that lead from one of them to a trusted key,
    /// and runs the check again.
    fn with_key_rotation<T>(&self, check: impl Fn(&Trust) -> Result<T, TrustError>) -> Result<T, TrustError> {
        let first = check(&self.trust.lock());
        let Err(TrustError::Signature(SignatureError::UnknownKey { keys })) = &first else { return first };
        let Trust::Keys(mut ring) = self.trust.lock().clone() else { return first };
        // Each unknown signer costs requests, and a server may list as many as it likes.
        let known = self.unknown_signers.lock().clone();
        for key in keys.iter().take(UNKNOWN_SIGNERS_MAX).filter(|key| !known.contains(key)) {
            if self.follow_announcements(*key, &mut ring) {
                *self.trust.lock() = Trust::Keys(ring);
                return check(&self.trust.lock());
            }
            // Remembered, because the transport asks for the same record once more, bypassing caches.
            self.unknown_signers.lock().insert(*key);
        }
        first
    }

    /// Follows announcements from `unknown` back to a trusted key. If that succeeds, all keys of the chain are trusted
    /// from then on.
    fn follow_announcements(&self, unknown: PublicKey, ring: &mut Keyring) -> bool {
        let mut chain: Vec<(PublicKey, Bytes)> = Vec::new();
        let mut key = unknown;
        while chain.len() < ANNOUNCEMENTS_MAX && !chain.iter().any(|(seen, _)| *seen == key) {
            let Some((signers, bytes)) = self.fetch_announcement(key) else { return false };
            chain.push((key, bytes));
            if signers.iter().any(|signer| ring.contains(*signer)) {
                return self.trust_chain(&chain, ring);
            }
            let Some(next) = signers.first() else { return false };
            key = *next;
        }
        false
    }

    /// Fetches the announcement of a key, with its claimed signers; `None` when there is none.
    fn fetch_announcement(&self, key: PublicKey) -> Option<(Vec<PublicKey>, Bytes)> {
        let check = |bytes: &Bytes| match Announcement::claimed_signers(bytes, key) {
            Ok(signers) => Ok((signers, bytes.clone())),
            Err(error) => Err(Rejection::wrong(error)),
        };
        let (path, transport) = (layout::key(&key.to_string()), self.request_transport().optional());
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
        self.learned_keys.lock().extend(chain.iter().map(|(key, _)| *key));
        *ring = grown;
        true
    }

    /// Returns the transport for refs and commits, with the deadline of this remote.
    fn request_transport(&self) -> Transport {
        self.deadline.map_or_else(|| self.transport.clone(), |until| self.transport.with_deadline(until))
    }

    fn url(&self) -> Box<str> {
        self.transport.url().into()
    }
}

/// Decides whether a refused record is requested again. Another answer cannot change who signed it or how old it is; in
/// all other cases the bytes may have been damaged on the way.
fn rejection_of(error: TrustError) -> Rejection {
    match error {
        TrustError::Older { .. }
        | TrustError::Rewritten { .. }
        | TrustError::OtherRepository { .. }
        | TrustError::Signature(SignatureError::Unsigned | SignatureError::UnknownKey { .. }) => {
            Rejection::permanent(error)
        }
        other => Rejection::wrong(other),
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({} at {})", self.name, self.transport.url())
    }
}
