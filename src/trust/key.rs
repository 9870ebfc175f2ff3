//! Ed25519 keys and their text form.
//!
//! A key is one line: a word for its kind, 64 hex digits, and optionally a comment, such as the owner.
//!
//! ```text
//! sapwood-public-key 3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c release@example.org
//! ```

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

const PUBLIC_KEY_WORD: &str = "sapwood-public-key";
const SECRET_KEY_WORD: &str = "sapwood-secret-key";

/// The reason why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The line does not begin with the word for this kind of key.
    #[error("not a key: expected a line '{expected} <64 hex digits> [comment]'")]
    Form {
        /// The word it should begin with.
        expected: &'static str,
    },
    /// A secret key was given where a public one is expected.
    #[error("this is a secret key; give its public half ('sapwood key export' prints it)")]
    Secret,
    /// The digits are no valid point of the curve.
    #[error("{0} is no ed25519 key")]
    Point(String),
}

/// The public half of a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Makes a key from its 32 bytes.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(bytes)),
            _ => Err(KeyError::Point(hex(&bytes))),
        }
    }

    /// Returns the 32 bytes.
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first 12 hex digits, for people.
    pub(crate) fn short(&self) -> String {
        hex(&self.0[..6])
    }

    /// Returns the line that [`FromStr`] reads.
    pub(crate) fn to_line(self, comment: &str) -> String {
        line(PUBLIC_KEY_WORD, &self.0, comment)
    }

    /// Returns whether `signature` over `message` was made with the secret half. The verification is strict: no altered
    /// form of a signature is accepted.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let key = VerifyingKey::from_bytes(&self.0);
        key.is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.short())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads the line of a key file, or the bare 64 digits.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.trim_start().starts_with(SECRET_KEY_WORD) {
            return Err(KeyError::Secret);
        }
        let bare = unhex(text.trim());
        let bytes =
            bare.or_else(|| parse_line(PUBLIC_KEY_WORD, text)).ok_or(KeyError::Form { expected: PUBLIC_KEY_WORD })?;
        Self::from_bytes(bytes)
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The secret half of a key. Its memory is wiped when it is dropped.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// Makes the key from 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Returns the line that [`FromStr`] reads. It is secret: it is all that is needed to sign.
    pub(crate) fn to_line(&self, comment: &str) -> String {
        line(SECRET_KEY_WORD, self.0.as_bytes(), comment)
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let seed = parse_line(SECRET_KEY_WORD, text).ok_or(KeyError::Form { expected: SECRET_KEY_WORD })?;
        Ok(Self::from_seed(&seed))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().short())
    }
}

fn line(word: &str, bytes: &[u8; 32], comment: &str) -> String {
    format!("{word} {} {comment}", hex(bytes)).trim_end().to_owned() + "\n"
}

/// Returns the key in the first line that is neither empty nor a comment.
fn parse_line(word: &str, text: &str) -> Option<[u8; 32]> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut parts = line.split_whitespace();
    if parts.next() == Some(word) { unhex(parts.next()?) } else { None }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_round_trips_through_its_line() {
        let secret = SecretKey::from_seed(&[7; 32]);
        let again: SecretKey = secret.to_line("me").parse().expect("own line");
        assert_eq!(again.public(), secret.public());
        let public: PublicKey = secret.public().to_line("me").parse().expect("own line");
        assert_eq!(public, secret.public());
        assert_eq!(secret.public().to_string().parse(), Ok(secret.public()), "bare digits");
    }

    #[test]
    fn other_texts_are_refused_with_distinct_errors() {
        let secret = SecretKey::from_seed(&[7; 32]).to_line("");
        assert_eq!(secret.parse::<PublicKey>(), Err(KeyError::Secret));
        for text in ["", "ssh-ed25519 AAAA", "sapwood-public-key 12", "sapwood-public-key"] {
            assert!(matches!(text.parse::<PublicKey>(), Err(KeyError::Form { .. })), "{text}");
        }
        // The neutral element: every message has a signature that fits it.
        let weak = format!("01{}", "0".repeat(62));
        assert!(matches!(weak.parse::<PublicKey>(), Err(KeyError::Point(_))));
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let mut seed = [0; 32];
        seed.copy_from_slice(
            &unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").expect("64 digits"),
        );
        let key = SecretKey::from_seed(&seed);
        assert_eq!(key.public().to_string(), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = key.sign(&[0x72]);
        assert!(hex(&signature).starts_with("92a009a9f0d4cab8720e820b5f642540"));
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
    }
}
