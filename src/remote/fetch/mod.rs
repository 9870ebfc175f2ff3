//! From frames of packs to verified objects in the store.
//!
//! A [`FetchPlan`] says which requests to make; [`fetch`] makes some at a time, decodes what arrives on other threads,
//! and gives every object to the [`StoreWriter`] that checks it against its name. What was received is settled now and
//! then, so that whoever is killed or cut off finds it when starting again. Nothing here decides what is wanted, and
//! nothing here names a commit. Called by `pull`.
//!
//! Invariants: the bytes in memory are bounded by [`FetchOptions::memory`] and one frame for each decoder, whatever a
//! server sends; no byte is kept that was not verified; after an error everything verified so far is settled.

mod budget;
mod error;
mod patches;
mod plan;
mod ranges;
mod work;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, tick, unbounded};

use self::budget::Budget;
use self::work::{Desk, Intake, Work};
use super::layout;
use super::transport::Transport;
use crate::image::Image;
use crate::store::StoreWriter;

pub use error::FetchError;
pub use patches::{PatchPlan, fetch_patches};
pub use plan::{FetchPlan, PlanError};
pub use ranges::{REQUEST, Request, requests};

/// On a slow line what was received is settled every [`SETTLE_INTERVAL`], but not for less than this: each time makes a
/// pack.
const SETTLE_MIN: u64 = 8 << 20;

/// How often a slow line is looked at.
const SETTLE_INTERVAL: Duration = Duration::from_secs(10);

/// How much to do at once.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// Requests in flight.
    pub requests: usize,
    /// Threads that decode and verify.
    pub decoders: usize,
    /// Bytes that may wait to be decoded.
    pub memory: u64,
    /// What was received is settled after this many downloaded bytes, and after some seconds on a slow line.
    pub settle: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        let decoders = std::thread::available_parallelism().map_or(2, usize::from);
        // 24 MiB keep the decoders busy while the store syncs. 64 MiB to settle: some seconds of a fast line.
        Self { requests: 4, decoders, memory: 24 << 20, settle: 64 << 20 }
    }
}

/// How far a fetch is, for whoever shows it.
#[derive(Debug, Default)]
pub struct FetchProgress {
    /// Bytes to download, over all plans so far.
    pub total: AtomicU64,
    /// Bytes downloaded.
    pub downloaded: AtomicU64,
    /// Objects kept.
    pub objects: AtomicU64,
    /// Bytes of those.
    pub object_bytes: AtomicU64,
}

/// Makes the requests of `plan` and keeps every object it leads to, durably.
///
/// # Errors
/// The first [`FetchError`]. What arrived before it is kept.
pub fn fetch(
    plan: &FetchPlan,
    image: &Image,
    transport: &Transport,
    writer: &StoreWriter,
    options: FetchOptions,
    progress: &FetchProgress,
) -> Result<(), FetchError> {
    let desk = Desk::new(plan, image, transport, writer, progress);
    let budget = Budget::new(options.memory);
    let next = AtomicUsize::new(0);
    let (work_in, work_out) = unbounded();
    let (done_in, done_out) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..options.requests.clamp(1, plan.requests.len().max(1)) {
            let (work_in, desk, budget, next) = (work_in.clone(), &desk, &budget, &next);
            scope.spawn(move || download(plan, transport, desk, budget, next, &work_in));
        }
        for _ in 0..options.decoders.max(1) {
            let (work_out, done_in, desk) = (work_out.clone(), done_in.clone(), &desk);
            scope.spawn(move || decode(desk, &work_out, &done_in));
        }
        drop((work_in, work_out, done_in));
        settle_now_and_then(&desk, writer, &done_out, options.settle);
    });
    let settled = writer.settle();
    match (desk.into_failure(), settled) {
        (Some(failure), Ok(())) => Err(failure),
        (Some(failure), Err(error)) => {
            tracing::debug!(%error, "what had arrived could not be kept");
            Err(failure)
        }
        (None, settled) => Ok(settled?),
    }
}

/// One downloader: makes one request after the other until there are no more.
fn download(
    plan: &FetchPlan,
    transport: &Transport,
    desk: &Desk<'_>,
    budget: &Arc<Budget>,
    next: &AtomicUsize,
    work: &Sender<Work>,
) {
    while let Some(request) = plan.requests.get(next.fetch_add(1, Ordering::Relaxed)) {
        let Some(pack) = plan.packs.get(request.pack as usize).filter(|_| !desk.has_failed()) else { return };
        let mut intake = Intake::new(desk, request, *pack);
        let streamed = transport.stream_range(&layout::pack(*pack), request.range.clone(), &mut |piece| {
            desk.progress.downloaded.fetch_add(piece.len() as u64, Ordering::Relaxed);
            intake.take(&piece, budget, work);
            if desk.has_failed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(source) = streamed {
            desk.fail(FetchError::Transport { url: transport.url().into(), source });
        }
    }
}

/// One decoder: works on what was downloaded until no downloader is left. After a failure it only lets go of memory.
fn decode(desk: &Desk<'_>, work: &Receiver<Work>, done: &Sender<u64>) {
    for part in work {
        if desk.has_failed() {
            continue;
        }
        if let Err(error) = desk.receive(&part) {
            desk.fail(error);
        }
        // Nobody listens any more only if settling failed.
        let _ = done.send(part.length());
    }
}

/// Settles while the others work, until all have left.
fn settle_now_and_then(desk: &Desk<'_>, writer: &StoreWriter, done: &Receiver<u64>, enough: u64) {
    let ticks = tick(SETTLE_INTERVAL);
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
            recv(ticks) -> _ => SETTLE_MIN.min(enough),
        };
        if waiting >= limit && !desk.has_failed() {
            waiting = 0;
            if let Err(error) = writer.settle() {
                desk.fail(error.into());
            }
        }
    }
}
