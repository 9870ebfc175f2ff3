//! Changes of an `/etc` that is in use, each written down first: taking back, setting to defaults, merging lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::apply::{Applied, ApplyError, Sources, Use, apply, open_local};
use super::decision::{Planned, PlannedContent};
use super::item::{Body, EtcPath, EtcTree, Item, parent, path_from_text, path_to_text};
use super::journal::{Before, Journal, JournalError, LogEntry, Operation};

use super::scan::{self, Ownership, ScanError};
use super::text::{self, TextMerge};
use crate::disk;
use crate::model::{ObjectId, Timestamp};
use crate::store::{ObjectSource as _, ReadError, Store};

/// Why an `/etc` was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// It cannot be written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A default cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file cannot be read or made durable.
    #[error("cannot {action} '{path}'")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Below `/etc`.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is nothing to do.
    #[error("nothing was done to '{0}' that could be taken back")]
    NothingToUndo(String),
    /// There is no such path, here or in the defaults.
    #[error("there is no '{0}', neither here nor in the defaults")]
    NoSuchPath(String),
    /// Not a file in all three trees.
    #[error("'{0}' is not a text file here and in the defaults: there is nothing to merge")]
    NotText(String),
    /// Both changed the same lines.
    #[error("the same lines of '{path}' were changed here and in the defaults")]
    TextConflict {
        /// Below `/etc`.
        path: String,
        /// The text with both versions between marks.
        marked: Vec<u8>,
    },
}

/// An `/etc` that is to be changed.
#[derive(Clone, Copy)]
pub struct LiveEtc<'a> {
    /// Where it is.
    pub directory: &'a Path,
    /// Its journal.
    pub journal: &'a Journal,
    /// Where defaults are.
    pub store: &'a Store,
    /// Whether owners count.
    pub ownership: Ownership,
    /// The time now, in seconds since 1970.
    pub now: i64,
}

/// What paths are to be; `None` for nothing.
type Edits = BTreeMap<EtcPath, Option<Planned>>;

/// Whether a change is made or only planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Make it.
    Apply,
    /// Only say what it would be.
    DryRun,
}

/// A change: which paths, and how many entries were written and removed.
#[derive(Debug, Clone, Default)]
pub struct Edited {
    /// The paths.
    pub paths: Vec<EtcPath>,
    /// What was done; nothing in a dry run.
    pub applied: Applied,
}

impl LiveEtc<'_> {
    /// Takes back the last operation that was not taken back yet, or what any did to these paths last.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn undo(&self, paths: &[EtcPath], mode: Mode) -> Result<Edited, EditError> {
        let entries = self.journal.entries()?;
        let wanted = |path: &[u8]| paths.is_empty() || paths.iter().any(|wanted| is_at_or_below(path, wanted));
        let found = entries.iter().rev().find_map(|(number, entry)| {
            let open = entry.changes.iter().filter(|change| !change.undone && entry.operation != Operation::Undo);
            let changes: BTreeMap<EtcPath, Before> = open
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
            if saved_root.is_dir() { scan::directory(&saved_root, self.ownership)? } else { EtcTree::default() };
        let mut edits = Edits::new();
        for (path, before) in &changes {
            let item = saved.get(path).filter(|_| *before == Before::Saved);
            edits.insert(path.clone(), item.map(|item| local(path, item)));
        }
        let edited = self.edit(edits, &saved, &saved_root, Operation::Undo, mode)?;
        if mode == Mode::Apply {
            self.journal.mark_undone(number, entry.clone(), &changes.into_keys().collect())?;
        }
        Ok(edited)
    }

    /// Sets these paths, and what is below them, to their defaults.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn reset(&self, paths: &[EtcPath], defaults: &EtcTree, mode: Mode) -> Result<Edited, EditError> {
        let current = scan::directory(self.directory, self.ownership)?;
        let mut edits = Edits::new();
        for wanted in paths {
            let here = current.below(wanted).map(|(path, _)| path.clone());
            let there = defaults.below(wanted).map(|(path, _)| path.clone());
            let all: BTreeSet<EtcPath> = here.chain(there).collect();
            if all.is_empty() {
                return Err(EditError::NoSuchPath(path_to_text(wanted)));
            }
            edits.extend(all.into_iter().map(|path| {
                let planned = defaults.get(&path).map(default);
                (path, planned)
            }));
        }
        self.edit(edits, defaults, self.directory, Operation::Reset, mode)
    }

    /// Merges the lines of files that are in conflict: those here and those of the new defaults, which descend from the old
    /// ones that the journal kept.
    ///
    /// # Errors
    /// [`EditError`]; [`EditError::TextConflict`] with the marked text for the first file that has a conflict.
    pub fn merge_texts(&self, paths: &[EtcPath], new: &EtcTree, mode: Mode) -> Result<Edited, EditError> {
        let current = scan::directory(self.directory, self.ownership)?;
        let entries = self.journal.entries()?;
        let merge = entries.iter().rev().find(|(_, entry)| entry.operation == Operation::Merge);
        let base = merge.map(|(number, _)| self.journal.base(*number)).filter(|base| base.is_dir());
        let mut edits = Edits::new();
        for path in paths {
            let old = match base.as_deref().map(|base| read_file(base, path)) {
                // There was no old default: both added it.
                None => Vec::new(),
                Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Some(other) => other.map_err(|source| EditError::Io {
                    action: "read the old default of",
                    path: path_to_text(path),
                    source,
                })?,
            };
            let (text, item) = self.merged_text(path, &old, &current, new)?;
            edits.insert(path.clone(), Some(Planned { item, content: PlannedContent::Made(text) }));
        }
        self.edit(edits, &current, self.directory, Operation::Text, mode)
    }

    fn merged_text(
        &self,
        path: &EtcPath,
        old: &[u8],
        current: &EtcTree,
        new: &EtcTree,
    ) -> Result<(Vec<u8>, Item), EditError> {
        let no_text = || EditError::NotText(path_to_text(path));
        let item = current.get(path).ok_or_else(no_text)?;
        let default = new.get(path).ok_or_else(no_text)?;
        if !item.body.is_mergeable() || !default.body.is_mergeable() {
            return Err(no_text());
        }
        let there = self.object(default)?.ok_or_else(no_text)?;
        let here = self.read(path)?;
        match text::merge(old, &here, &there) {
            TextMerge::Binary => Err(no_text()),
            TextMerge::Conflict(marked) => Err(EditError::TextConflict { path: path_to_text(path), marked }),
            TextMerge::Clean(text) => {
                let body = Body::File { content: ObjectId::of(&text), size: text.len() as u64 };
                let mtime =
                    if body == item.body { item.mtime } else { Timestamp { seconds: self.now, nanoseconds: 0 } };
                Ok((text, Item { body, mtime, link: None, ..item.clone() }))
            }
        }
    }

    /// The content of a file as it is.
    ///
    /// # Errors
    /// [`EditError::Io`].
    pub fn read(&self, path: &[u8]) -> Result<Vec<u8>, EditError> {
        read_file(self.directory, path).map_err(|source| EditError::Io {
            action: "read",
            path: path_to_text(path),
            source,
        })
    }

    /// The content of a default; `None` for what is no file.
    ///
    /// # Errors
    /// [`EditError::Read`].
    pub fn object(&self, item: &Item) -> Result<Option<Vec<u8>>, EditError> {
        let Body::File { content, size } = item.body else { return Ok(None) };
        Ok(Some(if size == 0 { Vec::new() } else { self.store.read_whole(content, size)? }))
    }

    /// Makes the edits, whose local contents are in `from`, after writing them down. Directories that are needed and not
    /// there are those of `directories`.
    fn edit(
        &self,
        edits: Edits,
        directories: &EtcTree,
        from: &Path,
        operation: Operation,
        mode: Mode,
    ) -> Result<Edited, EditError> {
        let current = scan::directory(self.directory, self.ownership)?;
        let mut wanted: BTreeMap<EtcPath, Planned> =
            current.entries.iter().map(|(path, item)| (path.clone(), local(path, item))).collect();
        for (path, to) in &edits {
            match to {
                Some(planned) => {
                    // What was a directory and becomes a file takes what is in it along.
                    if !planned.item.body.is_directory() {
                        current.below(path).for_each(|(below, _)| _ = wanted.remove(below));
                    }
                    wanted.insert(path.clone(), planned.clone());
                    add_directories(path, directories, &mut wanted);
                }
                None => {
                    // A directory stays as long as something is in it that this has nothing to do with.
                    let is_needed = current.below(path).any(|(below, _)| !matches!(edits.get(below), Some(None)));
                    if !is_needed {
                        wanted.remove(path);
                    }
                }
            }
        }
        let paths = edits.keys().filter(|path| current.get(path) != wanted.get(*path).map(|planned| &planned.item));
        let mut edited = Edited { paths: paths.cloned().collect(), applied: Applied::default() };
        if mode == Mode::DryRun {
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
        let here = Sources { local: self.directory, store: self.store, ownership: self.ownership };
        self.journal.record(&current, &wanted, here, entry, (&BTreeMap::new(), self.directory))?;
        edited.applied = apply(&wanted, self.directory, Sources { local: from, ..here }, Use::Live(&current))?;
        let synced = disk::open_directory(self.directory).and_then(disk::sync_filesystem);
        synced.map_err(|source| EditError::Io { action: "sync", path: String::new(), source })?;
        Ok(edited)
    }
}

/// Whether `path` is `top` or below it.
fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    path.starts_with(top) && (path.len() == top.len() || top.is_empty() || path[top.len()] == b'/')
}

fn add_directories(path: &[u8], directories: &EtcTree, wanted: &mut BTreeMap<EtcPath, Planned>) {
    let mut at = parent(path);
    while let Some(path) = at {
        let is_there = wanted.get(path).is_some_and(|planned| planned.item.body.is_directory());
        match directories.get(path).filter(|item| !is_there && item.body.is_directory()) {
            Some(item) => _ = wanted.insert(path.into(), default(item)),
            None => return,
        }
        at = parent(path);
    }
}

fn local(path: &EtcPath, item: &Item) -> Planned {
    let is_file = matches!(item.body, Body::File { .. });
    let content = if is_file { PlannedContent::Local(path.clone()) } else { PlannedContent::None };
    Planned { item: item.clone(), content }
}

fn default(item: &Item) -> Planned {
    let content = match item.body {
        Body::File { content, .. } => PlannedContent::Object(content),
        _ => PlannedContent::None,
    };
    Planned { item: item.clone(), content }
}

/// Whether there is a regular file at a path of a tree, no symbolic link followed.
#[must_use]
pub fn is_file(root: &Path, path: &[u8]) -> bool {
    open_local(root, path).and_then(|file| file.metadata()).is_ok_and(|metadata| metadata.is_file())
}

/// The content of a file of a tree, no symbolic link followed.
///
/// # Errors
/// Those of the system calls.
pub fn read_file(root: &Path, path: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open_local(root, path)?, &mut bytes)?;
    Ok(bytes)
}
