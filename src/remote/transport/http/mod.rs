//! The HTTP client below the object stores: one connection pool, every attempt counted, answers bounded.
//!
//! It adds what the object stores lack: stall detection, errors with reasons, and the rule that a secret is sent only
//! to the server that it is for.
//!
//! *Not here*: retries of reads (`retry`) and of other requests (the object stores).
//!
//! *Used by* `open`.

mod decoded;
mod response;
mod stall;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use reqwest::header::{AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, ClientBuilder, Proxy, redirect};

use super::counters::TrafficCounters;
use super::error::TransportError;
use super::hide::without_secret;
use super::options::TransportOptions;
use super::reason::{FailureReason, InsecureRedirect};
use super::retry_class::Caches;
use super::tls;
use response::AnsweringHost;
pub(super) use response::{RequestInfo, interpret};
use stall::{StallLimit, WatchedBody};

/// The addresses at which the machines of clouds get credentials. They are never reached through a proxy, which would
/// return its own machine's credentials.
const METADATA_HOSTS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// The timeout for these addresses: one that exists answers at once.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of redirections that are followed.
const REDIRECTS_MAX: usize = 10;

/// The longest `Retry-After` for which an upload waits.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Whether the bearer token and this machine's certificate are sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretPolicy {
    /// They are sent.
    Sent,
    /// They are not sent: the server is a mirror on another host, or another one sent the request on to it.
    Withheld,
}

/// The connector that gives object stores this HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client,
    /// The client for hosts that requests are sent on to, if [`Self::client`] shows a certificate.
    other_hosts: Option<Client>,
    /// The client for [`METADATA_HOSTS`].
    metadata_client: Option<Client>,
    counters: Arc<TrafficCounters>,
    connect_timeout: Duration,
    stall_limit: StallLimit,
    store_retries: Option<StoreRetries>,
    caches: Caches,
    proxies: Vec<ProxyRule>,
}

/// A proxy, and the requests for which it is used.
#[derive(Debug, Clone)]
struct ProxyRule {
    /// The scheme of their URLs; `None` for any.
    scheme: Option<&'static str>,
    url: String,
    /// The hosts that are excepted, in the form of the environment variable.
    except: Option<String>,
}

/// The state of a client below an object store that retries requests itself.
#[derive(Debug, Clone)]
struct StoreRetries {
    /// How long the store retries.
    patience: Duration,
    /// Whether a warning was logged that the server is not reached.
    has_warned: Arc<AtomicBool>,
}

impl Connector {
    /// Returns the connector for a web server.
    pub(super) fn web(
        options: &TransportOptions,
        secrets: SecretPolicy,
        counters: &Arc<TrafficCounters>,
    ) -> Result<Self, TransportError> {
        Self::new(options, secrets, RedirectPolicy::Followed, None, counters)
    }

    /// Returns the connector for a bucket, which may need credentials.
    pub(super) fn bucket(options: &TransportOptions, counters: &Arc<TrafficCounters>) -> Result<Self, TransportError> {
        let tls = tls::client_config(options, None)?;
        let metadata =
            client_builder(tls, options).connect_timeout(METADATA_TIMEOUT).redirect(redirect::Policy::none());
        // A bucket's certificate is its own authentication, and its requests are signed for one host.
        Self::new(options, SecretPolicy::Sent, RedirectPolicy::Refused, Some(build_client(metadata)?), counters)
    }

    fn new(
        options: &TransportOptions,
        secrets: SecretPolicy,
        redirects: RedirectPolicy,
        metadata: Option<Client>,
        counters: &Arc<TrafficCounters>,
    ) -> Result<Self, TransportError> {
        let proxies = proxies(options);
        let connect = |secrets: SecretPolicy| -> Result<ClientBuilder, TransportError> {
            let certificate = options.client_certificate.as_deref().filter(|_| secrets == SecretPolicy::Sent);
            let tls = tls::client_config(options, certificate)?;
            let builder = client_builder(tls, options).connect_timeout(options.connect_limit());
            proxies.iter().try_fold(builder, |builder, proxy| Ok(builder.proxy(proxy.to_proxy()?)))
        };
        let mut builder = connect(secrets)?;
        let mut other_hosts = None;
        match redirects {
            RedirectPolicy::Refused => builder = builder.redirect(redirect::Policy::none()),
            RedirectPolicy::Followed => {
                let has_certificate = options.client_certificate.is_some() && secrets == SecretPolicy::Sent;
                builder = builder.redirect(follow(has_certificate));
                if has_certificate {
                    other_hosts = Some(build_client(connect(SecretPolicy::Withheld)?.redirect(follow(false)))?);
                }
                if let Some(path) = options.bearer_file.as_ref().filter(|_| secrets == SecretPolicy::Sent) {
                    builder = builder.default_headers(bearer_header(path)?);
                }
            }
        }
        Ok(Self {
            client: build_client(builder)?,
            other_hosts,
            metadata_client: metadata,
            counters: Arc::clone(counters),
            connect_timeout: options.connect_limit(),
            stall_limit: StallLimit { min_rate: options.min_rate, window: options.stall_limit() },
            store_retries: None,
            caches: Caches::Allowed,
            proxies,
        })
    }

    /// Returns the connector with a header that makes caches revalidate what they have.
    pub(super) fn bypassing_caches(&self) -> Self {
        Self { caches: Caches::Bypassed, ..self.clone() }
    }

    /// Returns the connector for a store that retries requests itself for this time. It waits as long as a busy server
    /// asks for, and logs one warning.
    pub(super) fn with_store_retries(&self, patience: Duration) -> Self {
        Self { store_retries: Some(StoreRetries { patience, has_warned: Arc::default() }), ..self.clone() }
    }

    async fn send_request(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.counters.count_request();
        let info = RequestInfo::of(&request);
        let (parts, body) = request.into_parts();
        let broken_url = |error: url::ParseError| HttpError::new(HttpErrorKind::Unknown, error);
        let mut request = reqwest::Request::new(parts.method, parts.uri.to_string().parse().map_err(broken_url)?);
        *request.headers_mut() = parts.headers;
        if self.caches == Caches::Bypassed {
            request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        if let Some(metadata) = &self.metadata_client
            && request.url().host_str().is_some_and(|host| METADATA_HOSTS.contains(&host))
        {
            return request_credentials(metadata, request, body).await;
        }
        let proxy = self.proxy_of(request.url());
        let (copy, limits) = (request.try_clone(), (self.connect_timeout, self.stall_limit));
        let mut response = stall::execute(&self.client, request, body, limits.0, limits.1, proxy.as_deref()).await;
        if let (Ok(redirect), Some(client), Some(request)) = (&response, &self.other_hosts, copy)
            && let Some(request) = sent_on(redirect, request)
        {
            let body = HttpRequestBody::empty();
            response = stall::execute(client, request, body, limits.0, limits.1, proxy.as_deref()).await;
        }
        let result = match (response, proxy) {
            (Ok(response), Some(proxy)) if response.status() == reqwest::StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(HttpError::new(HttpErrorKind::Unknown, FailureReason::Proxy(proxy)))
            }
            (Ok(response), _) => interpret(&info, watch_response(response, self.stall_limit)).await,
            (Err(error), _) => Err(error),
        };
        match &self.store_retries {
            Some(store_retries) => store_retries.before_retry(result).await,
            None => result,
        }
    }
}

/// Whether requests that are sent on to another URL follow there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RedirectPolicy {
    Followed,
    /// The answer counts as an error: requests are signed for one host.
    Refused,
}

/// Returns the rule for redirections: as many as usual, and never from an encrypted connection to one that is not. With
/// `has_certificate`, an answer that leads to another server is returned as it is.
fn follow(has_certificate: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let last = attempt.previous().last();
        if last.is_some_and(|last| last.scheme() == "https") && attempt.url().scheme() != "https" {
            let host = attempt.url().host_str().unwrap_or_default().to_owned();
            return attempt.error(InsecureRedirect(host));
        }
        if has_certificate && last.is_some_and(|last| last.origin() != attempt.url().origin()) {
            return attempt.stop();
        }
        redirect::Policy::limited(REDIRECTS_MAX).redirect(attempt)
    })
}

/// Returns the request that an answer sends on to another server; `None` for any other answer.
fn sent_on(answer: &reqwest::Response, mut request: reqwest::Request) -> Option<reqwest::Request> {
    let location = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection())?;
    let url = answer.url().join(location.to_str().ok()?).ok()?;
    let is_read = [reqwest::Method::GET, reqwest::Method::HEAD].contains(request.method());
    *request.url_mut() = url;
    request.headers_mut().remove(AUTHORIZATION);
    is_read.then_some(request)
}

impl Connector {
    /// Returns the proxy for a request to `url`, without its password.
    fn proxy_of(&self, url: &reqwest::Url) -> Option<String> {
        let host = url.host_str()?;
        let is_for = |proxy: &&ProxyRule| proxy.scheme.is_none_or(|scheme| scheme == url.scheme());
        let proxy = self.proxies.iter().find(is_for)?;
        // This is for messages only: the library also compares addresses and networks.
        let excepted =
            proxy.except.iter().flat_map(|list| list.split(',')).map(|name| name.trim().trim_start_matches('.'));
        let is_excepted = excepted.filter(|name| !name.is_empty()).any(|name| name == "*" || host.ends_with(name));
        (!is_excepted).then(|| without_secret(&proxy.url))
    }
}

impl ProxyRule {
    fn to_proxy(&self) -> Result<Proxy, TransportError> {
        check_proxy(&self.url)?;
        let exceptions = self.except.as_deref().and_then(reqwest::NoProxy::from_string);
        let made = match self.scheme {
            None => Proxy::all(&self.url),
            Some("https") => Proxy::https(&self.url),
            Some(_) => Proxy::http(&self.url),
        };
        made.map(|proxy| proxy.no_proxy(exceptions)).map_err(|error| unusable("the proxy", &error))
    }
}

/// Checks the URL of a proxy that otherwise would fail only when it is used.
pub(crate) fn check_proxy(url: &str) -> Result<(), TransportError> {
    let refused = |reason: &str| TransportError::Proxy { url: without_secret(url), reason: reason.to_owned() };
    // Without a scheme it is http, as is usual.
    let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {
            let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
            let parsed = url::Url::parse(&full).map_err(|error| refused(&error.to_string()))?;
            if parsed.has_host() { Ok(()) } else { Err(refused("it names no host")) }
        }
        _ => Err(refused("only proxies that speak HTTP can be used: http://HOST:PORT or https://HOST:PORT")),
    }
}

async fn request_credentials(
    client: &Client,
    request: reqwest::Request,
    body: HttpRequestBody,
) -> Result<HttpResponse, HttpError> {
    let limit = StallLimit { min_rate: 1, window: METADATA_TIMEOUT };
    match stall::execute(client, request, body, Duration::ZERO, limit, None).await {
        Ok(answer) if answer.status().is_success() => Ok(watch_response(answer, limit)),
        // There is no such server, it has no credentials, or it is a different server.
        _ => Err(HttpError::new(HttpErrorKind::Unknown, FailureReason::NoCredentials)),
    }
}

impl StoreRetries {
    /// Waits or warns before a failure is returned to the store, which then repeats the request.
    async fn before_retry(&self, result: Result<HttpResponse, HttpError>) -> Result<HttpResponse, HttpError> {
        let Err(error) = result else {
            self.has_warned.store(false, Ordering::Relaxed);
            return result;
        };
        let reason = std::error::Error::source(&error).and_then(|reason| reason.downcast_ref::<FailureReason>());
        let Some(reason) = reason.filter(|reason| reason.is_transient()).cloned() else { return Err(error) };
        if let FailureReason::Busy { after, .. } = reason {
            if after > self.patience.min(RETRY_AFTER_MAX) {
                return Err(HttpError::new(HttpErrorKind::Unknown, reason));
            }
            tokio::time::sleep(after).await;
        } else if !self.patience.is_zero() && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("{reason}; trying again for up to {} s", self.patience.as_secs());
        }
        Err(error)
    }
}

fn watch_response(answer: reqwest::Response, limit: StallLimit) -> HttpResponse {
    let host = answer.url().host_str().map(str::to_owned);
    let (mut parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
    parts.extensions.insert(AnsweringHost(host));
    HttpResponse::from_parts(parts, HttpResponseBody::new(WatchedBody::new(body, limit)))
}

fn unusable(what: &str, error: &reqwest::Error) -> TransportError {
    TransportError::Tls { what: what.to_owned(), reason: error.to_string() }
}

fn build_client(builder: ClientBuilder) -> Result<Client, TransportError> {
    builder.build().map_err(|error| unusable("the HTTP client", &error))
}

/// Returns a client builder with the common settings. Only proxies that are added explicitly are used.
fn client_builder(tls: rustls::ClientConfig, options: &TransportOptions) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
        .http2_adaptive_window(true)
        // A connection that broke silently (the machine was suspended, a router dropped its state) is shared by all
        // requests and would be used again and again.
        .http2_keep_alive_interval(options.stall_limit())
        .http2_keep_alive_timeout(options.stall_limit())
        .tcp_user_timeout(options.stall_limit() * 2)
        .tcp_nodelay(true)
        .referer(false)
        .no_proxy()
}

fn proxies(options: &TransportOptions) -> Vec<ProxyRule> {
    if let Some(proxy) = &options.proxy {
        return vec![ProxyRule { scheme: None, url: proxy.clone(), except: None }];
    }
    let except = options.setting(&["no_proxy", "NO_PROXY"]).map(str::to_owned);
    // The HTTP_PROXY of a CGI program may come from a header of its client, so only the lower-case name counts.
    let names: [(&'static str, &[&str]); 2] = [
        ("http", &["http_proxy", "all_proxy", "ALL_PROXY"]),
        ("https", &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
    ];
    let choice = |(scheme, names): (&'static str, &[&str])| {
        let url = options.setting(names)?.to_owned();
        Some(ProxyRule { scheme: Some(scheme), url, except: except.clone() })
    };
    names.into_iter().filter_map(choice).collect()
}

fn bearer_header(path: &std::path::Path) -> Result<HeaderMap, TransportError> {
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
        Box::pin(self.send_request(request))
    }
}
