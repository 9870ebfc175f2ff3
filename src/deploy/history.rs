//! The history of a sysroot: a file with one line of JSON for each event. Lines are only appended, never changed.
//!
//! *Not here*: when an event is recorded (`apply`, `removal`, `health`), and where the file is (`layout`).
//!
//! *Used by* `apply`, `health` and `cli`.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::id::DeploymentId;
use crate::disk;
use crate::model::CommitId;

/// What happened to a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HistoryEvent {
    /// A deployment was created and is put into the boot menu at the next shutdown.
    Staged,
    /// A deployment was put at the top of the boot menu.
    Deployed,
    /// An older deployment was put at the top of the boot menu.
    RolledBack,
    /// A deployment was removed.
    Removed,
    /// The machine booted a deployment.
    Booted,
    /// The running deployment passed its trial.
    Blessed,
    /// A deployment did not boot, or failed a required check, and is avoided from now on.
    GivenUp,
    /// A required check failed.
    Unhealthy,
}

impl HistoryEvent {
    /// Returns the words that are shown to users.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Deployed => "deployed",
            Self::RolledBack => "rolled back to",
            Self::Removed => "removed",
            Self::Booted => "booted",
            Self::Blessed => "blessed",
            Self::GivenUp => "gave up",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct HistoryEntry {
    /// The time of the event, in seconds since 1970.
    pub(crate) time: i64,
    pub(crate) event: HistoryEvent,
    /// The deployment that the event is about.
    pub(crate) deployment: DeploymentId,
    pub(crate) commit: CommitId,
    /// The version that the commit states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// The reason of a failure, or the id of a boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// Appends a line durably.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn append_entry(path: &Path, entry: &HistoryEntry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry).expect("plain fields have a JSON form");
    line.push(b'\n');
    // A line that a power cut tore must not swallow this one.
    if fs::read(path).is_ok_and(|text| !text.is_empty() && !text.ends_with(b"\n")) {
        line.insert(0, b'\n');
    }
    disk::append(path, &line)
}

/// Reads all lines, oldest first. Torn lines are left out.
///
/// # Errors
/// Those of reading the file. A missing file is an empty history.
pub(crate) fn read_history(path: &Path) -> io::Result<Vec<HistoryEntry>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_line_is_left_out_and_the_next_one_is_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("history");
        let entry = |time| HistoryEntry {
            time,
            event: HistoryEvent::Booted,
            deployment: "main/0123456789ab.0".parse().expect("legal"),
            commit: CommitId::of(b"x"),
            version: None,
            detail: None,
        };
        assert_eq!(read_history(&path).expect("no log yet"), []);
        append_entry(&path, &entry(1)).expect("written");
        disk::append(&path, b"{\"time\":2,\"eve").expect("torn");
        append_entry(&path, &entry(3)).expect("written");
        assert_eq!(read_history(&path).expect("readable"), [entry(1), entry(3)]);
    }
}
