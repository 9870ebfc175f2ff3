//! Parses `/etc/sapwood/merge.toml`, the administrator's merge rules for certain paths, and applies them to the trees of a
//! merge.
//!
//! ```toml
//! local = ["hosts", "ssh/*.conf"]     # always keep the local version
//! default = ["issue"]                 # always take the default
//! text = ["fstab", "ssh/sshd_config"] # if both sides changed the file, merge its lines
//! ```
//!
//! A pattern matches a path and everything below it. `*` and `?` match within a name, `**` also matches slashes.
//!
//! *Not here*: reading the file (`deploy::plan`), merging lines (`text`). Everything in this file is pure.
//!
//! *Used by* `plan` and `deploy::plan`.

use std::collections::BTreeSet;

use regex::bytes::RegexSet;
use serde::Deserialize;

use super::item::{EtcPath, EtcTree, parent};

/// The path of the rules, below `/etc`.
pub(crate) const RULES_PATH: &str = "sapwood/merge.toml";

/// What a rule does with the paths that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergeRule {
    /// Keep the local version.
    Local,
    /// Take the default, whatever was changed locally.
    Default,
    /// Merge texts line by line.
    Text,
}

/// Why the rules cannot be parsed.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The text is not TOML or has other keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// A pattern cannot be converted into a regular expression.
    #[error("cannot use the pattern")]
    Pattern(#[from] regex::Error),
}

/// All rules. The first list with a matching pattern applies, in the order `local`, `default`, `text`.
#[derive(Debug, Clone)]
pub struct MergeRules {
    sets: [(MergeRule, RegexSet); 3],
}

/// The content of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    #[serde(default)]
    local: Vec<String>,
    #[serde(default)]
    default: Vec<String>,
    #[serde(default)]
    text: Vec<String>,
}

impl MergeRules {
    /// Parses rules.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: RulesFile = toml::from_str(text)?;
        let set = |patterns: &[String]| RegexSet::new(patterns.iter().map(|pattern| pattern_regex(pattern)));
        Ok(Self {
            sets: [
                (MergeRule::Local, set(&file.local)?),
                (MergeRule::Default, set(&file.default)?),
                (MergeRule::Text, set(&file.text)?),
            ],
        })
    }

    /// Returns the rule for a path of `/etc`; `None` if no pattern matches.
    #[must_use]
    pub fn rule_for(&self, path: &[u8]) -> Option<MergeRule> {
        self.sets.iter().find(|(_, set)| set.is_match(path)).map(|(rule, _)| *rule)
    }

    /// Returns copies of `local` and `new` in which the rules are applied. Where a rule keeps the local version, the new
    /// default becomes the old one; where a rule takes the default, the local entry becomes the old one. So the merge sees a
    /// change by one side only. Adds the paths for which this made a difference to `ruled`.
    pub(super) fn pin_ruled_paths(
        &self,
        old: &EtcTree,
        local: &EtcTree,
        new: &EtcTree,
        ruled: &mut Vec<(EtcPath, MergeRule)>,
    ) -> (EtcTree, EtcTree) {
        let (mut local_side, mut new_side) = (local.clone(), new.clone());
        let paths: BTreeSet<&EtcPath> =
            old.entries.keys().chain(local.entries.keys()).chain(new.entries.keys()).collect();
        for path in paths {
            let (rule, side, from) = match self.rule_for(path) {
                Some(MergeRule::Local) => (MergeRule::Local, &mut new_side, local),
                Some(MergeRule::Default) => (MergeRule::Default, &mut local_side, new),
                Some(MergeRule::Text) | None => continue,
            };
            let before = match old.get(path) {
                Some(item) => side.entries.insert(path.clone(), item.clone()),
                None => side.entries.remove(path),
            };
            if before.as_ref() != old.get(path) {
                ruled.push((path.clone(), rule));
            }
            if from.get(path).is_some() {
                keep_directories_above(path, from, side);
            }
        }
        (local_side, new_side)
    }
}

impl Default for MergeRules {
    fn default() -> Self {
        Self { sets: [MergeRule::Local, MergeRule::Default, MergeRule::Text].map(|rule| (rule, RegexSet::empty())) }
    }
}

/// Restores in `side` the parent directories of a ruled path from `from`, whatever `side` did to them.
fn keep_directories_above(path: &[u8], from: &EtcTree, side: &mut EtcTree) {
    let mut at = parent(path);
    while let Some(path) = at {
        let is_there = side.get(path).is_some_and(|item| item.body.is_directory());
        match from.get(path).filter(|_| !is_there) {
            Some(directory) => _ = side.entries.insert(path.into(), directory.clone()),
            None => return,
        }
        at = parent(path);
    }
}

/// Returns the regular expression of a pattern.
fn pattern_regex(pattern: &str) -> String {
    let pattern = pattern.trim_start_matches("/etc/").trim_matches('/');
    let mut text = String::from("(?s-u)^");
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let (piece, length) = match character {
            '*' if rest.starts_with("**") => (".*".to_owned(), 2),
            '*' => ("[^/]*".to_owned(), 1),
            '?' => ("[^/]".to_owned(), 1),
            other => (regex::escape(&other.to_string()), other.len_utf8()),
        };
        text.push_str(&piece);
        rest = &rest[length..];
    }
    text + "(/.*)?$"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_for_matches_patterns() {
        let rules = MergeRules::parse(
            "local = ['hosts', 'ssh/*.conf', '/etc/a.b/']\ndefault = ['d/**/x', 'h?sts']\ntext = ['ssh']",
        )
        .expect("legal");
        let table = [
            ("hosts", Some(MergeRule::Local)),
            ("hosts2", None),
            ("hists", Some(MergeRule::Default)),
            ("ssh/a.conf", Some(MergeRule::Local)),
            ("ssh/a/b.conf", Some(MergeRule::Text)),
            ("ssh", Some(MergeRule::Text)),
            ("sshd", None),
            ("a.b/c/d", Some(MergeRule::Local)),
            ("aXb", None),
            ("d/1/2/x", Some(MergeRule::Default)),
            ("d/x", None),
        ];
        for (path, rule) in table {
            assert_eq!(rules.rule_for(path.as_bytes()), rule, "{path}");
        }
        assert_eq!(rules.rule_for(b"ssh/\xff.conf"), Some(MergeRule::Local), "names need not be UTF-8");
        assert!(MergeRules::parse("locals = []").is_err());
    }
}
