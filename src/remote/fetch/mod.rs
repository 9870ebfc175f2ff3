//! Fetches frames of packs and stores the objects in them.
//!
//! A [`FetchPlan`] lists the requests. [`fetch`] makes several at a time, decodes what arrives on other threads, and
//! gives every object to the [`StoreWriter`], which checks it against its name. Stored objects are flushed
//! periodically, so that a fetch that was killed or cut off continues from there when it is started again.
//!
//! *Not here*: which objects are wanted, and the naming of commits (`pull`).
//!
//! *Invariants*: the bytes in memory are bounded by [`FetchOptions::memory`] and one frame for each decoder, whatever a
//! server sends; no byte is kept that was not verified; after an error everything verified so far is flushed.
//!
//! *Used by* `pull`.

mod budget;
mod error;
mod patches;
mod plan;
mod ranges;
mod session;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, tick, unbounded};

use self::budget::MemoryBudget;
use self::session::{DecodeJob, FetchSession, RequestBuffer};
use super::layout;
use super::transport::Transport;
use crate::image::Image;
use crate::store::StoreWriter;

pub(crate) use error::ObjectFetchError;
pub(crate) use patches::{PatchPlan, fetch_patches};
pub(crate) use plan::{FetchPlan, FetchPlanError};
pub(crate) use ranges::{REQUEST_SIZE, RangeRequest, group_requests};

/// On a slow link, stored objects are flushed every [`FLUSH_INTERVAL`], but not for fewer bytes than this: each flush
/// writes a pack.
const SLOW_FLUSH_MIN: u64 = 8 << 20;

/// The interval at which a slow link's progress is checked.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// The limits of one fetch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchOptions {
    /// Number of requests in flight.
    pub(crate) requests: usize,
    /// Number of threads that decode and verify.
    pub(crate) decoders: usize,
    /// Bytes that may wait to be decoded.
    pub(crate) memory: u64,
    /// Stored objects are flushed after this many downloaded bytes, and after some seconds on a slow link.
    pub(crate) flush_bytes: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        let decoders = std::thread::available_parallelism().map_or(2, usize::from);
        // 24 MiB keep the decoders busy while the store syncs. 64 MiB between flushes are some seconds of a fast link.
        Self { requests: 4, decoders, memory: 24 << 20, flush_bytes: 64 << 20 }
    }
}

/// The progress of a fetch.
#[derive(Debug, Default)]
pub struct FetchProgress {
    /// Bytes to download, over all plans so far.
    pub(crate) total: AtomicU64,
    /// Bytes downloaded.
    pub(crate) downloaded: AtomicU64,
    /// Number of stored objects.
    pub(crate) objects: AtomicU64,
    /// Bytes of the stored objects.
    pub(crate) object_bytes: AtomicU64,
}

/// Makes the requests of `plan` and stores every object in them durably.
///
/// # Errors
/// The first [`ObjectFetchError`]. What arrived before it is kept.
pub(crate) fn fetch(
    plan: &FetchPlan,
    image: &Image,
    transport: &Transport,
    writer: &StoreWriter,
    options: FetchOptions,
    progress: &FetchProgress,
) -> Result<(), ObjectFetchError> {
    let session = FetchSession::new(plan, image, transport, writer, progress);
    let budget = MemoryBudget::new(options.memory);
    let next = AtomicUsize::new(0);
    let (job_sender, job_receiver) = unbounded();
    let (done_sender, done_receiver) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..options.requests.clamp(1, plan.requests.len().max(1)) {
            let (job_sender, session, budget, next) = (job_sender.clone(), &session, &budget, &next);
            scope.spawn(move || download(plan, transport, session, budget, next, &job_sender));
        }
        for _ in 0..options.decoders.max(1) {
            let (job_receiver, done_sender, session) = (job_receiver.clone(), done_sender.clone(), &session);
            scope.spawn(move || decode(session, &job_receiver, &done_sender));
        }
        drop((job_sender, job_receiver, done_sender));
        flush_periodically(&session, writer, &done_receiver, options.flush_bytes);
    });
    let flushed = writer.flush();
    match (session.into_failure(), flushed) {
        (Some(failure), Ok(())) => Err(failure),
        (Some(failure), Err(error)) => {
            tracing::debug!(%error, "objects that had arrived could not be flushed");
            Err(failure)
        }
        (None, flushed) => Ok(flushed?),
    }
}

/// Runs a download thread: makes one request after the other until there are no more.
fn download(
    plan: &FetchPlan,
    transport: &Transport,
    session: &FetchSession<'_>,
    budget: &Arc<MemoryBudget>,
    next: &AtomicUsize,
    jobs: &Sender<DecodeJob>,
) {
    while let Some(request) = plan.requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let Some(pack) = plan.packs.get(request.pack as usize).filter(|_| !session.has_failed()) else { return };
        let mut buffer = RequestBuffer::new(session, request, *pack);
        let streamed = transport.stream_range(&layout::pack(*pack), request.range.clone(), &mut |piece| {
            session.progress.downloaded.fetch_add(piece.len() as u64, Ordering::Relaxed);
            buffer.push(&piece, budget, jobs);
            if session.has_failed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(source) = streamed {
            session.fail(ObjectFetchError::Transport { url: transport.url().into(), source });
        }
    }
}

/// Runs a decoder thread until all download threads have ended. After a failure it only frees memory.
fn decode(session: &FetchSession<'_>, jobs: &Receiver<DecodeJob>, done: &Sender<u64>) {
    for job in jobs {
        if session.has_failed() {
            continue;
        }
        if let Err(error) = session.store_job(&job) {
            session.fail(error);
        }
        // The receiver is gone only if flushing failed.
        let _ = done.send(job.length());
    }
}

/// Flushes the store while the other threads work, until all decoders have ended.
fn flush_periodically(session: &FetchSession<'_>, writer: &StoreWriter, done: &Receiver<u64>, enough: u64) {
    let ticks = tick(FLUSH_INTERVAL);
    let mut waiting = 0;
    loop {
        let limit = select! {
            recv(done) -> bytes => match bytes {
                Ok(bytes) => {
                    waiting += bytes;
                    enough
                }
                Err(_) => return,
            },
            recv(ticks) -> _ => SLOW_FLUSH_MIN.min(enough),
        };
        if waiting >= limit && !session.has_failed() {
            waiting = 0;
            if let Err(error) = writer.flush() {
                session.fail(error.into());
            }
        }
    }
}
