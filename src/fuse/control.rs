//! What is said over the socket of a mount: a question as one JSON value, an answer as another.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Weak;
use std::time::Duration;

use super::board::{Board, Health};
use super::counters::{Counters, Figures};
use super::recording::Recording;
use crate::cache::{LazyFigures, LazyTree};

/// A question is written at once; who does not is not waited for.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest question in bytes.
const QUESTION_MAX: u64 = 4096;

/// What can be asked of the worker of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What it has done so far.
    Figures,
    /// To note what is read from now on.
    StartRecording,
    /// To tell what was read.
    StopRecording,
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// How long the answer may take.
    const fn patience(self) -> Duration {
        match self {
            Self::Figures => Duration::from_secs(2),
            Self::StartRecording | Self::StopRecording => Duration::from_secs(60),
        }
    }
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What it has done so far.
    Figures {
        /// What the kernel asked.
        kernel: Figures,
        /// How workers fared.
        #[serde(default)]
        health: Option<Health>,
        /// What was fetched, if anything could be missing.
        lazy: Option<Box<LazyFigures>>,
    },
    /// It is done.
    Done,
    /// The text of a profile.
    Profile(Vec<u8>),
    /// It cannot be done, and why.
    Refused(String),
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// When it is none.
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

/// What the worker of a mount can tell whoever asks.
#[derive(Clone)]
pub struct Told {
    /// What the kernel asked, and how workers fared.
    pub board: Board,
    /// What is fetched as it is read; of no mount when everything is here. Does not keep it alive.
    pub lazy: Weak<LazyTree>,
    /// What can be recorded.
    pub recording: Option<Recording>,
}

impl Told {
    /// How it stands.
    pub(super) fn figures(&self) -> (Figures, Health, Option<LazyFigures>) {
        let lazy = self.lazy.upgrade().map(|tree| tree.figures());
        (Counters::of(&self.board).figures(), self.board.health(), lazy)
    }

    fn answer(&self, question: Question) -> Answer {
        let refused = |error: super::recording::RecordError| Answer::Refused(error.to_string());
        match (question, &self.recording) {
            (Question::Figures, _) => {
                let (kernel, health, lazy) = self.figures();
                Answer::Figures { kernel, health: Some(health), lazy: lazy.map(Box::new) }
            }
            (_, None) => Answer::Refused("this mount cannot be recorded".to_owned()),
            (Question::StartRecording, Some(recording)) => {
                recording.start().map_or_else(refused, |_recorder| Answer::Done)
            }
            (Question::StopRecording, Some(recording)) => {
                recording.stop().map_or_else(refused, |profile| Answer::Profile(profile.render()))
            }
        }
    }
}

/// Asks the worker behind `socket`.
///
/// # Errors
/// Those of the socket; not being answered in time is one.
pub fn ask(socket: &Path, question: Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(question.patience()))?;
    stream.write_all(&serde_json::to_vec(&question)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(Answer::parse(&text)?)
}

/// Answers everybody, one after the other, for as long as the process lives.
pub(super) fn answer_all(listener: &UnixListener, told: &Told) {
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer_one(stream, told)) {
            tracing::debug!("control socket: {error}");
        }
    }
}

fn answer_one(mut stream: UnixStream, told: &Told) -> io::Result<()> {
    stream.set_read_timeout(Some(QUESTION_TIMEOUT))?;
    stream.set_write_timeout(Some(QUESTION_TIMEOUT))?;
    let mut text = Vec::new();
    (&stream).take(QUESTION_MAX).read_to_end(&mut text)?;
    let answer = told.answer(Question::parse(&text)?);
    stream.write_all(&answer.encode()?)
}
