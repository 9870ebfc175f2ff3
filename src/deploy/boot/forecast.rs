//! Says which entry a boot loader starts next, when entries and settings of other systems are on its partitions, too.
//!
//! The rules are those of systemd-boot, which `bootctl` follows: entries are sorted by what is left of their tries, by
//! `sort-key`, `machine-id`, `version` and name; then the first one matches that was chosen for one boot (the variable
//! `LoaderEntryOneShot`), for all boots (`LoaderEntryDefault`), by `default` in `loader.conf`; else the first one boots.
//!
//! *Not here*: the entries of this sysroot (`bls`, `grub`, `extlinux`), and reading the files (`problems`). Everything in this
//! file is pure.
//!
//! *Used by* `problems`.

use std::cmp::Ordering;

use regex::RegexBuilder;

use super::version;

/// What decides about the place of one entry in the menu of systemd-boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoaderEntry {
    /// The name of the file, without the tries in it.
    pub id: String,
    /// The title in the menu.
    pub title: Option<String>,
    /// The first key by which entries are sorted; entries without one come last.
    pub sort_key: Option<String>,
    /// The second key.
    pub machine_id: Option<String>,
    /// The third key, the newest first.
    pub version: Option<String>,
    /// The tries that are left; `None` if boots are not counted.
    pub tries_left: Option<u32>,
}

impl LoaderEntry {
    /// Parses an entry of the Boot Loader Specification, type 1. Returns `None` for a name that the loader skips.
    #[must_use]
    pub fn parse(name: &str, text: &str) -> Option<Self> {
        let (id, tries_left) = split_tries(name)?;
        let mut entry = Self { id, tries_left, ..Self::default() };
        for (key, value) in settings(text) {
            let field = match key {
                "title" => &mut entry.title,
                "sort-key" => &mut entry.sort_key,
                "machine-id" => &mut entry.machine_id,
                "version" => &mut entry.version,
                _ => continue,
            };
            *field = Some(value.to_owned());
        }
        Some(entry)
    }

    /// Returns the entry of a unified kernel image, type 2, with the text of its section `.osrel`.
    #[must_use]
    pub fn of_unified_image(name: &str, os_release: &str) -> Option<Self> {
        let stem = name.len().checked_sub(4).filter(|at| name.is_char_boundary(*at))?;
        let (stem, end) = name.split_at(stem);
        if !end.eq_ignore_ascii_case(".efi") {
            return None;
        }
        let (stem, tries_left) = split_counter(stem);
        let value = |keys: &[&str]| {
            keys.iter().find_map(|key| {
                let line = os_release.lines().find_map(|line| line.strip_prefix(*key)?.strip_prefix('='))?;
                Some(line.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
            })
        };
        Some(Self {
            id: format!("{stem}{end}"),
            title: value(&["PRETTY_NAME", "NAME"]),
            sort_key: value(&["IMAGE_ID", "ID"]),
            machine_id: None,
            version: value(&["IMAGE_VERSION", "VERSION_ID", "BUILD_ID"]),
            tries_left,
        })
    }

    /// Compares two entries: the one that comes first in the menu is less.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        let is_exhausted = |entry: &Self| entry.tries_left == Some(0);
        let first =
            is_exhausted(self).cmp(&is_exhausted(other)).then(self.sort_key.is_none().cmp(&other.sort_key.is_none()));
        let by_key = || match (&self.sort_key, &other.sort_key) {
            (Some(key), Some(other_key)) => key
                .cmp(other_key)
                .then_with(|| self.machine_id.cmp(&other.machine_id))
                .then_with(|| compare_versions(other.version.as_deref(), self.version.as_deref())),
            _ => Ordering::Equal,
        };
        let by_tries = || other.tries_left.cmp(&self.tries_left);
        first.then_with(by_key).then_with(|| version::compare(&other.id, &self.id)).then_with(by_tries)
    }
}

/// Compares versions of which one may be missing: it is older than any other.
fn compare_versions(a: Option<&str>, b: Option<&str>) -> Ordering {
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    match (a.is_empty(), b.is_empty()) {
        (false, false) => version::compare(a, b),
        (a, b) => b.cmp(&a),
    }
}

/// Splits `NAME+LEFT-DONE.conf` into `NAME.conf` and the tries that are left. Returns `None` if it does not end with `.conf`.
fn split_tries(name: &str) -> Option<(String, Option<u32>)> {
    let (stem, left) = split_counter(name.strip_suffix(".conf").filter(|stem| !stem.is_empty())?);
    Some((format!("{stem}.conf"), left))
}

/// Splits a counter of tries off; a malformed one is part of the name.
fn split_counter(stem: &str) -> (&str, Option<u32>) {
    let counter = stem.rsplit_once('+').and_then(|(before, counter)| {
        let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let left = left.parse().ok().filter(|_| is_number(left) && is_number(done) && done.parse::<u32>().is_ok());
        left.map(|left| (before, Some(left)))
    });
    counter.unwrap_or((stem, None))
}

/// Returns the keys and values of the lines of a file of systemd-boot.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once([' ', '\t']).map(|(key, value)| (key, value.trim())))
}

/// Returns a `loader.conf` in which the line `default` is this pattern; everything else stays.
#[must_use]
pub fn with_default(text: &str, pattern: &str) -> String {
    let is_default = |line: &str| settings(line).any(|(key, _)| key == "default");
    let kept = text.lines().filter(|line| !is_default(line)).map(|line| format!("{line}\n"));
    kept.chain([format!("default {pattern}\n")]).collect()
}

/// What chooses an entry besides its place in the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChoiceSource {
    /// The variable `LoaderEntryOneShot`: for one boot.
    OneShot,
    /// The variable `LoaderEntryDefault`.
    Variable,
    /// The line `default` of `loader.conf`.
    Configuration,
}

/// The entry that boots, and what chose it; `None` if that is its place in the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextEntry<'a> {
    /// The entry.
    pub entry: &'a LoaderEntry,
    /// The setting that names it.
    pub chosen_by: Option<ChoiceSource>,
}

/// The settings that choose an entry. Each is a pattern, or `@saved`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoaderChoices {
    /// `LoaderEntryOneShot`.
    pub one_shot: Option<String>,
    /// `LoaderEntryDefault`.
    pub variable: Option<String>,
    /// The line `default` of `loader.conf`.
    pub configuration: Option<String>,
    /// The entry that was started last, which `@saved` means.
    pub last_started: Option<String>,
}

impl LoaderChoices {
    /// Reads the line `default` of `loader.conf`; of several the last one counts.
    pub fn set_configuration(&mut self, text: &str) {
        let lines = settings(text).filter(|(key, _)| *key == "default");
        self.configuration = lines.map(|(_, value)| value.to_owned()).last();
    }

    /// Returns the entry that boots next of a menu in any order; `None` if there is none.
    #[must_use]
    pub fn next_entry<'a>(&self, entries: &'a [LoaderEntry]) -> Option<NextEntry<'a>> {
        let mut sorted: Vec<&LoaderEntry> = entries.iter().collect();
        sorted.sort_by(|a, b| a.compare(b));
        let choices = [
            (ChoiceSource::OneShot, &self.one_shot),
            (ChoiceSource::Variable, &self.variable),
            (ChoiceSource::Configuration, &self.configuration),
        ];
        let chosen = choices.into_iter().find_map(|(source, choice)| {
            let pattern = self.pattern(choice.as_deref()?)?;
            let entry = sorted.iter().find(|entry| pattern.is_match(&entry.id))?;
            Some(NextEntry { entry, chosen_by: Some(source) })
        });
        chosen.or_else(|| sorted.first().map(|entry| NextEntry { entry, chosen_by: None }))
    }

    fn pattern(&self, choice: &str) -> Option<regex::Regex> {
        let choice = match choice.strip_prefix('@') {
            None => choice,
            Some(word) if word.eq_ignore_ascii_case("saved") => self.last_started.as_deref()?,
            Some(_) => return None,
        };
        RegexBuilder::new(&pattern_regex(choice)).case_insensitive(true).dot_matches_new_line(true).build().ok()
    }
}

/// Returns the regular expression of a pattern of `fnmatch(3)`.
fn pattern_regex(pattern: &str) -> String {
    let mut text = String::from("^");
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' => text.push_str(".*"),
            '?' => text.push('.'),
            '[' if characters.clone().skip(1).any(|next| next == ']') => {
                text.push('[');
                if characters.next_if(|next| matches!(next, '!' | '^')).is_some() {
                    text.push('^');
                }
                let mut is_first = true;
                for member in characters.by_ref() {
                    if member == ']' && !is_first {
                        break;
                    }
                    is_first = false;
                    if member == '-' { text.push('-') } else { text.push_str(&regex::escape(&member.to_string())) }
                }
                text.push(']');
            }
            '\\' => text.push_str(&regex::escape(&characters.next().unwrap_or('\\').to_string())),
            other => text.push_str(&regex::escape(&other.to_string())),
        }
    }
    text + "$"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, text: &str) -> LoaderEntry {
        LoaderEntry::parse(name, text).expect("an entry")
    }

    #[test]
    fn tries_are_split_off_names() {
        let table = [
            ("a.conf", Some(("a.conf", None))),
            ("a+3.conf", Some(("a.conf", Some(3)))),
            ("a+0-3.conf", Some(("a.conf", Some(0)))),
            ("a+b+2-1.conf", Some(("a+b.conf", Some(2)))),
            ("a+x.conf", Some(("a+x.conf", None))),
            ("a+-1.conf", Some(("a+-1.conf", None))),
            ("a.conf.old", None),
        ];
        for (name, expected) in table {
            let expected = expected.map(|(id, left): (&str, _)| (id.to_owned(), left));
            assert_eq!(split_tries(name), expected, "{name}");
        }
    }

    #[test]
    fn default_replaces_the_one_before() {
        let text = with_default("timeout 3\n default a\n# default b\ndefault\tc", "own-*");
        assert_eq!(text, "timeout 3\n# default b\ndefault own-*\n");
    }

    #[test]
    fn choices_come_before_the_place_in_the_menu() {
        let entries = [
            entry("sapwood-1-00002+3.conf", "sort-key sapwood-1\nversion 2"),
            entry("sapwood-1-00001.conf", "sort-key sapwood-1\nversion 1"),
            entry("old.conf", "title Old\nsort-key debian"),
        ];
        let next =
            |choices: &LoaderChoices| choices.next_entry(&entries).map(|next| (next.entry.id.clone(), next.chosen_by));
        let mut choices = LoaderChoices::default();
        assert_eq!(next(&choices), Some(("old.conf".to_owned(), None)));
        choices.set_configuration("timeout 3\ndefault SAPWOOD-[0-9]-*\n");
        assert_eq!(next(&choices), Some(("sapwood-1-00002.conf".to_owned(), Some(ChoiceSource::Configuration))));
        choices.variable = Some("@saved".to_owned());
        assert_eq!(next(&choices).map(|next| next.1), Some(Some(ChoiceSource::Configuration)));
        choices.last_started = Some("old.conf".to_owned());
        assert_eq!(next(&choices), Some(("old.conf".to_owned(), Some(ChoiceSource::Variable))));
        choices.one_shot = Some("sapwood-1-0000?.conf".to_owned());
        assert_eq!(next(&choices), Some(("sapwood-1-00002.conf".to_owned(), Some(ChoiceSource::OneShot))));
        assert_eq!(choices.next_entry(&[]), None);
    }
}
