//! Why a root does not become an image.

use super::super::draft::DraftError;
use crate::model::XattrError;

/// Why a root does not become an image. Everything is decided before anything is stored.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// An edit is not possible.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// `/bin` and the like are no links into `/usr`.
    #[error(
        "/{name} is {found}, not a link to usr/{name}: /usr holds everything of a commit (install 'usr-is-merged', or run usrmerge in the root)"
    )]
    NotMerged {
        /// `bin`, `lib`, …
        name: String,
        /// What is there.
        found: &'static str,
    },
    /// More than one kernel.
    #[error("there are {} kernels ({}): say with 'kernel: VERSION' which one to boot", .0.len(), .0.join(", "))]
    ManyKernels(Vec<String>),
    /// A kernel that is not there.
    #[error("'kernel: {wanted}' is not among the kernels installed: {}", list(.found))]
    NoKernel {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// A line of the list of users or groups.
    #[error("{file}, line {line}: {what}")]
    Users {
        /// Which file.
        file: &'static str,
        /// The line from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Users or groups that should be there.
    #[error("{what} that were there before are missing: {}; if that is meant, name them in '{key}'", .names.join(", "))]
    Removed {
        /// Users or groups.
        what: &'static str,
        /// Their names.
        names: Vec<String>,
        /// The key that allows it.
        key: &'static str,
    },
    /// No number is left.
    #[error("no number below 1000 is free for '{0}'")]
    NoFreeId(String),
    /// `/usr/etc` and `/etc` both have something.
    #[error("{0} is in the root beside {1}: only one of them can become the default configuration")]
    BothEtc(String, String),
    /// Attributes that cannot be kept.
    #[error("{path}")]
    Xattr {
        /// Of which path.
        path: String,
        /// Why.
        source: XattrError,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
