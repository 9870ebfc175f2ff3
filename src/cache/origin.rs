//! The other side of a lazy mount: where the parts of one commit are, and whether anybody answers.
//!
//! A publisher may put contents elsewhere while they are mounted, and remove them from where they were. So where the parts are
//! is asked again when something is not found there, see [`Origin::look_again`].

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::counters::{Latency, LatencyCounter};
use super::error::{FetchError, Unkept, is_unanswered};
use super::flight::Pilot;
use super::shelf::chain;
use super::tries::Tries;
use crate::model::{CommitId, LocatorId};
use crate::remote::format::{PLACEMENT_SIZE_MAX, Placement};
use crate::remote::layout;
use crate::remote::transport::{Flow, Hope, Mutability, Refusal, Traffic, Transport, TransportError};

/// Different failures that are logged, each once; more of them say nothing new.
const COMPLAINTS_MAX: usize = 64;

/// How long a request is sent again while no place is reached, before its failure is told. Readers ask again themselves, and a
/// request that waits here holds one of the few threads that fetch. For the same reason a wrong answer is told as soon as each
/// place has given one twice: `tries` says when to ask again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers shorter than this say nothing about the link's rate.
const TELLING: usize = 16 << 10;

/// How much longer somebody may wait for what he needs since something else is on its way.
const DELAY_MAX: Duration = Duration::from_millis(60);

/// After an answer that the parts are where they were thought to be, that is not asked again for so long: a server that lacks
/// one file gets one such request a second, however much is read.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How often contents may turn out to be elsewhere during one fetch. A publisher moves them once a publish or prune.
pub(super) const MOVES_MAX: usize = 4;

/// A time in which nobody answers, still going on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// When the first failure was.
    pub since: Instant,
    /// When the last one was.
    pub last: Instant,
}

/// A published repository, as far as one commit of it is concerned.
#[derive(Debug)]
pub(super) struct Origin {
    commit: CommitId,
    remote: Option<(Transport, Mutex<Arc<Placement>>)>,
    /// When the placement was asked for in vain. Held while it is asked for.
    looked: Mutex<Option<Instant>>,
    online: AtomicBool,
    complaints: Mutex<HashSet<String>>,
    outage: Mutex<Option<Outage>>,
    answered: Mutex<Option<Instant>>,
    /// Bytes a second that requests brought lately, waiting for the first of them counted; 0 for not known.
    rate: AtomicU64,
    latency: LatencyCounter,
    tries: Tries,
}

impl Origin {
    /// Of a commit with this placement, for readers who wait so long; of one that is here and nowhere else when there is no
    /// placement.
    pub fn new(commit: CommitId, remote: Option<(Transport, Placement)>, patience: Duration) -> Self {
        let hurried = |transport: &Transport| transport.impatient(PATIENCE).optional();
        let remote = remote.map(|(transport, placement)| (hurried(&transport), Mutex::new(Arc::new(placement))));
        Self {
            commit,
            remote,
            looked: Mutex::default(),
            online: AtomicBool::new(true),
            complaints: Mutex::default(),
            outage: Mutex::new(None),
            answered: Mutex::new(None),
            rate: AtomicU64::new(0),
            latency: LatencyCounter::default(),
            tries: Tries::new(patience),
        }
    }

    /// The commit.
    pub const fn commit(&self) -> CommitId {
        self.commit
    }

    /// Where the parts of the commit are, as far as is known.
    pub fn placement(&self) -> Result<Arc<Placement>, FetchError> {
        self.remote.as_ref().map(|(_, placement)| Arc::clone(&placement.lock())).ok_or(FetchError::NoRemote)
    }

    /// Asks again where the parts of the commit are, if `failure` suggests that something is not where the locator `seen` says.
    /// Returns whether another locator is to be used from now on; if not, the failure is logged. Several callers at once make
    /// one request.
    pub fn look_again(&self, seen: LocatorId, failure: &FetchError) -> bool {
        let has_moved = failure.may_have_moved() && self.has_moved(seen);
        if !has_moved && failure.may_have_moved() {
            self.complain(failure);
        }
        has_moved
    }

    fn has_moved(&self, seen: LocatorId) -> bool {
        let Some((transport, placement)) = &self.remote else { return false };
        let mut looked = self.looked.lock();
        if placement.lock().locator.id != seen {
            return true;
        }
        if looked.is_some_and(|at| at.elapsed() < LOOK_PAUSE) {
            return false;
        }
        let found = self.ask_for_placement(transport);
        let has_moved = found.as_ref().is_some_and(|found| found.locator.id != seen);
        if let Some(found) = found {
            *placement.lock() = Arc::new(found);
        }
        *looked = (!has_moved).then(Instant::now);
        if has_moved {
            tracing::info!("{}: the contents of commit {} are elsewhere now", self.url(), self.commit.short());
        }
        has_moved
    }

    /// Returns the answer of `ask`, which gets the placement; asks once more when the parts of the commit have moved.
    pub fn ask_located<T>(&self, ask: impl Fn(&Placement) -> Result<T, FetchError>) -> Result<T, FetchError> {
        let placement = self.placement()?;
        match ask(&placement) {
            Err(error) if self.look_again(placement.locator.id, &error) => ask(&*self.placement()?),
            done => done,
        }
    }

    fn ask_for_placement(&self, transport: &Transport) -> Option<Placement> {
        let path = layout::placement(self.commit);
        let check = |bytes: &Bytes| Placement::parse(bytes).map_err(Refusal::wrong);
        match self.noted(transport.get_checked(&path, PLACEMENT_SIZE_MAX as u64, Mutability::Mutable, &check)) {
            Ok(Some((placement, _))) => Some(placement),
            Ok(None) => {
                self.complain(&FetchError::Unpublished { commit: self.commit });
                None
            }
            // It was logged.
            Err(_) => None,
        }
    }

    /// What `check` makes of these bytes of a file. What it refuses is asked for again, like every wrong answer.
    pub fn range<T>(
        &self,
        path: &str,
        range: Range<u64>,
        check: &mut dyn FnMut(&Bytes) -> Result<T, Refusal>,
    ) -> Result<T, FetchError> {
        let start = range.start;
        if let Some(error) = self.tries.blocked(path, start) {
            return Err(error);
        }
        let made = self.request(path, range, self.tries.was_asked(path, start), check);
        match made {
            Ok(made) => {
                self.tries.came(path, start);
                Ok(made)
            }
            Err(error) => Err(self.failed(path, start, error)),
        }
    }

    /// Carries out one request for several pieces, each known by where it begins, and tells everybody how it went. `unpack`
    /// keeps a piece out of all bytes. Returns how many failed, and why those that did not come did not.
    pub fn carry<K: Eq + Hash + Copy>(
        &self,
        path: &str,
        range: Range<u64>,
        pieces: Vec<(u64, Pilot<K>)>,
        unpack: &dyn Fn(K, &Bytes) -> Result<(), Unkept>,
    ) -> (u64, Option<FetchError>) {
        let mut failures = 0;
        let mut waiting: Vec<(u64, Pilot<K>)> = Vec::new();
        for (offset, pilot) in pieces {
            match self.tries.blocked(path, offset) {
                Some(error) => pilot.land(Err(error)),
                None => waiting.push((offset, pilot)),
            }
        }
        if waiting.is_empty() {
            return (failures, None);
        }
        let was_asked = waiting.iter().any(|(offset, _)| self.tries.was_asked(path, *offset));
        let carried = self.request(path, range, was_asked, &mut |bytes| {
            let mut wrong = None;
            for (offset, pilot) in std::mem::take(&mut waiting) {
                match unpack(pilot.key(), bytes) {
                    Ok(()) => {
                        self.tries.came(path, offset);
                        pilot.land(Ok(()));
                    }
                    Err(Unkept::Own(error)) => {
                        failures += 1;
                        pilot.land(Err(error));
                    }
                    // The others are kept; this one is asked for again.
                    Err(Unkept::Wrong(why)) => {
                        wrong = Some(why);
                        waiting.push((offset, pilot));
                    }
                }
            }
            wrong.map_or(Ok(()), |why| Err(Refusal::wrong(why)))
        });
        let Err(error) = carried else { return (failures, None) };
        failures += waiting.len() as u64;
        for (offset, pilot) in waiting {
            pilot.land(Err(self.failed(path, offset, error.clone())));
        }
        (failures, Some(error))
    }

    fn request<T>(
        &self,
        path: &str,
        range: Range<u64>,
        was_asked: bool,
        check: &mut dyn FnMut(&Bytes) -> Result<T, Refusal>,
    ) -> Result<T, FetchError> {
        let (transport, _) = self.remote.as_ref().ok_or(FetchError::NoRemote)?;
        let begin = Instant::now();
        let mut time = None;
        let mut timed = |bytes: &Bytes| {
            // What is done with the bytes says nothing of the link.
            let elapsed = begin.elapsed();
            if time.replace(elapsed).is_none() {
                self.note_rate(bytes.len(), elapsed);
            }
            check(bytes)
        };
        let asking = if was_asked { transport.again() } else { transport.clone() };
        let answer = asking.get_range_checked(path, range, &mut timed);
        self.latency.note(time.unwrap_or_else(|| begin.elapsed()));
        self.noted(answer)
    }

    /// Like [`Self::range`], piece by piece as they arrive.
    pub fn stream(&self, path: &str, range: Range<u64>, take: &mut dyn FnMut(Bytes) -> Flow) -> Result<(), FetchError> {
        let (transport, _) = self.remote.as_ref().ok_or(FetchError::NoRemote)?;
        self.noted(transport.stream_checked(path, range, take))
    }

    /// Notes that the part which begins there did not come; if it may still come, returns the error that says when it is asked
    /// for again.
    pub fn failed(&self, path: &str, offset: u64, error: FetchError) -> FetchError {
        match (&error, &self.remote) {
            (FetchError::Transport(cause), Some((transport, _))) if transport.hope(cause) == Hope::Again => {
                self.tries.failed(path, offset, cause)
            }
            _ => error,
        }
    }

    /// Notes that the part which begins there came.
    pub fn came(&self, path: &str, offset: u64) {
        self.tries.came(path, offset);
    }

    /// Whether the part which begins there is not to be asked for yet.
    pub fn is_blocked(&self, path: &str, offset: u64) -> bool {
        self.tries.blocked(path, offset).is_some()
    }

    /// Bytes a second that requests brought lately, waiting for the first of them counted; 0 for not known.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Whether so many bytes that nobody waits for may be asked for while somebody waits for others.
    pub fn affords(&self, bytes: u64) -> bool {
        u128::from(bytes) * 1000 <= u128::from(self.rate()) * DELAY_MAX.as_millis()
    }

    fn note_rate(&self, bytes: usize, time: Duration) {
        if bytes < TELLING {
            return;
        }
        let now = (bytes as u128 * 1_000_000 / time.as_micros().max(1)).try_into().unwrap_or(u64::MAX);
        let before = self.rate.load(Ordering::Relaxed);
        self.rate.store(if before == 0 { now } else { before / 4 * 3 + now / 4 }, Ordering::Relaxed);
    }

    /// How long requests took.
    pub fn latency(&self) -> Latency {
        self.latency.read()
    }

    /// What was moved since the mount began.
    pub fn traffic(&self) -> Traffic {
        self.remote.as_ref().map(|(transport, _)| transport.counters().traffic()).unwrap_or_default()
    }

    /// Whether the last request was answered.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Relaxed)
    }

    /// Since when nobody answers, if nobody does.
    pub fn outage(&self) -> Option<Outage> {
        *self.outage.lock()
    }

    /// Notes that somebody has waited since `begin` in vain. That is an outage if nothing was answered meanwhile: a request
    /// that finds nobody may take longer to fail than readers wait.
    pub fn waited_in_vain(&self, begin: Instant) {
        if self.answered.lock().is_none_or(|answered| answered < begin) {
            self.fails(begin);
        }
    }

    fn fails(&self, since: Instant) {
        let last = Instant::now();
        let mut outage = self.outage.lock();
        let since = outage.map_or(since, |outage| outage.since);
        *outage = Some(Outage { since, last });
    }

    /// Logs that something that came is not what it should be; once, not for each read that finds it so.
    pub fn complain(&self, error: &FetchError) {
        let text = chain(error);
        let mut complaints = self.complaints.lock();
        if complaints.len() < COMPLAINTS_MAX && !complaints.contains(&text) {
            tracing::error!("{}: {text}", self.url());
            complaints.insert(text);
        }
    }

    fn noted<T>(&self, result: Result<T, TransportError>) -> Result<T, FetchError> {
        match result {
            Ok(done) => {
                if !self.online.swap(true, Ordering::Relaxed) {
                    tracing::info!("{} answers again", self.url());
                }
                *self.answered.lock() = Some(Instant::now());
                *self.outage.lock() = None;
                Ok(done)
            }
            Err(error) => {
                let is_unanswered = is_unanswered(&error);
                let error = FetchError::from(error);
                if !is_unanswered {
                    // There is an answer, only not with what was asked for.
                    if !error.may_have_moved() {
                        self.complain(&error);
                    }
                    return Err(error);
                }
                self.fails(Instant::now());
                // Once for each time that it goes away, not for each read that finds it gone.
                if self.online.swap(false, Ordering::Relaxed) {
                    tracing::error!("{}: {}; what is here goes on working", self.url(), chain(&error));
                }
                Err(error)
            }
        }
    }

    fn url(&self) -> &str {
        self.remote.as_ref().map_or("", |(transport, _)| transport.url())
    }
}
