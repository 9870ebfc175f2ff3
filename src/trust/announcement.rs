//! Announcements of keys: a trusted key signs a statement that a new key is to be trusted.
//!
//! A publisher that changes keys publishes an announcement, signed by the old key. A client that meets an unknown
//! signer looks for the announcement of that key and follows the chain back to a key that it trusts.
//!
//! *Not here*: fetching announcements (`remote::client`).
//!
//! *Used by* `remote::client` and `cli`.

use super::envelope::{Envelope, EnvelopeError, SignaturePurpose};
use super::key::{PublicKey, SecretKey};
use super::keyring::{Keyring, SignatureError};
use crate::model::{RecordError, RecordFields, RecordKind, RecordWriter};

const KIND: RecordKind = RecordKind { magic: *b"SAPWKEY\0", version: 1, what: "key announcement", repeats: None };

mod tag {
    pub(crate) const KEY: u16 = 1;
    pub(crate) const TIMESTAMP: u16 = 2;
}

/// The reason why an announcement is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// The bytes are no envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The payload is no announcement.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It announces another key than expected.
    #[error("it announces key {} instead", .0.short())]
    OtherKey(PublicKey),
    /// No trusted key signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// A statement that a key is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The new key.
    pub key: PublicKey,
    /// When it was announced, in seconds since 1970.
    pub timestamp: i64,
}

impl Announcement {
    /// Returns the announcement as bytes, signed by the `old` key.
    #[must_use]
    pub fn sign(&self, old: &SecretKey) -> Vec<u8> {
        let mut record = RecordWriter::new(KIND);
        record.field(tag::KEY, self.key.as_bytes());
        record.field(tag::TIMESTAMP, &self.timestamp.to_le_bytes());
        Envelope::unsigned(record.finish()).signed(SignaturePurpose::Key, old).encode()
    }

    /// Returns the claimed signers of the announcement of `expected` in `bytes`. The announcement of an unknown signer
    /// is looked for next.
    ///
    /// # Errors
    /// [`AnnouncementError`] when the bytes announce no such key.
    pub fn claimed_signers(bytes: &[u8], expected: PublicKey) -> Result<Vec<PublicKey>, AnnouncementError> {
        Ok(open(bytes, expected)?.claimed_signers().collect())
    }

    /// Checks that a trusted key announces `expected` in `bytes`, and returns that key.
    ///
    /// # Errors
    /// [`AnnouncementError`].
    pub fn check(bytes: &[u8], expected: PublicKey, trusted: &Keyring) -> Result<PublicKey, AnnouncementError> {
        Ok(trusted.check(SignaturePurpose::Key, &open(bytes, expected)?)?)
    }
}

fn open(bytes: &[u8], expected: PublicKey) -> Result<Envelope, AnnouncementError> {
    let (envelope, _) = Envelope::parse(bytes)?;
    let record = RecordFields::parse(KIND, envelope.payload())?;
    let key = record.require(tag::KEY, "key")?.try_into().map_err(|_| RecordError::Field("key"))?;
    let key = PublicKey::from_bytes(key).map_err(|_| RecordError::Field("key"))?;
    if key == expected { Ok(envelope) } else { Err(AnnouncementError::OtherKey(key)) }
}
