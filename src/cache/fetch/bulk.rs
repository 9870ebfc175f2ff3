//! Fetches many frames by few long requests: the contents of a profile, or everything that is missing.
//!
//! The requests are planned as a pull plans them. A response is stored frame by frame while it arrives. Only the frames in a
//! window behind the received bytes count as being fetched; a reader that needs a frame further behind fetches it by itself.
//! The length of the window, and whether the response pauses while readers wait for something else, depend on the
//! [`BulkPurpose`].
//!
//! *Not here*: single requests of readers (`execute`).
//!
//! *Used by* `readahead`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::bounded;

use crate::cache::counters::LazyCounters;
use crate::cache::fetch::catalogue::Catalogue;
use crate::cache::fetch::error::{LazyFetchError, UnpackError};
use crate::cache::fetch::in_flight::Leader;
use crate::cache::fetch::pool::Priority;
use crate::cache::fetch::remote::RELOCATIONS_MAX;
use crate::cache::objects::object_cache::ObjectCache;
use crate::remote::fetch::{RangeRequest, group_requests};
use crate::remote::format::PackFrame;
use crate::remote::layout;
use crate::remote::transport::{Rejection, StreamControl};

/// The minimum length of the window: frames that begin within this many bytes behind the received ones count as being fetched.
const WINDOW_MIN: u64 = 512 << 10;

/// The window of [`BulkPurpose::ReadFirst`] also covers the bytes that arrive within this time. To request them again would
/// delay everything behind them, by the bytes fetched twice and by those in the queues of the link already.
const WINDOW_TIME: Duration = Duration::from_secs(1);

/// After this many attempts in a row that stored no frame the rest of a request is skipped: the cause is then not a single
/// frame.
const FRUITLESS_ATTEMPTS_MAX: u32 = 2;

/// The longest pause in reading a response. The server may close a connection on which nothing is read for longer.
const READ_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The purpose of a bulk fetch, which decides its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum BulkPurpose {
    /// The frames are about to be read, roughly in this order. The fetch does not pause for readers.
    ReadFirst,
    /// The frames may never be read. The fetch pauses while a reader waits for other data.
    Remainder,
}

impl BulkPurpose {
    const fn priority(self) -> Priority {
        match self {
            Self::ReadFirst => Priority::Speculative,
            Self::Remainder => Priority::Background,
        }
    }

    /// Returns the length of the window, in bytes, at a rate of `rate` bytes a second.
    fn window(self, rate: u64) -> u64 {
        match self {
            Self::ReadFirst => WINDOW_MIN.max(rate.saturating_mul(WINDOW_TIME.as_secs())),
            Self::Remainder => WINDOW_MIN,
        }
    }
}

/// A plan: the requests that fetch some frames.
#[derive(Clone)]
pub(in crate::cache) struct BulkFetch {
    /// The catalogue by which the frames are numbered.
    catalogue: Arc<Catalogue>,
    purpose: BulkPurpose,
    /// The numbers of the frames, in the order of packs and offsets.
    frame_numbers: Vec<u32>,
    requests: Vec<RangeRequest>,
}

impl BulkFetch {
    /// Plans to fetch the `wanted` frames; duplicates are fetched once.
    pub(crate) fn new(catalogue: &Arc<Catalogue>, purpose: BulkPurpose, wanted: impl IntoIterator<Item = u32>) -> Self {
        let mut located: Vec<(PackFrame, u32)> =
            wanted.into_iter().filter_map(|number| Some((catalogue.frame(number)?, number))).collect();
        located.sort_unstable_by_key(|(frame, number)| (frame.pack, frame.offset, *number));
        located.dedup_by_key(|(_, number)| *number);
        let frames: Vec<PackFrame> = located.iter().map(|(frame, _)| *frame).collect();
        let catalogue = Arc::clone(catalogue);
        Self {
            catalogue,
            purpose,
            frame_numbers: located.into_iter().map(|(_, number)| number).collect(),
            requests: group_requests(&frames),
        }
    }

    /// Returns the number of requests.
    pub(crate) fn request_count(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Returns the decompressed size of the frames, in bytes.
    pub(crate) fn content_bytes(&self) -> u64 {
        let raw = |number: &u32| self.catalogue.frame(*number).map_or(0, |frame| u64::from(frame.raw_length));
        self.frame_numbers.iter().map(raw).sum()
    }

    /// Returns the number of bytes that the requests fetch.
    pub(crate) fn bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }
}

impl ObjectCache {
    /// Executes `plan`. When the publisher has moved the contents meanwhile, makes another plan by `replan` and executes that.
    pub(crate) fn run_bulk_fetch<E: From<LazyFetchError>>(
        self: &Arc<Self>,
        mut plan: BulkFetch,
        replan: impl Fn() -> Result<BulkFetch, E>,
    ) -> Result<(), E> {
        for _ in 0..RELOCATIONS_MAX {
            match self.try_bulk_fetch(plan) {
                Err(LazyFetchError::Moved { .. }) => plan = replan()?,
                done => return Ok(done?),
            }
        }
        Ok(self.try_bulk_fetch(plan)?)
    }

    /// Fetches those frames of a plan that are missing. Returns the first failure; [`LazyFetchError::Moved`] if a new plan is
    /// needed because the contents were moved.
    fn try_bulk_fetch(self: &Arc<Self>, plan: BulkFetch) -> Result<(), LazyFetchError> {
        let catalogue = Arc::clone(&plan.catalogue);
        match self.run_all_requests(plan) {
            Err(error) if self.check_relocation(&catalogue, &error) => {
                Err(LazyFetchError::Moved { commit: self.remote.commit() })
            }
            done => done,
        }
    }

    fn run_all_requests(self: &Arc<Self>, plan: BulkFetch) -> Result<(), LazyFetchError> {
        let (plan, (sender, results)) = (Arc::new(plan), bounded(1));
        for number in 0..plan.requests.len() {
            let (this, plan, sender) = (Arc::clone(self), Arc::clone(&plan), sender.clone());
            self.pool.submit(plan.purpose.priority(), move || {
                let done = this.run_one_request(&plan, &plan.requests[number]);
                // The receiver is gone after the first failure.
                let _ = sender.send(done);
            });
        }
        drop(sender);
        results.iter().take(plan.requests.len()).collect()
    }

    fn run_one_request(&self, plan: &BulkFetch, request: &RangeRequest) -> Result<(), LazyFetchError> {
        let catalogue = &plan.catalogue;
        let Some(pack) = catalogue.locator().packs().get(request.pack as usize) else { return Ok(()) };
        let path = layout::pack(pack.id);
        // Skips frames at both ends that were fetched since the plan was made, or whose request is not to be repeated yet.
        let is_wanted = |number: &u32, frame: PackFrame| {
            !self.has_frame(catalogue, *number) && !self.remote.is_blocked(&path, u64::from(frame.offset))
        };
        let numbers = plan.frame_numbers[request.frames.clone()].iter();
        let located: Vec<(u32, PackFrame)> =
            numbers.filter_map(|number| Some((*number, catalogue.frame(*number)?))).collect();
        let Some(first) = located.iter().position(|(number, frame)| is_wanted(number, *frame)) else { return Ok(()) };
        let last = located.iter().rposition(|(number, frame)| is_wanted(number, *frame)).unwrap_or(first);
        let mut upcoming: VecDeque<(u32, PackFrame)> = located[first..=last].iter().copied().collect();
        let Some(end) = upcoming.back().map(|(_, frame)| frame.end()) else { return Ok(()) };
        let (mut failure, mut fruitless) = (None, 0);
        // An invalid frame is skipped, and a new request continues behind it.
        while let Some((_, next)) = upcoming.front() {
            let range = u64::from(next.offset)..end;
            let mut response = StreamingResponse {
                objects: self,
                catalogue,
                path: &path,
                purpose: plan.purpose,
                started: Instant::now(),
                received: 0,
                upcoming,
                in_window: VecDeque::new(),
                buffer: BytesMut::new(),
                buffer_start: range.start,
                failure: None,
                invalid_at: None,
                stored: 0,
            };
            response.extend_window();
            let streamed = self.remote.stream_range(&path, range, &mut |piece| response.receive(&piece));
            failure = failure.or(response.failure.take());
            match streamed {
                Ok(()) => break,
                Err(error) => {
                    fruitless = if response.stored == 0 { fruitless + 1 } else { 0 };
                    let (error, rest) = response.skip_invalid_frame(error);
                    failure.get_or_insert(error);
                    match rest {
                        Some(rest) if fruitless < FRUITLESS_ATTEMPTS_MAX => upcoming = rest,
                        _ => break,
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The state of a long response while it arrives.
struct StreamingResponse<'a> {
    objects: &'a ObjectCache,
    catalogue: &'a Catalogue,
    path: &'a str,
    purpose: BulkPurpose,
    started: Instant,
    /// Bytes received since `started`.
    received: u64,
    /// The frames behind the window.
    upcoming: VecDeque<(u32, PackFrame)>,
    /// The frames in the window. Those that are stored or fetched by another request have no leader and are not stored again.
    in_window: VecDeque<(u32, PackFrame, Option<Leader<u32>>)>,
    buffer: BytesMut,
    /// The offset in the pack of the first byte of the buffer.
    buffer_start: u64,
    /// Why the first frame that could not be stored was not.
    failure: Option<LazyFetchError>,
    /// The offset of the last invalid frame.
    invalid_at: Option<u64>,
    /// Number of frames that were stored.
    stored: u32,
}

impl StreamingResponse<'_> {
    fn receive(&mut self, piece: &[u8]) -> StreamControl {
        self.buffer.extend_from_slice(piece);
        self.received += piece.len() as u64;
        LazyCounters::add(&self.objects.counters.streamed_bytes, piece.len() as u64);
        self.extend_window();
        if let Err(why) = self.store_received() {
            self.buffer.clear();
            self.invalid_at = Some(self.buffer_start);
            return StreamControl::Reject(self.buffer_start, Rejection::wrong(why));
        }
        let goes_on = match self.purpose {
            BulkPurpose::ReadFirst => !self.objects.pool.is_closed(),
            BulkPurpose::Remainder => self.objects.pool.yield_to_foreground_within(READ_PAUSE_MAX),
        };
        if goes_on { StreamControl::Continue } else { StreamControl::Stop }
    }

    /// Ends a failed response. If an invalid frame was the cause, its waiters get the error, and the frames behind it are
    /// returned; otherwise nothing is left to do.
    fn skip_invalid_frame(mut self, error: LazyFetchError) -> (LazyFetchError, Option<VecDeque<(u32, PackFrame)>>) {
        let is_invalid = self.invalid_at == Some(self.buffer_start);
        let Some((number, frame, leader)) = self.in_window.pop_front().filter(|_| is_invalid) else {
            return (error, None);
        };
        LazyCounters::add(&self.objects.counters.failures, 1);
        let error = self.objects.remote.note_failure(self.path, u64::from(frame.offset), error);
        tracing::debug!("frame {number} of {} is skipped", self.path);
        if let Some(leader) = leader {
            leader.complete(Err(error.clone()));
        }
        // Drops the leaders of the frames behind it; the next request takes the lead again.
        let mut rest: VecDeque<(u32, PackFrame)> =
            self.in_window.drain(..).map(|(number, frame, _)| (number, frame)).collect();
        rest.append(&mut self.upcoming);
        (error, Some(rest))
    }

    fn extend_window(&mut self) {
        let window_end = self.buffer_start + self.buffer.len() as u64 + self.purpose.window(self.rate());
        while let Some((number, frame)) = pop_if(&mut self.upcoming, |(_, frame)| u64::from(frame.offset) < window_end)
        {
            self.in_window.push_back((number, frame, self.objects.lead_if_missing(self.catalogue, number)));
        }
    }

    /// Returns the rate of this response or of earlier requests, whichever is higher, in bytes a second.
    fn rate(&self) -> u64 {
        let rate = u128::from(self.received) * 1000 / self.started.elapsed().as_millis().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX).max(self.objects.remote.rate())
    }

    /// Stores the frames that have arrived completely. An invalid one stays the first of the window, and its error is returned.
    fn store_received(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let received = self.buffer_start + self.buffer.len() as u64;
        while let Some((number, frame, leader)) = pop_if(&mut self.in_window, |(_, frame, _)| frame.end() <= received) {
            let offset = u64::from(frame.offset);
            let before = usize::try_from(offset.saturating_sub(self.buffer_start)).unwrap_or(usize::MAX);
            drop(self.buffer.split_to(before.min(self.buffer.len())));
            self.buffer_start = offset;
            let bytes: Bytes = self.buffer.split_to((frame.length as usize).min(self.buffer.len())).freeze();
            if let Some(leader) = leader {
                match self.objects.unpack(self.catalogue, number, &bytes, offset) {
                    Ok(()) => {
                        self.objects.remote.note_success(self.path, offset);
                        self.stored += 1;
                        leader.complete(Ok(()));
                    }
                    Err(UnpackError::Local(error)) => {
                        LazyCounters::add(&self.objects.counters.failures, 1);
                        self.objects.remote.log_failure_once(&error);
                        self.failure = self.failure.take().or(Some(error.clone()));
                        leader.complete(Err(error));
                    }
                    Err(UnpackError::Invalid(why)) => {
                        self.in_window.push_front((number, frame, Some(leader)));
                        return Err(why);
                    }
                }
            }
            self.buffer_start = frame.end();
        }
        Ok(())
    }
}

fn pop_if<T>(queue: &mut VecDeque<T>, condition: impl Fn(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(condition) { queue.pop_front() } else { None }
}
