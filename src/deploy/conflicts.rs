//! Tracks conflicts of `/etc` merges: a conflict stays open from one deployment to the next until it is resolved.
//!
//! *Not here*: the merge itself (`etc`), and reading or writing the journal (`etc::journal`).
//!
//! *Used by* `apply` and `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::etc::{
    Body, EtcOperation, EtcPath, EtcPlan, EtcTree, Item, Journal, JournalError, LogEntry, LoggedDecision, MergeOutcome,
    PlannedContent, PlannedEntry, parent, path_from_text,
};
use crate::model::ObjectId;

/// Returns the index of the last merge in a journal.
fn last_merge(entries: &[(u32, LogEntry)]) -> Option<usize> {
    entries.iter().rposition(|(_, entry)| entry.operation == EtcOperation::Merge)
}

/// Returns the conflicts of the last merge that were not resolved since, by a reset, a text merge, or an edit of the file.
/// `content` returns the digest of what a file contains now.
pub(crate) fn open_conflicts(
    entries: &[(u32, LogEntry)],
    content: &dyn Fn(&[u8]) -> Option<ObjectId>,
) -> Vec<LoggedDecision> {
    let Some(index) = last_merge(entries) else { return Vec::new() };
    let later = entries[index + 1..].iter().map(|(_, entry)| entry);
    let resolved: BTreeSet<&str> = later
        .filter(|entry| matches!(entry.operation, EtcOperation::Reset | EtcOperation::Text))
        .flat_map(|entry| entry.changes.iter().filter(|change| !change.undone).map(|change| change.path.as_str()))
        .collect();
    let is_open = |found: &&LoggedDecision| {
        let is_edited = found.content.is_some() && content(&path_from_text(&found.path)) != found.content;
        found.outcome.is_conflict() && !resolved.contains(found.path.as_str()) && !is_edited
    };
    entries[index].1.decisions.iter().filter(is_open).cloned().collect()
}

/// Changes the plan of a repeated merge so that it preserves what was edited in the staged tree `current` since the first
/// merge: by undo, reset or text merge. Returns the number of these paths.
pub(crate) fn preserve_edits(entries: &[(u32, LogEntry)], current: &EtcTree, plan: &mut EtcPlan) -> usize {
    let edits = entries.iter().filter(|(_, entry)| entry.operation != EtcOperation::Merge);
    let changes = edits.flat_map(|(_, entry)| &entry.changes);
    let paths: BTreeSet<EtcPath> = changes.map(|change| path_from_text(&change.path)).collect();
    // Without content: the entry exists already, so its content is not read.
    let unchanged =
        |item: &Item| PlannedEntry { item: Item { link: None, ..item.clone() }, content: PlannedContent::None };
    for path in &paths {
        let Some(item) = current.get(path) else {
            plan.entries.retain(|found, _| {
                !found.strip_prefix(&path[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            });
            continue;
        };
        plan.entries.insert(path.clone(), unchanged(item));
        let mut above = parent(path);
        while let Some(path) = above {
            if let Some(directory) = current.get(path) {
                plan.entries.entry(path.into()).or_insert_with(|| unchanged(directory));
            }
            above = parent(path);
        }
    }
    paths.len()
}

/// What a merge writes to the journal.
pub(crate) struct MergeRecord {
    /// The decisions of the merge, with the conflicts that were open before and still are.
    pub(crate) decisions: Vec<LoggedDecision>,
    /// Old defaults of files in conflict, which are kept so that their lines can be merged later.
    pub(crate) bases: BTreeMap<EtcPath, PlannedEntry>,
    /// The directory where the previous merge kept its old defaults.
    pub(crate) base_root: PathBuf,
}

impl MergeRecord {
    /// Returns the record of the merge `plan`, where `old` are the old defaults, `local` is the machine's tree and `journal` is
    /// the journal of that tree.
    pub(crate) fn new(plan: &EtcPlan, old: &EtcTree, local: &EtcTree, journal: &Journal) -> Result<Self, JournalError> {
        let entries = journal.entries()?;
        let content_of = |path: &[u8]| match local.get(path).map(|item| &item.body) {
            Some(Body::File { content, .. }) => Some(*content),
            _ => None,
        };
        let before = open_conflicts(&entries, &content_of);
        let base_root = last_merge(&entries).map(|index| journal.base(entries[index].0)).unwrap_or_default();
        let mut record = Self { decisions: Vec::new(), bases: BTreeMap::new(), base_root };
        for decision in &plan.decisions {
            let mut logged = LoggedDecision::from(decision);
            let was_open = before.iter().find(|found| found.path == logged.path);
            let is_still_open =
                matches!(logged.outcome, MergeOutcome::Kept | MergeOutcome::Conflict | MergeOutcome::TypeConflict);
            if let Some(found) = was_open.filter(|_| is_still_open) {
                if logged.outcome == MergeOutcome::Kept {
                    logged = found.clone();
                }
                record.keep_base(&decision.path, &PlannedContent::Local(decision.path.clone()), old);
            } else if logged.outcome == MergeOutcome::Conflict {
                record.keep_base(&decision.path, &PlannedContent::None, old);
            }
            if logged.outcome.is_conflict() {
                logged.content = content_of(&decision.path);
            }
            record.decisions.push(logged);
        }
        Ok(record)
    }

    /// Keeps the old default of a file: the one that the previous merge kept, or else that of `old`.
    fn keep_base(&mut self, path: &EtcPath, content: &PlannedContent, old: &EtcTree) {
        let is_kept = *content != PlannedContent::None && super::etc::is_file(&self.base_root, path);
        let Some(item) = old.get(path).filter(|item| matches!(item.body, Body::File { .. })) else { return };
        let content = match &item.body {
            _ if is_kept => content.clone(),
            Body::File { content, .. } => PlannedContent::Object(*content),
            _ => return,
        };
        self.bases.insert(path.clone(), PlannedEntry { item: item.clone(), content });
        let mut at = parent(path);
        while let Some(above) = at {
            if let Some(item) = old.get(above) {
                self.bases.insert(above.into(), PlannedEntry { item: item.clone(), content: PlannedContent::None });
            }
            at = parent(above);
        }
    }
}
