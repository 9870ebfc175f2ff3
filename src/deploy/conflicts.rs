//! Tracks conflicts of `/etc` merges: a conflict stays open from one deployment to the next until it is resolved.
//!
//! *Not here*: the merge itself (`etc`), and reading or writing the journal (`etc::journal`).
//!
//! *Used by* `apply` and `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::etc::{
    AccountFile, Body, EtcOperation, EtcPath, EtcPlan, EtcTree, Item, Journal, JournalError, LogEntry, LoggedDecision,
    MergeOutcome, PlannedContent, PlannedEntry, parent, path_from_text,
};
use crate::model::ObjectId;

/// Returns the index of the last merge in a journal.
fn last_merge(entries: &[(u32, LogEntry)]) -> Option<usize> {
    entries.iter().rposition(|(_, entry)| entry.operation == EtcOperation::Merge)
}

/// Returns the conflicts of the last merge that were not resolved since: by a reset, a text merge, or an edit of the file, or
/// because the administrator settled them. An edit resolves none of an account file, which programs edit all the time.
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
    // A merge that is repeated finds the same conflicts again: what was settled stays settled.
    let is_same = |a: &LoggedDecision, b: &LoggedDecision| {
        (&a.path, a.outcome, &a.aspects, &a.details) == (&b.path, b.outcome, &b.aspects, &b.details)
    };
    let settled = || entries.iter().filter(|(_, entry)| entry.operation == EtcOperation::Settle);
    let is_settled = |found: &LoggedDecision| {
        settled().flat_map(|(_, entry)| &entry.decisions).any(|settled| is_same(settled, found))
    };
    let is_open = |found: &&LoggedDecision| {
        let path = path_from_text(&found.path);
        let is_edited = AccountFile::at(&path).is_none() && found.content.is_some() && content(&path) != found.content;
        found.outcome.is_conflict() && !resolved.contains(found.path.as_str()) && !is_edited && !is_settled(found)
    };
    entries[index].1.decisions.iter().filter(is_open).cloned().collect()
}

/// Changes the plan of a repeated merge so that it preserves what was edited in the staged tree `current` since the first
/// merge: by undo, reset or text merge. Returns the number of these paths and of conflicts that were settled.
pub(crate) fn preserve_edits(entries: &[(u32, LogEntry)], current: &EtcTree, plan: &mut EtcPlan) -> usize {
    let edits = || entries.iter().filter(|(_, entry)| entry.operation != EtcOperation::Merge);
    let settled: usize = edits().map(|(_, entry)| entry.decisions.len()).sum();
    let changes = edits().flat_map(|(_, entry)| &entry.changes);
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
    paths.len() + settled
}

/// Returns the digest of the content of a file.
const fn digest_of(item: &Item) -> Option<ObjectId> {
    match item.body {
        Body::File { content, .. } => Some(content),
        _ => None,
    }
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
        let content_of = |path: &[u8]| local.get(path).and_then(digest_of);
        let before = open_conflicts(&entries, &content_of);
        let base_root = last_merge(&entries).map(|index| journal.base(entries[index].0)).unwrap_or_default();
        let mut record = Self { decisions: Vec::new(), bases: BTreeMap::new(), base_root };
        for decision in &plan.decisions {
            let mut logged = LoggedDecision::from(decision);
            let was_open = before.iter().find(|found| found.path == logged.path);
            let is_still_open =
                matches!(logged.outcome, MergeOutcome::Kept | MergeOutcome::Conflict | MergeOutcome::TypeConflict);
            // The entries of an account file that are in conflict stay so, also when others are merged.
            let is_account = AccountFile::at(&decision.path).is_some() && logged.outcome == MergeOutcome::Merged;
            if let Some(found) = was_open.filter(|_| is_still_open || is_account) {
                if logged.outcome == MergeOutcome::Kept {
                    logged = found.clone();
                } else if is_account || AccountFile::at(&decision.path).is_some() {
                    let new = logged.details.iter().filter(|detail| !found.details.contains(detail));
                    logged.details = found.details.iter().chain(new).cloned().collect();
                    logged.outcome = MergeOutcome::Conflict;
                }
                record.keep_base(&decision.path, &PlannedContent::Local(decision.path.clone()), old);
            } else if logged.outcome == MergeOutcome::Conflict {
                record.keep_base(&decision.path, &PlannedContent::None, old);
            }
            if logged.outcome.is_conflict() {
                // What the merge makes of the file: a later difference is an edit. An entry without content is one that was
                // edited already.
                let made = plan.entries.get(&decision.path).filter(|made| made.content != PlannedContent::None);
                logged.content = made.and_then(|made| digest_of(&made.item)).or_else(|| content_of(&decision.path));
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
