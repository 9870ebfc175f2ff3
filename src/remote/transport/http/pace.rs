//! How fast bytes have to move: a request that moves too few is given up, so that it can be sent again or elsewhere.
//!
//! Only time spent waiting for the other side counts, never what we take to use what came. Timers of the client below know
//! a whole request at most, and so cannot tell a long upload from a dead one.

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

use super::super::reason::Reason;

/// Uploads are handed over in pieces of this size, so that it is seen how they move.
const PIECE: usize = 64 << 10;

/// After the last piece of an upload was handed over, some of it still waits in buffers of this machine, and the server has
/// yet to store it: its answer may take so many times as long as any other.
const STORING: u32 = 3;

/// The slowest that is worth waiting for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bytes a second.
    pub rate: u64,
    /// Over so long a time.
    pub window: Duration,
}

impl Pace {
    fn silence(self) -> HttpError {
        HttpError::new(HttpErrorKind::Timeout, Reason::Silence(self.window))
    }

    fn slow(self) -> HttpError {
        HttpError::new(HttpErrorKind::Timeout, Reason::Slow { rate: self.rate, time: self.window })
    }
}

/// A body that comes in, watched.
pub(super) struct Watched {
    body: Pin<Box<reqwest::Body>>,
    pace: Pace,
    silence: Pin<Box<Sleep>>,
    /// Since when nothing came.
    waiting: Option<Instant>,
    /// Time waited and bytes that came since both were looked at.
    waited: Duration,
    came: u64,
}

impl Watched {
    pub fn new(body: reqwest::Body, pace: Pace) -> Self {
        Self {
            body: Box::pin(body),
            pace,
            silence: Box::pin(sleep_until(Instant::now() + pace.window)),
            waiting: None,
            waited: Duration::ZERO,
            came: 0,
        }
    }

    /// Whether enough came in the time that was spent waiting for it.
    fn is_fast_enough(&mut self, bytes: usize) -> bool {
        self.waited += self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.came += bytes as u64;
        if self.waited < self.pace.window {
            return true;
        }
        let enough = self.pace.rate.saturating_mul(self.pace.window.as_secs());
        let (came, _) = (std::mem::take(&mut self.came), std::mem::take(&mut self.waited));
        came >= enough
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self.body.as_mut().poll_frame(context) {
            Poll::Pending => {
                if self.waiting.is_none() {
                    let now = Instant::now();
                    let end = now + self.pace.window;
                    self.waiting = Some(now);
                    self.silence.as_mut().reset(end);
                }
                ready!(self.silence.as_mut().poll(context));
                Poll::Ready(Some(Err(self.pace.silence())))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                let reason = Reason::of_answer(&error);
                Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Interrupted, reason))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let result = if self.is_fast_enough(bytes) { Ok(frame) } else { Err(self.pace.slow()) };
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

/// When something last moved.
#[derive(Debug, Clone)]
struct LastMove(Arc<Mutex<Instant>>);

/// A body that goes out, in pieces.
struct Outgoing {
    body: HttpRequestBody,
    rest: Bytes,
    last_move: LastMove,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        *self.last_move.0.lock() = Instant::now();
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
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

/// Sends a request and waits for the head of the answer, as long as something moves. `connecting` is how long a connection may
/// take to come about before that, and `proxy` the one that such requests go through, for words.
pub(super) async fn execute(
    client: &reqwest::Client,
    mut request: reqwest::Request,
    body: HttpRequestBody,
    connecting: Duration,
    pace: Pace,
    proxy: Option<&str>,
) -> Result<reqwest::Response, HttpError> {
    let last_move = LastMove(Arc::new(Mutex::new(Instant::now())));
    let is_upload = body.content_length() > PIECE;
    let patience = connecting + if is_upload { pace.window * STORING } else { pace.window };
    *request.body_mut() = Some(match body.as_bytes() {
        Some(bytes) if !is_upload => reqwest::Body::from(bytes.clone()),
        _ => reqwest::Body::wrap(Outgoing { body, rest: Bytes::new(), last_move: last_move.clone() }),
    });
    let mut answer = std::pin::pin!(client.execute(request));
    loop {
        let end = *last_move.0.lock() + patience;
        match timeout_at(end, &mut answer).await {
            Ok(answer) => {
                return answer.map_err(|error| {
                    let reason = Reason::of_request(&error, proxy);
                    HttpError::new(kind_of(&reason), reason)
                });
            }
            Err(_) if *last_move.0.lock() + patience > Instant::now() => {}
            Err(_) => return Err(pace.silence()),
        }
    }
}

/// What object stores decide by whether to send a request again.
fn kind_of(reason: &Reason) -> HttpErrorKind {
    match reason {
        Reason::Connect(_) => HttpErrorKind::Connect,
        reason if reason.may_pass() => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    }
}
