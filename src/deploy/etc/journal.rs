//! What was done to an `/etc`, so that people can see it and take it back.
//!
//! ```text
//! etc-journal/0001/log.json    which operation, when, what was decided about each path, which paths changed
//! etc-journal/0001/saved/      the entries that were changed or removed, as they were before
//! etc-journal/0001/base/       of files in conflict: the old defaults, so that their lines can be merged at any time
//! ```
//!
//! An entry is written before the operation it describes: whoever is interrupted can take back what was done of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::apply::{ApplyError, Sources, Use, apply};
use super::decision::{Decision, Difference, Outcome, Planned, PlannedContent};
use super::item::{Body, EtcPath, EtcTree, Item, parent, path_from_text, path_to_text};

use crate::deploy::id::DeploymentId;
use crate::disk;
use crate::model::{CommitId, ObjectId};

const LOG: &str = "log.json";
const SAVED: &str = "saved";
const BASE: &str = "base";

/// Names of entries that are being written begin with this.
const MAKING: &str = ".new-";

/// What a journal that is being removed is called.
const OLD: &str = ".etc-journal-old";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// What was there before cannot be saved.
    #[error(transparent)]
    Save(#[from] ApplyError),
    /// An entry cannot be understood.
    #[error("cannot understand {}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// The merge when the deployment was made.
    Merge,
    /// Files were merged line by line.
    Text,
    /// Files were set to their defaults.
    Reset,
    /// An earlier operation was taken back.
    Undo,
}

impl Operation {
    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Text => "text merge",
            Self::Reset => "reset",
            Self::Undo => "undo",
        }
    }
}

/// One operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LogEntry {
    /// What was done.
    pub operation: Operation,
    /// When, in seconds since 1970.
    pub time: i64,
    /// Of a merge: the commit with the old defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<CommitId>,
    /// Of a merge: the deployment whose `/etc` it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_from: Option<DeploymentId>,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<LoggedDecision>,
    /// What changed.
    pub changes: Vec<LoggedChange>,
}

/// A decision of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoggedDecision {
    /// The path, as [`path_to_text`] writes it.
    pub path: String,
    /// What had happened here.
    pub here: Difference,
    /// What had happened to the default.
    pub default: Difference,
    /// What came of it.
    pub outcome: Outcome,
    /// Which attributes.
    pub aspects: Vec<String>,
    /// More about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// Where the default was laid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aside: Option<String>,
    /// Of a file in conflict: what is in it. With something else in it, somebody has looked after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ObjectId>,
}

impl From<&Decision> for LoggedDecision {
    fn from(decision: &Decision) -> Self {
        Self {
            content: None,
            path: path_to_text(&decision.path),
            here: decision.here,
            default: decision.default,
            outcome: decision.outcome,
            aspects: decision.aspects.iter().map(|aspect| aspect.word().to_owned()).collect(),
            details: decision.details.clone(),
            aside: decision.aside.as_deref().map(path_to_text),
        }
    }
}

/// A path that an operation changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoggedChange {
    /// The path, as [`path_to_text`] writes it.
    pub path: String,
    /// What was there before.
    pub before: Before,
    /// Whether it was taken back since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undone: bool,
}

/// What was there before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// Nothing.
    Absent,
    /// Something, which was saved.
    Saved,
}

/// The journal of one deployment.
#[derive(Debug, Clone)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// The journal in `directory`, which is made when first needed.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Everything that was done, oldest first, by number.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn entries(&self) -> Result<Vec<(u32, LogEntry)>, JournalError> {
        let mut entries = Vec::new();
        for number in self.numbers()? {
            let path = self.entry(number).join(LOG);
            let bytes = fs::read(&path).map_err(io_error("read", &path))?;
            let entry = serde_json::from_slice(&bytes).map_err(|source| JournalError::Damaged { path, source })?;
            entries.push((number, entry));
        }
        Ok(entries)
    }

    /// Where the entries that the operation `number` changed are kept.
    #[must_use]
    pub fn saved(&self, number: u32) -> PathBuf {
        self.entry(number).join(SAVED)
    }

    /// Where the old defaults of files in conflict are kept.
    #[must_use]
    pub fn base(&self, number: u32) -> PathBuf {
        self.entry(number).join(BASE)
    }

    /// Writes down, durably, an operation that makes `after` of `before`, whose contents are in `sources`. Nothing when it
    /// changes nothing and decides nothing. `bases` are old defaults to keep, their local contents below `base_root`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn record(
        &self,
        before: &EtcTree,
        after: &BTreeMap<EtcPath, Planned>,
        sources: Sources<'_>,
        mut entry: LogEntry,
        (bases, base_root): (&BTreeMap<EtcPath, Planned>, &Path),
    ) -> Result<(), JournalError> {
        let changed = changes(before, after);
        if changed.is_empty() && entry.decisions.is_empty() {
            return Ok(());
        }
        entry.changes = changed
            .iter()
            .map(|path| {
                let before = if before.get(path).is_some() { Before::Saved } else { Before::Absent };
                LoggedChange { path: path_to_text(path), before, undone: false }
            })
            .collect();
        let number = self.numbers()?.last().map_or(1, |last| last + 1);
        let making = self.directory.join(format!("{MAKING}{number:04}"));
        disk::remove_directory(&making).map_err(io_error("remove", &making))?;
        disk::make_directories(&making).map_err(io_error("create", &making))?;
        let saved = saved_entries(before, &changed);
        if !saved.is_empty() {
            apply(&saved, &making.join(SAVED), sources, Use::Fresh)?;
        }
        if !bases.is_empty() {
            apply(bases, &making.join(BASE), Sources { local: base_root, ..sources }, Use::Fresh)?;
        }
        self.write_log(&making, &entry)?;
        let synced = disk::open_directory(&making).and_then(disk::sync_filesystem);
        synced.map_err(io_error("sync", &making))?;
        let named = self.entry(number);
        disk::rename_directory(&making, &named).map_err(io_error("name", &named))
    }

    /// Remembers, durably, which changes of the operation `number` were taken back.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn mark_undone(&self, number: u32, mut entry: LogEntry, paths: &BTreeSet<EtcPath>) -> Result<(), JournalError> {
        for change in &mut entry.changes {
            change.undone |= paths.contains(&path_from_text(&change.path));
        }
        self.write_log(&self.entry(number), &entry)
    }

    /// Forgets everything, in one step, for a deployment that is made anew.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn clear(&self) -> Result<(), JournalError> {
        let old = self.directory.with_file_name(OLD);
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

/// Whether a tree is as planned.
#[must_use]
pub fn is_made(tree: &EtcTree, planned: &BTreeMap<EtcPath, Planned>) -> bool {
    changes(tree, planned).is_empty()
}

/// The paths at which two trees differ. That a directory's time differs says nothing: it goes with what is in it.
fn changes(before: &EtcTree, after: &BTreeMap<EtcPath, Planned>) -> BTreeSet<EtcPath> {
    let is_equal = |a: &Item, b: &Item| a.is_same(b) && (a.body.is_directory() || a.mtime == b.mtime);
    let paths = before.entries.keys().chain(after.keys());
    let differs = |path: &&EtcPath| match (before.get(path), after.get(*path)) {
        (Some(before), Some(after)) => !is_equal(before, &after.item),
        (before, after) => before.is_some() || after.is_some(),
    };
    paths.filter(differs).cloned().collect()
}

/// The entries to save, with the directories above them.
fn saved_entries(before: &EtcTree, changed: &BTreeSet<EtcPath>) -> BTreeMap<EtcPath, Planned> {
    let mut saved = BTreeMap::new();
    for path in changed.iter().filter(|path| before.get(path).is_some()) {
        let mut at = Some(&path[..]);
        while let Some(path) = at {
            if let Some(item) = before.get(path) {
                let is_file = matches!(item.body, Body::File { .. });
                let content = if is_file { PlannedContent::Local(path.into()) } else { PlannedContent::None };
                saved.insert(path.into(), Planned { item: item.clone(), content });
            }
            at = parent(path);
        }
    }
    saved
}
