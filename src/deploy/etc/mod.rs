//! The merge of `/etc`: the defaults of the old commit, what is on this machine, and the defaults of the new commit become one
//! tree, with a decision and its reason for every path that anybody changed.
//!
//! `item` is what is compared, `scan` reads it from a directory or an image, `merge` decides over one entry and `plan` over
//! the tree, without touching anything; `decision` has the words for what comes of it. `apply` makes a directory be what was
//! planned, and `journal` and `edit` let people see and take back what was done. Accounts are merged by entry (`accounts`),
//! texts by line (`text`), and the administrator may say beforehand what is to become of certain paths (`rules`).

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

pub use accounts::{AccountFile, EntryMerge, merge as merge_accounts};
pub use apply::{Applied, ApplyError, Sources, Use, apply};
pub use decision::{
    ASIDE_SUFFIX, ContentError, Contents, Decision, Difference, EtcPlan, Outcome, Planned, PlannedContent,
};
pub use edit::{EditError, Edited, LiveEtc, Mode, is_file, read_file};
pub use item::{Body, EtcPath, EtcTree, Item, Owner, parent, path_from_text, path_to_text};
pub use journal::{Before, Journal, JournalError, LogEntry, LoggedChange, LoggedDecision, Operation, is_made};
pub use plan::plan;
pub use rules::{RULES_PATH, Rule, Rules, RulesError};
pub use scan::{DEFAULTS, Ownership, ScanError, defaults, directory as scan, forget_foreign_labels};
pub use text::{TextMerge, difference as text_difference, merge as merge_texts};
