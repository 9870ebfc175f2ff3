//! The other side of a lazy mount: where the parts of one commit are, and whether anybody answers.

use std::collections::HashSet;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::counters::{Latency, LatencyCounter};
use super::error::FetchError;
use super::shelf::chain;
use crate::remote::format::Placement;
use crate::remote::transport::{Traffic, Transport, TransportError};

/// Different failures that are logged, each once; more of them say nothing new.
const COMPLAINTS_MAX: usize = 64;

/// How long a request is sent again and again before its failure is told. Whoever reads asks again himself; and what waits
/// here holds one of the few threads that fetch.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers shorter than this say nothing about the link's rate.
const TELLING: usize = 16 << 10;

/// How much longer somebody may wait for what he needs since something else is on its way.
const DELAY_MAX: Duration = Duration::from_millis(60);

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
    remote: Option<(Transport, Placement)>,
    online: AtomicBool,
    complaints: Mutex<HashSet<String>>,
    outage: Mutex<Option<Outage>>,
    answered: Mutex<Option<Instant>>,
    /// Bytes a second that requests brought lately, waiting for the first of them counted; 0 for not known.
    rate: AtomicU64,
    latency: LatencyCounter,
}

impl Origin {
    /// Of a commit with this placement; of one that is here and nowhere else when there is none.
    pub fn new(remote: Option<(Transport, Placement)>) -> Self {
        let remote = remote.map(|(transport, placement)| (transport.impatient(PATIENCE), placement));
        Self {
            remote,
            online: AtomicBool::new(true),
            complaints: Mutex::default(),
            outage: Mutex::new(None),
            answered: Mutex::new(None),
            rate: AtomicU64::new(0),
            latency: LatencyCounter::default(),
        }
    }

    /// Where the parts of the commit are.
    pub fn placement(&self) -> Result<&Placement, FetchError> {
        self.remote.as_ref().map(|(_, placement)| placement).ok_or(FetchError::NoRemote)
    }

    /// Exactly these bytes of a file.
    pub fn range(&self, path: &str, range: Range<u64>) -> Result<Bytes, FetchError> {
        let (transport, _) = self.remote.as_ref().ok_or(FetchError::NoRemote)?;
        let begin = Instant::now();
        let answer = transport.get_range(path, range);
        self.latency.note(begin.elapsed());
        let bytes = self.noted(answer)?;
        self.note_rate(bytes.len(), begin.elapsed());
        Ok(bytes)
    }

    /// The same, piece by piece as they arrive; ends early when `take` breaks.
    pub fn stream(
        &self,
        path: &str,
        range: Range<u64>,
        take: &mut dyn FnMut(Bytes) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        let (transport, _) = self.remote.as_ref().ok_or(FetchError::NoRemote)?;
        self.noted(transport.stream_range(path, range, take))
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
                let error = FetchError::from(error);
                if !error.may_pass() {
                    // Somebody answers, only not with what was asked for.
                    self.complain(&error);
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
