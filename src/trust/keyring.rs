//! The keys that are believed.

use super::envelope::{Envelope, Purpose};
use super::key::PublicKey;

/// Why an envelope is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Nobody signed.
    #[error("it is not signed")]
    Unsigned,
    /// Only strangers signed.
    #[error("it is signed by {} only, which is not trusted", list(.keys))]
    UnknownKey {
        /// Who is said to have signed.
        keys: Vec<PublicKey>,
    },
    /// A trusted key is named, but the signature is not that key's.
    #[error("the signature of key {} is wrong: it was changed on the way or forged", .key.short())]
    Forged {
        /// The key that is named.
        key: PublicKey,
    },
}

fn list(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::short).collect::<Vec<_>>().join(", ")
}

/// A set of trusted keys. One good signature by any of them suffices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring(Vec<PublicKey>);

impl Keyring {
    /// A keyring with these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut ring = Self::default();
        keys.into_iter().for_each(|key| ring.add(key));
        ring
    }

    /// Trusts one more key.
    pub fn add(&mut self, key: PublicKey) {
        if !self.contains(key) {
            self.0.push(key);
        }
    }

    /// Whether a key is trusted.
    #[must_use]
    pub fn contains(&self, key: PublicKey) -> bool {
        self.0.contains(&key)
    }

    /// The trusted keys, in the order in which they came to be trusted.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// The trusted key that signed `envelope` for `purpose`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn check(&self, purpose: Purpose, envelope: &Envelope) -> Result<PublicKey, SignatureError> {
        let claimed: Vec<PublicKey> = envelope.claimed_signers().collect();
        if let Some(key) = claimed.iter().find(|key| self.contains(**key) && envelope.is_signed_by(purpose, **key)) {
            return Ok(*key);
        }
        match claimed.iter().find(|key| self.contains(**key)) {
            Some(&key) => Err(SignatureError::Forged { key }),
            None if claimed.is_empty() => Err(SignatureError::Unsigned),
            None => Err(SignatureError::UnknownKey { keys: claimed }),
        }
    }
}
