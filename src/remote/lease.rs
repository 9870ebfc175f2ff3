//! The right to give names and to remove files, which one process has at a time for one published repository.
//!
//! A publisher takes it for the second in which it writes commits, placements and refs; a prune while it decides what
//! nothing needs and removes it. Uploading needs no lease.
//!
//! In a directory it is a lock of the kernel, which goes with its holder. In a bucket it is a file that the holder writes
//! again now and then, each time only if it is as it left it. Nobody's clock is believed: whoever waits watches the file,
//! and when it has not changed for [`LeaseTerms::expiry`] by the waiter's own watch, its holder is dead, and the file is replaced if
//! it is still the same. The holder renews it long before that, and asks [`Lease::check`] before each step. Invariant: between a
//! [`Lease::check`] and the end of the step after it, nobody else gets the lease, if no step takes longer than the transport's
//! patience.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::layout;
use super::transport::{Put, Transport, TransportError, Version};
use crate::disk::{Lock, LockError, Wait};

/// Largest lease that is read, in bytes.
const SIZE_MAX: u64 = 4 << 10;

/// How often a waiter looks.
const LOOK: Duration = Duration::from_secs(1);

/// Why the lease was not obtained, or lost.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The other side.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The lock of a directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No randomness to tell this process from others.
    #[error("the system gives no random numbers")]
    Random(#[source] std::io::Error),
    /// A bucket that writes whatever the condition says: publishers would undo each other's work and hear nothing of it.
    #[error(
        "{url} does not honour conditional writes ({condition}), so that publishers there would undo each other's work unnoticed; \
         publish to a store that does (S3 and most of its likes, some by an option or a newer version), or to a directory"
    )]
    Unconditional {
        /// The destination.
        url: String,
        /// Which one it ignored.
        condition: &'static str,
    },
    /// Somebody took it over, since this process was asleep for long.
    #[error("somebody else took over the right to write names, since this process was stopped for minutes")]
    Lost,
}

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// A lease that is not renewed for so long is nobody's.
    pub expiry: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        // A step is given up after the transport's patience, 120 s; renewed every 30 s, that leaves 30 s.
        Self { expiry: Duration::from_secs(180) }
    }
}

impl LeaseTerms {
    fn renewal(self) -> Duration {
        self.expiry / 6
    }
}

/// The right to write names, given back when dropped.
#[derive(Debug)]
pub struct Lease<'a> {
    transport: &'a Transport,
    terms: LeaseTerms,
    held: Held,
}

#[derive(Debug)]
enum Held {
    Directory { _lock: Lock },
    Bucket { holder: String, last: Mutex<Renewal> },
}

#[derive(Debug)]
struct Renewal {
    at: Instant,
    version: Version,
}

impl<'a> Lease<'a> {
    /// Waits until this process has the lease. `announce` hears once that it has to wait, and for whom.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub fn take(transport: &'a Transport, terms: LeaseTerms, announce: &dyn Fn(&str)) -> Result<Self, LeaseError> {
        let held = match transport.lock_file(layout::LEASE)? {
            Some(file) => Held::Directory { _lock: Lock::exclusive(&file, Wait::Announced(announce))? },
            None => take_in_bucket(transport, terms, announce)?,
        };
        Ok(Self { transport, terms, held })
    }

    /// Makes sure that it will be held during the next step.
    ///
    /// # Errors
    /// [`LeaseError::Lost`], or that it cannot be renewed.
    pub fn check(&self) -> Result<(), LeaseError> {
        let Held::Bucket { holder, last } = &self.held else { return Ok(()) };
        let mut last = last.lock();
        if last.at.elapsed() < self.terms.renewal() {
            return Ok(());
        }
        if last.at.elapsed() >= self.terms.expiry {
            return Err(LeaseError::Lost);
        }
        let at = Instant::now();
        let text = text(holder);
        match self.transport.put(layout::LEASE, text.clone().into(), &Put::IfVersion(last.version.clone())) {
            Ok(version) => *last = Renewal { at, version },
            // Perhaps it was us: an answer that is lost makes a request be sent again.
            Err(TransportError::Changed { .. }) => match self.transport.get(layout::LEASE, SIZE_MAX)? {
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
        let Held::Bucket { last, .. } = &self.held else { return };
        // One that may be somebody else's by now is left alone; so is one that cannot be removed: it expires.
        if last.lock().at.elapsed() < self.terms.expiry / 2
            && let Err(error) = self.transport.delete(layout::LEASE)
        {
            tracing::warn!("{} stays behind and keeps others waiting for a while: {error}", layout::LEASE);
        }
    }
}

/// Makes sure that the other side refuses to write when a condition of a write does not hold: the lease and the refs depend on it,
/// and some of S3's likes write all the same. Four requests to a bucket, none to a directory, where locks of the kernel do that.
///
/// The file stays, so that publishers at the same time do not mislead each other: a version that was replaced never comes back,
/// and a file that is there is there for all.
///
/// # Errors
/// [`LeaseError::Unconditional`]; [`LeaseError::Transport`] also when the server does not know such writes.
pub fn prove_conditions(transport: &Transport) -> Result<(), LeaseError> {
    if transport.lock_file(layout::LEASE)?.is_some() {
        return Ok(());
    }
    let holder = random_name()?;
    let put = |mode: &Put| transport.put(layout::PROBE, probe(&holder).into(), mode);
    let ignored = |condition| LeaseError::Unconditional { url: transport.url().to_owned(), condition };
    let replaced = put(&Put::Overwrite)?;
    put(&Put::Overwrite)?;
    match put(&Put::IfAbsent) {
        Err(TransportError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(ignored("If-None-Match")),
    }
    match put(&Put::IfVersion(replaced)) {
        Err(TransportError::Changed { .. }) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(ignored("If-Match")),
    }
}

/// What is in the probe: it differs each time.
fn probe(holder: &str) -> String {
    format!("by this file publishers find out whether conditional writes are honoured; {}", text(holder))
}

/// A name that tells this process from others.
fn random_name() -> Result<String, LeaseError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| LeaseError::Random(std::io::Error::other(error)))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn take_in_bucket(transport: &Transport, terms: LeaseTerms, announce: &dyn Fn(&str)) -> Result<Held, LeaseError> {
    let holder = random_name()?;
    let mut seen: Option<(Version, Instant)> = None;
    let mut has_announced = false;
    loop {
        let (at, text) = (Instant::now(), text(&holder));
        let mode = match &seen {
            Some((version, since)) if since.elapsed() >= terms.expiry => Put::IfVersion(version.clone()),
            _ => Put::IfAbsent,
        };
        match transport.put(layout::LEASE, text.clone().into(), &mode) {
            Ok(version) => return Ok(Held::Bucket { holder, last: Mutex::new(Renewal { at, version }) }),
            Err(TransportError::Exists { .. } | TransportError::Changed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // It may have gone meanwhile.
        let Some((bytes, version)) = transport.get(layout::LEASE, SIZE_MAX)? else { continue };
        if bytes == text.as_bytes() {
            return Ok(Held::Bucket { holder, last: Mutex::new(Renewal { at, version }) });
        }
        if !has_announced {
            has_announced = true;
            announce("another publisher or prune");
        }
        if seen.as_ref().is_none_or(|(known, _)| *known != version) {
            seen = Some((version, Instant::now()));
        }
        std::thread::sleep(LOOK.min(terms.expiry));
    }
}

/// What is in the file: it differs each time, so that each renewal is a new version.
fn text(holder: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("a publisher or a prune is writing names ({holder} {number}); expires by itself\n")
}
