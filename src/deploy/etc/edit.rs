//! Edits a live `/etc`: undoes operations, resets paths to their defaults, and merges the lines of files in conflict.
//!
//! *Not here*: the merge at a deployment (`plan`), and the commands of the user (`cli`).
//!
//! *Invariants*: each edit is recorded in the journal before it is made, so that it can be undone.
//!
//! *Used by* `cli`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::apply::{Applied, ApplyError, ContentSources, TargetTree, apply, open_local};
use super::decision::{PlannedContent, PlannedEntry};
use super::item::{Body, EtcPath, EtcTree, Item, parent, path_from_text, path_to_text};
use super::journal::{EtcOperation, Journal, JournalError, LogEntry, LoggedDecision, PriorState};
use super::scan::{self, PreserveOwners, ScanError};
use super::text::{self, TextMerge};
use crate::disk;
use crate::model::{ObjectId, Timestamp};
use crate::store::{ObjectSource as _, ReadError, Store};

/// Why an `/etc` cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// The tree cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The tree cannot be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A default cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be read or made durable.
    #[error("cannot {action} '{path}'")]
    Io {
        action: &'static str,
        /// The path below `/etc`.
        path: String,
        source: std::io::Error,
    },
    /// The journal has no operation on these paths that could be undone.
    #[error("nothing was done to '{0}' that could be taken back")]
    NothingToUndo(String),
    /// Neither the tree nor the defaults have the path.
    #[error("there is no '{0}', neither here nor in the defaults")]
    NoSuchPath(String),
    /// The path is not a text file in all trees.
    #[error("'{0}' is not a text file here and in the defaults: there is nothing to merge")]
    NotText(String),
    /// The administrator and the defaults changed the same lines.
    #[error("the same lines of '{path}' were changed here and in the defaults")]
    TextConflict {
        /// The path below `/etc`.
        path: String,
        /// The text with both versions between conflict markers.
        marked: Vec<u8>,
    },
}

/// An `/etc` that is to be edited.
#[derive(Clone, Copy)]
pub(crate) struct LiveEtc<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) journal: &'a Journal,
    /// The repository that has the defaults.
    pub(crate) store: &'a Store,
    /// Whether owners are read and set.
    pub(crate) ownership: PreserveOwners,
    /// The time now, in seconds since 1970.
    pub(crate) now: i64,
}

/// The planned entries by path; `None` to remove the entry.
type Edits = BTreeMap<EtcPath, Option<PlannedEntry>>;

/// Whether an edit is made or only planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EditMode {
    /// Make the edit.
    Apply,
    /// Only return what the edit would change.
    DryRun,
}

/// The result of an edit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edited {
    /// The paths that differ.
    pub(crate) paths: Vec<EtcPath>,
    /// The number of changed entries; zero in a dry run.
    pub(crate) applied: Applied,
}

impl LiveEtc<'_> {
    /// Undoes the last operation that was not undone yet. If paths are given, undoes the last operation that changed them, for
    /// these paths only.
    pub(crate) fn undo(&self, paths: &[EtcPath], mode: EditMode) -> Result<Edited, EditError> {
        let entries = self.journal.entries()?;
        let wanted = |path: &[u8]| paths.is_empty() || paths.iter().any(|wanted| is_at_or_below(path, wanted));
        let found = entries.iter().rev().find_map(|(number, entry)| {
            let undoable =
                entry.changes.iter().filter(|change| !change.undone && entry.operation != EtcOperation::Undo);
            let changes: BTreeMap<EtcPath, PriorState> = undoable
                .map(|change| (path_from_text(&change.path), change.before))
                .filter(|(path, _)| wanted(path))
                .collect();
            (!changes.is_empty()).then_some((*number, entry, changes))
        });
        let Some((number, entry, changes)) = found else {
            let named: Vec<String> = paths.iter().map(|path| path_to_text(path)).collect();
            return Err(EditError::NothingToUndo(if named.is_empty() {
                "/etc".to_owned()
            } else {
                named.join("', '")
            }));
        };
        let saved_root = self.journal.saved(number);
        let saved =
            if saved_root.is_dir() { scan::scan_directory(&saved_root, self.ownership)? } else { EtcTree::default() };
        let mut edits = Edits::new();
        for (path, before) in &changes {
            let item = saved.get(path).filter(|_| *before == PriorState::Saved);
            edits.insert(path.clone(), item.map(|item| planned_local(path, item)));
        }
        let edited = self.apply_edits(edits, &saved, &saved_root, EtcOperation::Undo, mode)?;
        if mode == EditMode::Apply {
            self.journal.mark_undone(number, entry.clone(), &changes.into_keys().collect())?;
        }
        Ok(edited)
    }

    /// Resets these paths, and all paths below them, to their defaults.
    pub(crate) fn reset(&self, paths: &[EtcPath], defaults: &EtcTree, mode: EditMode) -> Result<Edited, EditError> {
        let current = scan::scan_directory(self.directory, self.ownership)?;
        let mut edits = Edits::new();
        for wanted in paths {
            let current_paths = current.below(wanted).map(|(path, _)| path.clone());
            let default_paths = defaults.below(wanted).map(|(path, _)| path.clone());
            let all: BTreeSet<EtcPath> = current_paths.chain(default_paths).collect();
            if all.is_empty() {
                return Err(EditError::NoSuchPath(path_to_text(wanted)));
            }
            edits.extend(all.into_iter().map(|path| {
                let planned = defaults.get(&path).map(planned_default);
                (path, planned)
            }));
        }
        self.apply_edits(edits, defaults, self.directory, EtcOperation::Reset, mode)
    }

    /// Merges the lines of files that are in conflict: of the live files and of the new defaults, with the old defaults that
    /// the journal kept as their common ancestor.
    ///
    /// # Errors
    /// [`EditError`]; [`EditError::TextConflict`] with the marked text for the first file that has a conflict.
    pub(crate) fn merge_texts(&self, paths: &[EtcPath], new: &EtcTree, mode: EditMode) -> Result<Edited, EditError> {
        let current = scan::scan_directory(self.directory, self.ownership)?;
        let entries = self.journal.entries()?;
        let merge = entries.iter().rev().find(|(_, entry)| entry.operation == EtcOperation::Merge);
        let base = merge.map(|(number, _)| self.journal.base(*number)).filter(|base| base.is_dir());
        let mut edits = Edits::new();
        for path in paths {
            let old = match base.as_deref().map(|base| read_file(base, path)) {
                // There was no old default: both sides added the file.
                None => Vec::new(),
                Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Some(other) => other.map_err(|source| EditError::Io {
                    action: "read the old default of",
                    path: path_to_text(path),
                    source,
                })?,
            };
            let (text, item) = self.merge_text(path, &old, &current, new)?;
            edits.insert(path.clone(), Some(PlannedEntry { item, content: PlannedContent::Made(text) }));
        }
        self.apply_edits(edits, &current, self.directory, EtcOperation::Text, mode)
    }

    /// Merges the lines of one file. Returns the text and the entry that it becomes.
    fn merge_text(
        &self,
        path: &EtcPath,
        old: &[u8],
        current: &EtcTree,
        new: &EtcTree,
    ) -> Result<(Vec<u8>, Item), EditError> {
        let not_text = || EditError::NotText(path_to_text(path));
        let item = current.get(path).ok_or_else(not_text)?;
        let default = new.get(path).ok_or_else(not_text)?;
        if !item.body.is_mergeable() || !default.body.is_mergeable() {
            return Err(not_text());
        }
        let new_text = self.read_default(default)?.ok_or_else(not_text)?;
        let local_text = self.read(path)?;
        match text::merge(old, &local_text, &new_text) {
            TextMerge::Binary => Err(not_text()),
            TextMerge::Conflict(marked) => Err(EditError::TextConflict { path: path_to_text(path), marked }),
            TextMerge::Clean(text) => {
                let body = Body::File { content: ObjectId::of(&text), size: text.len() as u64 };
                let mtime =
                    if body == item.body { item.mtime } else { Timestamp { seconds: self.now, nanoseconds: 0 } };
                Ok((text, Item { body, mtime, link: None, ..item.clone() }))
            }
        }
    }

    /// Reads a file of the live tree.
    pub(crate) fn read(&self, path: &[u8]) -> Result<Vec<u8>, EditError> {
        read_file(self.directory, path).map_err(|source| EditError::Io {
            action: "read",
            path: path_to_text(path),
            source,
        })
    }

    /// Reads the content of a default; `None` if it is not a regular file.
    pub(crate) fn read_default(&self, item: &Item) -> Result<Option<Vec<u8>>, EditError> {
        let Body::File { content, size } = item.body else { return Ok(None) };
        Ok(Some(if size == 0 { Vec::new() } else { self.store.read_whole(content, size)? }))
    }

    /// Records that conflicts are resolved: what is here stays.
    ///
    /// # Errors
    /// When `/etc` cannot be read or the journal cannot be written.
    pub(crate) fn settle(&self, conflicts: Vec<LoggedDecision>) -> Result<(), EditError> {
        let current = scan::scan_directory(self.directory, self.ownership)?;
        let planned = current.entries.iter().map(|(path, item)| (path.clone(), planned_local(path, item))).collect();
        let entry = LogEntry {
            operation: EtcOperation::Settle,
            time: self.now,
            from: None,
            merged_from: None,
            decisions: conflicts,
            changes: Vec::new(),
        };
        let sources = ContentSources { local: self.directory, store: self.store, ownership: self.ownership };
        Ok(self.journal.record(&current, &planned, sources, entry, (&BTreeMap::new(), self.directory))?)
    }

    /// Records the edits in the journal and then makes them. Local contents are read from `from`. Missing parent directories
    /// are created like those in `directories`.
    fn apply_edits(
        &self,
        edits: Edits,
        directories: &EtcTree,
        from: &Path,
        operation: EtcOperation,
        mode: EditMode,
    ) -> Result<Edited, EditError> {
        let current = scan::scan_directory(self.directory, self.ownership)?;
        let mut wanted: BTreeMap<EtcPath, PlannedEntry> =
            current.entries.iter().map(|(path, item)| (path.clone(), planned_local(path, item))).collect();
        for (path, to) in &edits {
            match to {
                Some(planned) => {
                    // A directory that becomes a file is removed with everything in it.
                    if !planned.item.body.is_directory() {
                        current.below(path).for_each(|(below, _)| _ = wanted.remove(below));
                    }
                    wanted.insert(path.clone(), planned.clone());
                    add_directories(path, directories, &mut wanted);
                }
                None => {
                    // A directory is kept while it has entries that are not part of the edit.
                    let is_needed = current.below(path).any(|(below, _)| !matches!(edits.get(below), Some(None)));
                    if !is_needed {
                        wanted.remove(path);
                    }
                }
            }
        }
        let paths = edits.keys().filter(|path| current.get(path) != wanted.get(*path).map(|planned| &planned.item));
        let mut edited = Edited { paths: paths.cloned().collect(), applied: Applied::default() };
        if mode == EditMode::DryRun {
            return Ok(edited);
        }
        let entry = LogEntry {
            operation,
            time: self.now,
            from: None,
            merged_from: None,
            decisions: Vec::new(),
            changes: Vec::new(),
        };
        let sources = ContentSources { local: self.directory, store: self.store, ownership: self.ownership };
        self.journal.record(&current, &wanted, sources, entry, (&BTreeMap::new(), self.directory))?;
        edited.applied =
            apply(&wanted, self.directory, ContentSources { local: from, ..sources }, TargetTree::Live(&current))?;
        let synced = disk::open_directory(self.directory).and_then(disk::sync_filesystem);
        synced.map_err(|source| EditError::Io { action: "sync", path: String::new(), source })?;
        Ok(edited)
    }
}

/// Returns whether `path` is `top` or below it.
fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    path.starts_with(top) && (path.len() == top.len() || top.is_empty() || path[top.len()] == b'/')
}

/// Adds the missing parent directories of `path` to `wanted`.
fn add_directories(path: &[u8], directories: &EtcTree, wanted: &mut BTreeMap<EtcPath, PlannedEntry>) {
    let mut at = parent(path);
    while let Some(path) = at {
        let is_there = wanted.get(path).is_some_and(|planned| planned.item.body.is_directory());
        match directories.get(path).filter(|item| !is_there && item.body.is_directory()) {
            Some(item) => _ = wanted.insert(path.into(), planned_default(item)),
            None => return,
        }
        at = parent(path);
    }
}

/// Returns a planned entry whose content is that of the local file.
fn planned_local(path: &EtcPath, item: &Item) -> PlannedEntry {
    let is_file = matches!(item.body, Body::File { .. });
    let content = if is_file { PlannedContent::Local(path.clone()) } else { PlannedContent::None };
    PlannedEntry { item: item.clone(), content }
}

/// Returns a planned entry whose content is that of the default.
fn planned_default(item: &Item) -> PlannedEntry {
    let content = match item.body {
        Body::File { content, .. } => PlannedContent::Object(content),
        _ => PlannedContent::None,
    };
    PlannedEntry { item: item.clone(), content }
}

/// Returns whether there is a regular file at a path of a tree. No symbolic link is followed.
pub(crate) fn is_file(root: &Path, path: &[u8]) -> bool {
    open_local(root, path).and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file())
}

/// Reads a file of a tree. No symbolic link is followed.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn read_file(root: &Path, path: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open_local(root, path)?, &mut bytes)?;
    Ok(bytes)
}
