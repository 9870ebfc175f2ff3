//! How a new key comes to be trusted: an old one says so.
//!
//! A publisher that changes keys leaves an announcement beside the repository, signed by the old key. A client that meets
//! an unknown signer looks for the announcement of that key and follows it back to one it trusts.

use super::envelope::{Envelope, EnvelopeError, Purpose};
use super::key::{PublicKey, SecretKey};
use super::keyring::{Keyring, SignatureError};
use crate::model::{Record, RecordError, RecordKind, RecordWriter};

const KIND: RecordKind = RecordKind { magic: *b"SAPWKEY\0", version: 1, what: "key announcement", repeats: None };

mod tag {
    pub const KEY: u16 = 1;
    pub const TIMESTAMP: u16 = 2;
}

/// Why an announcement does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementError {
    /// Not an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// No announcement inside.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It announces another key than it was asked for.
    #[error("it announces key {} instead", .0.short())]
    OtherKey(PublicKey),
    /// Nobody trusted signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Says that a key is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The new key.
    pub key: PublicKey,
    /// When it was announced, in seconds since 1970.
    pub timestamp: i64,
}

impl Announcement {
    /// The signed announcement as bytes.
    #[must_use]
    pub fn sign(&self, old: &SecretKey) -> Vec<u8> {
        let mut record = RecordWriter::new(KIND);
        record.field(tag::KEY, self.key.as_bytes());
        record.field(tag::TIMESTAMP, &self.timestamp.to_le_bytes());
        Envelope::unsigned(record.finish()).signed(Purpose::Key, old).encode()
    }

    /// Who is said to have announced `expected` in `bytes`, to be looked for next if unknown.
    ///
    /// # Errors
    /// [`AnnouncementError`] when the bytes announce no such key.
    pub fn claimed_signers(bytes: &[u8], expected: PublicKey) -> Result<Vec<PublicKey>, AnnouncementError> {
        Ok(open(bytes, expected)?.claimed_signers().collect())
    }

    /// Whether a trusted key announces `expected` in `bytes`.
    ///
    /// # Errors
    /// [`AnnouncementError`].
    pub fn check(bytes: &[u8], expected: PublicKey, trusted: &Keyring) -> Result<PublicKey, AnnouncementError> {
        Ok(trusted.check(Purpose::Key, &open(bytes, expected)?)?)
    }
}

fn open(bytes: &[u8], expected: PublicKey) -> Result<Envelope, AnnouncementError> {
    let (envelope, _) = Envelope::parse(bytes)?;
    let record = Record::parse(KIND, envelope.payload())?;
    let key = record.require(tag::KEY, "key")?.try_into().map_err(|_| RecordError::Field("key"))?;
    let key = PublicKey::from_bytes(key).map_err(|_| RecordError::Field("key"))?;
    if key == expected { Ok(envelope) } else { Err(AnnouncementError::OtherKey(key)) }
}
