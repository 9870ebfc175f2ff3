//! The three-way merge of a whole tree: what `/etc` is to be, and why. Pure, but for contents of the few files that are
//! merged by line or by entry.
//!
//! Given the old defaults, the tree on this machine and the new defaults, every path gets one decision. `merge` is the rule
//! for one entry; here is what directories do to it:
//!
//! | here | default | outcome |
//! | --- | --- | --- |
//! | deleted directory | gains files | stays deleted, the new files are reported |
//! | changes below it | directory is gone | stays, with what was changed here and nothing else |
//! | changes below it | became a file | stays; the default is laid beside it as `NAME.sapwood-new` |
//! | nothing changed below it | became a file | the file |
//! | became a file | changed below | stays a file; the default directory is laid beside it |
//! | changed file | became a directory | stays a file; the default directory is laid beside it |
//!
//! Nothing here can fail because of what somebody did to his `/etc`.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::accounts::{self, AccountFile};
use super::decision::{
    ASIDE_SUFFIX, ContentError, Contents, Decision, Difference, EtcPlan, Outcome, Planned, PlannedContent,
};
use super::item::{Body, EtcPath, EtcTree, Item, parent};
use super::merge::{Merged, merge};
use super::rules::{Rule, Rules};
use super::text::{self, TextMerge};
use crate::image::Aspect;
use crate::model::ObjectId;

/// Merges three trees.
///
/// # Errors
/// [`ContentError`] when a content that is needed cannot be read. One that is absent leaves its path undecided.
pub fn plan(
    old: &EtcTree,
    local: &EtcTree,
    new: &EtcTree,
    rules: &Rules,
    contents: &dyn Contents,
) -> Result<EtcPlan, ContentError> {
    let mut ruled = Vec::new();
    let (local_side, new_side) = rules.pin(old, local, new, &mut ruled);
    let mut merger = Merger {
        old,
        local: &local_side,
        new: &new_side,
        rules,
        contents,
        changed_here: changed_directories(old, &local_side),
        changed_default: changed_directories(old, &new_side),
        closed: HashMap::new(),
        asides: Vec::new(),
        plan: EtcPlan::default(),
    };
    let paths: BTreeSet<&EtcPath> =
        old.entries.keys().chain(local_side.entries.keys()).chain(new_side.entries.keys()).collect();
    for path in paths {
        merger.decide(path)?;
    }
    merger.lay_aside();
    let mut plan = merger.plan;
    plan.report_rules(ruled, old, local, new);
    // A rule may stand for an old default whose content is nowhere but here.
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

/// The directories at or below which `tree` has something that `old` has not like that. Deletions do not count: what is
/// deleted needs no directory.
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

/// Why nothing below a directory is decided any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// It was deleted here.
    Deleted,
    /// Something else is there now; what became of it was said there.
    Replaced,
}

struct Merger<'a> {
    old: &'a EtcTree,
    local: &'a EtcTree,
    new: &'a EtcTree,
    rules: &'a Rules,
    contents: &'a dyn Contents,
    changed_here: HashSet<EtcPath>,
    changed_default: HashSet<EtcPath>,
    closed: HashMap<EtcPath, Closed>,
    asides: Vec<EtcPath>,
    plan: EtcPlan,
}

impl<'a> Merger<'a> {
    fn decide(&mut self, path: &'a EtcPath) -> Result<(), ContentError> {
        let above = parent(path).and_then(|above| self.closed.get(above).copied());
        if let Some(why) = above {
            self.closed.insert(path.clone(), why);
            if why == Closed::Deleted && self.new.get(path).is_some() && self.old.get(path).is_none() {
                self.note(path, Outcome::InDeletedDirectory, &[]);
            }
            return Ok(());
        }
        match (self.local.get(path), self.new.get(path)) {
            (None, None) => {}
            (None, Some(new)) => self.absent_here(path, new),
            (Some(local), None) => self.absent_in_defaults(path, local),
            (Some(local), Some(new)) => match (local.body.is_directory(), new.body.is_directory()) {
                (true, false) => self.directory_here(path, local, new),
                (false, true) => self.directory_in_defaults(path, local, new),
                (true, true) => {
                    let merged = merge(self.old.get(path), local, new);
                    self.take_merged(path, local, new, merged);
                }
                (false, false) => self.both(path, local, new)?,
            },
        }
        Ok(())
    }

    fn absent_here(&mut self, path: &'a EtcPath, new: &Item) {
        let Some(old) = self.old.get(path) else {
            self.put_default(path, new);
            // That there is an /etc at all is no news.
            if !path.is_empty() {
                self.note(path, Outcome::Added, &[]);
            }
            return;
        };
        self.closed.insert(path.clone(), Closed::Deleted);
        let aspects = new.differences(old);
        let outcome = if aspects.is_empty() { Outcome::Kept } else { Outcome::StaysDeleted };
        self.note(path, outcome, &aspects);
    }

    fn absent_in_defaults(&mut self, path: &'a EtcPath, local: &Item) {
        let is_changed = self.old.get(path).is_none_or(|old| !old.is_same(local));
        if is_changed || (local.body.is_directory() && self.changed_here.contains(path)) {
            self.put_local(path, local);
            let lost = is_changed && self.old.get(path).is_some();
            let aspects = self.old.get(path).map(|old| local.differences(old)).unwrap_or_default();
            self.note(path, if lost { Outcome::KeptWithoutDefault } else { Outcome::Kept }, &aspects);
        } else {
            self.note(path, Outcome::Removed, &[]);
        }
    }

    /// A directory here, something else in the defaults.
    fn directory_here(&mut self, path: &'a EtcPath, local: &Item, new: &Item) {
        let old = self.old.get(path);
        if old.is_some_and(|old| old.body.is_directory()) && !self.changed_here.contains(path) {
            self.closed.insert(path.clone(), Closed::Replaced);
            self.put_default(path, new);
            self.note(path, Outcome::Updated, &[Aspect::Type]);
            return;
        }
        self.put_local(path, local);
        if old.is_some_and(|old| old.is_same(new)) {
            self.note(path, Outcome::Kept, &[Aspect::Type]);
        } else {
            self.note_aside(path);
        }
    }

    /// A directory in the defaults, something else here.
    fn directory_in_defaults(&mut self, path: &'a EtcPath, local: &Item, new: &Item) {
        let old = self.old.get(path);
        if old.is_some_and(|old| old.is_same(local)) {
            self.put_default(path, new);
            self.note(path, Outcome::Updated, &[Aspect::Type]);
            return;
        }
        self.closed.insert(path.clone(), Closed::Replaced);
        self.put_local(path, local);
        let is_changed = self.changed_default.contains(path) || self.has_removals_in_defaults(path);
        if old.is_some_and(|old| old.body.is_directory()) && !is_changed {
            self.note(path, Outcome::Kept, &[Aspect::Type]);
        } else {
            self.note_aside(path);
        }
    }

    fn has_removals_in_defaults(&self, path: &[u8]) -> bool {
        self.old.below(path).any(|(path, _)| self.new.get(path).is_none())
    }

    /// Neither is a directory.
    fn both(&mut self, path: &'a EtcPath, local: &Item, new: &Item) -> Result<(), ContentError> {
        let old = self.old.get(path);
        let mut merged = merge(old, local, new);
        if merged.conflicts.contains(&Aspect::Type) {
            self.put_local(path, local);
            self.note_aside(path);
            return Ok(());
        }
        let is_content = |aspect: &Aspect| *aspect == Aspect::Content;
        let mut made = None;
        let mut details = Vec::new();
        if merged.conflicts.iter().any(is_content) {
            match self.merge_contents(path, old, local, new) {
                Ok(Some((text, found))) => {
                    merged.conflicts.retain(|aspect| !is_content(aspect) || !found.is_empty());
                    merged.taken.insert(0, Aspect::Content);
                    merged.kept.insert(0, Aspect::Content);
                    merged.item.body = Body::File { content: ObjectId::of(&text), size: text.len() as u64 };
                    merged.item.mtime = merged.item.mtime.max(new.mtime);
                    details = found;
                    made = Some(text);
                }
                Ok(None) => {}
                Err(ContentError::Absent) => {
                    self.put_local(path, local);
                    self.note(path, Outcome::Undecided, &[Aspect::Content]);
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

    /// A content made of both, and what in it could not be had both ways; `None` when files like this are not merged.
    fn merge_contents(
        &self,
        path: &[u8],
        old: Option<&Item>,
        local: &Item,
        new: &Item,
    ) -> Result<Option<(Vec<u8>, Vec<String>)>, ContentError> {
        let file = AccountFile::at(path);
        if file.is_none() && self.rules.of(path) != Some(Rule::Text) {
            return Ok(None);
        }
        let object = |item: &Item| match item.body {
            Body::File { size: 0, .. } => Ok(Some(Vec::new())),
            Body::File { content, size } => self.contents.object(content, size).map(Some),
            _ => Ok(None),
        };
        if !old.into_iter().chain([local, new]).all(|item| item.body.is_mergeable()) {
            return Ok(None);
        }
        let old = old.map_or(Ok(Some(Vec::new())), object)?;
        let (Some(old), Some(new)) = (old, object(new)?) else { return Ok(None) };
        let local = self.contents.local(path)?;
        if let Some(file) = file {
            let merged = accounts::merge(file, &old, &local, &new);
            return Ok(Some((merged.text, merged.conflicts)));
        }
        match text::merge(&old, &local, &new) {
            TextMerge::Clean(text) => Ok(Some((text, Vec::new()))),
            TextMerge::Conflict(_) => Ok(Some((local, vec!["the same lines were changed".to_owned()]))),
            TextMerge::Binary => Ok(None),
        }
    }

    /// Plans a merged entry and says what happened to it.
    fn take_merged(&mut self, path: &EtcPath, local: &Item, new: &Item, merged: Merged) {
        let Merged { item, taken, kept, conflicts } = merged;
        let content = match &item.body {
            Body::File { .. } if item.body == local.body => PlannedContent::Local(path.clone()),
            Body::File { .. } if item.body == new.body => content_of(new),
            _ => PlannedContent::None,
        };
        self.plan.entries.insert(path.clone(), Planned { item, content });
        let (outcome, aspects) = match (taken.is_empty(), kept.is_empty(), conflicts.is_empty()) {
            (_, _, false) => (Outcome::Conflict, conflicts),
            (false, false, true) => (Outcome::Merged, [taken, kept].concat()),
            (false, true, true) => (Outcome::Updated, taken),
            (true, false, true) => (Outcome::Kept, kept),
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

    fn put_local(&mut self, path: &EtcPath, local: &Item) {
        let is_file = matches!(local.body, Body::File { .. });
        let content = if is_file { PlannedContent::Local(path.clone()) } else { PlannedContent::None };
        self.plan.entries.insert(path.clone(), Planned { item: local.clone(), content });
    }

    fn put_default(&mut self, path: &EtcPath, new: &Item) {
        self.plan.entries.insert(path.clone(), Planned { item: new.clone(), content: content_of(new) });
    }

    fn note(&mut self, path: &[u8], outcome: Outcome, aspects: &[Aspect]) {
        let difference = |tree: &EtcTree| difference(self.old.get(path), tree.get(path));
        let (here, default) = (difference(self.local), difference(self.new));
        let (path, aspects, details) = (path.into(), aspects.to_vec(), Vec::new());
        self.plan.decisions.push(Decision { path, here, default, outcome, aspects, details, aside: None });
    }

    /// What is here stays, and the default comes beside it.
    fn note_aside(&mut self, path: &EtcPath) {
        self.note(path, Outcome::TypeConflict, &[Aspect::Type]);
        if let Some(decision) = self.plan.decisions.last_mut() {
            decision.aside = Some(aside(path));
        }
        self.asides.push(path.clone());
    }

    /// Plans what was laid aside, in the place of what an earlier merge laid there.
    fn lay_aside(&mut self) {
        for path in std::mem::take(&mut self.asides) {
            let beside = aside(&path);
            let stale: Vec<EtcPath> = self.local.below(&beside).map(|(path, _)| path.clone()).collect();
            for path in stale {
                self.plan.entries.remove(&path);
                self.plan.decisions.retain(|decision| decision.path != path);
            }
            for (found, item) in self.new.below(&path) {
                let target: EtcPath = [&beside, &found[path.len()..]].concat().into();
                self.put_default(&target, item);
            }
        }
    }
}

fn aside(path: &[u8]) -> EtcPath {
    [path, ASIDE_SUFFIX].concat().into()
}

fn content_of(item: &Item) -> PlannedContent {
    match item.body {
        Body::File { content, .. } => PlannedContent::Object(content),
        _ => PlannedContent::None,
    }
}

/// How `now` differs from the old default.
fn difference(old: Option<&Item>, now: Option<&Item>) -> Difference {
    match (old, now) {
        (None, Some(_)) => Difference::Added,
        (Some(_), None) => Difference::Deleted,
        (Some(old), Some(now)) if !old.is_same(now) => Difference::Changed,
        _ => Difference::Same,
    }
}

impl EtcPlan {
    /// Says which rules made a difference, in the place of what the merge would say of the trees they changed.
    fn report_rules(&mut self, ruled: Vec<(EtcPath, Rule)>, old: &EtcTree, local: &EtcTree, new: &EtcTree) {
        for (path, rule) in ruled {
            let other = if rule == Rule::Local { new } else { local };
            let aspects = match (self.entries.get(&path), other.get(&path)) {
                (Some(planned), Some(other)) => planned.item.differences(other),
                (None, None) => continue,
                _ => Vec::new(),
            };
            let word = if rule == Rule::Local { "local" } else { "default" };
            let decision = Decision {
                here: difference(old.get(&path), local.get(&path)),
                default: difference(old.get(&path), new.get(&path)),
                outcome: Outcome::ByRule,
                aspects,
                details: vec![format!("{word}: {}", super::rules::RULES_PATH)],
                aside: None,
                path: path.clone(),
            };
            match self.decisions.binary_search_by(|found| found.path.cmp(&path)) {
                Ok(place) => self.decisions[place] = decision,
                Err(place) => self.decisions.insert(place, decision),
            }
        }
    }
}
