//! What waiting may do about a failure, and what a receiver says of what it got.
//!
//! Purpose: the classes that the one rule of the transport distinguishes. Not here: who is asked when, see `turns`.
//! Invariant: an answer that is wrong in any way is [`Hope::Again`] unless one of the others is named for it. Used by
//! `turns`, and by all who check what came.

use std::error::Error;
use std::fmt;

/// What waiting may do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hope {
    /// Nothing: the fault is on this side, and nothing is asked for again.
    None,
    /// Nothing that is known: each place is asked twice, the second time past caches.
    Twice,
    /// The file is not there. Copies and caches may be behind, but mostly it does not exist.
    Absent,
    /// The answer is wrong, which may pass: at most [`TRIES_MAX`] times for each place.
    Again,
    /// No place was reached, which costs no server anything: as long as there is patience.
    Reach,
}

/// How often one place is asked for one thing without getting on: more would be a burden when many clients do the same.
pub const TRIES_MAX: u32 = 8;

/// What a receiver refuses, and why.
#[derive(Debug)]
pub struct Refusal {
    pub(super) hope: Hope,
    pub(super) why: Box<dyn Error + Send + Sync>,
}

impl Refusal {
    /// The bytes are wrong; others may come.
    pub fn wrong(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { hope: Hope::Again, why: why.into() }
    }

    /// No waiting mends it, but another place, or an answer that no cache kept, may differ.
    pub fn settled(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { hope: Hope::Twice, why: why.into() }
    }

    /// Something failed on this side; asking again would be in vain.
    pub fn own(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { hope: Hope::None, why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

/// What the receiver of a stream says after each piece.
#[derive(Debug)]
pub enum Flow {
    /// More is wanted.
    More,
    /// Nothing more is wanted.
    Enough,
    /// What came from this position on is wrong, and is wanted from there again.
    Wrong(u64, Refusal),
}

/// How much a caller needs what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It must be there: that it is missing is a wrong answer like any other.
    Must,
    /// It is likely there: that it is missing is believed after a short while.
    Likely,
    /// There is a way without it: each place is asked twice and no more, as long as a place answers.
    Optional,
    /// It may be missing and no cache is asked: the publisher's own destination.
    Own,
}

/// Whether an answer may come from a cache on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caches {
    /// It may.
    Allowed,
    /// Caches are told to ask the server (`Cache-Control: no-cache`).
    Bypassed,
}
