//! The error of the layout steps.

use super::super::staged::StagedTreeError;
use crate::model::XattrError;

/// Why a root cannot become an image. Everything is decided before anything is stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// An edit of the tree is not possible.
    #[error(transparent)]
    Edit(#[from] StagedTreeError),
    /// `/bin` or the like is not a link into `/usr`.
    #[error(
        "/{name} is {found}, not a link to usr/{name}: /usr holds everything of a commit (install 'usr-is-merged', or run usrmerge in the root)"
    )]
    NotMerged {
        /// `bin`, `lib`, …
        name: String,
        found: &'static str,
    },
    /// There are several kernels, and the treefile chooses none.
    #[error("there are {} kernels ({}): say with 'kernel: VERSION' which one to boot", .0.len(), .0.join(", "))]
    ManyKernels(Vec<String>),
    /// The chosen kernel is not installed.
    #[error("'kernel: {wanted}' is not among the kernels installed: {}", join_or_none(.found))]
    NoKernel {
        wanted: String,
        /// The versions that are installed.
        found: Vec<String>,
    },
    /// A line of the list of users or groups is malformed.
    #[error("{file}, line {line}: {what}")]
    Users {
        file: &'static str,
        /// The number of the line, from 1.
        line: usize,
        what: &'static str,
    },
    /// Users or groups of the parent, or of the list to check with, are missing.
    #[error("{what} that were there before are missing: {}; if that is meant, name them in '{key}'", .names.join(", "))]
    Removed {
        /// `users` or `groups`.
        what: &'static str,
        /// Their names.
        names: Vec<String>,
        /// The key of the treefile that allows it.
        key: &'static str,
    },
    /// No free id is left for this name.
    #[error("no number below 1000 is free for '{0}'")]
    NoFreeId(String),
    /// `/usr/etc` and `/etc` contain the same name.
    #[error("{0} is in the root beside {1}: only one of them can become the default configuration")]
    BothEtc(String, String),
    /// No line of tmpfiles.d can make something of this name.
    #[error("{0} has a control character in its name, and systemd-tmpfiles cannot make that; remove it, or rename it")]
    UnwritableName(String),
    /// Both `/opt` and `/var/opt` have it.
    #[error("{opt} and {var} are both in the root, and on a machine they are one: only one of them can stay")]
    BothOpt {
        /// The path below `/opt`.
        opt: String,
        /// The path below `/var/opt`.
        var: String,
    },
    /// An extended attribute cannot be changed.
    #[error("{path}")]
    Xattr {
        /// The path of the entry.
        path: String,
        source: XattrError,
    },
}

fn join_or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
