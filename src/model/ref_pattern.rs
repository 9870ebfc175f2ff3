//! A pattern for the names of refs: one name, or the beginning of names and `*`.
//!
//! *Used by* `trust`, `remote`, `boot` and `cli`.

use std::fmt;
use std::str::FromStr;

use super::name::{RefName, RefNameError};

/// The refs of one name, or all whose names have one beginning: `debian/12`, `debian/*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefPattern(String);

impl RefPattern {
    /// Returns whether the pattern stands for `name`.
    pub(crate) fn matches(&self, name: &RefName) -> bool {
        let name = name.as_str();
        self.0.strip_suffix('*').map_or(self.0 == name, |beginning| name.starts_with(beginning))
    }
}

impl FromStr for RefPattern {
    type Err = RefNameError;

    fn from_str(text: &str) -> Result<Self, RefNameError> {
        // A beginning is one if it begins a name.
        let example = text.strip_suffix('*').map_or_else(|| text.to_owned(), |beginning| format!("{beginning}a"));
        example.parse::<RefName>()?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for RefPattern {
    type Error = RefNameError;

    fn try_from(text: String) -> Result<Self, RefNameError> {
        text.parse()
    }
}

impl From<RefPattern> for String {
    fn from(pattern: RefPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_is_a_name_or_the_beginning_of_names() {
        let cases: [(&str, &[&str], &[&str]); 4] = [
            ("debian/12", &["debian/12"], &["debian/12/server", "debian"]),
            ("debian/*", &["debian/12", "debian/12/server"], &["debian", "fedora"]),
            ("deb*", &["debian", "deb/a"], &["fedora"]),
            ("*", &["debian", "a/b"], &[]),
        ];
        for (text, inside, outside) in cases {
            let pattern: RefPattern = text.parse().expect("legal");
            assert_eq!(pattern.to_string(), text);
            for name in inside.iter().chain(outside) {
                assert_eq!(pattern.matches(&name.parse().expect("legal")), inside.contains(name), "{text} {name}");
            }
        }
        for bad in ["", "/*", "a//*", "*/a", "a**", "a b", "../*"] {
            assert!(bad.parse::<RefPattern>().is_err(), "{bad}");
        }
    }
}
