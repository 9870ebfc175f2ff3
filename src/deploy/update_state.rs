//! Four small TOML files of a sysroot: which deployment is staged, which commits failed to boot, which ones were left by a
//! rollback, and why finalising failed.
//!
//! *Not here*: where the files are (`layout`), and when they are written (`apply`, `removal`, `health`).
//!
//! *Used by* `sysroot`, `apply`, `removal`, `health` and `status`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::SysrootError;
use super::id::DeploymentId;
use crate::disk;
use crate::model::CommitId;

/// The record of the deployment that is to be put into the boot menu.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Staged {
    pub(crate) deployment: DeploymentId,
    /// The deployment whose `/etc` is merged into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) merge_from: Option<DeploymentId>,
    /// The time when it was staged, in seconds since 1970.
    pub(crate) time: i64,
}

/// Why a commit is avoided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FailedCommit {
    /// The deployment that failed.
    pub(crate) deployment: DeploymentId,
    /// The time when the failure was noticed, in seconds since 1970.
    pub(crate) time: i64,
    pub(crate) reason: String,
}

/// The commits that failed to boot on this machine, and why.
pub(crate) type FailedCommits = BTreeMap<CommitId, FailedCommit>;

/// When and from where the administrator left a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct LeftCommit {
    /// The deployment of the commit.
    pub(crate) deployment: DeploymentId,
    /// The time of the rollback, in seconds since 1970.
    pub(crate) time: i64,
}

/// The commits that the administrator left by a rollback: an upgrade does not take them again by itself.
pub(crate) type LeftCommits = BTreeMap<CommitId, LeftCommit>;

/// Why the last attempt to finalise an update failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FinaliseFailure {
    /// The deployment that was to be put into the boot menu.
    pub(crate) deployment: DeploymentId,
    /// The time of the attempt, in seconds since 1970.
    pub(crate) time: i64,
    pub(crate) reason: String,
}

/// Reads a record; `None` if the file does not exist.
pub(crate) fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SysrootError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SysrootError::Io { action: "read", path: path.to_owned(), source }),
        Ok(text) => match toml::from_str(&text) {
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(SysrootError::Record { path: path.to_owned(), source: Box::new(source) }),
        },
    }
}

/// Replaces a record durably; `None` removes it.
pub(crate) fn write_record<T: Serialize>(path: &Path, record: Option<&T>) -> Result<(), SysrootError> {
    let written = match record {
        Some(record) => disk::replace(path, toml::to_string(record).expect("plain fields have a TOML form").as_bytes()),
        None => disk::remove_file(path),
    };
    written.map_err(|source| SysrootError::Io { action: "write", path: path.to_owned(), source })
}
