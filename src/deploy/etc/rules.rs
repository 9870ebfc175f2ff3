//! `/etc/sapwood/merge.toml`: what the administrator says beforehand about certain paths. Pure.
//!
//! ```toml
//! local = ["hosts", "ssh/*.conf"]     # stays as it is here, whatever the default does
//! default = ["issue"]                 # follows the default, whatever was done here
//! text = ["fstab", "ssh/sshd_config"] # both changed: merge the lines
//! ```
//!
//! A path names itself and everything below it. `*` and `?` stand for anything within a name, `**` also for slashes.

use std::collections::BTreeSet;

use regex::bytes::RegexSet;
use serde::Deserialize;

use super::item::{EtcPath, EtcTree, parent};

/// Where the rules are, below `/etc`.
pub const RULES_PATH: &str = "sapwood/merge.toml";

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Keep what is here.
    Local,
    /// Take the default.
    Default,
    /// Merge texts line by line.
    Text,
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Not TOML, or not these keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// A pattern that is none.
    #[error("cannot use the pattern")]
    Pattern(#[from] regex::Error),
}

/// The rules. The first list that has a fitting pattern wins: `local`, then `default`, then `text`.
#[derive(Debug, Clone)]
pub struct Rules {
    sets: [(Rule, RegexSet); 3],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    local: Vec<String>,
    #[serde(default)]
    default: Vec<String>,
    #[serde(default)]
    text: Vec<String>,
}

impl Rules {
    /// Reads rules.
    ///
    /// # Errors
    /// [`RulesError`].
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        let file: File = toml::from_str(text)?;
        let set = |patterns: &[String]| RegexSet::new(patterns.iter().map(|pattern| expression(pattern)));
        Ok(Self {
            sets: [
                (Rule::Local, set(&file.local)?),
                (Rule::Default, set(&file.default)?),
                (Rule::Text, set(&file.text)?),
            ],
        })
    }

    /// The rule for a path of `/etc`.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Option<Rule> {
        self.sets.iter().find(|(_, set)| set.is_match(path)).map(|(rule, _)| *rule)
    }

    /// The trees with what rules pin: a pinned default has not changed, a pinned local entry neither.
    pub(super) fn pin(
        &self,
        old: &EtcTree,
        local: &EtcTree,
        new: &EtcTree,
        ruled: &mut Vec<(EtcPath, Rule)>,
    ) -> (EtcTree, EtcTree) {
        let (mut local_side, mut new_side) = (local.clone(), new.clone());
        let paths: BTreeSet<&EtcPath> =
            old.entries.keys().chain(local.entries.keys()).chain(new.entries.keys()).collect();
        for path in paths {
            let (rule, side, from) = match self.of(path) {
                Some(Rule::Local) => (Rule::Local, &mut new_side, local),
                Some(Rule::Default) => (Rule::Default, &mut local_side, new),
                Some(Rule::Text) | None => continue,
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

impl Default for Rules {
    fn default() -> Self {
        Self { sets: [Rule::Local, Rule::Default, Rule::Text].map(|rule| (rule, RegexSet::empty())) }
    }
}

/// What a rule wants to have needs its directories, whatever the other side did to them.
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

/// The regular expression of a pattern.
fn expression(pattern: &str) -> String {
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
    fn patterns_mean_what_people_expect() {
        let rules =
            Rules::parse("local = ['hosts', 'ssh/*.conf', '/etc/a.b/']\ndefault = ['d/**/x', 'h?sts']\ntext = ['ssh']")
                .expect("legal");
        let table = [
            ("hosts", Some(Rule::Local)),
            ("hosts2", None),
            ("hists", Some(Rule::Default)),
            ("ssh/a.conf", Some(Rule::Local)),
            ("ssh/a/b.conf", Some(Rule::Text)),
            ("ssh", Some(Rule::Text)),
            ("sshd", None),
            ("a.b/c/d", Some(Rule::Local)),
            ("aXb", None),
            ("d/1/2/x", Some(Rule::Default)),
            ("d/x", None),
        ];
        for (path, rule) in table {
            assert_eq!(rules.of(path.as_bytes()), rule, "{path}");
        }
        assert_eq!(rules.of(b"ssh/\xff.conf"), Some(Rule::Local), "names need not be UTF-8");
        assert!(Rules::parse("locals = []").is_err());
    }
}
