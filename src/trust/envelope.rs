//! Envelopes: bytes with signatures beside them.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWSGN\0"
//!      8    4  version = 1
//!     12    4  length of the payload
//!     16       payload
//!              u16 count of signatures, then for each:  32 B public key · 64 B ed25519 signature
//! ```
//!
//! A signature covers `"sapwood-signature-v1\0" + purpose + "\0" + payload`, not the payload alone, so that a signature
//! over a record of one kind is not valid for one of another kind.
//!
//! *Invariants*: a parsed envelope is untrusted; only the keyring decides whether its payload is accepted.
//!
//! *Used by* `trust`, and by `remote` for reading and writing signed files.

use super::key::{PublicKey, SecretKey};
use crate::model::COMMIT_SIZE_MAX;

const MAGIC: [u8; 8] = *b"SAPWSGN\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 16;
const SIGNATURE_SIZE: usize = 96;

/// The most signatures of an envelope: each costs a verification.
const SIGNATURES_MAX: usize = 64;

/// The largest envelope in bytes: a commit record with the most signatures.
pub(crate) const ENVELOPE_SIZE_MAX: usize = HEADER_SIZE + COMMIT_SIZE_MAX + 2 + SIGNATURES_MAX * SIGNATURE_SIZE;

/// The purpose of a signature: the kind of record that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignaturePurpose {
    /// A commit record.
    Commit,
    /// A ref record.
    Ref,
    /// The announcement of a new key.
    Key,
}

impl SignaturePurpose {
    const fn label(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Ref => "ref",
            Self::Key => "key",
        }
    }
}

/// The reason why bytes are no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes do not start like an envelope.
    #[error("not a signed record")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("signature format {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// The bytes end too early, or announce more than is allowed.
    #[error("the signed record has a bad length")]
    Length,
    /// A key has two signatures.
    #[error("the signed record has two signatures of one key")]
    Repeated,
}

/// A payload with signatures, none of which has been checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload: Vec<u8>,
    signatures: Vec<([u8; 32], [u8; 64])>,
}

impl Envelope {
    /// Returns an envelope without signatures.
    #[must_use]
    pub const fn unsigned(payload: Vec<u8>) -> Self {
        Self { payload, signatures: Vec::new() }
    }

    /// Returns the envelope with one more signature.
    #[must_use]
    pub fn signed(mut self, purpose: SignaturePurpose, key: &SecretKey) -> Self {
        let signature = key.sign(&message(purpose, &self.payload));
        self.signatures.retain(|(signer, _)| signer != key.public().as_bytes());
        self.signatures.push((*key.public().as_bytes(), signature));
        self
    }

    /// Returns the payload, which is untrusted until a signature by a trusted key was checked.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the claimed signers, in order.
    pub(crate) fn claimed_signers(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.signatures.iter().filter_map(|(key, _)| PublicKey::from_bytes(*key).ok())
    }

    /// Returns whether there is a valid signature by `key` for `purpose`.
    pub(super) fn is_signed_by(&self, purpose: SignaturePurpose, key: PublicKey) -> bool {
        let mut by_key = self.signatures.iter().filter(|(signer, _)| signer == key.as_bytes());
        by_key.any(|(_, signature)| key.verifies(&message(purpose, &self.payload), signature))
    }

    /// Returns the bytes that [`Self::parse`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("records are bounded by COMMIT_SIZE_MAX");
        let count = u16::try_from(self.signatures.len()).expect("an envelope has fewer than 65,536 signatures");
        let mut bytes = Vec::with_capacity(HEADER_SIZE + self.payload.len() + 2);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&count.to_le_bytes());
        for (key, signature) in &self.signatures {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(signature);
        }
        bytes
    }

    /// Reads an envelope from the start of `bytes`; also returns the bytes after it.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), EnvelopeError> {
        let (header, rest) = bytes.split_at_checked(HEADER_SIZE).ok_or(EnvelopeError::Magic)?;
        if header[..8] != MAGIC {
            return Err(EnvelopeError::Magic);
        }
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if number(8) != VERSION {
            return Err(EnvelopeError::TooNew(number(8)));
        }
        let length = usize::try_from(number(12)).map_err(|_| EnvelopeError::Length)?;
        let (payload, rest) = rest.split_at_checked(length).ok_or(EnvelopeError::Length)?;
        let (count, rest) = rest.split_at_checked(2).ok_or(EnvelopeError::Length)?;
        let count = usize::from(u16::from_le_bytes([count[0], count[1]]));
        if length > COMMIT_SIZE_MAX || count > SIGNATURES_MAX {
            return Err(EnvelopeError::Length);
        }
        let (table, rest) = rest.split_at_checked(count * SIGNATURE_SIZE).ok_or(EnvelopeError::Length)?;
        let signatures = table.chunks_exact(SIGNATURE_SIZE).map(|row| {
            let (mut key, mut signature) = ([0; 32], [0; 64]);
            key.copy_from_slice(&row[..32]);
            signature.copy_from_slice(&row[32..]);
            (key, signature)
        });
        let signatures: Vec<([u8; 32], [u8; 64])> = signatures.collect();
        // Each costs a verification of the whole payload.
        if signatures.iter().enumerate().any(|(at, (key, _))| signatures[..at].iter().any(|(other, _)| other == key)) {
            return Err(EnvelopeError::Repeated);
        }
        Ok((Self { payload: payload.to_vec(), signatures }, rest))
    }
}

fn message(purpose: SignaturePurpose, payload: &[u8]) -> Vec<u8> {
    [b"sapwood-signature-v1\0", purpose.label().as_bytes(), b"\0", payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    #[test]
    fn envelope_round_trips_and_returns_the_bytes_after_it() {
        let envelope = Envelope::unsigned(b"payload".to_vec())
            .signed(SignaturePurpose::Ref, &key(1))
            .signed(SignaturePurpose::Ref, &key(2));
        let mut bytes = envelope.encode();
        bytes.extend_from_slice(b"rest");
        assert_eq!(Envelope::parse(&bytes), Ok((envelope, &b"rest"[..])));
    }

    #[test]
    fn signature_is_valid_only_for_its_purpose_payload_and_key() {
        let envelope = Envelope::unsigned(b"payload".to_vec()).signed(SignaturePurpose::Ref, &key(1));
        assert!(envelope.is_signed_by(SignaturePurpose::Ref, key(1).public()));
        assert!(!envelope.is_signed_by(SignaturePurpose::Commit, key(1).public()));
        assert!(!envelope.is_signed_by(SignaturePurpose::Ref, key(2).public()));
        let other = Envelope { payload: b"Payload".to_vec(), ..envelope };
        assert!(!other.is_signed_by(SignaturePurpose::Ref, key(1).public()));
    }

    #[test]
    fn truncated_envelopes_are_refused_and_flipped_bits_detected() {
        let envelope = Envelope::unsigned(b"payload".to_vec()).signed(SignaturePurpose::Commit, &key(1));
        let bytes = envelope.encode();
        for length in 0..bytes.len() {
            assert!(Envelope::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok((damaged, _)) = Envelope::parse(&damaged) {
                assert!(!damaged.is_signed_by(SignaturePurpose::Commit, key(1).public()), "bit {bit}");
            }
        }
    }
}
