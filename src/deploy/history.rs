//! The log of a sysroot: one line of JSON for each thing that happened, never changed afterwards.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::id::DeploymentId;
use crate::disk;
use crate::model::CommitId;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happening {
    /// A deployment was made and waits for the next shutdown.
    Staged,
    /// A deployment was put at the top of the boot menu.
    Deployed,
    /// An older deployment was put at the top of the boot menu.
    RolledBack,
    /// A deployment was removed.
    Removed,
    /// The machine came up with a deployment.
    Booted,
    /// The deployment that runs is trusted from now on.
    Blessed,
    /// A deployment did not come up, or not healthy, and the one before took over.
    GivenUp,
    /// A required check failed.
    Unhealthy,
}

impl Happening {
    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
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

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryEntry {
    /// When, in seconds since 1970.
    pub time: i64,
    /// What.
    pub event: Happening,
    /// To which deployment.
    pub deployment: DeploymentId,
    /// Its commit.
    pub commit: CommitId,
    /// The version that the commit states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why, or which boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Adds a line, durably.
///
/// # Errors
/// Those of the system calls.
pub fn append(path: &Path, entry: &HistoryEntry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry).expect("plain fields have a JSON form");
    line.push(b'\n');
    // A line that a power cut tore must not swallow this one.
    if fs::read(path).is_ok_and(|text| !text.is_empty() && !text.ends_with(b"\n")) {
        line.insert(0, b'\n');
    }
    disk::append(path, &line)
}

/// All lines, oldest first; torn ones are left out.
///
/// # Errors
/// Those of reading the file; that there is none is an empty log.
pub fn read(path: &Path) -> io::Result<Vec<HistoryEntry>> {
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
    fn a_torn_line_is_left_out_and_does_not_hurt_the_next() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("history");
        let entry = |time| HistoryEntry {
            time,
            event: Happening::Booted,
            deployment: "main/0123456789ab.0".parse().expect("legal"),
            commit: CommitId::of(b"x"),
            version: None,
            detail: None,
        };
        assert_eq!(read(&path).expect("no log yet"), []);
        append(&path, &entry(1)).expect("written");
        disk::append(&path, b"{\"time\":2,\"eve").expect("torn");
        append(&path, &entry(3)).expect("written");
        assert_eq!(read(&path).expect("readable"), [entry(1), entry(3)]);
    }
}
