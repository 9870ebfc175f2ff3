//! What an answer means: content, a range of it, or an error with a reason.
//!
//! Nothing here is believed: a server may send another range than it was asked for, all of a file, or an endless error.

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

use super::super::appearance::{Arrived, BEGINNING};
use super::super::reason::{Reason, Said, clean, is_passing};
use super::decoded::{Decoded, codings};

/// So much of what a server says with an error is read.
const ERROR_TEXT_MAX: usize = 4 << 10;

/// And not for longer.
const ERROR_TEXT_TIME: Duration = Duration::from_secs(5);

/// From a server without ranges so many bytes of a file are read at most to get at a part of it; more would be a trap. Packs
/// had up to 68,002,328 bytes until 2026-12.
const WHOLE_FILE_MAX: u64 = 80 << 20;

/// No file of a server is longer, in bytes. Below, positions in a file can be added without a thought.
const FILE_MAX: u64 = i64::MAX.cast_unsigned();

/// What was asked.
#[derive(Debug, Clone)]
pub(in crate::remote::transport) struct Question {
    pub method: Method,
    /// The first and the last byte.
    pub range: Option<(u64, u64)>,
    /// Of whom.
    pub host: Option<String>,
}

/// The host that answered in the end.
#[derive(Debug, Clone)]
pub(super) struct AnsweredBy(pub Option<String>);

impl Question {
    /// What `request` asks.
    pub fn of(request: &HttpRequest) -> Self {
        let range = request.headers().get(RANGE).and_then(Self::range);
        Self { method: request.method().clone(), range, host: request.uri().host().map(str::to_owned) }
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
    let is_get = question.method == Method::GET;
    match response.status() {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::PARTIAL_CONTENT if is_get => {
            content(question, response)
        }
        status if status.is_success() && !is_get => Ok(response),
        status => refusal(status, is_get, response).await,
    }
}

fn unusable(reason: Reason) -> HttpError {
    HttpError::new(HttpErrorKind::Decode, reason)
}

/// Which bytes of a body are the answer: those after the first `skip`, at most `take` of them.
struct Cut {
    skip: u64,
    take: u64,
    /// Whether a whole file came where a part was asked for.
    is_whole: bool,
    /// How many bytes of the answer there are, if that is said.
    length: Option<u64>,
}

/// Content, brought into the one form that the object stores read. Only what decides which bytes these are is looked at: what
/// else a server, or anybody on the way, says of them proves nothing and refuses nothing.
fn content(question: &Question, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let cut = cut(question.range, &response)?;
    let (mut parts, mut body) = response.into_parts();
    let encoding = text(&parts.headers, &CONTENT_ENCODING).unwrap_or_default().to_owned();
    if codings(&encoding).next().is_some() {
        let encoded = || unusable(Reason::Encoded(clean(&encoding)));
        // A part of what is compressed is no part of the file.
        if parts.status == StatusCode::PARTIAL_CONTENT {
            return Err(encoded());
        }
        body = HttpResponseBody::new(Decoded::new(body, &encoding).ok_or_else(encoded)?);
    }
    let answered_by = parts.extensions.get::<AnsweredBy>().and_then(|host| host.0.clone());
    let arrived = Arrived {
        length: cut.length,
        is_whole: cut.is_whole,
        redirected: answered_by.filter(|host| question.host.as_ref() != Some(host)),
        age: text(&parts.headers, &AGE).and_then(|age| age.trim().parse().ok()),
        beginning: Arc::default(),
    };
    let beginning = Arc::clone(&arrived.beginning);
    parts.extensions.insert(arrived);
    parts.status = if question.range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    parts.headers = plain_headers(&parts.headers, question.range);
    let body = Piece { whole: body, skip: cut.skip, take: cut.take, beginning };
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
}

/// The headers that the object stores want to see, in the form in which they read them.
fn plain_headers(from: &HeaderMap, range: Option<(u64, u64)>) -> HeaderMap {
    let versions = ["etag", "x-amz-version-id", "x-goog-generation", "x-ms-version-id"];
    let known = from.iter().filter(|(name, value)| versions.contains(&name.as_str()) && value.to_str().is_ok());
    let mut headers: HeaderMap = known.map(|(name, value)| (name.clone(), value.clone())).collect();
    let number = |text: String| HeaderValue::from_str(&text).expect("digits and blanks");
    headers.insert(LAST_MODIFIED, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    // How long it is shows when it ends.
    headers.insert(CONTENT_LENGTH, number(FILE_MAX.to_string()));
    if let Some((first, last)) = range {
        headers.insert(CONTENT_RANGE, number(format!("bytes {first}-{last}/{FILE_MAX}")));
    }
    headers
}

/// The value of a header, if it is text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Finds what was asked for in what came.
fn cut(range: Option<(u64, u64)>, response: &HttpResponse) -> Result<Cut, HttpError> {
    let headers = response.headers();
    let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
    let whole = Cut { skip: 0, take: FILE_MAX, is_whole: false, length: None };
    let Some((first, last)) = range else {
        // Some answer with all of the file as a part of it.
        let is_all = || {
            let (start, end, total) = content_range(text(headers, &CONTENT_RANGE)?)?;
            (start == 0 && total.is_none_or(|total| total == end.saturating_add(1))).then_some(())
        };
        return if is_part { is_all().map(|()| whole).ok_or_else(|| wrong(0, FILE_MAX, headers)) } else { Ok(whole) };
    };
    let wanted = last.checked_sub(first).ok_or_else(|| wrong(first, last, headers))?.saturating_add(1);
    if last >= FILE_MAX {
        return Err(wrong(first, last, headers));
    }
    if !is_part {
        if last >= WHOLE_FILE_MAX {
            return Err(unusable(Reason::NoRanges { limit: WHOLE_FILE_MAX }));
        }
        let is_encoded = codings(text(headers, &CONTENT_ENCODING).unwrap_or_default()).next().is_some();
        let length = text(headers, &CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
        if let Some(length) = length.filter(|length| !is_encoded && *length <= first) {
            let found = format!("a file of {length} bytes");
            return Err(unusable(Reason::WrongRange { first, last, found }));
        }
        return Ok(Cut { skip: first, take: wanted, is_whole: true, length: None });
    }
    if text(headers, &CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().starts_with("multipart/")) {
        return Err(wrong(first, last, headers));
    }
    if !headers.contains_key(CONTENT_RANGE) {
        // It is taken for what was asked for: its digest tells.
        return Ok(Cut { skip: 0, take: wanted, is_whole: false, length: None });
    }
    let found = text(headers, &CONTENT_RANGE).and_then(content_range);
    let Some((start, end, total)) = found else { return Err(wrong(first, last, headers)) };
    // Nothing is asked for beyond the end of the right file.
    let is_inside = start <= first && first <= end && end < FILE_MAX;
    let is_inside = is_inside && total.is_none_or(|total| end < total && last < total);
    if !is_inside || first - start > WHOLE_FILE_MAX {
        return Err(wrong(first, last, headers));
    }
    let length = end.min(last) - first + 1;
    Ok(Cut { skip: first - start, take: length, is_whole: false, length: Some(length) })
}

fn wrong(first: u64, last: u64, headers: &HeaderMap) -> HttpError {
    let said = headers.get(CONTENT_RANGE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let kind = text(headers, &CONTENT_TYPE).map(|kind| format!("a part without Content-Range ({kind})"));
    let found = said.or(kind).unwrap_or_else(|| "a part without Content-Range".to_owned());
    unusable(Reason::WrongRange { first, last, found: clean(&found) })
}

/// First byte, last byte, and length of the file, which need not be known.
fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
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

/// The bytes of a body after the first `skip`, `take` of them.
struct Piece {
    whole: HttpResponseBody,
    skip: u64,
    take: u64,
    beginning: Arc<Mutex<Vec<u8>>>,
}

impl Piece {
    fn note(&self, bytes: &Bytes) {
        let mut beginning = self.beginning.lock();
        let room = BEGINNING.saturating_sub(beginning.len());
        beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
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
            self.note(&bytes);
            let dropped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            let _ = bytes.split_to(dropped);
            bytes.truncate(usize::try_from(self.take).unwrap_or(usize::MAX));
            self.skip -= dropped as u64;
            self.take -= bytes.len() as u64;
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        // A connection can be used again only after the end of its answer was seen, which mostly is here by now.
        let _ = Pin::new(&mut self.whole).poll_frame(context);
        Poll::Ready(None)
    }
}

/// An answer that is none. The object stores decide by some codes themselves, so those stay answers.
async fn refusal(status: StatusCode, is_get: bool, response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let text = error_text(body).await;
    let said = Said::of(&text);
    let is_decisive = match status {
        StatusCode::NOT_FOUND => !said.misses_bucket(),
        // Nothing was asked on a condition, so these are as wrong as any other.
        _ if is_get => false,
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
