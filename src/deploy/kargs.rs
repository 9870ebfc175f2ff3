//! Kernel arguments: parsing and editing a list, and the three-way merge with the arguments that a commit suggests.
//!
//! A commit suggests arguments in `/usr/lib/sapwood/kargs.d/*.toml`. What the administrator added, removed or changed survives
//! an upgrade; a change by the next commit takes effect where the administrator did not change the same argument.
//!
//! *Not here*: reading the files of a commit (`plan`), and the boot entries (`boot`). Everything in this file is pure.
//!
//! *Used by* `plan`, `sysroot`, `origin`, `boot` and `cli`.

use std::fmt;

use serde::Deserialize;

/// The key of the argument that names the deployment to boot. It is added to each boot entry and never kept in a [`Kargs`].
pub(crate) const DEPLOYMENT_KEY: &str = "sapwood";

/// Keys of arguments that a boot loader adds, and that must not be taken over from the running kernel.
const LOADER_KEYS: [&str; 2] = ["BOOT_IMAGE", "initrd"];

/// Kernel arguments in order. A key may occur several times. The text of any list parses to the same list again and has no
/// control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Kargs(Vec<String>);

/// One edit of a list of kernel arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KargEdit {
    /// Adds an argument at the end.
    Append(String),
    /// Adds an argument at the end unless the list has the very same one.
    AppendIfMissing(String),
    /// Removes `KEY`, which must occur once, or `KEY=VALUE`.
    Delete(String),
    /// Removes like [`Self::Delete`], and does nothing if the argument is absent.
    DeleteIfPresent(String),
    /// Replaces a value: `KEY=VALUE` for a key that occurs once, `KEY=OLD=NEW` to choose one of several.
    Replace(String),
}

/// Why a list cannot be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KargError {
    /// The list has no such argument.
    #[error("there is no kernel argument '{0}'")]
    Absent(String),
    /// The key has more than one value.
    #[error("'{key}' is there {count} times: say which one, as {key}=VALUE")]
    Several {
        /// The key.
        key: String,
        /// How often the key occurs.
        count: usize,
    },
    /// The text is not one kernel argument.
    #[error("'{0}' is no kernel argument: it must not be empty nor have blanks or line ends outside double quotes")]
    Illegal(String),
    /// The argument is [`DEPLOYMENT_KEY`].
    #[error("'{DEPLOYMENT_KEY}=' says which deployment boots and is written by sapwood alone")]
    Reserved,
}

/// A change by the new commit that a merge did not take over, since the administrator changed the same argument.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct KargConflict {
    /// The argument that the new commit suggests.
    pub(crate) suggested: String,
    /// The argument that was kept instead; `None` if the administrator had removed it.
    pub(crate) kept: Option<String>,
}

/// The result of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct KargMerge {
    /// The arguments to boot with.
    pub result: Kargs,
    /// Where a change by the administrator won over one by the commit.
    pub(crate) conflicts: Vec<KargConflict>,
}

fn key_of(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(key, _)| key)
}

impl Kargs {
    /// Parses a command line: arguments separated by blanks outside double quotes. Quotes are kept only where they are needed,
    /// and around the value, so that one argument has one spelling. Control characters count as blanks, also within quotes: the
    /// files of boot loaders cannot hold them.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let (mut arguments, mut current, mut quoted) = (Vec::new(), String::new(), false);
        for character in line.chars().chain([' ']) {
            match if character.is_control() { ' ' } else { character } {
                '"' => quoted = !quoted,
                other if !other.is_whitespace() || quoted => current.push(other),
                _ if current.is_empty() => {}
                _ => arguments.push(quote(&std::mem::take(&mut current))),
            }
        }
        if !current.trim().is_empty() {
            arguments.push(quote(current.trim_end()));
        }
        Self(arguments)
    }

    /// Parses the command line of the running kernel, without the arguments that its loader or Sapwood added.
    #[must_use]
    pub fn of_running_kernel(line: &str) -> Self {
        let mut found = Self::parse(line);
        found.0.retain(|argument| !LOADER_KEYS.contains(&key_of(argument)) && key_of(argument) != DEPLOYMENT_KEY);
        found
    }

    /// Returns the arguments in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns the value of the last argument with this key.
    pub(crate) fn value(&self, wanted: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|argument| key_of(argument) == wanted)?;
        found.split_once('=').map(|(_, value)| value)
    }

    /// Returns whether there is an argument with this key.
    pub(crate) fn contains_key(&self, wanted: &str) -> bool {
        self.0.iter().any(|argument| key_of(argument) == wanted)
    }

    /// Removes every argument with this key. Returns the value of the last one.
    pub(crate) fn take(&mut self, wanted: &str) -> Option<String> {
        let value = self.value(wanted).map(str::to_owned);
        self.0.retain(|argument| key_of(argument) != wanted);
        value
    }

    /// Adds arguments at the end.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Applies one edit.
    ///
    /// # Errors
    /// [`KargError`]; the list is unchanged then.
    pub fn edit(&mut self, edit: &KargEdit) -> Result<(), KargError> {
        match edit {
            KargEdit::Append(argument) => self.0.push(parse_one(argument)?),
            KargEdit::AppendIfMissing(argument) => {
                let argument = parse_one(argument)?;
                if !self.0.contains(&argument) {
                    self.0.push(argument);
                }
            }
            KargEdit::Delete(argument) => {
                let index = self.position_of(&parse_plain(argument)?)?;
                self.0.remove(index);
            }
            KargEdit::DeleteIfPresent(argument) => match self.position_of(&parse_plain(argument)?) {
                Ok(index) => _ = self.0.remove(index),
                Err(KargError::Absent(_)) => {}
                Err(other) => return Err(other),
            },
            KargEdit::Replace(argument) => {
                let argument = parse_one(argument)?;
                let (index, new) = self.replacement(&argument)?;
                self.0[index] = new;
            }
        }
        Ok(())
    }

    /// Returns the index of `KEY=VALUE`, or of a bare `KEY` that occurs once.
    fn position_of(&self, wanted: &str) -> Result<usize, KargError> {
        if let Some(index) = self.0.iter().position(|argument| argument == wanted) {
            return Ok(index);
        }
        let indexes: Vec<usize> =
            (0..self.0.len()).filter(|index| !wanted.contains('=') && key_of(&self.0[*index]) == wanted).collect();
        match indexes[..] {
            [] => Err(KargError::Absent(wanted.to_owned())),
            [index] => Ok(index),
            _ => Err(KargError::Several { key: wanted.to_owned(), count: indexes.len() }),
        }
    }

    /// Returns the index that `KEY=NEW` or `KEY=OLD=NEW` refers to, and the new argument.
    fn replacement(&self, argument: &str) -> Result<(usize, String), KargError> {
        let Some((name, rest)) = argument.split_once('=') else {
            return Ok((self.position_of(argument)?, argument.to_owned()));
        };
        // A value may itself contain '=': the longest old value that the list has is meant.
        for (at, _) in rest.match_indices('=').collect::<Vec<_>>().into_iter().rev() {
            let old = format!("{name}={}", &rest[..at]);
            if let Some(index) = self.0.iter().position(|found| *found == old) {
                return Ok((index, format!("{name}={}", &rest[at + 1..])));
            }
        }
        Ok((self.position_of(name)?, argument.to_owned()))
    }

    /// Merges the arguments for the next commit: `old` are those that the old commit suggested, `local` those that the machine
    /// boots with now, `new` those that the next commit suggests.
    #[must_use]
    pub fn merge(old: &Self, local: &Self, new: &Self) -> KargMerge {
        let mut removed = multiset_difference(&old.0, &new.0);
        let mut added = multiset_difference(&new.0, &old.0);
        let mut conflicts = Vec::new();
        let mut result = Vec::new();
        for argument in &local.0 {
            let Some(index) = removed.iter().position(|old| old == argument) else {
                result.push(argument.clone());
                continue;
            };
            removed.remove(index);
            // A changed value takes the place of the old one.
            if let Some(index) = added.iter().position(|new| key_of(new) == key_of(argument)) {
                result.push(added.remove(index));
            }
        }
        for argument in added {
            // The administrator changed or removed the old value, and that stays.
            let changed_locally = removed.iter().position(|old| key_of(old) == key_of(&argument));
            if let Some(index) = changed_locally {
                removed.remove(index);
                let kept = local.iter().find(|kept| key_of(kept) == key_of(&argument)).map(str::to_owned);
                conflicts.push(KargConflict { suggested: argument, kept });
            } else if !result.contains(&argument) {
                result.push(argument);
            }
        }
        KargMerge { result: Self(result), conflicts }
    }
}

/// Returns an argument with quotes around its value if the value has blanks.
fn quote(argument: &str) -> String {
    match argument.split_once('=') {
        _ if !argument.contains(char::is_whitespace) => argument.to_owned(),
        Some((key, value)) if !key.contains(char::is_whitespace) => format!("{key}=\"{value}\""),
        _ => format!("\"{argument}\""),
    }
}

/// Returns the arguments of `a` that `b` does not have; an argument that occurs several times is matched as often.
fn multiset_difference(a: &[String], b: &[String]) -> Vec<String> {
    let mut unmatched = b.to_vec();
    let mut difference = Vec::new();
    for argument in a {
        match unmatched.iter().position(|other| other == argument) {
            Some(index) => _ = unmatched.remove(index),
            None => difference.push(argument.clone()),
        }
    }
    difference
}

/// Parses one argument that is to be removed: without quotes, as a shell gives it, it may have blanks in its value.
fn parse_plain(argument: &str) -> Result<String, KargError> {
    let has_blanks = argument.split_once('=').is_some_and(|(_, value)| value.contains(char::is_whitespace));
    if has_blanks && !argument.contains('"') { parse_one(&quote(argument)) } else { parse_one(argument) }
}

/// Parses one argument that a user or a commit gives, and refuses [`DEPLOYMENT_KEY`].
fn parse_one(argument: &str) -> Result<String, KargError> {
    let is_malformed =
        argument.contains(['\n', '\r']) || argument.starts_with('=') || argument.matches('"').count() % 2 == 1;
    match &mut Kargs::parse(argument).0[..] {
        [_] if is_malformed => Err(KargError::Illegal(argument.to_owned())),
        [only] if key_of(only) == DEPLOYMENT_KEY => Err(KargError::Reserved),
        [only] => Ok(std::mem::take(only)),
        _ => Err(KargError::Illegal(argument.to_owned())),
    }
}

impl FromIterator<String> for Kargs {
    fn from_iter<T: IntoIterator<Item = String>>(arguments: T) -> Self {
        Self(arguments.into_iter().flat_map(|argument| Self::parse(&argument).0).collect())
    }
}

impl From<Vec<String>> for Kargs {
    fn from(arguments: Vec<String>) -> Self {
        arguments.into_iter().collect()
    }
}

impl fmt::Display for Kargs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Why a file of suggested arguments cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SuggestionError {
    /// The text is not TOML or has other keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// An entry of the list is not a kernel argument.
    #[error(transparent)]
    Argument(#[from] KargError),
}

/// A file of `/usr/lib/sapwood/kargs.d`, in the format of bootc.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SuggestionFile {
    kargs: Vec<String>,
    #[serde(default)]
    match_architectures: Option<Vec<String>>,
}

impl Kargs {
    /// Returns the arguments that one file suggests for machines of `architecture`.
    ///
    /// # Errors
    /// [`SuggestionError`].
    pub fn of_suggestion(text: &str, architecture: &str) -> Result<Self, SuggestionError> {
        let file: SuggestionFile = toml::from_str(text)?;
        let applies = file.match_architectures.is_none_or(|list| list.iter().any(|name| name == architecture));
        let arguments = if applies { file.kargs } else { Vec::new() };
        Ok(Self(arguments.iter().map(|argument| parse_one(argument)).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_splits_at_blanks_outside_quotes() {
        let line = "  ro  a=\"x y\" root=UUID=1\tb=\"\" ";
        assert_eq!(Kargs::parse(line).to_string(), "ro a=\"x y\" root=UUID=1 b=");
        assert_eq!(Kargs::parse("\"a=x y\" c=\"d\"").to_string(), "a=\"x y\" c=d");
        assert_eq!(Kargs::parse(line).iter().count(), 4);
        assert_eq!(Kargs::parse("a=\"x\ny\" b\0c").to_string(), "a=\"x y\" b c");
        let listed: Kargs = serde_json::from_str("[\"a=x\\ny\", \"b=\\\"p q\\\"\"]").expect("a list of texts");
        assert_eq!(Kargs::parse(&listed.to_string()), listed);
        let running = "BOOT_IMAGE=/vmlinuz root=/dev/vda ro sapwood=main/x initrd=\\initrd.img quiet";
        assert_eq!(Kargs::of_running_kernel(running).to_string(), "root=/dev/vda ro quiet");
        assert_eq!(Kargs::parse("root=a root=b").value("root"), Some("b"));
    }

    #[test]
    fn edits_match_ostree() {
        use KargEdit::{Append, AppendIfMissing, Delete, DeleteIfPresent, Replace};
        let several = |key: &str| KargError::Several { key: key.to_owned(), count: 2 };
        type Case = (&'static str, KargEdit, Result<&'static str, KargError>);
        let edit = |make: fn(String) -> KargEdit, text: &str| make(text.to_owned());
        let table: Vec<Case> = vec![
            ("a", edit(Append, "a"), Ok("a a")),
            ("a", edit(AppendIfMissing, "a"), Ok("a")),
            ("a=1", edit(AppendIfMissing, "a=2"), Ok("a=1 a=2")),
            ("a=1 b", edit(Delete, "a"), Ok("b")),
            ("a=1 a=2", edit(Delete, "a"), Err(several("a"))),
            ("a=1 a=2", edit(Delete, "a=1"), Ok("a=2")),
            ("b", edit(Delete, "a"), Err(KargError::Absent("a".to_owned()))),
            ("b", edit(DeleteIfPresent, "a"), Ok("b")),
            ("a b", edit(DeleteIfPresent, "a"), Ok("b")),
            ("a=1 b", edit(Replace, "a=2"), Ok("a=2 b")),
            ("a=1 a=2", edit(Replace, "a=3"), Err(several("a"))),
            ("a=1 a=2", edit(Replace, "a=2=3"), Ok("a=1 a=3")),
            ("root=UUID=1", edit(Replace, "root=UUID=1=UUID=2"), Ok("root=UUID=2")),
            ("root=UUID=1", edit(Replace, "root=UUID=2"), Ok("root=UUID=2")),
            ("b", edit(Replace, "a=1"), Err(KargError::Absent("a".to_owned()))),
            ("b", edit(Append, "a=\"x y\""), Ok("b a=\"x y\"")),
            ("a=\"x y\" b", edit(Delete, "a=x y"), Ok("b")),
            ("a=\"x y\" b", edit(Delete, "a=\"x y\""), Ok("b")),
            ("a=\"x y\" b", edit(DeleteIfPresent, "a=x y"), Ok("b")),
            ("a=1 b", edit(Delete, "a=1 b"), Err(KargError::Absent("a=\"1 b\"".to_owned()))),
            ("b", edit(Append, "a=\"x"), Err(KargError::Illegal("a=\"x".to_owned()))),
            ("b", edit(Append, "x y"), Err(KargError::Illegal("x y".to_owned()))),
            ("b", edit(Append, ""), Err(KargError::Illegal(String::new()))),
            ("b", edit(Append, "sapwood=x"), Err(KargError::Reserved)),
        ];
        for (before, edit, after) in table {
            let mut kargs = Kargs::parse(before);
            let done = kargs.edit(&edit).map(|()| kargs.to_string());
            assert_eq!(done, after.map(str::to_owned), "{before} {edit:?}");
        }
    }

    #[test]
    fn merge_takes_suggestions_that_were_not_changed_locally() {
        // old suggestion, local, new suggestion, result, number of conflicts
        let table = [
            ("", "", "", "", 0),
            ("quiet", "root=x quiet", "quiet", "root=x quiet", 0),
            ("", "root=x", "quiet", "root=x quiet", 0),
            ("quiet", "root=x quiet", "", "root=x", 0),
            ("console=a", "root=x console=a ro", "console=b", "root=x console=b ro", 0),
            // changed locally: kept, and reported
            ("console=a", "root=x console=c", "console=b", "root=x console=c", 1),
            // removed locally: stays removed, and is reported only if the suggestion changed
            ("quiet", "root=x", "quiet", "root=x", 0),
            ("console=a", "root=x", "console=b", "root=x", 1),
            // added locally and by the commit: once
            ("", "root=x quiet", "quiet", "root=x quiet", 0),
            // several of a key
            ("c=1 c=2", "c=1 c=2", "c=1 c=3", "c=1 c=3", 0),
            ("c=1", "c=1 c=9", "c=1 c=2", "c=1 c=9 c=2", 0),
            // removed by both
            ("quiet", "", "", "", 0),
        ];
        for (old, local, new, result, conflicts) in table {
            let merge = Kargs::merge(&Kargs::parse(old), &Kargs::parse(local), &Kargs::parse(new));
            assert_eq!(merge.result.to_string(), result, "{old:?} {local:?} {new:?}");
            assert_eq!(merge.conflicts.len(), conflicts, "{old:?} {local:?} {new:?}");
        }
    }

    #[test]
    fn suggestion_applies_to_its_architectures_only() {
        let text = "kargs = ['console=ttyS0', 'quiet']\nmatch-architectures = ['x86_64']\n";
        assert_eq!(Kargs::of_suggestion(text, "x86_64").expect("legal").to_string(), "console=ttyS0 quiet");
        assert_eq!(Kargs::of_suggestion(text, "aarch64").expect("legal").to_string(), "");
        for bad in ["kargs = ['a b']", "kargs = ['sapwood=x']", "karg = []", ""] {
            assert!(Kargs::of_suggestion(bad, "x86_64").is_err(), "{bad}");
        }
    }
}
