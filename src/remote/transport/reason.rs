//! Why a request came to nothing, in words that a person understands.
//!
//! What the layers below say is long, repeats itself and names their own insides; here it is brought down to one sentence. What
//! a server says is cut and cleaned before it is shown, since it may be anything.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;

use super::certificate::{CertificateFault, TlsFault, certificate_fault, tls_fault};
use super::hope::Hope;

/// What the HTTP library says when a proxy wants to know who is asking.
const PROXY_AUTHORIZATION: &str = "proxy authorization required";

/// So many characters of what a server says are shown.
const SAID_MAX: usize = 200;

/// What went wrong on the way to or at the other side.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Reason {
    /// It refuses, or has trouble of its own.
    #[error("the server answers {status}{said}")]
    Status {
        /// By what code.
        status: StatusCode,
        /// And these words.
        said: Said,
    },
    /// It is busy, and says for how long.
    #[error("the server answers {status} and asks to come back in {} s", .after.as_secs())]
    Busy {
        /// By what code.
        status: StatusCode,
        /// When to come back.
        after: Duration,
    },
    /// Nobody can be reached.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The server does not prove who it is.
    #[error("the server's certificate is refused: {1}")]
    Certificate(CertificateFault, String),
    /// The server, or we, end the handshake.
    #[error("no secure connection: {1}")]
    Tls(TlsFault, String),
    /// The proxy does not let us through.
    #[error("the proxy {0} refuses: it wants to know who is asking (407)")]
    Proxy(String),
    /// There was a limit to the time for asking.
    #[error("no whole answer came in the time that there was for it")]
    TooLate,
    /// Nothing comes.
    #[error("nothing came for {} s", .0.as_secs())]
    Silence(Duration),
    /// Too little comes.
    #[error("fewer than {rate} bytes a second came for {} s", .time.as_secs())]
    Slow {
        /// The least that is worth waiting for.
        rate: u64,
        /// For so long.
        time: Duration,
    },
    /// The connection ends before an answer begins, as through a forwarder with nothing behind it.
    #[error("the connection broke before an answer came: {0}")]
    Unanswered(String),
    /// The connection ends in the middle of an answer.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Redirections that lead nowhere.
    #[error("the server redirects in a circle")]
    Redirects,
    /// A large file cannot be had in parts.
    #[error(
        "the server does not support Range requests, and no more than {} MiB are read to get at a part; use one that does \
         (nginx, Apache, caddy, 'sapwood serve')", .limit >> 20
    )]
    NoRanges {
        /// Bytes that would be read whole.
        limit: u64,
    },
    /// Other bytes than those that were asked for.
    #[error("the server sent {found} where bytes {first}-{last} were asked for")]
    WrongRange {
        /// The first byte that was asked for.
        first: u64,
        /// The last one.
        last: u64,
        /// What it says it sent.
        found: String,
    },
    /// Compressed on the way.
    #[error("the server sent the file encoded as '{0}', which was not asked for")]
    Encoded(String),
    /// Who is asking is not known here.
    #[error(
        "there are no credentials: none in the environment, no profile, and the address where a cloud's machine gets them \
         does not answer"
    )]
    NoCredentials,
    /// The system refuses.
    #[error("{0}")]
    System(Arc<io::Error>),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What a server said with an error, ready to be shown after the code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said(String);

impl Said {
    /// The gist of a body: code and message of a bucket's error, the title of a page, or the first line of a plain text.
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

    /// Whether it wants to know by a certificate who is asking, as nginx says it.
    #[must_use]
    pub fn wants_certificate(&self) -> bool {
        self.0.contains("SSL certificate")
    }

    /// Whether the body says that there is no such bucket, rather than no such file.
    pub(super) fn misses_bucket(&self) -> bool {
        ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| self.0.starts_with(code))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// The title of a web page, if it has one.
pub(super) fn title(page: &str) -> Option<&str> {
    element(page, "title").or_else(|| element(page, "TITLE")).map(str::trim).filter(|title| !title.is_empty())
}

/// What stands between `<name>` and `</name>` first.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// Text of a stranger, short and without what a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect();
    if text.chars().count() > SAID_MAX {
        shown.push('…');
    }
    shown
}

impl Reason {
    /// Why an object store failed.
    pub(super) fn of_store(error: &object_store::Error) -> Self {
        let causes = causes(error);
        if let Some(reason) = causes.iter().find_map(|cause| cause.downcast_ref::<Self>()) {
            return reason.clone();
        }
        // The file system's own words, without the crate's before them.
        if let Some(cause) = causes.iter().find_map(|cause| cause.downcast_ref::<io::Error>()) {
            let again = cause
                .raw_os_error()
                .map_or_else(|| io::Error::new(cause.kind(), cause.to_string()), io::Error::from_raw_os_error);
            return Self::System(Arc::new(again));
        }
        Self::Other(clean(&causes.last().map_or_else(|| error.to_string(), ToString::to_string)))
    }

    /// Why a request failed before anything was answered. `proxy` is the one that such requests go through.
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
        let words = innermost(error);
        match proxy {
            _ if error.is_redirect() => Self::Redirects,
            Some(proxy) if words.contains(PROXY_AUTHORIZATION) => Self::Proxy(proxy.to_owned()),
            Some(proxy) if error.is_connect() => Self::Connect(format!("through the proxy {proxy}: {words}")),
            None if error.is_connect() => Self::Connect(words),
            // What cannot be understood is an answer of a kind.
            _ if causes(error).iter().any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse)) => {
                Self::Broken(words)
            }
            _ => Self::Unanswered(words),
        }
    }

    /// Why an answer that had begun did not come to its end.
    pub(super) fn of_answer(error: &reqwest::Error) -> Self {
        match Self::of_request(error, None) {
            Self::Unanswered(words) => Self::Broken(words),
            other => other,
        }
    }

    /// What waiting may do about it.
    #[must_use]
    pub fn hope(&self) -> Hope {
        match self {
            Self::Connect(_) | Self::Silence(_) | Self::Slow { .. } => Hope::Reach,
            // A clock that is not set is set soon, where there is a network.
            Self::Certificate(CertificateFault::Clock, _) => Hope::Reach,
            Self::Status { .. } | Self::Busy { .. } | Self::Unanswered(_) | Self::Broken(_) => Hope::Again,
            Self::Redirects | Self::WrongRange { .. } | Self::Encoded(_) => Hope::Again,
            Self::Tls(TlsFault::NotTls, _) | Self::Other(_) => Hope::Again,
            Self::Certificate(..) | Self::Tls(..) | Self::Proxy(_) | Self::NoRanges { .. } | Self::System(_) => {
                Hope::Twice
            }
            Self::NoCredentials | Self::TooLate => Hope::None,
        }
    }

    /// Whether an upload may succeed in a while.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.is_busy() || self.hope() == Hope::Reach || matches!(self, Self::Unanswered(_) | Self::Broken(_))
    }

    /// Whether the server says that it is busy: then it is not asked again at once.
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_passing(*status),
            Self::Busy { .. } => true,
            _ => false,
        }
    }
}

/// Whether a server that answers so may answer otherwise soon.
pub(super) fn is_passing(status: StatusCode) -> bool {
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

/// The TLS library's error, which hides inside errors of I/O.
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

/// The causes from the first that says something, as one line.
fn innermost(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = causes(error).iter().map(ToString::to_string).collect();
    words.retain(|text| !text.starts_with("client error (") && !text.is_empty());
    words.dedup();
    // A cause that repeats the one below it.
    let repeats =
        |at: usize, words: &[String]| words.get(at + 1).is_some_and(|next| words[at].ends_with(next.as_str()));
    let kept = (0..words.len()).filter(|at| !repeats(*at, &words)).map(|at| words[at].as_str());
    let text = kept.collect::<Vec<_>>().join(": ");
    clean(if text.is_empty() { "no reason is known" } else { &text })
}
