//! The keyring: the set of trusted keys.
//!
//! *Used by* `trust` and `remote`.

use super::envelope::{Envelope, SignaturePurpose};
use super::key::PublicKey;

/// The reason why an envelope is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("it is not signed")]
    Unsigned,
    /// Only unknown keys signed.
    #[error("it is signed by {} only, which is not trusted", list(.keys))]
    UnknownKey {
        /// The claimed signers.
        keys: Vec<PublicKey>,
    },
    /// A trusted key is named as the signer, but the signature is not valid.
    #[error("the signature of key {} is wrong: it was changed on the way or forged", .key.short())]
    Forged {
        /// The named key.
        key: PublicKey,
    },
}

fn list(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::short).collect::<Vec<_>>().join(", ")
}

/// A set of trusted keys. One valid signature by any of them suffices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring(Vec<PublicKey>);

impl Keyring {
    /// Returns a keyring with these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut ring = Self::default();
        keys.into_iter().for_each(|key| ring.add(key));
        ring
    }

    /// Adds a trusted key.
    pub(crate) fn add(&mut self, key: PublicKey) {
        if !self.contains(key) {
            self.0.push(key);
        }
    }

    /// Removes a key, so that it is no longer trusted.
    pub(crate) fn remove(&mut self, key: PublicKey) {
        self.0.retain(|known| *known != key);
    }

    /// Returns the trusted keys.
    pub(crate) fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// Returns whether a key is trusted.
    pub(crate) fn contains(&self, key: PublicKey) -> bool {
        self.0.contains(&key)
    }

    /// Returns the trusted key that signed `envelope` for `purpose`.
    pub(crate) fn check(&self, purpose: SignaturePurpose, envelope: &Envelope) -> Result<PublicKey, SignatureError> {
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
