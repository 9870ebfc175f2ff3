//! The reasons why requests fail, in words for people.
//!
//! The messages of the layers below are long, repetitive and name internals; they are reduced to one sentence here.
//!
//! *Not here*: how failed requests are repeated (`retry`).
//!
//! *Invariants*: text from a server is shortened and cleaned before it is shown, since it may contain anything.
//!
//! *Used by* `transport`.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

use super::certificate::{CertificateFault, TlsFault, certificate_fault, tls_fault};
use super::retry_class::RetryClass;

/// The HTTP library's message when a proxy requires authentication.
const PROXY_AUTHORIZATION: &str = "proxy authorization required";

/// The most characters of a server's text that are shown.
const MESSAGE_MAX: usize = 200;

/// The reason why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureReason {
    /// The server answers with an error status.
    #[error("the server answers {status}{message}")]
    Status {
        /// The status code.
        status: StatusCode,
        /// The server's text.
        message: ServerMessage,
    },
    /// The server is busy, and says for how long.
    #[error("the server answers {status} and asks to come back in {} s", .after.as_secs())]
    Busy {
        /// The status code.
        status: StatusCode,
        /// The time after which it asks for another request.
        after: Duration,
    },
    /// No connection was established.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The server's certificate is not accepted.
    #[error("the server's certificate is refused: {1}")]
    Certificate(CertificateFault, String),
    /// The TLS handshake failed.
    #[error("no secure connection: {1}")]
    Tls(TlsFault, String),
    /// The proxy requires authentication.
    #[error("the proxy {0} requires a password (407)")]
    Proxy(String),
    /// The deadline of the request passed.
    #[error("no complete answer arrived in time")]
    TooLate,
    /// No bytes arrive.
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Too few bytes arrive.
    #[error("fewer than {rate} bytes a second came for {} s", .time.as_secs())]
    Slow {
        /// The required bytes per second.
        rate: u64,
        /// The time over which the rate was measured.
        time: Duration,
    },
    /// The connection ended before an answer began, as happens with a forwarder whose target does not run.
    #[error("the connection broke before an answer came: {0}")]
    Unanswered(String),
    /// The connection ended in the middle of an answer.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// A server that is reached over TLS sends requests on to one that is not.
    #[error("the server sends requests on to {0}, without encryption")]
    InsecureRedirect(String),
    /// The redirections form a loop.
    #[error("the server redirects in a circle")]
    Redirects,
    /// The server does not send parts of files, and the file is too large to read all of it.
    #[error(
        "the server does not support Range requests, and no more than {} MiB are read to get at a part; use one that does \
         (nginx, Apache, caddy, 'sapwood serve')", .limit >> 20
    )]
    NoRanges {
        /// The most bytes that are read whole.
        limit: u64,
    },
    /// The server sent other bytes than the requested ones.
    #[error("the server sent {found} where bytes {first}-{last} were asked for")]
    WrongRange {
        /// The first requested byte.
        first: u64,
        /// The last requested byte.
        last: u64,
        /// What the server says that it sent.
        found: String,
    },
    /// The file was compressed in transit.
    #[error("the server sent the file encoded as '{0}', which was not asked for")]
    Encoded(String),
    /// There are no credentials on this machine.
    #[error(
        "there are no credentials: none in the environment, no profile, and the address where a cloud's machine gets them \
         does not answer"
    )]
    NoCredentials,
    /// A system call failed.
    #[error("{0}")]
    System(Arc<io::Error>),
    /// Another failure.
    #[error("{0}")]
    Other(String),
}

/// The text that a server sent with an error, ready to be shown after the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerMessage(String);

impl ServerMessage {
    /// Extracts the message from a body: code and message of a bucket's error, the title of a page, or the first line
    /// of a plain text.
    pub(super) fn of(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let words = match (element(&text, "Code"), element(&text, "Message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ if text.trim_start().starts_with('<') => element(&text, "title").unwrap_or_default().to_owned(),
            _ => text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned(),
        };
        Self(clean(&words))
    }

    /// Returns whether the server requires a client certificate, as nginx says it.
    pub(crate) fn wants_certificate(&self) -> bool {
        self.0.contains("SSL certificate")
    }

    /// Returns whether the message says that there is no such bucket, rather than no such file.
    pub(super) fn is_missing_bucket(&self) -> bool {
        ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| self.0.starts_with(code))
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// Returns the title of a web page, if it has one.
pub(super) fn title(page: &str) -> Option<&str> {
    element(page, "title").or_else(|| element(page, "TITLE")).map(str::trim).filter(|title| !title.is_empty())
}

/// Returns the text between the first `<name>` and `</name>`.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// Shortens text from a server and removes control characters, which a terminal would interpret.
pub(super) fn clean(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX).collect();
    if text.chars().count() > MESSAGE_MAX {
        shown.push('…');
    }
    shown
}

/// The error with which a redirection from an encrypted connection to another one ends; it has the host.
#[derive(Debug, thiserror::Error)]
#[error("a redirection to {0} without encryption")]
pub(super) struct InsecureRedirect(pub(super) String);

impl FailureReason {
    /// Returns the reason of an object store's error.
    pub(super) fn of_store(error: &object_store::Error) -> Self {
        let causes = causes(error);
        if let Some(reason) = causes.iter().find_map(|cause| cause.downcast_ref::<Self>()) {
            return reason.clone();
        }
        // The system's message, without the prefix of the library.
        if let Some(cause) = causes.iter().find_map(|cause| cause.downcast_ref::<io::Error>()) {
            let again = cause
                .raw_os_error()
                .map_or_else(|| io::Error::new(cause.kind(), cause.to_string()), io::Error::from_raw_os_error);
            return Self::System(Arc::new(again));
        }
        Self::Other(clean(&causes.last().map_or_else(|| error.to_string(), ToString::to_string)))
    }

    /// Returns why a request failed before an answer arrived. `proxy` is the proxy for such requests.
    pub(super) fn of_request(error: &reqwest::Error, proxy: Option<&str>) -> Self {
        if let Some(error) = rustls_error(error) {
            return match error {
                rustls::Error::InvalidCertificate(why) => {
                    let (fault, words) = certificate_fault(why);
                    Self::Certificate(fault, words)
                }
                other => {
                    let (fault, words) = tls_fault(other);
                    Self::Tls(fault, words)
                }
            };
        }
        if let Some(insecure) = causes(error).iter().find_map(|cause| cause.downcast_ref::<InsecureRedirect>()) {
            return Self::InsecureRedirect(insecure.0.clone());
        }
        let words = innermost(error);
        match proxy {
            _ if error.is_redirect() => Self::Redirects,
            Some(proxy) if words.contains(PROXY_AUTHORIZATION) => Self::Proxy(proxy.to_owned()),
            Some(proxy) if error.is_connect() => Self::Connect(format!("through the proxy {proxy}: {words}")),
            None if error.is_connect() => Self::Connect(words),
            // Bytes that cannot be parsed are an answer, though a broken one.
            _ if causes(error).iter().any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse)) => {
                Self::Broken(words)
            }
            _ => Self::Unanswered(words),
        }
    }

    /// Returns why an answer that had begun did not end properly.
    pub(super) fn of_answer(error: &reqwest::Error) -> Self {
        match Self::of_request(error, None) {
            Self::Unanswered(words) => Self::Broken(words),
            other => other,
        }
    }

    /// Returns how the failed request is repeated.
    pub(crate) fn retry_class(&self) -> RetryClass {
        match self {
            Self::Connect(_) | Self::Stalled(_) | Self::Slow { .. } => RetryClass::Unreachable,
            // A clock that is not set is usually set soon after the network is up.
            Self::Certificate(CertificateFault::Clock, _) => RetryClass::Unreachable,
            Self::Status { .. } | Self::Busy { .. } | Self::Unanswered(_) | Self::Broken(_) => RetryClass::Limited,
            Self::Redirects | Self::WrongRange { .. } | Self::Encoded(_) => RetryClass::Limited,
            Self::Tls(TlsFault::NotTls, _) | Self::Other(_) => RetryClass::Limited,
            Self::InsecureRedirect(_)
            | Self::Certificate(..)
            | Self::Tls(..)
            | Self::Proxy(_)
            | Self::NoRanges { .. }
            | Self::System(_) => RetryClass::OncePerPlace,
            Self::NoCredentials | Self::TooLate => RetryClass::Never,
        }
    }

    /// Returns whether an upload may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        self.is_busy()
            || self.retry_class() == RetryClass::Unreachable
            || matches!(self, Self::Unanswered(_) | Self::Broken(_))
    }

    /// Returns whether the server says that it is busy; it is not asked again at once then.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_transient_status(*status),
            Self::Busy { .. } => true,
            _ => false,
        }
    }
}

/// Returns whether a server with this answer may answer differently soon.
pub(super) fn is_transient_status(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

fn causes(error: &dyn Error) -> Vec<&(dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

/// Returns the TLS library's error, which is wrapped in I/O errors.
fn rustls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    causes(error).into_iter().find_map(|cause| {
        let mut inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
        loop {
            if let Some(found) = inner.downcast_ref() {
                return Some(found);
            }
            inner = inner.downcast_ref::<io::Error>()?.get_ref()?;
        }
    })
}

/// Joins the causes to one line, beginning with the first that has information.
fn innermost(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = causes(error).iter().map(ToString::to_string).collect();
    words.retain(|text| !text.starts_with("client error (") && !text.is_empty());
    words.dedup();
    // A cause that repeats the one below it is left out.
    let repeats =
        |at: usize, words: &[String]| words.get(at + 1).is_some_and(|next| words[at].ends_with(next.as_str()));
    let kept = (0..words.len()).filter(|at| !repeats(*at, &words)).map(|at| words[at].as_str());
    let text = kept.collect::<Vec<_>>().join(": ");
    clean(if text.is_empty() { "no reason is known" } else { &text })
}
