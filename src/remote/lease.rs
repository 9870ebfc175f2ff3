//! The lease: the right to write names and to remove files, which one process at a time has for one published
//! repository.
//!
//! A publisher takes it for the second in which it writes commits, placements and refs; a prune while it decides which
//! files are unneeded and removes them. Uploads need no lease.
//!
//! In a directory the lease is a kernel lock, which ends with its holder. In a bucket it is a file that the holder
//! rewrites periodically, each time only if it is unchanged. No clocks are compared: a waiter watches the file, and
//! when it has not changed for [`LeaseTerms::expiry`] by the waiter's own clock, its holder is dead, and the waiter
//! replaces the file if it is still the same.
//!
//! *Invariants*: the holder calls [`Lease::ensure_held`] before each step, which renews the lease long before it
//! expires. Between that call and the end of the step no other process gets the lease, if no step takes longer than the
//! transport's patience.
//!
//! *Used by* `publish` and `prune`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::layout;
use super::transport::{FileVersion, Transport, TransportError, WriteCondition};
use crate::disk::{Lock, LockError, Wait};

/// The largest lease file that is read, in bytes.
const LEASE_SIZE_MAX: u64 = 4 << 10;

/// The interval at which a waiter reads the file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The reason why the lease was not obtained, or lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// The server failed or was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The lock of a directory failed.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There are no random numbers for a name that distinguishes this process from others.
    #[error("the system gives no random numbers")]
    Random(#[source] std::io::Error),
    /// The bucket ignores the conditions of writes, so that publishers would silently undo each other's work.
    #[error(
        "{url} does not honour conditional writes ({condition}), so that publishers there would undo each other's work unnoticed; \
         publish to a store that does (S3 and most of its likes, some by an option or a newer version), or to a directory"
    )]
    NoConditionalWrites {
        /// The destination.
        url: String,
        /// The condition that it ignored.
        condition: &'static str,
    },
    /// Another process took the lease over, since this process was stopped for long.
    #[error("another process took over the right to write names, since this process was stopped for minutes")]
    Lost,
}

/// The durations of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTerms {
    /// A lease that is not renewed for this time has expired.
    pub(crate) expiry: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        // A step fails after the transport's patience, 120 s. With a renewal every 30 s, that leaves 30 s.
        Self { expiry: Duration::from_secs(180) }
    }
}

impl LeaseTerms {
    fn renewal(self) -> Duration {
        self.expiry / 6
    }
}

/// The right to write names. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    transport: &'a Transport,
    terms: LeaseTerms,
    held: HeldLease,
}

#[derive(Debug)]
enum HeldLease {
    Directory { _lock: Lock },
    Bucket { holder: String, last: Mutex<Renewal> },
}

#[derive(Debug)]
struct Renewal {
    at: Instant,
    version: FileVersion,
}

impl<'a> Lease<'a> {
    /// Waits until this process has the lease. `announce` is called once, with the holder, when it has to wait.
    pub(crate) fn acquire(
        transport: &'a Transport,
        terms: LeaseTerms,
        announce: &dyn Fn(&str),
    ) -> Result<Self, LeaseError> {
        let held = match transport.lock_file(layout::LEASE_FILE)? {
            Some(file) => HeldLease::Directory { _lock: Lock::exclusive(&file, Wait::Announced(announce))? },
            None => acquire_in_bucket(transport, terms, announce)?,
        };
        Ok(Self { transport, terms, held })
    }

    /// Renews the lease if that is due, so that it is held during the next step.
    ///
    /// # Errors
    /// [`LeaseError::Lost`], or the error of renewing it.
    pub(crate) fn ensure_held(&self) -> Result<(), LeaseError> {
        let HeldLease::Bucket { holder, last } = &self.held else { return Ok(()) };
        let mut last = last.lock();
        if last.at.elapsed() < self.terms.renewal() {
            return Ok(());
        }
        if last.at.elapsed() >= self.terms.expiry {
            return Err(LeaseError::Lost);
        }
        let at = Instant::now();
        let text = lease_text(holder);
        match self.transport.put(
            layout::LEASE_FILE,
            text.clone().into(),
            &WriteCondition::IfVersion(last.version.clone()),
        ) {
            Ok(version) => *last = Renewal { at, version },
            // This process may have written it: when an answer is lost, the request is sent again. makes a request be
            // sent again.
            Err(TransportError::Changed { .. }) => match self.transport.get(layout::LEASE_FILE, LEASE_SIZE_MAX)? {
                Some((bytes, version)) if bytes == text.as_bytes() => *last = Renewal { at, version },
                _ => return Err(LeaseError::Lost),
            },
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let HeldLease::Bucket { last, .. } = &self.held else { return };
        // A lease that may have been taken over is left alone. One that cannot be removed expires.
        if last.lock().at.elapsed() < self.terms.expiry / 2
            && let Err(error) = self.transport.delete(layout::LEASE_FILE)
        {
            tracing::warn!(
                "{} could not be removed and makes others wait until it expires: {error}",
                layout::LEASE_FILE
            );
        }
    }
}

/// Verifies that the server refuses a write when its condition does not hold: the lease and the refs depend on it, and
/// some S3-compatible servers write all the same. Takes four requests to a bucket, and none to a directory, where
/// kernel locks are used.
///
/// The probe's file is not removed, so that simultaneous publishers do not mislead each other: a version that was
/// replaced never returns, and a file that exists does so for all of them.
///
/// # Errors
/// [`LeaseError::NoConditionalWrites`]; [`LeaseError::Transport`] also when the server does not support such writes.
pub(crate) fn verify_conditional_writes(transport: &Transport) -> Result<(), LeaseError> {
    if transport.lock_file(layout::LEASE_FILE)?.is_some() {
        return Ok(());
    }
    let holder = random_name()?;
    let put = |mode: &WriteCondition| transport.put(layout::PROBE_FILE, probe_text(&holder).into(), mode);
    let ignored = |condition| LeaseError::NoConditionalWrites { url: transport.url().to_owned(), condition };
    let replaced = put(&WriteCondition::Overwrite)?;
    put(&WriteCondition::Overwrite)?;
    match put(&WriteCondition::IfAbsent) {
        Err(TransportError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(ignored("If-None-Match")),
    }
    match put(&WriteCondition::IfVersion(replaced)) {
        Err(TransportError::Changed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(ignored("If-Match")),
    }
}

/// Returns the content of the probe, which differs each time.
fn probe_text(holder: &str) -> String {
    format!("by this file publishers find out whether conditional writes are honoured; {}", lease_text(holder))
}

/// Returns a random name that distinguishes this process from others.
fn random_name() -> Result<String, LeaseError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| LeaseError::Random(std::io::Error::other(error)))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn acquire_in_bucket(
    transport: &Transport,
    terms: LeaseTerms,
    announce: &dyn Fn(&str),
) -> Result<HeldLease, LeaseError> {
    let holder = random_name()?;
    let mut seen: Option<(FileVersion, Instant)> = None;
    let mut has_announced = false;
    loop {
        let (at, text) = (Instant::now(), lease_text(&holder));
        let mode = match &seen {
            Some((version, since)) if since.elapsed() >= terms.expiry => WriteCondition::IfVersion(version.clone()),
            _ => WriteCondition::IfAbsent,
        };
        match transport.put(layout::LEASE_FILE, text.clone().into(), &mode) {
            Ok(version) => return Ok(HeldLease::Bucket { holder, last: Mutex::new(Renewal { at, version }) }),
            Err(TransportError::Exists { .. } | TransportError::Changed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // The holder may have removed it meanwhile.
        let Some((bytes, version)) = transport.get(layout::LEASE_FILE, LEASE_SIZE_MAX)? else { continue };
        if bytes == text.as_bytes() {
            return Ok(HeldLease::Bucket { holder, last: Mutex::new(Renewal { at, version }) });
        }
        if !has_announced {
            has_announced = true;
            announce("another publisher or prune");
        }
        if seen.as_ref().is_none_or(|(known, _)| *known != version) {
            seen = Some((version, Instant::now()));
        }
        std::thread::sleep(POLL_INTERVAL.min(terms.expiry));
    }
}

/// Returns the content of the lease file, which differs each time, so that each renewal is a new version.
fn lease_text(holder: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("a publisher or a prune is writing names ({holder} {number}); expires by itself\n")
}
