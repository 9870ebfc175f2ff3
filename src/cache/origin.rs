//! The other side of a lazy mount: where the parts of one commit are, and whether anybody answers.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::error::FetchError;
use super::shelf::chain;
use crate::remote::format::Placement;
use crate::remote::transport::{Traffic, Transport, TransportError};

/// Different failures that are logged, each once; more of them say nothing new.
const COMPLAINTS_MAX: usize = 64;

/// How long a request is sent again and again before its failure is told. Whoever reads asks again himself; and what waits
/// here holds one of the few threads that fetch.
const PATIENCE: Duration = Duration::from_secs(1);

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
    before: Traffic,
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
            before: Traffic::default(),
        }
    }

    /// Where the parts of the commit are.
    pub fn placement(&self) -> Result<&Placement, FetchError> {
        self.remote.as_ref().map(|(_, placement)| placement).ok_or(FetchError::NoRemote)
    }

    /// Exactly these bytes of a file.
    pub fn range(&self, path: &str, range: Range<u64>) -> Result<Bytes, FetchError> {
        let (transport, _) = self.remote.as_ref().ok_or(FetchError::NoRemote)?;
        self.noted(transport.get_range(path, range))
    }

    /// What was moved since the mount began.
    pub fn traffic(&self) -> Traffic {
        let now = self.remote.as_ref().map(|(transport, _)| transport.counters().traffic()).unwrap_or_default();
        Traffic { requests: now.requests - self.before.requests, ..now }
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

    fn noted(&self, result: Result<Bytes, TransportError>) -> Result<Bytes, FetchError> {
        match result {
            Ok(bytes) => {
                if !self.online.swap(true, Ordering::Relaxed) {
                    tracing::info!("{} answers again", self.url());
                }
                *self.answered.lock() = Some(Instant::now());
                *self.outage.lock() = None;
                Ok(bytes)
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
