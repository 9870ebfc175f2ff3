//! The HTTP client below the object stores: one connection pool, every attempt counted, answers bounded.
//!
//! Retries with backoff are the object stores'. Here is what they leave open: how slow is too slow, which answers are none
//! and why, and that a secret goes to the server it is for and to no other.

mod answer;
mod decoded;
mod pace;

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
use reqwest::header::{AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderValue};
use reqwest::{Client, ClientBuilder, Proxy};

use super::counters::Counters;
use super::error::TransportError;
use super::hide::without_secret;
use super::hope::Caches;
use super::options::TransportOptions;
use super::reason::Reason;
use super::tls;
use answer::AnsweredBy;
pub(super) use answer::{Question, judge};
use pace::{Pace, Watched};

/// Where the machines of clouds get credentials. Never asked through a proxy, whose own they would be.
const METADATA_HOSTS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// Such an address answers at once or is not there at all.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

/// A server that asks for more than this before it answers again is not waited for.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Who may see the secret that says who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bearer {
    /// This server.
    Sent,
    /// Not this one: a mirror on another host, or a bucket, which has its own way.
    Withheld,
}

/// Gives object stores our client.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client,
    /// For where machines get credentials.
    metadata: Option<Client>,
    counters: Arc<Counters>,
    connecting: Duration,
    pace: Pace,
    persistence: Option<Persistence>,
    caches: Caches,
    proxies: Vec<ProxyChoice>,
}

/// A proxy, and the requests that go through it.
#[derive(Debug, Clone)]
struct ProxyChoice {
    /// The scheme of their URLs; any if there is none.
    scheme: Option<&'static str>,
    url: String,
    /// The hosts that are excepted, as the environment lists them.
    except: Option<String>,
}

/// Of a client below a store that sends requests again by itself.
#[derive(Debug, Clone)]
struct Persistence {
    /// How long it does so.
    patience: Duration,
    /// Whether it was said that nobody answers.
    said: Arc<AtomicBool>,
}

impl Connector {
    /// For a web server.
    pub(super) fn web(
        options: &TransportOptions,
        bearer: Bearer,
        counters: &Arc<Counters>,
    ) -> Result<Self, TransportError> {
        Self::new(options, bearer, None, counters)
    }

    /// For a bucket, to which credentials belong.
    pub(super) fn bucket(options: &TransportOptions, counters: &Arc<Counters>) -> Result<Self, TransportError> {
        let metadata = builder(tls::client_config(options)?, options).connect_timeout(METADATA_PATIENCE);
        Self::new(options, Bearer::Withheld, Some(built(metadata)?), counters)
    }

    fn new(
        options: &TransportOptions,
        bearer: Bearer,
        metadata: Option<Client>,
        counters: &Arc<Counters>,
    ) -> Result<Self, TransportError> {
        let mut builder = builder(tls::client_config(options)?, options).connect_timeout(options.connect_limit());
        let proxies = proxies(options);
        for proxy in &proxies {
            builder = builder.proxy(proxy.to_proxy()?);
        }
        if let Some(path) = options.bearer_file.as_ref().filter(|_| bearer == Bearer::Sent) {
            builder = builder.default_headers(bearer_header(path)?);
        }
        Ok(Self {
            client: built(builder)?,
            metadata,
            counters: Arc::clone(counters),
            connecting: options.connect_limit(),
            pace: Pace { rate: options.min_rate, window: options.stall_limit() },
            persistence: None,
            caches: Caches::Allowed,
            proxies,
        })
    }

    /// The same past caches: they are told to ask whether what they have is still right.
    pub(super) fn past_caches(&self) -> Self {
        Self { caches: Caches::Bypassed, ..self.clone() }
    }

    /// The same for a store that sends requests again by itself for so long: waits as long as a busy server asks for, and says
    /// once for what.
    pub(super) fn persistent(&self, patience: Duration) -> Self {
        Self { persistence: Some(Persistence { patience, said: Arc::default() }), ..self.clone() }
    }

    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.counters.requested();
        let question = Question::of(&request);
        let (parts, body) = request.into_parts();
        let broken_url = |error: url::ParseError| HttpError::new(HttpErrorKind::Unknown, error);
        let mut request = reqwest::Request::new(parts.method, parts.uri.to_string().parse().map_err(broken_url)?);
        *request.headers_mut() = parts.headers;
        if self.caches == Caches::Bypassed {
            request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        if let Some(metadata) = &self.metadata
            && request.url().host_str().is_some_and(|host| METADATA_HOSTS.contains(&host))
        {
            return ask_for_credentials(metadata, request, body).await;
        }
        let proxy = self.proxy_of(request.url());
        let answer = pace::execute(&self.client, request, body, self.connecting, self.pace, proxy.as_deref()).await;
        let result = match (answer, proxy) {
            (Ok(answer), Some(proxy)) if answer.status() == reqwest::StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(HttpError::new(HttpErrorKind::Unknown, Reason::Proxy(proxy)))
            }
            (Ok(answer), _) => judge(&question, watched(answer, self.pace)).await,
            (Err(error), _) => Err(error),
        };
        match &self.persistence {
            Some(persistence) => persistence.hold(result).await,
            None => result,
        }
    }
}

impl Connector {
    /// The proxy that a request to `url` goes through, without its password.
    fn proxy_of(&self, url: &reqwest::Url) -> Option<String> {
        let host = url.host_str()?;
        let is_for = |proxy: &&ProxyChoice| proxy.scheme.is_none_or(|scheme| scheme == url.scheme());
        let proxy = self.proxies.iter().find(is_for)?;
        // Only for words: the library decides by addresses and networks, too.
        let excepted =
            proxy.except.iter().flat_map(|list| list.split(',')).map(|name| name.trim().trim_start_matches('.'));
        let is_excepted = excepted.filter(|name| !name.is_empty()).any(|name| name == "*" || host.ends_with(name));
        (!is_excepted).then(|| without_secret(&proxy.url))
    }
}

impl ProxyChoice {
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

/// Refuses the URL of a proxy that nothing can go through, and would only show when something does.
///
/// # Errors
/// [`TransportError::Proxy`].
pub fn check_proxy(url: &str) -> Result<(), TransportError> {
    let refused = |reason: &str| TransportError::Proxy { url: without_secret(url), reason: reason.to_owned() };
    // Without a scheme it is http, as everywhere.
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

async fn ask_for_credentials(
    client: &Client,
    request: reqwest::Request,
    body: HttpRequestBody,
) -> Result<HttpResponse, HttpError> {
    let pace = Pace { rate: 1, window: METADATA_PATIENCE };
    match pace::execute(client, request, body, Duration::ZERO, pace, None).await {
        Ok(answer) if answer.status().is_success() => Ok(watched(answer, pace)),
        // Nobody is there, or has nothing for us, or is somebody else.
        _ => Err(HttpError::new(HttpErrorKind::Unknown, Reason::NoCredentials)),
    }
}

impl Persistence {
    /// Before a failure is passed on, and the request sent again.
    async fn hold(&self, result: Result<HttpResponse, HttpError>) -> Result<HttpResponse, HttpError> {
        let Err(error) = result else {
            self.said.store(false, Ordering::Relaxed);
            return result;
        };
        let reason = std::error::Error::source(&error).and_then(|reason| reason.downcast_ref::<Reason>());
        let Some(reason) = reason.filter(|reason| reason.may_pass()).cloned() else { return Err(error) };
        if let Reason::Busy { after, .. } = reason {
            if after > self.patience.min(WAIT_MAX) {
                return Err(HttpError::new(HttpErrorKind::Unknown, reason));
            }
            tokio::time::sleep(after).await;
        } else if !self.patience.is_zero() && !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!("{reason}; trying again for up to {} s", self.patience.as_secs());
        }
        Err(error)
    }
}

fn watched(answer: reqwest::Response, pace: Pace) -> HttpResponse {
    let host = answer.url().host_str().map(str::to_owned);
    let (mut parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
    parts.extensions.insert(AnsweredBy(host));
    HttpResponse::from_parts(parts, HttpResponseBody::new(Watched::new(body, pace)))
}

fn unusable(what: &str, error: &reqwest::Error) -> TransportError {
    TransportError::Tls { what: what.to_owned(), reason: error.to_string() }
}

fn built(builder: ClientBuilder) -> Result<Client, TransportError> {
    builder.build().map_err(|error| unusable("the HTTP client", &error))
}

/// What all our clients have in common. No proxy but those that are added.
fn builder(tls: rustls::ClientConfig, options: &TransportOptions) -> ClientBuilder {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
        .http2_adaptive_window(true)
        // A connection that died without a word (a machine that slept, a router that forgot) is shared by all requests
        // and would be used again and again.
        .http2_keep_alive_interval(options.stall_limit())
        .http2_keep_alive_timeout(options.stall_limit())
        .tcp_user_timeout(options.stall_limit() * 2)
        .tcp_nodelay(true)
        .referer(false)
        .no_proxy()
}

fn proxies(options: &TransportOptions) -> Vec<ProxyChoice> {
    if let Some(proxy) = &options.proxy {
        return vec![ProxyChoice { scheme: None, url: proxy.clone(), except: None }];
    }
    let except = options.setting(&["no_proxy", "NO_PROXY"]).map(str::to_owned);
    // A CGI program's HTTP_PROXY may come from a header of its client, so only the small letters count.
    let names: [(&'static str, &[&str]); 2] = [
        ("http", &["http_proxy", "all_proxy", "ALL_PROXY"]),
        ("https", &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
    ];
    let choice = |(scheme, names): (&'static str, &[&str])| {
        let url = options.setting(names)?.to_owned();
        Some(ProxyChoice { scheme: Some(scheme), url, except: except.clone() })
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
        Box::pin(self.ask(request))
    }
}
