//! The three-way merge of a whole tree: plans the new `/etc` and decides about every path. Pure, except that it reads the
//! contents of the few files that are merged by line or by entry.
//!
//! The inputs are the old defaults, the local tree of this machine and the new defaults. `merge` has the rules for one entry;
//! the rules for directories are:
//!
//! | local | default | outcome |
//! | --- | --- | --- |
//! | deleted directory | has new files | stays deleted, the new files are reported |
//! | directory with changes below it | directory was removed | kept, with the local changes and nothing else |
//! | directory with changes below it | became a file | kept; the default is the sidecar `NAME.sapwood-new` beside it |
//! | directory without changes below it | became a file | the file |
//! | became a file | changed below the directory | kept as a file; the default directory is written beside it |
//! | changed file | became a directory | kept as a file; the default directory is written beside it |
//!
//! *Invariants*: no state of the local `/etc` makes the merge fail. *Used by* `deploy::plan`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::accounts::{self, AccountFile, AccountMerge, Renumbered};
use super::decision::{
    ContentError, ContentReader, Difference, EtcPlan, MergeDecision, MergeOutcome, PlannedContent, PlannedEntry,
    SIDECAR_SUFFIX,
};
use super::item::{Body, EtcPath, EtcTree, Item, parent};
use super::merge::{MergedItem, merge};
use super::rules::{MergeRule, MergeRules};
use super::text::{self, TextMerge};
use crate::image::Aspect;
use crate::model::ObjectId;

/// Merges three trees.
///
/// # Errors
/// [`ContentError`] if a content that is needed cannot be read. If it was not fetched yet, its path is left undecided.
pub(crate) fn plan(
    old: &EtcTree,
    local: &EtcTree,
    new: &EtcTree,
    rules: &MergeRules,
    contents: &dyn ContentReader,
) -> Result<EtcPlan, ContentError> {
    let mut ruled = Vec::new();
    let (local_side, new_side) = rules.pin_ruled_paths(old, local, new, &mut ruled);
    let mut merger = Merger {
        old,
        local: &local_side,
        new: &new_side,
        rules,
        contents,
        changed_locally: changed_directories(old, &local_side),
        changed_in_defaults: changed_directories(old, &new_side),
        skipped: HashMap::new(),
        sidecars: Vec::new(),
        groups: BTreeMap::new(),
        plan: EtcPlan::default(),
    };
    let paths: BTreeSet<&EtcPath> =
        old.entries.keys().chain(local_side.entries.keys()).chain(new_side.entries.keys()).collect();
    for path in paths {
        merger.decide(path)?;
    }
    merger.plan_sidecars();
    let mut plan = merger.plan;
    plan.report_rules(ruled, old, local, new);
    // A rule may select an old default whose content only the local tree still has.
    for (path, planned) in &mut plan.entries {
        if let (PlannedContent::Object(id), Some(Body::File { content, .. })) =
            (&planned.content, local.get(path).map(|item| &item.body))
            && id == content
        {
            planned.content = PlannedContent::Local(path.clone());
        }
    }
    Ok(plan)
}

/// Returns the directories at or below which `tree` has entries that `old` does not have or that differ. Deletions do not
/// count, since a deleted entry needs no directory.
fn changed_directories(old: &EtcTree, tree: &EtcTree) -> HashSet<EtcPath> {
    let mut changed = HashSet::new();
    for (path, item) in &tree.entries {
        if old.get(path).is_some_and(|old| old.is_same(item)) {
            continue;
        }
        let mut at = Some(&path[..]);
        while let Some(path) = at.filter(|path| !changed.contains(*path)) {
            changed.insert(path.into());
            at = parent(path);
        }
    }
    changed
}

/// Why the paths below a directory are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SkipReason {
    /// The directory was deleted locally.
    Deleted,
    /// The directory was replaced by another kind of entry, for which the decision was noted.
    Replaced,
}

/// The state of one merge.
struct Merger<'a> {
    old: &'a EtcTree,
    local: &'a EtcTree,
    new: &'a EtcTree,
    rules: &'a MergeRules,
    contents: &'a dyn ContentReader,
    changed_locally: HashSet<EtcPath>,
    changed_in_defaults: HashSet<EtcPath>,
    skipped: HashMap<EtcPath, SkipReason>,
    sidecars: Vec<EtcPath>,
    /// New groups that got another number; `group` is decided before `passwd`.
    groups: BTreeMap<String, Renumbered>,
    plan: EtcPlan,
}

/// A file of which the contents were merged by entry or by line.
struct MergedContents {
    text: Vec<u8>,
    conflicts: Vec<String>,
    /// What the user should know besides.
    notes: Vec<String>,
    /// New entries of an account file that got another number.
    renumbered: BTreeMap<String, Renumbered>,
}

impl<'a> Merger<'a> {
    /// Decides about one path. Parent directories must be decided before.
    fn decide(&mut self, path: &'a EtcPath) -> Result<(), ContentError> {
        let above = parent(path).and_then(|above| self.skipped.get(above).copied());
        if let Some(why) = above {
            self.skipped.insert(path.clone(), why);
            if why == SkipReason::Deleted && self.new.get(path).is_some() && self.old.get(path).is_none() {
                self.note(path, MergeOutcome::InDeletedDirectory, &[]);
            }
            return Ok(());
        }
        match (self.local.get(path), self.new.get(path)) {
            (None, None) => {}
            (None, Some(new)) => self.decide_absent_local(path, new),
            (Some(local), None) => self.decide_absent_default(path, local),
            (Some(local), Some(new)) => match (local.body.is_directory(), new.body.is_directory()) {
                (true, false) => self.decide_directory_local(path, local, new),
                (false, true) => self.decide_directory_default(path, local, new),
                (true, true) => {
                    let merged = merge(self.old.get(path), local, new);
                    self.take_merged(path, local, new, merged);
                }
                (false, false) => self.merge_entries(path, local, new)?,
            },
        }
        Ok(())
    }

    /// Decides about a path that the new defaults have and the local tree does not.
    fn decide_absent_local(&mut self, path: &'a EtcPath, new: &Item) {
        let Some(old) = self.old.get(path) else {
            self.put_default(path, new);
            // The existence of /etc itself is not reported.
            if !path.is_empty() {
                self.note(path, MergeOutcome::Added, &[]);
            }
            return;
        };
        self.skipped.insert(path.clone(), SkipReason::Deleted);
        let aspects = new.differences(old);
        let outcome = if aspects.is_empty() { MergeOutcome::Kept } else { MergeOutcome::StaysDeleted };
        self.note(path, outcome, &aspects);
    }

    /// Decides about a path that the local tree has and the new defaults do not.
    fn decide_absent_default(&mut self, path: &'a EtcPath, local: &Item) {
        let is_changed = self.old.get(path).is_none_or(|old| !old.is_same(local));
        if is_changed || (local.body.is_directory() && self.changed_locally.contains(path)) {
            self.put_local(path, local);
            let lost = is_changed && self.old.get(path).is_some();
            let aspects = self.old.get(path).map(|old| local.differences(old)).unwrap_or_default();
            self.note(path, if lost { MergeOutcome::KeptWithoutDefault } else { MergeOutcome::Kept }, &aspects);
        } else {
            self.note(path, MergeOutcome::Removed, &[]);
        }
    }

    /// Decides about a path that is a directory locally and another kind of entry in the defaults.
    fn decide_directory_local(&mut self, path: &'a EtcPath, local: &Item, new: &Item) {
        let old = self.old.get(path);
        if old.is_some_and(|old| old.body.is_directory()) && !self.changed_locally.contains(path) {
            self.skipped.insert(path.clone(), SkipReason::Replaced);
            self.put_default(path, new);
            self.note(path, MergeOutcome::Updated, &[Aspect::Type]);
            return;
        }
        self.put_local(path, local);
        if old.is_some_and(|old| old.is_same(new)) {
            self.note(path, MergeOutcome::Kept, &[Aspect::Type]);
        } else {
            self.note_sidecar(path);
        }
    }

    /// Decides about a path that is a directory in the defaults and another kind of entry locally.
    fn decide_directory_default(&mut self, path: &'a EtcPath, local: &Item, new: &Item) {
        let old = self.old.get(path);
        if old.is_some_and(|old| old.is_same(local)) {
            self.put_default(path, new);
            self.note(path, MergeOutcome::Updated, &[Aspect::Type]);
            return;
        }
        self.skipped.insert(path.clone(), SkipReason::Replaced);
        self.put_local(path, local);
        let is_changed = self.changed_in_defaults.contains(path) || self.has_removals_in_defaults(path);
        if old.is_some_and(|old| old.body.is_directory()) && !is_changed {
            self.note(path, MergeOutcome::Kept, &[Aspect::Type]);
        } else {
            self.note_sidecar(path);
        }
    }

    /// Returns whether the new defaults removed an entry below `path`.
    fn has_removals_in_defaults(&self, path: &[u8]) -> bool {
        self.old.below(path).any(|(path, _)| self.new.get(path).is_none())
    }

    /// Decides about a path that both trees have and that is a directory in neither.
    fn merge_entries(&mut self, path: &'a EtcPath, local: &Item, new: &Item) -> Result<(), ContentError> {
        let old = self.old.get(path);
        let mut merged = merge(old, local, new);
        if merged.conflicts.contains(&Aspect::Type) {
            self.put_local(path, local);
            self.note_sidecar(path);
            return Ok(());
        }
        let is_content = |aspect: &Aspect| *aspect == Aspect::Content;
        let mut made = None;
        let mut details = Vec::new();
        // A user of the defaults may belong to a group that got another number.
        let follows_groups = !self.groups.is_empty() && AccountFile::at(path) == Some(AccountFile::Passwd);
        if merged.conflicts.iter().any(is_content) || (follows_groups && merged.taken.iter().any(is_content)) {
            match self.merge_contents(path, old, local, new) {
                Ok(Some(MergedContents { text, conflicts, notes, renumbered })) => {
                    merged.conflicts.retain(|aspect| !is_content(aspect));
                    if !conflicts.is_empty() {
                        merged.conflicts.push(Aspect::Content);
                    }
                    if AccountFile::at(path) == Some(AccountFile::Group) {
                        self.groups = renumbered;
                    }
                    merged.taken.insert(0, Aspect::Content);
                    merged.kept.insert(0, Aspect::Content);
                    merged.item.body = Body::File { content: ObjectId::of(&text), size: text.len() as u64 };
                    merged.item.mtime = merged.item.mtime.max(new.mtime);
                    details = [conflicts, notes].concat();
                    made = Some(text);
                }
                Ok(None) => {}
                Err(ContentError::NotFetched) => {
                    self.put_local(path, local);
                    self.note(path, MergeOutcome::Undecided, &[Aspect::Content]);
                    return Ok(());
                }
                Err(other) => return Err(other),
            }
        }
        self.take_merged(path, local, new, merged);
        if let (Some(text), Some(planned)) = (made, self.plan.entries.get_mut(path)) {
            planned.content = PlannedContent::Made(text);
        }
        if let Some(decision) = self.plan.decisions.last_mut().filter(|decision| decision.path == *path) {
            decision.details = details;
        }
        Ok(())
    }

    /// Merges the contents of both versions. Returns `None` if files at this path are not merged by entry or by line.
    fn merge_contents(
        &self,
        path: &[u8],
        old: Option<&Item>,
        local: &Item,
        new: &Item,
    ) -> Result<Option<MergedContents>, ContentError> {
        let file = AccountFile::at(path);
        if file.is_none() && self.rules.rule_for(path) != Some(MergeRule::Text) {
            return Ok(None);
        }
        let object = |item: &Item| match item.body {
            Body::File { size: 0, .. } => Ok(Some(Vec::new())),
            Body::File { content, size } => self.contents.read_object(content, size).map(Some),
            _ => Ok(None),
        };
        if !old.into_iter().chain([local, new]).all(|item| item.body.is_mergeable()) {
            return Ok(None);
        }
        let old = old.map_or(Ok(Some(Vec::new())), object)?;
        let (Some(old), Some(new)) = (old, object(new)?) else { return Ok(None) };
        let local = self.contents.read_local(path)?;
        if let Some(file) = file {
            let merged = accounts::merge_with_groups(file, [&old, &local, &new], &self.groups);
            let note = |(name, Renumbered { from, to }): (&String, &Renumbered)| {
                format!("'{name}' of the new defaults has number {to}, since {from} is taken here")
            };
            let notes = merged.renumbered.iter().map(note).collect();
            let AccountMerge { text, conflicts, renumbered } = merged;
            return Ok(Some(MergedContents { text, conflicts, notes, renumbered }));
        }
        let (text, conflicts) = match text::merge(&old, &local, &new) {
            TextMerge::Clean(text) => (text, Vec::new()),
            TextMerge::Conflict(_) => (local, vec!["the same lines were changed".to_owned()]),
            TextMerge::Binary => return Ok(None),
        };
        Ok(Some(MergedContents { text, conflicts, notes: Vec::new(), renumbered: BTreeMap::new() }))
    }

    /// Plans a merged entry and notes the decision.
    fn take_merged(&mut self, path: &EtcPath, local: &Item, new: &Item, merged: MergedItem) {
        let MergedItem { item, taken, kept, conflicts } = merged;
        let content = match &item.body {
            Body::File { .. } if item.body == local.body => PlannedContent::Local(path.clone()),
            Body::File { .. } if item.body == new.body => content_of(new),
            _ => PlannedContent::None,
        };
        self.plan.entries.insert(path.clone(), PlannedEntry { item, content });
        let (outcome, aspects) = match (taken.is_empty(), kept.is_empty(), conflicts.is_empty()) {
            (_, _, false) => (MergeOutcome::Conflict, conflicts),
            (false, false, true) => (MergeOutcome::Merged, [taken, kept].concat()),
            (false, true, true) => (MergeOutcome::Updated, taken),
            (true, false, true) => (MergeOutcome::Kept, kept),
            (true, true, true) => return,
        };
        let mut unique = Vec::new();
        aspects.into_iter().for_each(|aspect| {
            if !unique.contains(&aspect) {
                unique.push(aspect);
            }
        });
        self.note(path, outcome, &unique);
    }

    /// Plans the local version of an entry.
    fn put_local(&mut self, path: &EtcPath, local: &Item) {
        let is_file = matches!(local.body, Body::File { .. });
        let content = if is_file { PlannedContent::Local(path.clone()) } else { PlannedContent::None };
        self.plan.entries.insert(path.clone(), PlannedEntry { item: local.clone(), content });
    }

    /// Plans the default version of an entry.
    fn put_default(&mut self, path: &EtcPath, new: &Item) {
        self.plan.entries.insert(path.clone(), PlannedEntry { item: new.clone(), content: content_of(new) });
    }

    /// Notes the decision about a path.
    fn note(&mut self, path: &[u8], outcome: MergeOutcome, aspects: &[Aspect]) {
        let difference = |tree: &EtcTree| difference(self.old.get(path), tree.get(path));
        let (local, default) = (difference(self.local), difference(self.new));
        let (path, aspects, details) = (path.into(), aspects.to_vec(), Vec::new());
        self.plan.decisions.push(MergeDecision { path, local, default, outcome, aspects, details, sidecar: None });
    }

    /// Notes that the local entry is kept and the default is written beside it, as a sidecar.
    fn note_sidecar(&mut self, path: &EtcPath) {
        self.note(path, MergeOutcome::TypeConflict, &[Aspect::Type]);
        if let Some(decision) = self.plan.decisions.last_mut() {
            decision.sidecar = Some(sidecar_path(path));
        }
        self.sidecars.push(path.clone());
    }

    /// Plans the sidecars. They replace sidecars of an earlier merge at the same paths.
    fn plan_sidecars(&mut self) {
        for path in std::mem::take(&mut self.sidecars) {
            let sidecar = sidecar_path(&path);
            let stale: Vec<EtcPath> = self.local.below(&sidecar).map(|(path, _)| path.clone()).collect();
            for path in stale {
                self.plan.entries.remove(&path);
                self.plan.decisions.retain(|decision| decision.path != path);
            }
            for (found, item) in self.new.below(&path) {
                let target: EtcPath = [&sidecar, &found[path.len()..]].concat().into();
                self.put_default(&target, item);
            }
        }
    }
}

/// Returns the path under which the default of `path` is written beside the local entry.
fn sidecar_path(path: &[u8]) -> EtcPath {
    [path, SIDECAR_SUFFIX].concat().into()
}

/// Returns the source of the content of a default.
fn content_of(item: &Item) -> PlannedContent {
    match item.body {
        Body::File { content, .. } => PlannedContent::Object(content),
        _ => PlannedContent::None,
    }
}

/// Returns how `now` differs from the old default.
fn difference(old: Option<&Item>, now: Option<&Item>) -> Difference {
    match (old, now) {
        (None, Some(_)) => Difference::Added,
        (Some(_), None) => Difference::Deleted,
        (Some(old), Some(now)) if !old.is_same(now) => Difference::Changed,
        _ => Difference::Same,
    }
}

impl EtcPlan {
    /// Replaces the decisions about paths for which a rule made a difference by decisions that name the rule.
    fn report_rules(&mut self, ruled: Vec<(EtcPath, MergeRule)>, old: &EtcTree, local: &EtcTree, new: &EtcTree) {
        for (path, rule) in ruled {
            let other = if rule == MergeRule::Local { new } else { local };
            let aspects = match (self.entries.get(&path), other.get(&path)) {
                (Some(planned), Some(other)) => planned.item.differences(other),
                (None, None) => continue,
                _ => Vec::new(),
            };
            let word = if rule == MergeRule::Local { "local" } else { "default" };
            let decision = MergeDecision {
                local: difference(old.get(&path), local.get(&path)),
                default: difference(old.get(&path), new.get(&path)),
                outcome: MergeOutcome::ByRule,
                aspects,
                details: vec![format!("{word}: {}", super::rules::RULES_PATH)],
                sidecar: None,
                path: path.clone(),
            };
            match self.decisions.binary_search_by(|found| found.path.cmp(&path)) {
                Ok(index) => self.decisions[index] = decision,
                Err(index) => self.decisions.insert(index, decision),
            }
        }
    }
}
