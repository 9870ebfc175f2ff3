//! What an answer means: content, a range of it, or an error with a reason.
//!
//! Nothing here is believed: a server may send another range than it was asked for, all of a file, or an endless error.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, RANGE, RETRY_AFTER,
};
use reqwest::{Method, StatusCode};

use super::super::reason::{Reason, Said, clean, is_passing};

/// So much of what a server says with an error is read.
const ERROR_TEXT_MAX: usize = 4 << 10;

/// And not for longer.
const ERROR_TEXT_TIME: Duration = Duration::from_secs(5);

/// Files of at most this many bytes are read whole from a server without ranges; more would be a trap.
const WHOLE_FILE_MAX: u64 = 64 << 20;

/// No file of a server is longer, in bytes. Below, positions in a file can be added without a thought.
const FILE_MAX: u64 = i64::MAX.cast_unsigned();

/// What was asked.
#[derive(Debug, Clone)]
pub(in crate::remote::transport) struct Question {
    pub method: Method,
    /// The first and the last byte.
    pub range: Option<(u64, u64)>,
}

impl Question {
    /// Whether a cache on the way should look whether it still has the newest: what is large is asked for in parts and named by
    /// its content.
    pub fn is_for_what_may_change(&self) -> bool {
        self.method == Method::GET && self.range.is_none()
    }

    /// What `request` asks.
    pub fn of(request: &HttpRequest) -> Self {
        Self { method: request.method().clone(), range: request.headers().get(RANGE).and_then(Self::range) }
    }

    /// The first and last byte that `bytes=A-B` asks for.
    fn range(value: &HeaderValue) -> Option<(u64, u64)> {
        let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// Passes on what answers the question; everything else becomes an error that tells why.
pub(in crate::remote::transport) async fn judge(
    question: &Question,
    response: HttpResponse,
) -> Result<HttpResponse, HttpError> {
    match response.status() {
        status if status.is_success() && question.method == Method::GET => content(question.range, response),
        status if status.is_success() => Ok(response),
        status => refusal(status, response).await,
    }
}

fn unusable(reason: Reason) -> HttpError {
    HttpError::new(HttpErrorKind::Decode, reason)
}

fn content(range: Option<(u64, u64)>, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    // `aws-chunked` is how it was uploaded; some buckets keep telling.
    if let Some(encoding) = text(response.headers(), &CONTENT_ENCODING)
        && !encoding.split(',').all(|word| matches!(word.trim(), "" | "identity" | "aws-chunked"))
    {
        return Err(unusable(Reason::Encoded(clean(encoding))));
    }
    match range {
        Some(range) if response.status() == StatusCode::OK => cut_out(response, range),
        Some(range) => check_range(response, range),
        None => Ok(response),
    }
}

/// The value of a header, if it is text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An answer with a part must have the part that was asked for, or as much of it as the file has.
fn check_range(mut response: HttpResponse, (first, last): (u64, u64)) -> Result<HttpResponse, HttpError> {
    let found = text(response.headers(), &CONTENT_RANGE).unwrap_or("no Content-Range");
    let length = parse_content_range(found).and_then(|(start, end, total)| {
        let is_right = start == first && end == last.min(total.saturating_sub(1)) && end < total;
        (is_right && start <= end && total <= FILE_MAX).then(|| end - start + 1)
    });
    let Some(length) = length else {
        return Err(unusable(Reason::WrongRange { first, last, found: clean(found) }));
    };
    // One that comes in chunks need not say it twice, but is expected to.
    let header = HeaderValue::from_str(&length.to_string()).expect("digits");
    response.headers_mut().entry(CONTENT_LENGTH).or_insert(header);
    Ok(response)
}

/// First byte, last byte, and length of the file.
fn parse_content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

/// Makes of a whole file the range that was asked for.
fn cut_out(response: HttpResponse, (first, last): (u64, u64)) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = response.into_parts();
    let length = text(&parts.headers, &CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
    let Some(length) = length.filter(|length| *length <= WHOLE_FILE_MAX) else {
        return Err(unusable(Reason::NoRanges { limit: WHOLE_FILE_MAX }));
    };
    if first > last || first >= length {
        return Err(unusable(Reason::WrongRange { first, last, found: format!("a file of {length} bytes") }));
    }
    let last = last.min(length - 1);
    parts.status = StatusCode::PARTIAL_CONTENT;
    let header = |text: String| HeaderValue::from_str(&text).expect("digits and blanks");
    parts.headers.insert(CONTENT_RANGE, header(format!("bytes {first}-{last}/{length}")));
    parts.headers.insert(CONTENT_LENGTH, header((last + 1 - first).to_string()));
    let piece = Piece { whole: body, skip: first, take: last + 1 - first };
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(piece)))
}

/// The bytes of a body after the first `skip`, `take` of them.
struct Piece {
    whole: HttpResponseBody,
    skip: u64,
    take: u64,
}

impl Body for Piece {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.take > 0 {
            let frame = match Pin::new(&mut self.whole).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            let Ok(mut bytes) = frame.into_data() else { continue };
            let dropped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            let _ = bytes.split_to(dropped);
            bytes.truncate(usize::try_from(self.take).unwrap_or(usize::MAX));
            self.skip -= dropped as u64;
            self.take -= bytes.len() as u64;
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        Poll::Ready(None)
    }
}

/// An answer that is none. The object stores decide by some codes themselves, so those stay answers.
async fn refusal(status: StatusCode, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let text = error_text(body).await;
    let said = Said::of(&text);
    let is_decisive = match status {
        StatusCode::NOT_FOUND => !said.misses_bucket(),
        StatusCode::METHOD_NOT_ALLOWED => true,
        StatusCode::NOT_MODIFIED | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => true,
        _ => false,
    };
    if is_decisive {
        return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(text)));
    }
    if !is_passing(status) {
        return Err(HttpError::new(HttpErrorKind::Unknown, Reason::Status { status, said }));
    }
    let reason = match retry_after(&parts.headers) {
        Some(after) => Reason::Busy { status, after },
        None => Reason::Status { status, said },
    };
    // Of the kinds there are, the one that is always tried again, also for what must not be done twice: the server says that
    // it did nothing.
    Err(HttpError::new(HttpErrorKind::Request, reason))
}

/// When a busy server wants to be asked again. The form with a date is rare, and clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    Some(Duration::from_secs(text(headers, &RETRY_AFTER)?.trim().parse().ok()?))
}

/// The beginning of an error's text, which may be an endless one.
async fn error_text(body: HttpResponseBody) -> Vec<u8> {
    let mut text = Vec::new();
    let mut stream = body.bytes_stream();
    let read = async {
        while let Some(Ok(bytes)) = stream.next().await {
            text.extend_from_slice(&bytes[..bytes.len().min(ERROR_TEXT_MAX - text.len())]);
            if text.len() == ERROR_TEXT_MAX {
                break;
            }
        }
    };
    // What came by then is enough.
    let _ = tokio::time::timeout(ERROR_TEXT_TIME, read).await;
    text
}
