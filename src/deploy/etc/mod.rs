//! wip
mod accounts;
mod apply;
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

pub use edit::{EditError, Edited, LiveEtc, Mode, is_file, read_file};
pub use item::{Body, EtcPath, EtcTree, Item, Owner, parent, path_from_text, path_to_text};
pub use journal::{Before, Journal, JournalError, LogEntry, LoggedChange, LoggedDecision, Operation};
pub use plan::{ASIDE_SUFFIX, ContentError, Contents, Decision, Difference, EtcPlan, Outcome, Planned, PlannedContent, plan};
pub use rules::{RULES_PATH, Rule, Rules, RulesError};
pub use text::{TextMerge, difference as text_difference, merge as merge_texts};
pub use apply::{Applied, ApplyError, Sources, Use, apply};
pub use scan::{DEFAULTS, Ownership, ScanError, defaults, directory as scan, forget_foreign_labels};
