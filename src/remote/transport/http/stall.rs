//! Stall detection: a request that moves too few bytes for some time fails, so that it can be repeated or sent
//! elsewhere.
//!
//! Only time spent waiting for the server counts, not the time that the caller takes to process what arrived. The
//! timeouts of the client library cover a whole request at most, and so cannot distinguish a long upload from a dead
//! one.
//!
//! *Used by* `http`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{HttpError, HttpErrorKind, HttpRequestBody};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::super::reason::FailureReason;

/// Uploads are passed to the client in pieces of this size, so that their progress is observed.
const UPLOAD_PIECE_SIZE: usize = 64 << 10;

/// The factor by which the wait for the answer to an upload is longer than for any other: after the last piece was
/// passed on, some of the upload is still in buffers of this machine, and the server has yet to store it.
const UPLOAD_ANSWER_FACTOR: u32 = 3;

/// The lowest rate at which a request continues.
#[derive(Debug, Clone, Copy)]
pub(super) struct StallLimit {
    /// Bytes a second.
    pub(crate) min_rate: u64,
    /// The time over which the rate is measured.
    pub(crate) window: Duration,
}

impl StallLimit {
    fn stalled_error(self) -> HttpError {
        HttpError::new(HttpErrorKind::Timeout, FailureReason::Stalled(self.window))
    }

    fn slow_error(self) -> HttpError {
        HttpError::new(HttpErrorKind::Timeout, FailureReason::Slow { rate: self.min_rate, time: self.window })
    }
}

/// A received body with stall detection.
pub(super) struct WatchedBody {
    body: Pin<Box<reqwest::Body>>,
    limit: StallLimit,
    stall_timer: Pin<Box<Sleep>>,
    /// When the current wait for bytes began.
    waiting_since: Option<Instant>,
    /// Time waited and bytes received in the current window.
    waited: Duration,
    received: u64,
}

impl WatchedBody {
    pub(crate) fn new(body: reqwest::Body, limit: StallLimit) -> Self {
        Self {
            body: Box::pin(body),
            limit,
            stall_timer: Box::pin(sleep_until(Instant::now() + limit.window)),
            waiting_since: None,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// Adds received bytes and returns whether the rate is high enough.
    fn is_fast_enough(&mut self, bytes: usize) -> bool {
        self.waited += self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.received += bytes as u64;
        if self.waited < self.limit.window {
            return true;
        }
        let enough = self.limit.min_rate.saturating_mul(self.limit.window.as_secs());
        let (received, _) = (std::mem::take(&mut self.received), std::mem::take(&mut self.waited));
        received >= enough
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self.body.as_mut().poll_frame(context) {
            Poll::Pending => {
                if self.waiting_since.is_none() {
                    let now = Instant::now();
                    let end = now + self.limit.window;
                    self.waiting_since = Some(now);
                    self.stall_timer.as_mut().reset(end);
                }
                ready!(self.stall_timer.as_mut().poll(context));
                Poll::Ready(Some(Err(self.limit.stalled_error())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                let reason = FailureReason::of_answer(&error);
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Interrupted, reason))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let result = if self.is_fast_enough(bytes) { Ok(frame) } else { Err(self.limit.slow_error()) };
                Poll::Ready(Some(result))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The time of the last progress.
#[derive(Debug, Clone)]
struct LastProgress(Arc<Mutex<Instant>>);

/// A sent body, in pieces.
struct UploadBody {
    body: HttpRequestBody,
    rest: Bytes,
    last_progress: LastProgress,
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        *self.last_progress.0.lock() = Instant::now();
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(UPLOAD_PIECE_SIZE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        SizeHint::with_exact(self.body.size_hint().exact().unwrap_or(0) + rest)
    }
}

/// Sends a request and waits for the head of the answer, as long as there is progress. `connecting` is the time that a
/// connection may take to be established before that; `proxy` is the proxy for such requests, for messages.
pub(super) async fn execute(
    client: &reqwest::Client,
    mut request: reqwest::Request,
    body: HttpRequestBody,
    connecting: Duration,
    limit: StallLimit,
    proxy: Option<&str>,
) -> Result<reqwest::Response, HttpError> {
    let last_progress = LastProgress(Arc::new(Mutex::new(Instant::now())));
    let is_upload = body.content_length() > UPLOAD_PIECE_SIZE;
    let patience = connecting + if is_upload { limit.window * UPLOAD_ANSWER_FACTOR } else { limit.window };
    *request.body_mut() = Some(match body.as_bytes() {
        Some(bytes) if !is_upload => reqwest::Body::from(bytes.clone()),
        _ => reqwest::Body::wrap(UploadBody { body, rest: Bytes::new(), last_progress: last_progress.clone() }),
    });
    let mut answer = std::pin::pin!(client.execute(request));
    loop {
        let end = *last_progress.0.lock() + patience;
        match timeout_at(end, &mut answer).await {
            Ok(answer) => {
                return answer.map_err(|error| {
                    let reason = FailureReason::of_request(&error, proxy);
                    HttpError::new(kind_of(&reason), reason)
                });
            }
            Err(_) if *last_progress.0.lock() + patience > Instant::now() => {}
            Err(_) => return Err(limit.stalled_error()),
        }
    }
}

/// Returns the kind of error by which object stores decide whether to repeat a request.
fn kind_of(reason: &FailureReason) -> HttpErrorKind {
    match reason {
        FailureReason::Connect(_) => HttpErrorKind::Connect,
        reason if reason.is_transient() => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    }
}
