//! Why a treefile cannot be used.

use std::io;
use std::path::PathBuf;

use super::raw::SyntaxError;
use super::variables::VariableError;
use crate::model::RefNameError;

/// How deep files may include each other.
pub(super) const DEPTH_MAX: usize = 32;

/// Why a treefile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is wrong.
    #[error("{}", .path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What and where.
        source: SyntaxError,
    },
    /// A file is included twice, or files include each other.
    #[error("{} is included twice", .0.display())]
    Twice(PathBuf),
    /// Includes that go too deep.
    #[error("{} is included more than {DEPTH_MAX} levels deep", .0.display())]
    Deep(PathBuf),
    /// A kickstart file.
    #[error("{} is a kickstart file, which is not supported: write a treefile", .0.display())]
    Kickstart(PathBuf),
    /// A variable or a condition.
    #[error("'{key}'")]
    Variable {
        /// The key it stands at.
        key: &'static str,
        /// What is wrong.
        source: VariableError,
    },
    /// No `ref`.
    #[error("'ref' is missing: it names the commits, as in 'ref: debian/12/${{basearch}}/server'")]
    NoRef,
    /// A `ref` that is no name.
    #[error("'ref'")]
    Ref(#[source] RefNameError),
    /// Neither `distribution` nor `engine`.
    #[error(
        "say which packages are meant: 'distribution: debian' (or ubuntu, fedora, centos, …) or 'engine: apt' or dnf"
    )]
    NoEngine,
    /// A value that is none of those there are.
    #[error("'{key}: {found}' is none of: {expected}")]
    Choice {
        /// The key.
        key: &'static str,
        /// What stands there.
        found: String,
        /// What may.
        expected: &'static str,
    },
    /// A value that makes no sense.
    #[error("'{key}': {what}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
}
