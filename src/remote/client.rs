//! The client of a published repository: resolves a ref's name to its commit and checks every answer.
//!
//! *Not here*: requests and retries (`transport`), and what to do with a commit (`pull`).
//!
//! *Invariants*: a [`Head`] exists only after the ref record and the commit passed [`Trust`]. The placement in it is
//! unsigned advice.
//!
//! *Used by* `pull`, by lazy mounts (`cache`), and by the command line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::format::{PLACEMENT_SIZE_MAX, Placement};
use super::freshness::{self, ExpiredPolicy, Staleness};
use super::layout;
use super::memory::Memory;
use super::remotes::{RemoteConfig, RemoteName, Remotes, RemotesError};
use super::rotation::{self, CurrentKeys};
use super::transport::{Mutability, Rejection, Transport, TransportError, without_secret};
use crate::model::{Commit, CommitId, RefName};
use crate::store::Store;
use crate::trust::{
    Announcement, ENVELOPE_SIZE_MAX, KEY_CHAIN_SIZE_MAX, KeyChain, LastSeen, PublicKey, RefRecord, RepositoryId,
    SignatureError, Trust, TrustError, Verified,
};

/// Largest ref file in bytes: a record, its signatures, and a placement.
const REF_SIZE_MAX: u64 = PLACEMENT_SIZE_MAX as u64 + (64 << 10);

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
    /// The least sequence of refs that is accepted.
    at_least: BTreeMap<RefName, u64>,
    /// The current time in seconds since 1970, to judge the age of records.
    now: Option<i64>,
    store: Store,
    /// The trusted keys; `None` when everything is accepted.
    keys: Option<Mutex<CurrentKeys>>,
    /// When requests for refs and commits have to be finished.
    deadline: Option<Instant>,
}

impl Remote {
    /// Opens the remote of `config`, with what `store` has recorded of it. Sends nothing yet.
    ///
    /// # Errors
    /// [`RemoteError`] when no key is trusted or the URL cannot be used.
    pub fn open(store: &Store, name: RemoteName, config: &RemoteConfig) -> Result<Self, RemoteError> {
        let keys = match config.trust()? {
            Trust::Keys(_) => Some(Mutex::new(CurrentKeys::new(config))),
            Trust::InsecureUnsigned => None,
        };
        let transport = Transport::open(&config.url, &config.transport)
            .map_err(|source| RemoteError::Transport { url: without_secret(&config.url).into(), source })?;
        let memory = Memory::of(store, &name, config);
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
            at_least: config.at_least.clone(),
            now: None,
            store,
            keys,
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
            self.follow_keys(bytes).map_err(Rejection::permanent)?;
            let accepted = self.trust().accept_ref(bytes, name, self.repository);
            let (record, rest) = accepted.map_err(|error| rejection_of(self.explain(error)))?;
            let (generation, lineage) = self.check_generation(&record).map_err(rejection_of)?;
            let seen = self.memory.read_seen(&record, &lineage).map_err(Rejection::permanent)?;
            record.check_newer(seen, generation).map_err(rejection_of)?;
            self.check_minimum(&record).map_err(rejection_of)?;
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

    /// Checks the generation of an accepted record. Returns that of the trusted keys, and the keys whose states count for the
    /// record.
    fn check_generation(&self, record: &Verified<RefRecord>) -> Result<(u64, Vec<PublicKey>), TrustError> {
        let Some(keys) = &self.keys else { return Ok((record.generation(), Vec::new())) };
        let keys = keys.lock();
        keys.check_generation(record)?;
        Ok((keys.generation(), keys.lineage()))
    }

    fn check_minimum(&self, record: &RefRecord) -> Result<(), TrustError> {
        match self.at_least.get(&record.name) {
            Some(&minimum) if record.sequence < minimum => {
                Err(TrustError::BelowMinimum { minimum, found: record.sequence })
            }
            _ => Ok(()),
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
            && let Ok(commit) = self.trust().accept_commit(&bytes, record)
        {
            return Ok((commit, bytes.into()));
        }
        // The remote names this commit, so the file exists there or is about to appear.
        let check = |bytes: &Bytes| {
            self.trust().accept_commit(bytes, record).map_err(|error| rejection_of(self.explain(error)))
        };
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

    /// Records the head, so that nothing older is accepted from now on, and the changes of keys that led to it.
    ///
    /// # Errors
    /// [`RemotesError`] when the repository cannot be written.
    pub(crate) fn remember(&self, head: &Head) -> Result<(), RemotesError> {
        let Some(keys) = self.keys.as_ref().map(|keys| keys.lock().clone()) else {
            return self.memory.remember(&head.record, head.record.generation(), &[]);
        };
        self.memory.remember(&head.record, keys.generation(), &keys.lineage())?;
        let Some((repository, chain)) = keys.new_chain() else { return Ok(()) };
        let recorded = self.memory.key_chain(repository)?;
        self.memory.remember_keys(repository, chain)?;
        let is_recorded = |one: &Announcement| recorded.announcements().any(|other| other == one);
        for Announcement { old, new, generation, .. } in chain.announcements().filter(|one| !is_recorded(one)) {
            let (old, new) = (old.short(), new.short());
            tracing::warn!(
                "key {new} of {} is trusted instead of {old} from now on (generation {generation})",
                self.url()
            );
        }
        match self.remotes.read(&self.name) {
            Ok(mut config) => {
                if keys.replace(&mut config) {
                    self.remotes.write(&self.name, &config)?;
                }
                Ok(())
            }
            // A bare URL has no configuration: its keys are given on each command line.
            Err(RemotesError::Unknown(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns the rule by which refs and commits are accepted.
    fn trust(&self) -> Trust {
        self.keys.as_ref().map_or(Trust::InsecureUnsigned, |keys| keys.lock().trust())
    }

    fn explain(&self, error: TrustError) -> TrustError {
        match &self.keys {
            Some(keys) => keys.lock().explain(error),
            None => error,
        }
    }

    /// Brings the trusted keys to the generation that a ref claims to be of.
    fn follow_keys(&self, bytes: &[u8]) -> Result<(), RemotesError> {
        let (Some(keys), Some(claimed)) = (&self.keys, rotation::claimed_record(bytes)) else { return Ok(()) };
        // The lock is not held during a request.
        let mut followed = keys.lock().clone();
        followed.follow(&claimed, &self.memory, || self.fetch_key_chain())?;
        *keys.lock() = followed;
        Ok(())
    }

    /// Fetches which key replaced which; `None` when the remote does not say.
    fn fetch_key_chain(&self) -> Option<KeyChain> {
        let check = |bytes: &Bytes| KeyChain::parse(bytes).map_err(Rejection::wrong);
        let transport = self.request_transport().optional();
        match transport.get_checked(layout::KEY_CHAIN, KEY_CHAIN_SIZE_MAX, Mutability::Mutable, &check) {
            Ok(found) => found.map(|(chain, _)| chain),
            Err(error) => {
                tracing::warn!("the changes of keys of {} are not known: {error}", self.url());
                None
            }
        }
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
        | TrustError::BelowMinimum { .. }
        | TrustError::Replaced { .. }
        | TrustError::Signature(
            SignatureError::Unsigned
            | SignatureError::UnknownKey { .. }
            | SignatureError::OtherRefs { .. }
            | SignatureError::TooFew { .. },
        ) => Rejection::permanent(error),
        other => Rejection::wrong(other),
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({} at {})", self.name, self.transport.url())
    }
}
