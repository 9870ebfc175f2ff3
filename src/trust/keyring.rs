//! The keyring: the trusted keys, for which refs each counts, and how many of them have to sign.
//!
//! *Used by* `trust`, `remote`, `deploy` and `boot`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::envelope::{Envelope, SignaturePurpose};
use super::key::PublicKey;
use crate::model::{RefName, RefPattern};

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
    /// Only keys signed that are trusted for other refs.
    #[error("it is signed by key {}, which is trusted for other refs than {name}", .key.short())]
    OtherRefs {
        /// The key.
        key: PublicKey,
        /// The ref that it is not trusted for.
        name: RefName,
    },
    /// Too few trusted keys signed.
    #[error("{found} of the trusted keys signed it, and {required} are required")]
    TooFew {
        /// The number of trusted keys that signed.
        found: u32,
        /// The number that is required.
        required: NonZeroU32,
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

/// The refs that keys are limited to; a key that is not in it counts for every ref.
pub type KeyLimits = BTreeMap<PublicKey, Vec<RefPattern>>;

/// A set of trusted keys. Unless more are required, one valid signature by any of them suffices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<PublicKey>,
    limits: KeyLimits,
    required: NonZeroU32,
}

impl Default for Keyring {
    fn default() -> Self {
        Self { keys: Vec::new(), limits: KeyLimits::new(), required: NonZeroU32::MIN }
    }
}

impl Keyring {
    /// Returns a keyring with these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let mut ring = Self::default();
        keys.into_iter().for_each(|key| ring.add(key));
        ring
    }

    /// Returns the keyring with the keys in `limits` trusted for those refs only.
    pub(crate) fn limited(mut self, limits: KeyLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Returns the keyring with this many keys that have to sign.
    pub(crate) const fn requiring(mut self, required: NonZeroU32) -> Self {
        self.required = required;
        self
    }

    /// Adds a trusted key.
    pub(crate) fn add(&mut self, key: PublicKey) {
        if !self.contains(key) {
            self.keys.push(key);
        }
    }

    /// Adds `new`, which stands for `old` from now on and is trusted for the same refs.
    pub(crate) fn add_successor(&mut self, old: PublicKey, new: PublicKey) {
        if !self.contains(new)
            && let Some(refs) = self.limits.get(&old).cloned()
        {
            self.limits.insert(new, refs);
        }
        self.add(new);
    }

    /// Removes a key, so that it is no longer trusted.
    pub(crate) fn remove(&mut self, key: PublicKey) {
        self.keys.retain(|known| *known != key);
        self.limits.remove(&key);
    }

    /// Returns the trusted keys.
    pub(crate) fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    /// Returns which keys are limited to which refs.
    pub(crate) const fn limits(&self) -> &KeyLimits {
        &self.limits
    }

    /// Returns whether a key is trusted, for some refs at least.
    pub(crate) fn contains(&self, key: PublicKey) -> bool {
        self.keys.contains(&key)
    }

    /// Returns whether a key is trusted for the ref `name`.
    fn counts_for(&self, key: PublicKey, name: &RefName) -> bool {
        self.limits.get(&key).is_none_or(|refs| refs.iter().any(|pattern| pattern.matches(name)))
    }

    /// Checks what is signed for the ref `name`, and returns the first trusted key that signed `envelope` for `purpose`.
    ///
    /// # Errors
    /// [`SignatureError`] when fewer trusted keys signed than are required.
    pub(crate) fn check(
        &self,
        purpose: SignaturePurpose,
        envelope: &Envelope,
        name: &RefName,
    ) -> Result<PublicKey, SignatureError> {
        let claimed: Vec<PublicKey> = envelope.claimed_signers().collect();
        let known: Vec<PublicKey> = claimed.iter().copied().filter(|key| self.contains(*key)).collect();
        let counted = || known.iter().copied().filter(|key| self.counts_for(*key, name));
        let valid: Vec<PublicKey> = counted().filter(|key| envelope.is_signed_by(purpose, *key)).collect();
        let (found, required) = (u32::try_from(valid.len()).unwrap_or(u32::MAX), self.required);
        if let Some(first) = valid.first().filter(|_| found >= required.get()) {
            return Ok(*first);
        }
        if let Some(key) = counted().find(|key| !valid.contains(key)) {
            return Err(SignatureError::Forged { key });
        }
        match known.first() {
            Some(_) if found > 0 => Err(SignatureError::TooFew { found, required }),
            Some(&key) => Err(SignatureError::OtherRefs { key, name: name.clone() }),
            None if claimed.is_empty() => Err(SignatureError::Unsigned),
            None => Err(SignatureError::UnknownKey { keys: claimed }),
        }
    }
}
