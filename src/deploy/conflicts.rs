//! Conflicts of merges, which stay open from one deployment to the next until somebody looks after them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::etc::{
    Body, EtcPath, EtcPlan, EtcTree, Item, Journal, JournalError, LogEntry, LoggedDecision, Operation, Outcome,
    Planned, PlannedContent, parent, path_from_text,
};
use crate::model::ObjectId;

/// The last merge in a journal, and where it keeps old defaults.
fn last_merge(entries: &[(u32, LogEntry)]) -> Option<usize> {
    entries.iter().rposition(|(_, entry)| entry.operation == Operation::Merge)
}

/// The conflicts of the last merge that nobody has looked after since: neither by reset or text merge, nor by editing the
/// file. `content` tells what is in a file now.
#[must_use]
pub fn open(entries: &[(u32, LogEntry)], content: &dyn Fn(&[u8]) -> Option<ObjectId>) -> Vec<LoggedDecision> {
    let Some(place) = last_merge(entries) else { return Vec::new() };
    let later = entries[place + 1..].iter().map(|(_, entry)| entry);
    let settled: BTreeSet<&str> = later
        .filter(|entry| matches!(entry.operation, Operation::Reset | Operation::Text))
        .flat_map(|entry| entry.changes.iter().filter(|change| !change.undone).map(|change| change.path.as_str()))
        .collect();
    let is_open = |found: &&LoggedDecision| {
        let is_edited = found.content.is_some() && content(&path_from_text(&found.path)) != found.content;
        found.outcome.is_conflict() && !settled.contains(found.path.as_str()) && !is_edited
    };
    entries[place].1.decisions.iter().filter(is_open).cloned().collect()
}

/// Keeps, in a merge that is made once more, what somebody changed in the tree itself since the first one, by undoing,
/// resetting or merging lines; returns how many paths those are. `current` is the tree.
pub fn keep_edits(entries: &[(u32, LogEntry)], current: &EtcTree, plan: &mut EtcPlan) -> usize {
    let edits = entries.iter().filter(|(_, entry)| entry.operation != Operation::Merge);
    let changes = edits.flat_map(|(_, entry)| &entry.changes);
    let paths: BTreeSet<EtcPath> = changes.map(|change| path_from_text(&change.path)).collect();
    // Already there, so that nobody asks for its content.
    let there = |item: &Item| Planned { item: Item { link: None, ..item.clone() }, content: PlannedContent::None };
    for path in &paths {
        let Some(item) = current.get(path) else {
            plan.entries.retain(|found, _| {
                !found.strip_prefix(&path[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            });
            continue;
        };
        plan.entries.insert(path.clone(), there(item));
        let mut above = parent(path);
        while let Some(path) = above {
            if let Some(directory) = current.get(path) {
                plan.entries.entry(path.into()).or_insert_with(|| there(directory));
            }
            above = parent(path);
        }
    }
    paths.len()
}

/// What a merge writes down.
pub struct Record {
    /// Its decisions, and conflicts that were open before and still are.
    pub decisions: Vec<LoggedDecision>,
    /// Old defaults to keep, so that lines can be merged at any time.
    pub bases: BTreeMap<EtcPath, Planned>,
    /// Where those are that were kept before.
    pub base_root: PathBuf,
}

impl Record {
    /// What the merge `plan` of `local` writes down, whose old defaults are `old` and whose tree has `journal`.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn new(plan: &EtcPlan, old: &EtcTree, local: &EtcTree, journal: &Journal) -> Result<Self, JournalError> {
        let entries = journal.entries()?;
        let content_of = |path: &[u8]| match local.get(path).map(|item| &item.body) {
            Some(Body::File { content, .. }) => Some(*content),
            _ => None,
        };
        let before = open(&entries, &content_of);
        let base_root = last_merge(&entries).map(|place| journal.base(entries[place].0)).unwrap_or_default();
        let mut record = Self { decisions: Vec::new(), bases: BTreeMap::new(), base_root };
        for decision in &plan.decisions {
            let mut logged = LoggedDecision::from(decision);
            let was_open = before.iter().find(|found| found.path == logged.path);
            let still_is = matches!(logged.outcome, Outcome::Kept | Outcome::Conflict | Outcome::TypeConflict);
            if let Some(found) = was_open.filter(|_| still_is) {
                if logged.outcome == Outcome::Kept {
                    logged = found.clone();
                }
                record.keep_base(&decision.path, &PlannedContent::Local(decision.path.clone()), old);
            } else if logged.outcome == Outcome::Conflict {
                record.keep_base(&decision.path, &PlannedContent::None, old);
            }
            if logged.outcome.is_conflict() {
                logged.content = content_of(&decision.path);
            }
            record.decisions.push(logged);
        }
        Ok(record)
    }

    /// Keeps the old default of a file: the one that was kept before, or else that of `old`.
    fn keep_base(&mut self, path: &EtcPath, content: &PlannedContent, old: &EtcTree) {
        let is_kept = *content != PlannedContent::None && super::etc::is_file(&self.base_root, path);
        let Some(item) = old.get(path).filter(|item| matches!(item.body, Body::File { .. })) else { return };
        let content = match &item.body {
            _ if is_kept => content.clone(),
            Body::File { content, .. } => PlannedContent::Object(*content),
            _ => return,
        };
        self.bases.insert(path.clone(), Planned { item: item.clone(), content });
        let mut at = parent(path);
        while let Some(above) = at {
            if let Some(item) = old.get(above) {
                self.bases.insert(above.into(), Planned { item: item.clone(), content: PlannedContent::None });
            }
            at = parent(above);
        }
    }
}
