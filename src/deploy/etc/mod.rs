//! The three-way merge of `/etc`: the defaults of the old commit, the local tree of this machine, and the defaults of the new
//! commit become one tree, with a decision for every path that either side changed.
//!
//! | module | holds |
//! | --- | --- |
//! | `item` | the values of a tree |
//! | `scan` | reading a tree from a directory or an image |
//! | `merge`, `plan` | the merge of one entry, and of a whole tree; nothing is written |
//! | `accounts`, `text` | merging account files by entry, and texts by line |
//! | `rules` | the administrator's rules for certain paths |
//! | `decision` | the results of a merge |
//! | `apply` | writing a planned tree to a directory |
//! | `journal`, `edit` | showing and undoing operations, and editing a live `/etc` |
//!
//! *Used by* `deploy` and `cli`.

mod accounts;
mod apply;
mod decision;
mod edit;
mod item;
mod journal;
mod merge;
mod plan;
mod rules;
mod scan;
mod text;

#[cfg(test)]
mod tests;

pub use accounts::{AccountFile, AccountMerge, merge as merge_accounts};
pub(crate) use apply::{ApplyError, ContentSources, TargetTree, apply};
pub(crate) use decision::{
    ContentError, ContentReader, EtcPlan, MergeDecision, MergeOutcome, PlannedContent, PlannedEntry,
};
pub(crate) use edit::{EditError, EditMode, Edited, LiveEtc, is_file, read_file};
pub(crate) use item::{Body, EtcPath, EtcTree, Item, parent, path_from_text, path_to_text};
pub(crate) use journal::{EtcOperation, Journal, JournalError, LogEntry, LoggedDecision, matches_plan};
pub(crate) use plan::plan;
pub use rules::MergeRules;
pub(crate) use rules::{RULES_PATH, RulesError};
pub(crate) use scan::{
    DEFAULTS_DIRECTORIES, PreserveOwners, ScanError, ignore_policy_labels, scan_defaults, scan_directory as scan,
};
pub use text::{TextMerge, difference as text_difference, merge as merge_texts};
