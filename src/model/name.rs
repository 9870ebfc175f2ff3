//! Names of directory entries, paths inside images, and names of refs, each checked when it is made.
//!
//! *Invariants*: an [`ImagePath`] is never a path of the host; joining the two needs an explicit conversion.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Longest name of a directory entry in bytes, as Linux has it.
pub(crate) const NAME_MAX: usize = 255;

/// Longest target of a symbolic link in bytes: `PATH_MAX` without the terminating NUL.
pub(crate) const SYMLINK_MAX: usize = 4095;

/// Why bytes cannot name a directory entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no bytes.
    #[error("a name may not be empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("'{0}' cannot be the name of an entry")]
    Dots(&'static str),
    /// The name contains `/` or NUL.
    #[error("'{}' contains a slash or a NUL byte", .0.escape_ascii())]
    Forbidden(Vec<u8>),
    /// The name is longer than [`NAME_MAX`].
    #[error("a name of {0} bytes is longer than {NAME_MAX}")]
    TooLong(usize),
}

/// The name of an entry in a directory: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`. Need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        Self::check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Checks bytes without copying them, such as those of a mapped image.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub(crate) fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            b"" => Err(NameError::Empty),
            b"." => Err(NameError::Dots(".")),
            b".." => Err(NameError::Dots("..")),
            _ if bytes.len() > NAME_MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(NameError::Forbidden(bytes.to_vec())),
            _ => Ok(()),
        }
    }

    /// Returns the bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for EntryName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Why a text is not a path inside an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad path '{path}': {source}")]
pub struct PathError {
    path: String,
    source: NameError,
}

/// A path inside an image: a list of names from the root. The root itself is the empty list.
/// It is serialized as its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct ImagePath(Vec<EntryName>);

impl ImagePath {
    /// Returns the top of the image.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Parses a path as a person or a tar archive writes it: leading, trailing and doubled slashes and `.` are ignored.
    ///
    /// # Errors
    /// [`PathError`] when a component is not a legal name. `..` is not legal, so that no path can leave the image.
    pub fn parse(text: &[u8]) -> Result<Self, PathError> {
        text.split(|byte| *byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."))
            .map(EntryName::new)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|source| PathError { path: printable(text).into_owned(), source })
    }

    /// Returns the names, the one in the root first.
    #[must_use]
    pub fn components(&self) -> &[EntryName] {
        &self.0
    }

    /// Returns whether this is the top of the image.
    pub(crate) const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the last name; `None` for the root.
    pub(crate) fn name(&self) -> Option<&EntryName> {
        self.0.last()
    }

    /// Returns the path of the entry `name` of this directory.
    #[must_use]
    pub fn join(&self, name: EntryName) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }

    /// Appends the name of an entry of this directory.
    pub fn push(&mut self, name: EntryName) {
        self.0.push(name);
    }

    /// Removes and returns the last name, so that this becomes the path of the entry's directory.
    pub fn pop(&mut self) -> Option<EntryName> {
        self.0.pop()
    }

    /// Returns the path as bytes with a leading slash; `/` for the root.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.is_root() {
            return b"/".to_vec();
        }
        self.0.iter().flat_map(|name| [b"/", name.as_bytes()]).flatten().copied().collect()
    }
}

impl From<ImagePath> for Vec<u8> {
    fn from(path: ImagePath) -> Self {
        path.to_bytes()
    }
}

impl TryFrom<Vec<u8>> for ImagePath {
    type Error = PathError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, PathError> {
        Self::parse(&bytes)
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.to_bytes()))
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Returns whether a character makes a terminal do something else than show it: control characters, ends of lines, and those
/// that reverse the direction of what follows.
pub(crate) fn is_command_to_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns text in one line that is safe for a terminal: UTF-8 without such characters unchanged, anything else escaped as in C.
pub(crate) fn printable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(is_command_to_terminal) => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.escape_ascii().to_string()),
    }
}

/// Why a text cannot name a ref.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{name}' is not a ref name: it is made of parts joined by '/', each of up to {NAME_MAX} letters, digits, '.', '_' \
     or '-' and not starting with '.' or '-' (example: debian/12/x86_64/server)"
)]
pub struct RefNameError {
    name: String,
}

/// Most bytes of a part of a new ref's name. A publisher's directory has a file with the ref's name, which has a temporary name
/// that is longer by up to 32 bytes while it is written.
pub(crate) const NEW_REF_PART_MAX: usize = NAME_MAX - 32;

/// A name for a commit, such as `debian/12/x86_64/server`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefName(String);

impl RefName {
    /// Returns the length of the longest part if that is too long for a new ref. Existing refs may have longer names.
    pub(crate) fn too_long_to_make(&self) -> Option<usize> {
        self.0.split('/').map(str::len).max().filter(|length| *length > NEW_REF_PART_MAX)
    }

    /// Returns the name as text; safe to use as a relative path.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RefName {
    type Err = RefNameError;

    fn from_str(text: &str) -> Result<Self, RefNameError> {
        let part_is_legal = |part: &str| {
            let mut bytes = part.bytes();
            let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
            first && rest && part.len() <= NAME_MAX
        };
        if text.len() <= SYMLINK_MAX && text.split('/').all(part_is_legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RefNameError { name: printable(text.as_bytes()).into_owned() })
        }
    }
}

impl TryFrom<String> for RefName {
    type Error = RefNameError;

    fn try_from(text: String) -> Result<Self, RefNameError> {
        text.parse()
    }
}

impl From<RefName> for String {
    fn from(name: RefName) -> Self {
        name.0
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_follow_the_rules_of_linux() {
        for good in [&b"a"[..], b"...", b"\xff\xfe", b" ", &[b'x'; NAME_MAX]] {
            assert!(EntryName::new(good).is_ok(), "{good:?}");
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; NAME_MAX + 1]] {
            assert!(EntryName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_ignore_superfluous_slashes_and_refuse_dot_dot() {
        let path = ImagePath::parse(b"//usr/./bin/").expect("legal");
        assert_eq!(path.to_string(), "/usr/bin");
        assert_eq!(ImagePath::parse(b"").expect("legal"), ImagePath::root());
        assert_eq!(ImagePath::root().to_string(), "/");
        assert!(ImagePath::parse(b"usr/../etc").is_err());
    }

    #[test]
    fn ref_names_are_safe_relative_paths() {
        for good in ["main", "debian/12/x86_64/server", "a.b-c_d/1"] {
            assert!(good.parse::<RefName>().is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/..", ".a", "-a", "a b", "a\0", "a^", "a~1", "a:b", "ä"] {
            assert!(bad.parse::<RefName>().is_err(), "{bad}");
        }
        for (length, expected) in [(NEW_REF_PART_MAX, None), (NEW_REF_PART_MAX + 1, Some(224)), (NAME_MAX, Some(255))] {
            let name: RefName = format!("a/{}/b", "x".repeat(length)).parse().expect("legal for an existing ref");
            assert_eq!(name.too_long_to_make(), expected);
        }
    }
}
