//! The identity of a published repository: a random number, made when it is first published, whatever its URL.
//!
//! *Not here*: where a publisher keeps it (`remote::publish`) and where a client pins it (`remote::remotes`).
//!
//! *Invariants*: the text is 32 lower-case hex digits, so one identity has one spelling.
//!
//! *Used by* `trust`, `remote` and `cli`.

use std::fmt;
use std::str::FromStr;

/// The identity of a published repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RepositoryId([u8; 16]);

/// The error for a text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no identity of a repository: 32 lower-case hex digits, as 'sapwood remote show' prints them")]
pub struct RepositoryIdError(String);

impl RepositoryId {
    /// Returns the identity with these bytes, which the caller takes from a source of random numbers.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of a record.
    pub(super) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RepositoryId {
    type Err = RepositoryIdError;

    fn from_str(text: &str) -> Result<Self, RepositoryIdError> {
        let error = || RepositoryIdError(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| error())?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl From<RepositoryId> for String {
    fn from(id: RepositoryId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RepositoryId {
    type Error = RepositoryIdError;

    fn try_from(text: String) -> Result<Self, RepositoryIdError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_parses_from_its_only_text() {
        let text = "00ff0000000000000000000000000a0b";
        assert_eq!(text.parse::<RepositoryId>().expect("legal").to_string(), text);
        for bad in ["", "00", "00FF0000000000000000000000000a0b", "+0ff0000000000000000000000000a0b"] {
            assert!(bad.parse::<RepositoryId>().is_err(), "{bad}");
        }
    }
}
