//! The HTTP client below the object stores: one connection pool, every attempt counted, answers bounded.
//!
//! Retries with backoff, and going on where a body broke, are the object store's. Here is what it leaves open: what a server
//! says with an error is cut after a few KiB, and a server that does not know ranges has its whole answer read past.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Body, Frame};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Method, Proxy, StatusCode};

use super::counters::Counters;
use super::error::TransportError;
use super::options::TransportOptions;
use super::tls;

/// So much of what a server says with an error is kept.
const ERROR_TEXT_MAX: usize = 4 << 10;

/// Files of at most this many bytes are read whole from a server without ranges; more would be a trap.
const WHOLE_FILE_MAX: u64 = 64 << 20;

/// Gives object stores our client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client,
    counters: Arc<Counters>,
}

impl Connector {
    pub(super) fn new(options: &TransportOptions, counters: &Arc<Counters>) -> Result<Self, TransportError> {
        let unusable = |what: &str| {
            let what = what.to_owned();
            move |error: reqwest::Error| TransportError::Tls { what, reason: error.to_string() }
        };
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls::client_config(options)?)
            .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_limit())
            .read_timeout(options.stall_limit())
            .http2_adaptive_window(true)
            .tcp_nodelay(true)
            .no_proxy();
        for proxy in proxies(options).map_err(unusable("the proxy"))? {
            builder = builder.proxy(proxy);
        }
        if let Some(path) = &options.bearer_file {
            builder = builder.default_headers(bearer(path)?);
        }
        let client = builder.build().map_err(unusable("the HTTP client"))?;
        Ok(Self { client, counters: Arc::clone(counters) })
    }
}

fn proxies(options: &TransportOptions) -> Result<Vec<Proxy>, reqwest::Error> {
    if let Some(proxy) = &options.proxy {
        return Ok(vec![Proxy::all(proxy)?]);
    }
    let exceptions = options.setting(&["no_proxy", "NO_PROXY"]).and_then(reqwest::NoProxy::from_string);
    let mut proxies = Vec::new();
    // A CGI program's HTTP_PROXY may come from a header of its client, so only the small letters count.
    if let Some(proxy) = options.setting(&["http_proxy", "all_proxy", "ALL_PROXY"]) {
        proxies.push(Proxy::http(proxy)?.no_proxy(exceptions.clone()));
    }
    if let Some(proxy) = options.setting(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) {
        proxies.push(Proxy::https(proxy)?.no_proxy(exceptions));
    }
    Ok(proxies)
}

fn bearer(path: &std::path::Path) -> Result<HeaderMap, TransportError> {
    let local = |source| TransportError::Local { path: path.to_owned(), source };
    let token = std::fs::read_to_string(path).map_err(local)?;
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|error| local(std::io::Error::other(error)))?;
    value.set_sensitive(true);
    Ok([(AUTHORIZATION, value)].into_iter().collect())
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Connector {
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            self.counters.requested();
            let range = request.headers().get(RANGE).and_then(|value| wanted_range(value.to_str().ok()?));
            let is_get = request.method() == Method::GET;
            let response = self.client.call(request).await?;
            match response.status() {
                StatusCode::OK if is_get => match range {
                    Some(range) => cut_out(response, range),
                    None => Ok(response),
                },
                status if status.is_success() => Ok(response),
                _ => Ok(shortened(response).await),
            }
        })
    }
}

/// The first and last byte that `bytes=A-B` asks for.
fn wanted_range(value: &str) -> Option<(u64, u64)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// An error's text may be an endless one.
async fn shortened(response: HttpResponse) -> HttpResponse {
    let (parts, body) = response.into_parts();
    let mut text = Vec::new();
    let mut stream = body.bytes_stream();
    while let Some(Ok(bytes)) = stream.next().await {
        text.extend_from_slice(&bytes[..bytes.len().min(ERROR_TEXT_MAX - text.len())]);
        if text.len() == ERROR_TEXT_MAX {
            break;
        }
    }
    HttpResponse::from_parts(parts, HttpResponseBody::from(text))
}

/// Makes of a whole file the range that was asked for.
fn cut_out(response: HttpResponse, (first, last): (u64, u64)) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = response.into_parts();
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let refusal = |reason: String| HttpError::new(HttpErrorKind::Decode, std::io::Error::other(reason));
    let Some(length) = length.filter(|length| *length <= WHOLE_FILE_MAX) else {
        return Err(refusal(format!(
            "the server does not support Range requests, and files of more than {} MiB are not read whole; use one that \
             does (nginx, Apache, caddy, 'sapwood serve')",
            WHOLE_FILE_MAX >> 20
        )));
    };
    if first > last || first >= length {
        return Err(refusal(format!("byte {first} of a file of {length} bytes was asked for")));
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
        context: &mut std::task::Context<'_>,
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
