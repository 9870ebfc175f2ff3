//! Three small files of a sysroot: what is staged, which commits failed, and why an update could not be finished.

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

/// The deployment that is to be put into the boot menu.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Staged {
    /// Which.
    pub deployment: DeploymentId,
    /// The deployment whose `/etc` is merged into it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_from: Option<DeploymentId>,
    /// When it was staged, in seconds since 1970.
    pub time: i64,
}

/// Why a commit is avoided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Failure {
    /// The deployment that failed.
    pub deployment: DeploymentId,
    /// When that was noticed, in seconds since 1970.
    pub time: i64,
    /// What went wrong.
    pub reason: String,
}

/// The commits that did not come up on this machine.
pub type Failures = BTreeMap<CommitId, Failure>;

/// Why the last attempt to finish an update failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FinaliseFailure {
    /// The deployment that was to be put into the menu.
    pub deployment: DeploymentId,
    /// When, in seconds since 1970.
    pub time: i64,
    /// What went wrong.
    pub reason: String,
}

/// Reads a record; `None` when there is none.
///
/// # Errors
/// [`SysrootError`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SysrootError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SysrootError::Io { action: "read", path: path.to_owned(), source }),
        Ok(text) => match toml::from_str(&text) {
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(SysrootError::Record { path: path.to_owned(), source: Box::new(source) }),
        },
    }
}

/// Replaces a record, durably; `None` removes it.
///
/// # Errors
/// [`SysrootError::Io`].
pub fn write<T: Serialize>(path: &Path, record: Option<&T>) -> Result<(), SysrootError> {
    let done = match record {
        Some(record) => disk::replace(path, toml::to_string(record).expect("plain fields have a TOML form").as_bytes()),
        None => disk::remove_file(path),
    };
    done.map_err(|source| SysrootError::Io { action: "write", path: path.to_owned(), source })
}
