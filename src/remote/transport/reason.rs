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
    #[error("the server's certificate is refused: {0}")]
    Certificate(String),
    /// The server, or we, end the handshake.
    #[error("no secure connection: {0}")]
    Tls(String),
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
    /// The connection ends in the middle.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Redirections that lead nowhere.
    #[error("the server redirects in a circle")]
    Redirects,
    /// A large file cannot be had in parts.
    #[error(
        "the server does not support Range requests, and files of more than {} MiB are not read whole; use one that does \
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

    /// Why a request failed before anything was answered.
    pub(super) fn of_request(error: &reqwest::Error) -> Self {
        if let Some(error) = rustls_error(error) {
            return match error {
                rustls::Error::InvalidCertificate(why) => Self::Certificate(certificate_word(why)),
                rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired) => {
                    Self::Tls("the server wants a client certificate".to_owned())
                }
                other => Self::Tls(other.to_string()),
            };
        }
        match () {
            () if error.is_redirect() => Self::Redirects,
            () if error.is_connect() => Self::Connect(innermost(error)),
            () => Self::Broken(innermost(error)),
        }
    }

    /// Whether the same request may succeed in a while.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_passing(*status),
            Self::Busy { .. } | Self::Connect(_) | Self::Silence(_) | Self::Slow { .. } | Self::Broken(_) => true,
            Self::Certificate(_)
            | Self::Tls(_)
            | Self::Redirects
            | Self::NoRanges { .. }
            | Self::WrongRange { .. }
            | Self::Encoded(_)
            | Self::NoCredentials
            | Self::System(_)
            | Self::Other(_) => false,
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

/// The library's words are a name of its own for the most usual case.
fn certificate_word(why: &rustls::CertificateError) -> String {
    match why {
        rustls::CertificateError::UnknownIssuer => "it was issued by an authority that is not trusted here".to_owned(),
        other => other.to_string(),
    }
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
