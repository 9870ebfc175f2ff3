//! The classes of failures by which requests are repeated, and the verdicts of receivers about what they got.
//!
//! *Not here*: the rule for repeating requests (`retry`).
//!
//! *Invariants*: a wrong answer is [`RetryClass::Limited`] unless it belongs to one of the other classes.
//!
//! *Used by* `retry`, and by all code that checks received content.

use std::error::Error;
use std::fmt;

/// How a failed request is repeated. Later classes are repeated longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryClass {
    /// Not at all: the fault is on this machine.
    Never,
    /// Once for each endpoint, bypassing caches: waiting is not known to help.
    OncePerPlace,
    /// The file is missing. Mirrors and caches may be outdated, but usually the file does not exist.
    Absent,
    /// The answer is wrong, which may be temporary: at most [`TRIES_MAX`] times for each endpoint.
    Limited,
    /// No endpoint was reached, which puts no load on any server: until the patience is over.
    Unreachable,
}

/// The most requests to one endpoint for the same content without progress. More would be a burden on a server when
/// many clients do the same.
pub const TRIES_MAX: u32 = 8;

/// The refusal of received content by its receiver.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(super) class: RetryClass,
    pub(super) reason: Box<dyn Error + Send + Sync>,
}

impl Rejection {
    /// Returns a rejection of wrong bytes; another answer may be right.
    pub(crate) fn wrong(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class: RetryClass::Limited, reason: why.into() }
    }

    /// Returns a rejection that waiting does not change, but another endpoint, or an answer that is not from a cache,
    /// may.
    pub(crate) fn permanent(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class: RetryClass::OncePerPlace, reason: why.into() }
    }

    /// Returns a rejection because of a failure on this machine; another request would not help.
    pub(crate) fn local(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { class: RetryClass::Never, reason: why.into() }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

/// The decision of a stream's receiver after each piece.
#[derive(Debug)]
pub(crate) enum StreamControl {
    /// The receiver wants more.
    Continue,
    /// The receiver wants nothing more.
    Stop,
    /// The content from this position on is wrong, and is requested again from there.
    Reject(u64, Rejection),
}

/// How much a caller needs what it requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It must exist: its absence is a wrong answer like any other.
    Required,
    /// It probably exists: its absence is accepted after a short while.
    Likely,
    /// The caller can do without it: each endpoint is asked twice and no more, as long as an endpoint answers.
    Optional,
    /// It may be missing and no cache is involved: the publisher's own destination.
    Destination,
}

/// Whether an answer may come from a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caches {
    /// It may.
    Allowed,
    /// Caches are told to ask the server (`Cache-Control: no-cache`).
    Bypassed,
}
