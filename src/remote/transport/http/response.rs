//! Interprets answers of servers: content, a range of it, or an error with a reason.
//!
//! *Invariants*: nothing in an answer is trusted: a server may send another range than requested, the whole file, or an
//! endless error.
//!
//! *Used by* `http` and `prepared`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Body, Frame};
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};
use parking_lot::Mutex;
use reqwest::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, RANGE, RETRY_AFTER,
};
use reqwest::{Method, StatusCode};

use super::super::appearance::{AnswerInfo, BEGINNING_SIZE};
use super::super::reason::{FailureReason, ServerMessage, clean, is_transient_status};
use super::decoded::{DecodedBody, codings};

/// The most bytes of an error's text that are read.
const ERROR_TEXT_MAX: usize = 4 << 10;

/// The longest time for reading an error's text.
const ERROR_TEXT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a file that are read from a server without ranges to get at a part; a larger limit would let a
/// server send endlessly. Packs had up to 68,002,328 bytes until 2026-12.
const WHOLE_FILE_MAX: u64 = 80 << 20;

/// The longest file, in bytes. With this bound positions in a file can be added without overflow.
const FILE_MAX: u64 = i64::MAX.cast_unsigned();

/// The properties of a request that decide what its answer means.
#[derive(Debug, Clone)]
pub(in crate::remote::transport) struct RequestInfo {
    pub(crate) method: Method,
    /// The first and the last byte of the requested range.
    pub(crate) range: Option<(u64, u64)>,
    /// The host to which the request was sent.
    pub(crate) host: Option<String>,
}

/// The host that answered after all redirections.
#[derive(Debug, Clone)]
pub(super) struct AnsweringHost(pub(crate) Option<String>);

impl RequestInfo {
    /// Returns the properties of `request`.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let range = request.headers().get(RANGE).and_then(Self::range);
        Self { method: request.method().clone(), range, host: request.uri().host().map(str::to_owned) }
    }

    /// Parses `bytes=A-B` to the first and last byte.
    fn range(value: &HeaderValue) -> Option<(u64, u64)> {
        let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// Returns a response that answers the request; every other response becomes an error with its reason.
pub(in crate::remote::transport) async fn interpret(
    request: &RequestInfo,
    response: HttpResponse,
) -> Result<HttpResponse, HttpError> {
    let is_get = request.method == Method::GET;
    match response.status() {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::PARTIAL_CONTENT if is_get => {
            interpret_content(request, response)
        }
        status if status.is_success() && !is_get => Ok(response),
        status => interpret_error(status, is_get, response).await,
    }
}

fn unusable(reason: FailureReason) -> HttpError {
    HttpError::new(HttpErrorKind::Decode, reason)
}

/// The bytes of a body that are the answer: those after the first `skip`, at most `take` of them.
struct BodyWindow {
    skip: u64,
    take: u64,
    /// Whether the server sent a whole file instead of the requested part.
    is_whole: bool,
    /// Number of bytes of the answer, if the server says so.
    length: Option<u64>,
}

/// Brings content into the one form that the object stores read. Only headers that decide which bytes these are matter:
/// all other statements of a server or an intermediary prove nothing and are ignored.
fn interpret_content(request: &RequestInfo, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let window = find_window(request.range, &response)?;
    let (mut parts, mut body) = response.into_parts();
    let encoding = header_text(&parts.headers, &CONTENT_ENCODING).unwrap_or_default().to_owned();
    if codings(&encoding).next().is_some() {
        let encoded = || unusable(FailureReason::Encoded(clean(&encoding)));
        // A part of a compressed file is no part of the file.
        if parts.status == StatusCode::PARTIAL_CONTENT {
            return Err(encoded());
        }
        body = HttpResponseBody::new(DecodedBody::new(body, &encoding).ok_or_else(encoded)?);
    }
    let answered_by = parts.extensions.get::<AnsweringHost>().and_then(|host| host.0.clone());
    let arrived = AnswerInfo {
        length: window.length,
        is_whole: window.is_whole,
        redirected: answered_by.filter(|host| request.host.as_ref() != Some(host)),
        age: header_text(&parts.headers, &AGE).and_then(|age| age.trim().parse().ok()),
        beginning: Arc::default(),
    };
    let beginning = Arc::clone(&arrived.beginning);
    parts.extensions.insert(arrived);
    parts.status = if request.range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    parts.headers = plain_headers(&parts.headers, request.range);
    let body = BodyPart { whole: body, skip: window.skip, take: window.take, beginning };
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
}

/// Returns the headers that the object stores require, in the form in which they read them.
fn plain_headers(from: &HeaderMap, range: Option<(u64, u64)>) -> HeaderMap {
    let versions = ["etag", "x-amz-version-id", "x-goog-generation", "x-ms-version-id"];
    let known = from.iter().filter(|(name, value)| versions.contains(&name.as_str()) && value.to_str().is_ok());
    let mut headers: HeaderMap = known.map(|(name, value)| (name.clone(), value.clone())).collect();
    let number = |text: String| HeaderValue::from_str(&text).expect("digits and blanks");
    headers.insert(LAST_MODIFIED, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    // The true length is known when the body ends.
    headers.insert(CONTENT_LENGTH, number(FILE_MAX.to_string()));
    if let Some((first, last)) = range {
        headers.insert(CONTENT_RANGE, number(format!("bytes {first}-{last}/{FILE_MAX}")));
    }
    headers
}

/// Returns the value of a header, if it is text.
fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Finds the requested bytes in the response.
fn find_window(range: Option<(u64, u64)>, response: &HttpResponse) -> Result<BodyWindow, HttpError> {
    let headers = response.headers();
    let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
    let whole = BodyWindow { skip: 0, take: FILE_MAX, is_whole: false, length: None };
    let Some((first, last)) = range else {
        // Some servers send the whole file as a range of it.
        let is_all = || {
            let (start, end, total) = parse_content_range(header_text(headers, &CONTENT_RANGE)?)?;
            (start == 0 && total.is_none_or(|total| total == end.saturating_add(1))).then_some(())
        };
        return if is_part {
            is_all().map(|()| whole).ok_or_else(|| wrong_range(0, FILE_MAX, headers))
        } else {
            Ok(whole)
        };
    };
    let wanted = last.checked_sub(first).ok_or_else(|| wrong_range(first, last, headers))?.saturating_add(1);
    if last >= FILE_MAX {
        return Err(wrong_range(first, last, headers));
    }
    if !is_part {
        if last >= WHOLE_FILE_MAX {
            return Err(unusable(FailureReason::NoRanges { limit: WHOLE_FILE_MAX }));
        }
        let is_encoded = codings(header_text(headers, &CONTENT_ENCODING).unwrap_or_default()).next().is_some();
        let length = header_text(headers, &CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
        if let Some(length) = length.filter(|length| !is_encoded && *length <= first) {
            let found = format!("a file of {length} bytes");
            return Err(unusable(FailureReason::WrongRange { first, last, found }));
        }
        return Ok(BodyWindow { skip: first, take: wanted, is_whole: true, length: None });
    }
    if header_text(headers, &CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().starts_with("multipart/")) {
        return Err(wrong_range(first, last, headers));
    }
    if !headers.contains_key(CONTENT_RANGE) {
        // It is assumed to be the requested range: the digest of the content shows whether it is.
        return Ok(BodyWindow { skip: 0, take: wanted, is_whole: false, length: None });
    }
    let found = header_text(headers, &CONTENT_RANGE).and_then(parse_content_range);
    let Some((start, end, total)) = found else { return Err(wrong_range(first, last, headers)) };
    // No range beyond the end of a correct file is requested.
    let is_inside = start <= first && first <= end && end < FILE_MAX;
    let is_inside = is_inside && total.is_none_or(|total| end < total && last < total);
    if !is_inside || first - start > WHOLE_FILE_MAX {
        return Err(wrong_range(first, last, headers));
    }
    let length = end.min(last) - first + 1;
    Ok(BodyWindow { skip: first - start, take: length, is_whole: false, length: Some(length) })
}

fn wrong_range(first: u64, last: u64, headers: &HeaderMap) -> HttpError {
    let claimed = headers.get(CONTENT_RANGE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let kind = header_text(headers, &CONTENT_TYPE).map(|kind| format!("a part without Content-Range ({kind})"));
    let found = claimed.or(kind).unwrap_or_else(|| "a part without Content-Range".to_owned());
    unusable(FailureReason::WrongRange { first, last, found: clean(&found) })
}

/// Parses first byte, last byte, and length of the file, which may be unknown.
fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let value = value.trim();
    let (unit, rest) = value.split_at_checked("bytes".len())?;
    if !unit.eq_ignore_ascii_case("bytes") || !rest.starts_with([' ', '=']) {
        return None;
    }
    let (range, total) = rest[1..].trim().split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last).then_some((first, last, total))
}

/// A body without its first `skip` bytes, limited to `take` bytes.
struct BodyPart {
    whole: HttpResponseBody,
    skip: u64,
    take: u64,
    beginning: Arc<Mutex<Vec<u8>>>,
}

impl BodyPart {
    fn record_beginning(&self, bytes: &Bytes) {
        let mut beginning = self.beginning.lock();
        let room = BEGINNING_SIZE.saturating_sub(beginning.len());
        beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl Body for BodyPart {
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
            self.record_beginning(&bytes);
            let dropped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            let _ = bytes.split_to(dropped);
            bytes.truncate(usize::try_from(self.take).unwrap_or(usize::MAX));
            self.skip -= dropped as u64;
            self.take -= bytes.len() as u64;
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        // A connection can be reused only after the end of its answer was read, which usually has arrived by now.
        let _ = Pin::new(&mut self.whole).poll_frame(context);
        Poll::Ready(None)
    }
}

/// Interprets an error response. The object stores handle some status codes themselves; those are returned as
/// responses.
async fn interpret_error(status: StatusCode, is_get: bool, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let text = read_error_text(body).await;
    let message = ServerMessage::of(&text);
    let is_decisive = match status {
        StatusCode::NOT_FOUND => !message.is_missing_bucket(),
        // A GET has no conditions, so these codes are as wrong as any other.
        _ if is_get => false,
        StatusCode::METHOD_NOT_ALLOWED => true,
        StatusCode::NOT_MODIFIED | StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => true,
        _ => false,
    };
    if is_decisive {
        return Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(text)));
    }
    if !is_transient_status(status) {
        return Err(HttpError::new(HttpErrorKind::Unknown, FailureReason::Status { status, message }));
    }
    let reason = match parse_retry_after(&parts.headers) {
        Some(after) => FailureReason::Busy { status, after },
        None => FailureReason::Status { status, message },
    };
    // This kind is always retried, also for requests that must not be executed twice: the server says that it did
    // nothing.
    Err(HttpError::new(HttpErrorKind::Request, reason))
}

/// Returns after which time a busy server asks for another request. The form with a date is ignored: it is rare, and
/// clocks differ.
fn parse_retry_after(headers: &HeaderMap) -> Option<Duration> {
    Some(Duration::from_secs(header_text(headers, &RETRY_AFTER)?.trim().parse().ok()?))
}

/// Reads the beginning of an error's text, which may be endless.
async fn read_error_text(body: HttpResponseBody) -> Vec<u8> {
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
    // The text that has arrived by then suffices.
    let _ = tokio::time::timeout(ERROR_TEXT_TIMEOUT, read).await;
    text
}
