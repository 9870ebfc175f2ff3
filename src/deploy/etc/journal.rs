//! The journal of one `/etc`: a record of each operation, with which it can be shown and undone.
//!
//! ```text
//! etc-journal/0001/log.json    which operation, when, what was decided about each path, which paths changed
//! etc-journal/0001/saved/      the entries that were changed or removed, as they were before
//! etc-journal/0001/base/       of files in conflict: the old defaults, so that their lines can be merged at any time
//! ```
//!
//! *Not here*: which conflicts are still open (`deploy::conflicts`).
//!
//! *Invariants*: an entry is durable before the operation that it describes begins, so an interrupted operation can be undone.
//!
//! *Used by* `edit`, `deploy::apply`, `deploy::conflicts`, `deploy::status` and `cli`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::apply::{ApplyError, ContentSources, TargetTree, apply};
use super::decision::{Difference, MergeDecision, MergeOutcome, PlannedContent, PlannedEntry};
use super::item::{Body, EtcPath, EtcTree, Item, parent, path_from_text, path_to_text};
use crate::deploy::id::DeploymentId;
use crate::disk;
use crate::model::{CommitId, ObjectId};

const LOG: &str = "log.json";
const SAVED: &str = "saved";
const BASE: &str = "base";

/// The prefix of the names of entries that are being written.
const NEW_PREFIX: &str = ".new-";

/// The name of a journal that is being removed.
const OLD_NAME: &str = ".etc-journal-old";

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The entries that are about to change cannot be saved.
    #[error(transparent)]
    Save(#[from] ApplyError),
    /// An entry of the journal cannot be parsed.
    #[error("cannot understand {}", .path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// The kind of an operation on an `/etc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EtcOperation {
    /// The merge when the deployment was created or finalised.
    Merge,
    /// Files were merged line by line.
    Text,
    /// Files were reset to their defaults.
    Reset,
    /// An earlier operation was undone.
    Undo,
    /// The administrator declared conflicts as resolved.
    Settle,
}

impl EtcOperation {
    /// Returns the words that are shown to users.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Text => "text merge",
            Self::Reset => "reset",
            Self::Undo => "undo",
            Self::Settle => "settled",
        }
    }
}

/// The log of one operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LogEntry {
    pub(crate) operation: EtcOperation,
    /// The time of the operation, in seconds since 1970.
    pub(crate) time: i64,
    /// Of a merge: the commit with the old defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<CommitId>,
    /// Of a merge: the deployment whose `/etc` was merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) merged_from: Option<DeploymentId>,
    /// Of a merge: its decisions. Of conflicts that were declared as resolved: these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) decisions: Vec<LoggedDecision>,
    /// The paths that the operation changed.
    pub(crate) changes: Vec<LoggedChange>,
}

/// A decision of a merge, as it is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LoggedDecision {
    /// The path, as [`path_to_text`] writes it.
    pub(crate) path: String,
    /// How the local entry differed from the old default.
    #[serde(rename = "here")]
    pub(crate) local: Difference,
    /// How the new default differed from the old one.
    pub(crate) default: Difference,
    /// The result.
    pub(crate) outcome: MergeOutcome,
    /// The aspects in conflict, or else those that changed.
    pub(crate) aspects: Vec<String>,
    /// Further explanations for users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    /// The path of the copy of the default that was written beside the local entry.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "aside")]
    pub(crate) sidecar: Option<String>,
    /// Of a file in conflict: the digest of its content after the merge. If the content differs later, the conflict is
    /// resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<ObjectId>,
}

impl From<&MergeDecision> for LoggedDecision {
    fn from(decision: &MergeDecision) -> Self {
        Self {
            content: None,
            path: path_to_text(&decision.path),
            local: decision.local,
            default: decision.default,
            outcome: decision.outcome,
            aspects: decision.aspects.iter().map(|aspect| aspect.word().to_owned()).collect(),
            details: decision.details.clone(),
            sidecar: decision.sidecar.as_deref().map(path_to_text),
        }
    }
}

/// A path that an operation changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LoggedChange {
    /// The path, as [`path_to_text`] writes it.
    pub(crate) path: String,
    /// The state of the path before the operation.
    pub(crate) before: PriorState,
    /// Whether the change was undone since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) undone: bool,
}

/// The state of a path before an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PriorState {
    /// There was no entry.
    Absent,
    /// There was an entry, which was saved.
    Saved,
}

/// The journal of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Returns the journal in `directory`, which is created when the first entry is written.
    pub(crate) const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Reads all entries with their numbers, oldest first.
    pub(crate) fn entries(&self) -> Result<Vec<(u32, LogEntry)>, JournalError> {
        let mut entries = Vec::new();
        for number in self.numbers()? {
            let path = self.entry(number).join(LOG);
            let bytes = fs::read(&path).map_err(io_error("read", &path))?;
            let entry = serde_json::from_slice(&bytes).map_err(|source| JournalError::Damaged { path, source })?;
            entries.push((number, entry));
        }
        Ok(entries)
    }

    /// Returns the directory with the saved entries of the operation `number`.
    pub(crate) fn saved(&self, number: u32) -> PathBuf {
        self.entry(number).join(SAVED)
    }

    /// Returns the directory with the old defaults of files in conflict of the operation `number`.
    pub(crate) fn base(&self, number: u32) -> PathBuf {
        self.entry(number).join(BASE)
    }

    /// Writes down, durably, an operation that makes `after` of `before`, whose contents are in `sources`. Nothing when it
    /// changes nothing and decides nothing. `bases` are old defaults to keep, their local contents below `base_root`.
    pub(crate) fn record(
        &self,
        before: &EtcTree,
        after: &BTreeMap<EtcPath, PlannedEntry>,
        sources: ContentSources<'_>,
        mut entry: LogEntry,
        (bases, base_root): (&BTreeMap<EtcPath, PlannedEntry>, &Path),
    ) -> Result<(), JournalError> {
        let changed = changed_paths(before, after);
        if changed.is_empty() && entry.decisions.is_empty() {
            return Ok(());
        }
        entry.changes = changed
            .iter()
            .map(|path| {
                let before = if before.get(path).is_some() { PriorState::Saved } else { PriorState::Absent };
                LoggedChange { path: path_to_text(path), before, undone: false }
            })
            .collect();
        let number = self.numbers()?.last().map_or(1, |last| last + 1);
        let making = self.directory.join(format!("{NEW_PREFIX}{number:04}"));
        disk::remove_directory(&making).map_err(io_error("remove", &making))?;
        disk::make_directories(&making).map_err(io_error("create", &making))?;
        let saved = saved_entries(before, &changed);
        if !saved.is_empty() {
            apply(&saved, &making.join(SAVED), sources, TargetTree::Fresh)?;
        }
        if !bases.is_empty() {
            apply(bases, &making.join(BASE), ContentSources { local: base_root, ..sources }, TargetTree::Fresh)?;
        }
        self.write_log(&making, &entry)?;
        let synced = disk::open_directory(&making).and_then(disk::sync_filesystem);
        synced.map_err(io_error("sync", &making))?;
        let named = self.entry(number);
        disk::rename_directory(&making, &named).map_err(io_error("name", &named))
    }

    /// Records durably which changes of the operation `number` were undone.
    pub(crate) fn mark_undone(
        &self,
        number: u32,
        mut entry: LogEntry,
        paths: &BTreeSet<EtcPath>,
    ) -> Result<(), JournalError> {
        for change in &mut entry.changes {
            change.undone |= paths.contains(&path_from_text(&change.path));
        }
        self.write_log(&self.entry(number), &entry)
    }

    /// Removes all entries in one step, for a merge that is repeated.
    pub(crate) fn clear(&self) -> Result<(), JournalError> {
        let old = self.directory.with_file_name(OLD_NAME);
        disk::remove_directory(&old).map_err(io_error("remove", &old))?;
        if self.directory.exists() {
            disk::rename_directory(&self.directory, &old).map_err(io_error("rename", &self.directory))?;
        }
        disk::remove_directory(&old).map_err(io_error("remove", &old))
    }

    fn entry(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{number:04}"))
    }

    fn write_log(&self, directory: &Path, entry: &LogEntry) -> Result<(), JournalError> {
        let path = directory.join(LOG);
        let bytes = serde_json::to_vec_pretty(entry).expect("plain fields have a JSON form");
        disk::replace(&path, &bytes).map_err(io_error("write", &path))
    }

    fn numbers(&self) -> Result<Vec<u32>, JournalError> {
        let listed = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error("list", &self.directory))?,
        };
        let mut numbers = Vec::new();
        for entry in listed {
            let name = entry.map_err(io_error("list", &self.directory))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Io { action, path, source }
}

/// Returns whether a tree is as planned.
pub(crate) fn matches_plan(tree: &EtcTree, planned: &BTreeMap<EtcPath, PlannedEntry>) -> bool {
    changed_paths(tree, planned).is_empty()
}

/// Returns the paths at which two trees differ. The times of directories are not compared, since they change with their
/// entries.
fn changed_paths(before: &EtcTree, after: &BTreeMap<EtcPath, PlannedEntry>) -> BTreeSet<EtcPath> {
    let is_equal = |a: &Item, b: &Item| a.is_same(b) && (a.body.is_directory() || a.mtime == b.mtime);
    let paths = before.entries.keys().chain(after.keys());
    let differs = |path: &&EtcPath| match (before.get(path), after.get(*path)) {
        (Some(before), Some(after)) => !is_equal(before, &after.item),
        (before, after) => before.is_some() || after.is_some(),
    };
    paths.filter(differs).cloned().collect()
}

/// Returns the entries to save, with their parent directories.
fn saved_entries(before: &EtcTree, changed: &BTreeSet<EtcPath>) -> BTreeMap<EtcPath, PlannedEntry> {
    let mut saved = BTreeMap::new();
    for path in changed.iter().filter(|path| before.get(path).is_some()) {
        let mut at = Some(&path[..]);
        while let Some(path) = at {
            if let Some(item) = before.get(path) {
                let is_file = matches!(item.body, Body::File { .. });
                let content = if is_file { PlannedContent::Local(path.into()) } else { PlannedContent::None };
                saved.insert(path.into(), PlannedEntry { item: item.clone(), content });
            }
            at = parent(path);
        }
    }
    saved
}
