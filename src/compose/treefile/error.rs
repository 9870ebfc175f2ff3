//! The errors of reading a treefile.
//!
//! *Used by* `load` and `decide`.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::variables::VariableError;
use crate::model::RefNameError;

/// Most levels of includes.
pub(super) const INCLUDE_DEPTH_MAX: usize = 32;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub(crate) line: u64,
    /// The column, from 1.
    pub(crate) column: u64,
}

/// What is wrong at a place of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) place: Place,
    /// What is wrong, and what is expected.
    pub(crate) what: String,
}

/// A problem of a named file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) problem: Problem,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { place: Place { line, column }, what } = &self.problem;
        write!(f, "{}: line {line}, column {column}: {what}", self.path.display())
    }
}

/// Why a treefile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreefileError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Files have problems: all those that were found.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<FileProblem>),
    /// A file is included twice, or files include each other.
    #[error("{} is included twice", .0.display())]
    Twice(PathBuf),
    /// Includes are nested too deep.
    #[error("{} is included more than {INCLUDE_DEPTH_MAX} levels deep", .0.display())]
    Deep(PathBuf),
    /// The file is a kickstart file.
    #[error("{} is a kickstart file, which is not supported: write a treefile", .0.display())]
    Kickstart(PathBuf),
    /// A variable or a condition cannot be used.
    #[error("'{key}'")]
    Variable {
        /// The key that contains it.
        key: &'static str,
        /// The cause.
        source: VariableError,
    },
    /// `ref` is missing.
    #[error("'ref' is missing: it names the commits, as in 'ref: debian/12/${{basearch}}/server'")]
    NoRef,
    /// `ref` is not a valid ref name.
    #[error("'ref'")]
    Ref(#[source] RefNameError),
    /// Neither `distribution` nor `engine` is set, and there are no `repos`.
    #[error(
        "say which packages are meant: 'distribution: debian' (or ubuntu, fedora, centos, …) or 'engine: apt' or dnf"
    )]
    NoEngine,
    /// A value is not one of the allowed ones.
    #[error("'{key}: {found}' is none of: {expected}")]
    Choice {
        /// The key.
        key: &'static str,
        /// The value found.
        found: String,
        /// The allowed values.
        expected: &'static str,
    },
    /// A value is invalid.
    #[error("'{key}': {what}")]
    Value {
        /// The key.
        key: &'static str,
        /// The cause.
        what: String,
    },
}

impl TreefileError {
    /// Returns the key whose value is the cause, if it is one.
    pub(super) const fn key(&self) -> Option<&'static str> {
        match self {
            Self::Variable { key, .. } | Self::Choice { key, .. } | Self::Value { key, .. } => Some(key),
            Self::Ref(_) => Some("ref"),
            _ => None,
        }
    }

    /// Returns the text of the error and of its causes.
    pub(super) fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
