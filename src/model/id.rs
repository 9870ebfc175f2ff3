//! The kinds of ids (SHA-256 digests), each a type of its own.
//!
//! Each id is 32 bytes, `Copy`, prints as 64 hex digits and parses from them.
//!
//! *Invariants*: there is no conversion between kinds, so that one kind cannot be mistaken for another.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an id: expected 64 hexadecimal digits")]
pub struct IdError {
    text: String,
}

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Length of an id in bytes.
            pub const LEN: usize = 32;

            /// Returns the id of `bytes`: their SHA-256.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// Returns the id with these bytes, without hashing anything.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the id with these bytes, or `None` unless there are 32 of them.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Returns the 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the first 12 hex digits, for messages to people. They are never parsed.
            pub(crate) fn short(&self) -> String {
                hex(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                unhex(text).map(Self).ok_or_else(|| IdError { text: text.to_owned() })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

define_id!(
    /// Names an object: the plain content of one regular file.
    ObjectId
);
define_id!(
    /// Names one fixed-size block of a large object.
    BlockId
);
define_id!(
    /// Names an image: the metadata of one whole filesystem tree.
    ImageId
);
define_id!(
    /// Names a commit record.
    CommitId
);
define_id!(
    /// Names a pack of a published repository: the SHA-256 of the file.
    PackId
);
define_id!(
    /// Names a locator of a published repository: the SHA-256 of the file.
    LocatorId
);
define_id!(
    /// Names a delta of a published repository: the SHA-256 of the file.
    DeltaId
);
define_id!(
    /// Names a boot profile of a published repository: the SHA-256 of the file.
    ProfileId
);
define_id!(
    /// Names everything below one directory of an image, so that two equal subtrees are recognised at their tops.
    SubtreeId
);

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(bytes)
}

/// Returns the value of a hex digit. Only lower case is accepted, so that an id has one spelling.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_prints_and_parses_the_digest_of_the_bytes() {
        let id = ObjectId::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(id.short(), "ba7816bf8f01");
    }

    #[test]
    fn id_parses_only_from_64_lower_case_digits() {
        for bad in ["", "ab", &"A".repeat(64), &"g".repeat(64), &"0".repeat(63), &"0".repeat(65)] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad}");
        }
    }
}
