//! The HTTP client below the object stores: one connection pool, every attempt counted, answers bounded.
//!
//! Retries with backoff are the object stores'. Here is what they leave open: how slow is too slow, which answers are none
//! and why, and that a secret goes to the server it is for and to no other.

mod answer;
mod pace;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, ClientBuilder, Proxy};

use super::counters::Counters;
use super::error::TransportError;
use super::options::TransportOptions;
use super::reason::Reason;
use super::tls;
use answer::{Question, judge};
use pace::{Pace, Watched};

/// Where the machines of clouds get credentials. Never asked through a proxy, whose own they would be.
const METADATA_HOSTS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// Such an address answers at once or is not there at all.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

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
    metadata: Client,
    counters: Arc<Counters>,
    connecting: Duration,
    patience: Duration,
    pace: Pace,
    /// Whether it was said that nobody answers.
    said: Arc<AtomicBool>,
}

impl Connector {
    pub(super) fn new(
        options: &TransportOptions,
        bearer: Bearer,
        counters: &Arc<Counters>,
    ) -> Result<Self, TransportError> {
        let mut builder = builder(options)?.connect_timeout(options.connect_limit());
        for proxy in proxies(options).map_err(|error| unusable("the proxy", &error))? {
            builder = builder.proxy(proxy);
        }
        if let Some(path) = options.bearer_file.as_ref().filter(|_| bearer == Bearer::Sent) {
            builder = builder.default_headers(bearer_header(path)?);
        }
        let metadata = self::builder(options)?.connect_timeout(METADATA_PATIENCE);
        let built = |builder: ClientBuilder| builder.build().map_err(|error| unusable("the HTTP client", &error));
        Ok(Self {
            client: built(builder)?,
            metadata: built(metadata)?,
            counters: Arc::clone(counters),
            connecting: options.connect_limit(),
            patience: options.retry_limit(),
            pace: Pace { rate: options.min_rate, window: options.stall_limit() },
            said: Arc::default(),
        })
    }

    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.counters.requested();
        let question = Question {
            method: request.method().clone(),
            range: request.headers().get(RANGE).and_then(Question::range),
        };
        let (parts, body) = request.into_parts();
        let broken_url = |error: url::ParseError| HttpError::new(HttpErrorKind::Unknown, error);
        let mut request = reqwest::Request::new(parts.method, parts.uri.to_string().parse().map_err(broken_url)?);
        *request.headers_mut() = parts.headers;
        if request.url().host_str().is_some_and(|host| METADATA_HOSTS.contains(&host)) {
            return self.ask_for_credentials(request, body).await;
        }
        let answer = pace::execute(&self.client, request, body, self.connecting, self.pace).await;
        let result = match answer {
            Ok(answer) => judge(&question, watched(answer, self.pace), self.patience).await,
            Err(error) => Err(error),
        };
        self.tell(&result);
        result
    }

    /// Once, so that whoever waits knows for what.
    fn tell(&self, result: &Result<HttpResponse, HttpError>) {
        let Err(error) = result else {
            self.said.store(false, Ordering::Relaxed);
            return;
        };
        let reason = std::error::Error::source(error).and_then(|reason| reason.downcast_ref::<Reason>());
        if let Some(reason) = reason.filter(|reason| reason.may_pass())
            && !self.patience.is_zero()
            && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("{reason}; trying again for up to {} s", self.patience.as_secs());
        }
    }

    async fn ask_for_credentials(
        &self,
        request: reqwest::Request,
        body: object_store::client::HttpRequestBody,
    ) -> Result<HttpResponse, HttpError> {
        let pace = Pace { rate: 1, window: METADATA_PATIENCE };
        match pace::execute(&self.metadata, request, body, Duration::ZERO, pace).await {
            Ok(answer) if answer.status().is_success() => Ok(watched(answer, pace)),
            // Nobody is there, or has nothing for us, or is somebody else.
            _ => Err(HttpError::new(HttpErrorKind::Unknown, Reason::NoCredentials)),
        }
    }
}

fn watched(answer: reqwest::Response, pace: Pace) -> HttpResponse {
    let (parts, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
    HttpResponse::from_parts(parts, HttpResponseBody::new(Watched::new(body, pace)))
}

fn unusable(what: &str, error: &reqwest::Error) -> TransportError {
    TransportError::Tls { what: what.to_owned(), reason: error.to_string() }
}

/// What all our clients have in common. No proxy but those that are added.
fn builder(options: &TransportOptions) -> Result<ClientBuilder, TransportError> {
    Ok(Client::builder()
        .tls_backend_preconfigured(tls::client_config(options)?)
        .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
        .http2_adaptive_window(true)
        // A connection that died without a word (a machine that slept, a router that forgot) is shared by all requests
        // and would be used again and again.
        .http2_keep_alive_interval(options.stall_limit())
        .http2_keep_alive_timeout(options.stall_limit())
        .tcp_user_timeout(options.stall_limit() * 2)
        .tcp_nodelay(true)
        .referer(false)
        .no_proxy())
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
