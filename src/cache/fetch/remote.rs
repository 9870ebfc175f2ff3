//! The link to the remote of one commit: sends requests, knows where the parts of the commit are, and notices outages.
//!
//! A publisher may move contents while they are mounted, and remove the old files. When something is missing at the remote, the
//! placement is therefore fetched again, see [`RemoteLink::check_relocation`].
//!
//! *Not here*: the transport itself (`crate::remote`), threads and priorities (`pool`).
//!
//! *Used by* `image`, `objects`, `fetch`, `readahead` and `tree`.

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cache::counters::{Latency, LatencyCounter};
use crate::cache::fetch::error::{LazyFetchError, UnpackError, is_unanswered};
use crate::cache::fetch::in_flight::Leader;
use crate::cache::fetch::retry::RetryHistory;
use crate::error::chain;
use crate::model::{CommitId, LocatorId};
use crate::remote::format::{PLACEMENT_SIZE_MAX, Placement};
use crate::remote::layout;
use crate::remote::transport::{Mutability, Rejection, RetryClass, StreamControl, Traffic, Transport, TransportError};

/// The largest number of different failures that are logged, each of them once.
const LOGGED_FAILURES_MAX: usize = 64;

/// How long the transport repeats a request while no place of the remote is reached, before it reports the failure. Readers
/// repeat their requests themselves, and a request that waits in the transport occupies one of the few fetch threads. For the
/// same reason a wrong answer is reported as soon as each place has given one twice: [`RetryHistory`] decides when to repeat
/// the request.
const UNREACHABLE_RETRY_TIME: Duration = Duration::from_secs(1);

/// Answers with fewer bytes are not used to estimate the rate of the link.
const RATE_SAMPLE_MIN: usize = 16 << 10;

/// The longest time by which a speculative request may delay a foreground request.
const FOREGROUND_DELAY_MAX: Duration = Duration::from_millis(60);

/// After an answer that the placement is unchanged it is not fetched again for this time: a server that lacks one file gets
/// one such request a second, however much is read.
const PLACEMENT_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often one operation is repeated because the contents were moved. A publisher moves them once for each publish or prune.
pub(in crate::cache) const RELOCATIONS_MAX: usize = 4;

/// An outage of the remote that is still going on.
#[derive(Debug, Clone, Copy)]
pub(in crate::cache) struct Outage {
    pub(crate) first_failure: Instant,
    pub(crate) last_failure: Instant,
}

/// The connection to a published repository for one commit of it.
#[derive(Debug)]
pub(in crate::cache) struct RemoteLink {
    commit: CommitId,
    source: Option<(Transport, Mutex<Arc<Placement>>)>,
    /// When the placement was last found unchanged, or could not be fetched. Locked while it is fetched.
    last_placement_check: Mutex<Option<Instant>>,
    online: AtomicBool,
    logged_failures: Mutex<HashSet<String>>,
    outage: Mutex<Option<Outage>>,
    last_answer: Mutex<Option<Instant>>,
    /// The recent rate of requests in bytes a second, with the time until the first byte included; 0 if it is not known.
    rate: AtomicU64,
    latency: LatencyCounter,
    retries: RetryHistory,
}

impl RemoteLink {
    /// Creates the link for a commit; without a `remote`, every request fails with [`LazyFetchError::NoRemote`]. `patience`
    /// is how long readers wait.
    pub(crate) fn new(commit: CommitId, remote: Option<(Transport, Placement)>, patience: Duration) -> Self {
        let limited = |transport: &Transport| transport.with_patience(UNREACHABLE_RETRY_TIME).optional();
        let source = remote.map(|(transport, placement)| (limited(&transport), Mutex::new(Arc::new(placement))));
        Self {
            commit,
            source,
            last_placement_check: Mutex::default(),
            online: AtomicBool::new(true),
            logged_failures: Mutex::default(),
            outage: Mutex::new(None),
            last_answer: Mutex::new(None),
            rate: AtomicU64::new(0),
            latency: LatencyCounter::default(),
            retries: RetryHistory::new(patience),
        }
    }

    pub(crate) const fn commit(&self) -> CommitId {
        self.commit
    }

    /// Returns the last known placement of the commit.
    pub(crate) fn placement(&self) -> Result<Arc<Placement>, LazyFetchError> {
        self.source.as_ref().map(|(_, placement)| Arc::clone(&placement.lock())).ok_or(LazyFetchError::NoRemote)
    }

    /// Fetches the placement again if `failure` suggests that contents are not where the locator `seen` says. Returns whether
    /// another locator is to be used from now on; otherwise the failure is logged. Several callers at the same time cause one
    /// request.
    pub(crate) fn check_relocation(&self, seen: LocatorId, failure: &LazyFetchError) -> bool {
        let has_moved = failure.may_have_moved() && self.refresh_placement(seen);
        if !has_moved && failure.may_have_moved() {
            self.log_failure_once(failure);
        }
        has_moved
    }

    fn refresh_placement(&self, seen: LocatorId) -> bool {
        let Some((transport, placement)) = &self.source else { return false };
        let mut last_check = self.last_placement_check.lock();
        if placement.lock().locator.id != seen {
            return true;
        }
        if last_check.is_some_and(|at| at.elapsed() < PLACEMENT_CHECK_INTERVAL) {
            return false;
        }
        let found = self.fetch_placement(transport);
        let has_moved = found.as_ref().is_some_and(|found| found.locator.id != seen);
        if let Some(found) = found {
            *placement.lock() = Arc::new(found);
        }
        *last_check = (!has_moved).then(Instant::now);
        if has_moved {
            tracing::info!(
                "{}: the contents of commit {} were moved by the publisher",
                self.url(),
                self.commit.short()
            );
        }
        has_moved
    }

    /// Calls `operation` with the placement, and once more if the contents were moved.
    pub(crate) fn with_placement<T>(
        &self,
        operation: impl Fn(&Placement) -> Result<T, LazyFetchError>,
    ) -> Result<T, LazyFetchError> {
        let placement = self.placement()?;
        match operation(&placement) {
            Err(error) if self.check_relocation(placement.locator.id, &error) => operation(&*self.placement()?),
            done => done,
        }
    }

    fn fetch_placement(&self, transport: &Transport) -> Option<Placement> {
        let path = layout::placement(self.commit);
        let check = |bytes: &Bytes| Placement::parse(bytes).map_err(Rejection::wrong);
        match self.track_answer(transport.get_checked(&path, PLACEMENT_SIZE_MAX as u64, Mutability::Mutable, &check)) {
            Ok(Some((placement, _))) => Some(placement),
            Ok(None) => {
                self.log_failure_once(&LazyFetchError::Unpublished { commit: self.commit });
                None
            }
            // The error was logged by `track_answer`.
            Err(_) => None,
        }
    }

    /// Fetches these bytes of a file and returns what `check` makes of them. A rejected answer is requested again, like every
    /// wrong answer.
    pub(crate) fn fetch_range<T>(
        &self,
        path: &str,
        range: Range<u64>,
        check: &mut dyn FnMut(&Bytes) -> Result<T, Rejection>,
    ) -> Result<T, LazyFetchError> {
        let start = range.start;
        if let Some(error) = self.retries.blocking_error(path, start) {
            return Err(error);
        }
        let result = self.request_range(path, range, self.retries.has_failed(path, start), check);
        match result {
            Ok(checked) => {
                self.retries.note_success(path, start);
                Ok(checked)
            }
            Err(error) => Err(self.note_failure(path, start, error)),
        }
    }

    /// Executes one request for several pieces, each given by its offset and its leader, and completes their fetches.
    /// `unpack` stores one piece out of the whole answer. Returns the number of failed pieces, and the error of the request
    /// if it failed.
    pub(crate) fn fetch_pieces<K: Eq + Hash + Copy>(
        &self,
        path: &str,
        range: Range<u64>,
        pieces: Vec<(u64, Leader<K>)>,
        unpack: &dyn Fn(K, &Bytes) -> Result<(), UnpackError>,
    ) -> (u64, Option<LazyFetchError>) {
        let mut failures = 0;
        let mut pending: Vec<(u64, Leader<K>)> = Vec::new();
        for (offset, leader) in pieces {
            match self.retries.blocking_error(path, offset) {
                Some(error) => leader.complete(Err(error)),
                None => pending.push((offset, leader)),
            }
        }
        if pending.is_empty() {
            return (failures, None);
        }
        let has_failed = pending.iter().any(|(offset, _)| self.retries.has_failed(path, *offset));
        let result = self.request_range(path, range, has_failed, &mut |bytes| {
            let mut invalid = None;
            for (offset, leader) in std::mem::take(&mut pending) {
                match unpack(leader.key(), bytes) {
                    Ok(()) => {
                        self.retries.note_success(path, offset);
                        leader.complete(Ok(()));
                    }
                    Err(UnpackError::Local(error)) => {
                        failures += 1;
                        leader.complete(Err(error));
                    }
                    // The other pieces are stored; this one is requested again.
                    Err(UnpackError::Invalid(why)) => {
                        invalid = Some(why);
                        pending.push((offset, leader));
                    }
                }
            }
            invalid.map_or(Ok(()), |why| Err(Rejection::wrong(why)))
        });
        let Err(error) = result else { return (failures, None) };
        failures += pending.len() as u64;
        for (offset, leader) in pending {
            leader.complete(Err(self.note_failure(path, offset, error.clone())));
        }
        (failures, Some(error))
    }

    fn request_range<T>(
        &self,
        path: &str,
        range: Range<u64>,
        has_failed: bool,
        check: &mut dyn FnMut(&Bytes) -> Result<T, Rejection>,
    ) -> Result<T, LazyFetchError> {
        let (transport, _) = self.source.as_ref().ok_or(LazyFetchError::NoRemote)?;
        let begin = Instant::now();
        let mut time = None;
        let mut timed = |bytes: &Bytes| {
            // Measured before the check, whose time is not the link's.
            let elapsed = begin.elapsed();
            if time.replace(elapsed).is_none() {
                self.note_rate(bytes.len(), elapsed);
            }
            check(bytes)
        };
        let transport = if has_failed { transport.after_wrong_answer() } else { transport.clone() };
        let answer = transport.get_range_checked(path, range, &mut timed);
        self.latency.record(time.unwrap_or_else(|| begin.elapsed()));
        self.track_answer(answer)
    }

    /// Fetches these bytes of a file like [`Self::fetch_range`], but passes them to `take` piece by piece as they arrive.
    pub(crate) fn stream_range(
        &self,
        path: &str,
        range: Range<u64>,
        take: &mut dyn FnMut(Bytes) -> StreamControl,
    ) -> Result<(), LazyFetchError> {
        let (transport, _) = self.source.as_ref().ok_or(LazyFetchError::NoRemote)?;
        self.track_answer(transport.stream_checked(path, range, take))
    }

    /// Records that the part at `offset` could not be fetched. If a repetition may succeed, the returned error says when it
    /// is due; otherwise it is `error` itself.
    pub(crate) fn note_failure(&self, path: &str, offset: u64, error: LazyFetchError) -> LazyFetchError {
        match (&error, &self.source) {
            (LazyFetchError::Transport(cause), Some((transport, _)))
                if transport.retry_class(cause) == RetryClass::Limited =>
            {
                self.retries.note_failure(path, offset, cause)
            }
            _ => error,
        }
    }

    /// Records that the part at `offset` was fetched.
    pub(crate) fn note_success(&self, path: &str, offset: u64) {
        self.retries.note_success(path, offset);
    }

    /// Returns whether the request for the part at `offset` may not be repeated yet.
    pub(crate) fn is_blocked(&self, path: &str, offset: u64) -> bool {
        self.retries.blocking_error(path, offset).is_some()
    }

    /// Returns the recent rate of requests in bytes a second, with the time until the first byte included; 0 if it is not
    /// known.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Returns whether a request for so many bytes may run while readers wait for others: whether it delays them by at most
    /// [`FOREGROUND_DELAY_MAX`].
    pub(crate) fn can_afford(&self, bytes: u64) -> bool {
        u128::from(bytes) * 1000 <= u128::from(self.rate()) * FOREGROUND_DELAY_MAX.as_millis()
    }

    fn note_rate(&self, bytes: usize, time: Duration) {
        if bytes < RATE_SAMPLE_MIN {
            return;
        }
        let now = (bytes as u128 * 1_000_000 / time.as_micros().max(1)).try_into().unwrap_or(u64::MAX);
        let before = self.rate.load(Ordering::Relaxed);
        self.rate.store(if before == 0 { now } else { before / 4 * 3 + now / 4 }, Ordering::Relaxed);
    }

    /// Returns the durations of all requests.
    pub(crate) fn latency(&self) -> Latency {
        self.latency.snapshot()
    }

    /// Returns the number of requests and bytes since the start of the mount.
    pub(crate) fn traffic(&self) -> Traffic {
        self.source.as_ref().map(|(transport, _)| transport.counters().traffic()).unwrap_or_default()
    }

    /// Returns whether the last request was answered.
    pub(crate) fn is_online(&self) -> bool {
        self.online.load(Ordering::Relaxed)
    }

    /// Returns the current outage, if there is one.
    pub(crate) fn outage(&self) -> Option<Outage> {
        *self.outage.lock()
    }

    /// Records that a reader has waited since `begin` without an answer. That counts as an outage if no request was answered
    /// meanwhile: a request to a remote that is down may take longer to fail than readers wait.
    pub(crate) fn note_timeout(&self, begin: Instant) {
        if self.last_answer.lock().is_none_or(|answered| answered < begin) {
            self.note_outage(begin);
        }
    }

    fn note_outage(&self, since: Instant) {
        let last_failure = Instant::now();
        let mut outage = self.outage.lock();
        let first_failure = outage.map_or(since, |outage| outage.first_failure);
        *outage = Some(Outage { first_failure, last_failure });
    }

    /// Logs a failure once, not for each read that runs into it.
    pub(crate) fn log_failure_once(&self, error: &LazyFetchError) {
        let text = chain(error);
        let mut logged = self.logged_failures.lock();
        if logged.len() < LOGGED_FAILURES_MAX && !logged.contains(&text) {
            tracing::error!("{}: {text}", self.url());
            logged.insert(text);
        }
    }

    fn track_answer<T>(&self, result: Result<T, TransportError>) -> Result<T, LazyFetchError> {
        match result {
            Ok(done) => {
                if !self.online.swap(true, Ordering::Relaxed) {
                    tracing::info!("{} answers again", self.url());
                }
                *self.last_answer.lock() = Some(Instant::now());
                *self.outage.lock() = None;
                Ok(done)
            }
            Err(error) => {
                let is_unanswered = is_unanswered(&error);
                let error = LazyFetchError::from(error);
                if !is_unanswered {
                    // The remote answered, but not with what was requested.
                    if !error.may_have_moved() {
                        self.log_failure_once(&error);
                    }
                    return Err(error);
                }
                self.note_outage(Instant::now());
                // Logged once for each outage, not for each read during it.
                if self.online.swap(false, Ordering::Relaxed) {
                    tracing::error!("{}: {}; stored contents remain readable", self.url(), chain(&error));
                }
                Err(error)
            }
        }
    }

    fn url(&self) -> &str {
        self.source.as_ref().map_or("", |(transport, _)| transport.url())
    }
}
