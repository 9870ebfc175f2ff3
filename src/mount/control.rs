//! The control socket of a mount: a client sends a request as one JSON value, and the worker replies with another.
//!
//! *Not here*: the socket itself and its path (`registry`).
//!
//! *Invariant*: newer and older programs understand each other: variants and fields keep their serialised names.
//!
//! *Used by* `registry`, `metrics` and `cli`.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use crate::cache::{LazyFigures, LazyTree};
use crate::fuse::{Health, Recording, RequestCounters, RequestFigures, SharedState};

/// How long the worker waits for a client to send its request or to read the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest request in bytes.
const REQUEST_MAX: u64 = 4096;

/// A request to the worker of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlRequest {
    /// Return the figures of the mount.
    Figures,
    /// Start to record reads.
    StartRecording,
    /// Stop recording and return the reads.
    StopRecording,
}

impl ControlRequest {
    /// Parses a request.
    ///
    /// # Errors
    /// When the text is no request.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// Returns how long the client waits for the response.
    const fn timeout(self) -> Duration {
        match self {
            Self::Figures => Duration::from_secs(2),
            Self::StartRecording | Self::StopRecording => Duration::from_secs(60),
        }
    }
}

/// The response of a worker.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlResponse {
    /// The figures of the mount.
    Figures {
        /// The counts of the kernel's messages.
        kernel: RequestFigures,
        /// The state of the workers.
        #[serde(default)]
        health: Option<Health>,
        /// The figures of fetching, for a lazy mount.
        lazy: Option<Box<LazyFigures>>,
    },
    /// The request was carried out.
    Done,
    /// The text of a profile.
    Profile(Vec<u8>),
    /// The request was refused for this reason.
    Refused(String),
}

impl ControlResponse {
    /// Parses a response.
    ///
    /// # Errors
    /// When the text is no response.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// Returns the text that [`Self::parse`] reads.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// The state of a worker from which requests are answered.
#[derive(Clone)]
pub(crate) struct ControlState {
    /// The counters, and the state of the workers.
    pub(crate) shared: SharedState,
    /// The lazy tree, or an empty reference if the mount is not lazy. It does not keep the tree alive.
    pub(crate) lazy: Weak<LazyTree>,
    /// The handle that records the mount, if it can be recorded.
    pub(crate) recording: Option<Recording>,
}

impl ControlState {
    /// Returns the current figures.
    pub(super) fn figures(&self) -> (RequestFigures, Health, Option<LazyFigures>) {
        let lazy = self.lazy.upgrade().map(|tree| tree.figures());
        (RequestCounters::of(&self.shared).figures(), self.shared.health(), lazy)
    }

    fn respond(&self, request: ControlRequest) -> ControlResponse {
        let refused = |error: crate::fuse::RecordingError| ControlResponse::Refused(error.to_string());
        match (request, &self.recording) {
            (ControlRequest::Figures, _) => {
                let (kernel, health, lazy) = self.figures();
                ControlResponse::Figures { kernel, health: Some(health), lazy: lazy.map(Box::new) }
            }
            (_, None) => ControlResponse::Refused("this mount cannot be recorded".to_owned()),
            (ControlRequest::StartRecording, Some(recording)) => {
                recording.start().map_or_else(refused, |_recorder| ControlResponse::Done)
            }
            (ControlRequest::StopRecording, Some(recording)) => {
                recording.stop().map_or_else(refused, |profile| ControlResponse::Profile(profile.render()))
            }
        }
    }
}

/// Sends a request to the worker behind `socket` and returns its response.
///
/// # Errors
/// Those of the socket, and a timeout.
pub(crate) fn send_request(socket: &Path, request: ControlRequest) -> io::Result<ControlResponse> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(request.timeout()))?;
    stream.write_all(&serde_json::to_vec(&request)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(ControlResponse::parse(&text)?)
}

/// Serves clients one after another, until the process ends.
pub(super) fn serve_requests(listener: &UnixListener, state: &ControlState) {
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| serve_request(stream, state)) {
            tracing::debug!("control socket: {error}");
        }
    }
}

fn serve_request(mut stream: UnixStream, state: &ControlState) -> io::Result<()> {
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let mut text = Vec::new();
    (&stream).take(REQUEST_MAX).read_to_end(&mut text)?;
    let answer = state.respond(ControlRequest::parse(&text)?);
    stream.write_all(&answer.encode()?)
}
