//! The errors of reading a treefile.
//!
//! *Used by* `load` and `decide`.

use std::io;
use std::path::PathBuf;

use super::raw::SyntaxError;
use super::variables::VariableError;
use crate::model::RefNameError;

/// Most levels of includes.
pub(super) const INCLUDE_DEPTH_MAX: usize = 32;

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
    /// A file has a syntax error.
    #[error("{}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The error and its position.
        source: SyntaxError,
    },
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
