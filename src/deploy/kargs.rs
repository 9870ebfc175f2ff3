//! Kernel arguments: a list that knows its keys, edits of it, and the three-way merge with what a commit suggests.
//!
//! Pure. A commit suggests arguments in `/usr/lib/sapwood/kargs.d/*.toml`; what the administrator added, removed or
//! changed on top of that survives an upgrade, and what the next commit changes arrives where nobody changed it.

use std::fmt;

use serde::Deserialize;

/// The argument that says which deployment boots. Written for each entry, never kept in a list.
pub const DEPLOYMENT_KEY: &str = "sapwood";

/// Arguments that a loader adds by itself, and that must not be taken from a running kernel.
const FROM_LOADER: [&str; 2] = ["BOOT_IMAGE", "initrd"];

/// Kernel arguments in order. A key may come several times. However a list was made, its text is read as the same list again
/// and has no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Kargs(Vec<String>);

/// One change of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KargEdit {
    /// Add at the end.
    Append(String),
    /// Add at the end unless the very same is there.
    AppendIfMissing(String),
    /// Remove `KEY` that is there once, or `KEY=VALUE`.
    Delete(String),
    /// The same, and nothing when it is not there.
    DeleteIfPresent(String),
    /// `KEY=VALUE` for a key that is there once, `KEY=OLD=NEW` to choose one.
    Replace(String),
}

/// Why a list cannot be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KargError {
    /// There is nothing like it.
    #[error("there is no kernel argument '{0}'")]
    Absent(String),
    /// There is more than one value.
    #[error("'{key}' is there {count} times: say which one, as {key}=VALUE")]
    Several {
        /// The key.
        key: String,
        /// How often it is there.
        count: usize,
    },
    /// No kernel argument.
    #[error("'{0}' is no kernel argument: it must not be empty nor have blanks or line ends outside double quotes")]
    Illegal(String),
    /// It belongs to Sapwood.
    #[error("'{DEPLOYMENT_KEY}=' says which deployment boots and is written by sapwood alone")]
    Reserved,
}

/// What a merge could not do both ways.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KargConflict {
    /// What the new commit suggests, or no longer does.
    pub suggested: String,
    /// What was kept instead.
    pub kept: Option<String>,
}

/// The outcome of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct KargMerge {
    /// The arguments to boot with.
    pub result: Kargs,
    /// Where the administrator's change won over the commit's.
    pub conflicts: Vec<KargConflict>,
}

fn key(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(key, _)| key)
}

impl Kargs {
    /// Reads a command line: arguments separated by blanks outside double quotes. Quotes stay only where they have to, and
    /// around the value, so that one argument has one spelling. Control characters are blanks, also within quotes: no file of a
    /// boot loader can hold them.
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

    /// The arguments a kernel was started with, without those that its loader added and without ours.
    #[must_use]
    pub fn of_running_kernel(line: &str) -> Self {
        let mut found = Self::parse(line);
        found.0.retain(|argument| !FROM_LOADER.contains(&key(argument)) && key(argument) != DEPLOYMENT_KEY);
        found
    }

    /// The arguments in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of the last argument with this key.
    #[must_use]
    pub fn value(&self, wanted: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|argument| key(argument) == wanted)?;
        found.split_once('=').map(|(_, value)| value)
    }

    /// Whether there is an argument with this key.
    #[must_use]
    pub fn contains_key(&self, wanted: &str) -> bool {
        self.0.iter().any(|argument| key(argument) == wanted)
    }

    /// Takes out every argument with this key; returns the value of the last one.
    pub fn take(&mut self, wanted: &str) -> Option<String> {
        let value = self.value(wanted).map(str::to_owned);
        self.0.retain(|argument| key(argument) != wanted);
        value
    }

    /// Adds arguments at the end.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Makes one change.
    ///
    /// # Errors
    /// [`KargError`]; nothing was changed then.
    pub fn edit(&mut self, edit: &KargEdit) -> Result<(), KargError> {
        match edit {
            KargEdit::Append(argument) => self.0.push(checked(argument)?),
            KargEdit::AppendIfMissing(argument) => {
                let argument = checked(argument)?;
                if !self.0.contains(&argument) {
                    self.0.push(argument);
                }
            }
            KargEdit::Delete(argument) => {
                let index = self.only(&checked(argument)?)?;
                self.0.remove(index);
            }
            KargEdit::DeleteIfPresent(argument) => match self.only(&checked(argument)?) {
                Ok(index) => _ = self.0.remove(index),
                Err(KargError::Absent(_)) => {}
                Err(other) => return Err(other),
            },
            KargEdit::Replace(argument) => {
                let argument = checked(argument)?;
                let (index, new) = self.replacement(&argument)?;
                self.0[index] = new;
            }
        }
        Ok(())
    }

    /// The place of `KEY=VALUE`, or of a bare `KEY` that is there once.
    fn only(&self, wanted: &str) -> Result<usize, KargError> {
        if let Some(index) = self.0.iter().position(|argument| argument == wanted) {
            return Ok(index);
        }
        let places: Vec<usize> =
            (0..self.0.len()).filter(|index| !wanted.contains('=') && key(&self.0[*index]) == wanted).collect();
        match places[..] {
            [] => Err(KargError::Absent(wanted.to_owned())),
            [index] => Ok(index),
            _ => Err(KargError::Several { key: wanted.to_owned(), count: places.len() }),
        }
    }

    /// Which place `KEY=NEW` or `KEY=OLD=NEW` means, and what comes there.
    fn replacement(&self, argument: &str) -> Result<(usize, String), KargError> {
        let Some((name, rest)) = argument.split_once('=') else {
            return Ok((self.only(argument)?, argument.to_owned()));
        };
        // A value may itself hold '=': the longest old value that is there is meant.
        for (at, _) in rest.match_indices('=').collect::<Vec<_>>().into_iter().rev() {
            let old = format!("{name}={}", &rest[..at]);
            if let Some(index) = self.0.iter().position(|found| *found == old) {
                return Ok((index, format!("{name}={}", &rest[at + 1..])));
            }
        }
        Ok((self.only(name)?, argument.to_owned()))
    }

    /// What to boot the next commit with: `local` were the arguments until now, on top of what the old commit suggested;
    /// `new` is what the next one suggests.
    #[must_use]
    pub fn merge(old: &Self, local: &Self, new: &Self) -> KargMerge {
        let mut gone = difference(&old.0, &new.0);
        let mut come = difference(&new.0, &old.0);
        let mut conflicts = Vec::new();
        let mut result = Vec::new();
        for argument in &local.0 {
            let Some(index) = gone.iter().position(|old| old == argument) else {
                result.push(argument.clone());
                continue;
            };
            gone.remove(index);
            // A changed value comes to where the old one was.
            if let Some(index) = come.iter().position(|new| key(new) == key(argument)) {
                result.push(come.remove(index));
            }
        }
        for argument in come {
            // The old value is not there any more: somebody changed or removed it, and that stays.
            let changed_here = gone.iter().position(|old| key(old) == key(&argument));
            if let Some(index) = changed_here {
                gone.remove(index);
                let kept = local.iter().find(|kept| key(kept) == key(&argument)).map(str::to_owned);
                conflicts.push(KargConflict { suggested: argument, kept });
            } else if !result.contains(&argument) {
                result.push(argument);
            }
        }
        KargMerge { result: Self(result), conflicts }
    }
}

/// An argument with quotes around its value if that has blanks.
fn quote(argument: &str) -> String {
    match argument.split_once('=') {
        _ if !argument.contains(char::is_whitespace) => argument.to_owned(),
        Some((key, value)) if !key.contains(char::is_whitespace) => format!("{key}=\"{value}\""),
        _ => format!("\"{argument}\""),
    }
}

/// What `a` has that `b` has not, each as often.
fn difference(a: &[String], b: &[String]) -> Vec<String> {
    let mut rest = b.to_vec();
    let mut left = Vec::new();
    for argument in a {
        match rest.iter().position(|other| other == argument) {
            Some(index) => _ = rest.remove(index),
            None => left.push(argument.clone()),
        }
    }
    left
}

fn checked(argument: &str) -> Result<String, KargError> {
    let is_odd = argument.contains(['\n', '\r']) || argument.starts_with('=') || argument.matches('"').count() % 2 == 1;
    match &mut Kargs::parse(argument).0[..] {
        [_] if is_odd => Err(KargError::Illegal(argument.to_owned())),
        [only] if key(only) == DEPLOYMENT_KEY => Err(KargError::Reserved),
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
    /// Not TOML, or not these keys.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// Not a kernel argument.
    #[error(transparent)]
    Argument(#[from] KargError),
}

/// A file of `/usr/lib/sapwood/kargs.d`. The form is bootc's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Suggestion {
    kargs: Vec<String>,
    #[serde(default)]
    match_architectures: Option<Vec<String>>,
}

impl Kargs {
    /// The arguments that one file suggests for machines of `architecture`.
    ///
    /// # Errors
    /// [`SuggestionError`].
    pub fn of_suggestion(text: &str, architecture: &str) -> Result<Self, SuggestionError> {
        let file: Suggestion = toml::from_str(text)?;
        let applies = file.match_architectures.is_none_or(|list| list.iter().any(|name| name == architecture));
        let arguments = if applies { file.kargs } else { Vec::new() };
        Ok(Self(arguments.iter().map(|argument| checked(argument)).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_split_at_blanks_outside_quotes() {
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
    fn edits_are_those_of_ostree() {
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
    fn suggestions_arrive_where_nobody_changed_them() {
        // old suggestion, local, new suggestion, result, number of conflicts
        let table = [
            ("", "", "", "", 0),
            ("quiet", "root=x quiet", "quiet", "root=x quiet", 0),
            ("", "root=x", "quiet", "root=x quiet", 0),
            ("quiet", "root=x quiet", "", "root=x", 0),
            ("console=a", "root=x console=a ro", "console=b", "root=x console=b ro", 0),
            // changed here: stays, and is reported
            ("console=a", "root=x console=c", "console=b", "root=x console=c", 1),
            // removed here: stays away, and is reported only when the suggestion changed
            ("quiet", "root=x", "quiet", "root=x", 0),
            ("console=a", "root=x", "console=b", "root=x", 1),
            // added here and by the commit: once
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
    fn a_suggestion_may_be_for_some_machines_only() {
        let text = "kargs = ['console=ttyS0', 'quiet']\nmatch-architectures = ['x86_64']\n";
        assert_eq!(Kargs::of_suggestion(text, "x86_64").expect("legal").to_string(), "console=ttyS0 quiet");
        assert_eq!(Kargs::of_suggestion(text, "aarch64").expect("legal").to_string(), "");
        for bad in ["kargs = ['a b']", "kargs = ['sapwood=x']", "karg = []", ""] {
            assert!(Kargs::of_suggestion(bad, "x86_64").is_err(), "{bad}");
        }
    }
}
