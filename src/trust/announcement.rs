//! The generations of a repository's keys: a chain of announcements, in each of which a key is replaced by a newer one.
//!
//! An announcement says "from generation N on, key NEW stands for key OLD", and both keys sign it: the old one because it is
//! trusted, the new one so that no key is announced that its owner does not have. From then on the old key counts for
//! nothing: it can neither sign a ref nor announce another key. A chain begins with generation 1, and each of its
//! announcements replaces the key that the one before announced. It is published as a whole, in one file, so a client
//! that was away for several changes of keys follows them with one request.
//!
//! ```text
//! the announcements, oldest first; each is an envelope (`envelope`) whose payload is a record (`record`):
//!
//! offset size
//!      0    8  magic "SAPWKEY\0"
//!      8    4  version = 2
//!     12       features and fields
//!
//! tag  field
//!   1  the new key, 32 B
//!   2  when it was announced, 8 B, in seconds since 1970
//!   3  the old key, 32 B
//!   4  the generation, 8 B
//! ```
//!
//! Announcements of version 1 added a key and left the old one valid. They are not followed.
//!
//! *Not here*: fetching and keeping chains (`remote`).
//!
//! *Invariants*: every announcement of a [`KeyChain`] has valid signatures by both of its keys. That says nothing about
//! trust: a chain is applied to a keyring, and a link whose keys are not in it changes nothing.
//!
//! *Used by* `remote` and `cli`.

use super::envelope::{Envelope, EnvelopeError, SignaturePurpose};
use super::key::{PublicKey, SecretKey};
use super::keyring::Keyring;
use crate::model::{RecordError, RecordFields, RecordKind, RecordWriter};

const KIND: RecordKind = RecordKind { magic: *b"SAPWKEY\0", version: 2, what: "key announcement", repeats: None };

/// The version that added a key without replacing one.
const FORMER_VERSION: u32 = 1;

/// The most announcements of a chain: each costs two verifications.
const ANNOUNCEMENTS_MAX: usize = 128;

/// Largest chain in bytes.
pub(crate) const KEY_CHAIN_SIZE_MAX: u64 = 64 << 10;

mod tag {
    pub(crate) const NEW: u16 = 1;
    pub(crate) const TIMESTAMP: u16 = 2;
    pub(crate) const OLD: u16 = 3;
    pub(crate) const GENERATION: u16 = 4;
}

/// The reason why a chain of announcements is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The bytes are no envelopes.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A payload is no announcement.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It was made by a version whose announcements did not replace a key.
    #[error("an earlier version made the announcement, which does not say which key is replaced")]
    Former,
    /// A key of an announcement did not sign it.
    #[error("key {} did not sign the announcement of generation {generation}", .key.short())]
    NotSigned {
        /// The key.
        key: PublicKey,
        /// The generation that the announcement begins.
        generation: u64,
    },
    /// The announcements do not follow one another.
    #[error("the announcement of generation {0} does not continue the one before")]
    Gap(u64),
    /// There are too many.
    #[error("there are more than {ANNOUNCEMENTS_MAX} announcements")]
    TooMany,
}

/// A statement that a new key stands for an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Announcement {
    /// The key that is replaced.
    pub old: PublicKey,
    /// The new key.
    pub new: PublicKey,
    /// The generation that begins with it.
    pub generation: u64,
    /// When it was announced, in seconds since 1970.
    pub timestamp: i64,
}

/// Announcements that follow one another, from generation 1 on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyChain(Vec<(Announcement, Envelope)>);

/// A keyring after a chain was applied to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyGeneration {
    /// The keys.
    pub keys: Keyring,
    /// The generation of the keys; 0 when the chain has nothing to do with them.
    pub number: u64,
}

impl KeyChain {
    /// Returns the chain with one more generation, in which `new` replaces `old`.
    ///
    /// # Errors
    /// [`ChainError`] when `old` is not the newest key of the chain, or the chain is too long.
    pub fn announce(mut self, old: &SecretKey, new: &SecretKey, timestamp: i64) -> Result<Self, ChainError> {
        let generation = self.generation() + 1;
        let announcement = Announcement { old: old.public(), new: new.public(), generation, timestamp };
        let mut record = RecordWriter::new(KIND);
        record.field(tag::NEW, announcement.new.as_bytes());
        record.field(tag::TIMESTAMP, &timestamp.to_le_bytes());
        record.field(tag::OLD, announcement.old.as_bytes());
        record.field(tag::GENERATION, &generation.to_le_bytes());
        let envelope = Envelope::unsigned(record.finish());
        self.push(envelope.signed(SignaturePurpose::Key, old).signed(SignaturePurpose::Key, new))?;
        Ok(self)
    }

    /// Returns the newest generation; 0 when there is no announcement.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.last().map_or(0, |(announcement, _)| announcement.generation)
    }

    /// Returns the announcements, oldest first.
    pub fn announcements(&self) -> impl DoubleEndedIterator<Item = &Announcement> {
        self.0.iter().map(|(announcement, _)| announcement)
    }

    /// Returns whether `other` is this chain or continues it.
    pub(crate) fn is_continued_by(&self, other: &Self) -> bool {
        self.0.len() <= other.0.len() && self.announcements().eq(other.announcements().take(self.0.len()))
    }

    /// Returns whether `key` replaced another key, or was replaced.
    pub(crate) fn concerns(&self, key: PublicKey) -> bool {
        self.announcements().any(|announcement| announcement.old == key || announcement.new == key)
    }

    /// Returns the announcement that replaced `key`.
    pub(crate) fn replaced(&self, key: PublicKey) -> Option<&Announcement> {
        self.announcements().find(|announcement| announcement.old == key)
    }

    /// Applies the announcements to `keys`. If `learn`, a key in it is replaced by the one that was announced. In any case
    /// all keys are removed that came before one in `keys`.
    #[must_use]
    pub fn apply(&self, mut keys: Keyring, learn: bool) -> KeyGeneration {
        let mut number = 0;
        for (index, Announcement { old, new, generation, .. }) in self.announcements().enumerate() {
            if learn && keys.contains(*old) {
                keys.add_successor(*old, *new);
            }
            if keys.contains(*new) {
                self.announcements().take(index + 1).for_each(|before| keys.remove(before.old));
                number = *generation;
            }
        }
        KeyGeneration { keys, number }
    }

    /// Returns the bytes that [`Self::parse`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(_, envelope)| envelope.encode()).collect()
    }

    /// Reads a chain and checks all of its signatures.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn parse(mut bytes: &[u8]) -> Result<Self, ChainError> {
        let mut chain = Self::default();
        while !bytes.is_empty() {
            let (envelope, rest) = Envelope::parse(bytes)?;
            chain.push(envelope)?;
            bytes = rest;
        }
        Ok(chain)
    }

    fn push(&mut self, envelope: Envelope) -> Result<(), ChainError> {
        if self.0.len() == ANNOUNCEMENTS_MAX {
            return Err(ChainError::TooMany);
        }
        let announcement = Announcement::parse(envelope.payload())?;
        let Announcement { old, new, generation, .. } = announcement;
        let continues = self.0.last().is_none_or(|(last, _)| last.new == old);
        // A key that was replaced is not appointed again.
        let is_replaced = old == new || self.replaced(new).is_some();
        if !continues || is_replaced || generation != self.generation() + 1 {
            return Err(ChainError::Gap(generation));
        }
        if let Some(key) = [old, new].into_iter().find(|key| !envelope.is_signed_by(SignaturePurpose::Key, *key)) {
            return Err(ChainError::NotSigned { key, generation });
        }
        self.0.push((announcement, envelope));
        Ok(())
    }
}

impl Announcement {
    fn parse(bytes: &[u8]) -> Result<Self, ChainError> {
        if bytes.starts_with(&KIND.magic) && bytes.get(8..12) == Some(&FORMER_VERSION.to_le_bytes()[..]) {
            return Err(ChainError::Former);
        }
        let record = RecordFields::parse(KIND, bytes)?;
        let key = |tag, name| {
            let bytes = record.require(tag, name)?.try_into().map_err(|_| RecordError::Field(name))?;
            PublicKey::from_bytes(bytes).map_err(|_| RecordError::Field(name))
        };
        Ok(Self {
            old: key(tag::OLD, "old key")?,
            new: key(tag::NEW, "new key")?,
            generation: record.number(tag::GENERATION, "generation")?,
            timestamp: record.time(tag::TIMESTAMP, "timestamp")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    fn ring(numbers: &[u8]) -> Keyring {
        Keyring::new(numbers.iter().map(|number| key(*number).public()))
    }

    fn chain(newest: u8) -> KeyChain {
        (1..newest).fold(KeyChain::default(), |it, number| {
            it.announce(&key(number), &key(number + 1), 5).expect("it continues")
        })
    }

    #[test]
    fn announced_keys_replace_older_ones() {
        let all = chain(4);
        assert_eq!(KeyChain::parse(&all.encode()), Ok(all.clone()));
        // The keys before, whether announced keys are learnt, and the keys and the generation after.
        let cases: [(&[u8], bool, &[u8], u64); 8] = [
            (&[1], true, &[4], 3),
            (&[3], true, &[4], 3),
            (&[4], true, &[4], 3),
            (&[9], true, &[9], 0),
            (&[1, 9], true, &[9, 4], 3),
            (&[1], false, &[1], 0),
            (&[1, 2, 4], false, &[4], 3),
            (&[3, 4], false, &[4], 3),
        ];
        for (before, learn, after, number) in cases {
            let found = all.apply(ring(before), learn);
            assert_eq!(found, KeyGeneration { keys: ring(after), number }, "{before:?}, {learn}");
        }
        assert!(chain(2).is_continued_by(&all) && all.is_continued_by(&all) && !all.is_continued_by(&chain(2)));
    }

    #[test]
    fn chain_without_both_signatures_or_with_a_gap_is_refused() {
        let (envelope, _) = Envelope::parse(&chain(2).encode()).map(|(it, _)| (it, ())).expect("own");
        let unsigned = || Envelope::unsigned(envelope.payload().to_vec());
        for (signer, missing) in [(1, 2), (2, 1)] {
            let bytes = unsigned().signed(SignaturePurpose::Key, &key(signer)).encode();
            let refusal = ChainError::NotSigned { key: key(missing).public(), generation: 1 };
            assert_eq!(KeyChain::parse(&bytes), Err(refusal));
        }
        let all = chain(3).encode();
        let half = chain(2).encode().len();
        assert_eq!(KeyChain::parse(&all[half..]), Err(ChainError::Gap(2)));
        assert_eq!(KeyChain::parse(&[&all[..half], &all[..half]].concat()), Err(ChainError::Gap(1)));
        assert_eq!(chain(3).announce(&key(2), &key(7), 0), Err(ChainError::Gap(3)));
        assert_eq!(KeyChain::default().announce(&key(2), &key(2), 0), Err(ChainError::Gap(1)));
        for length in 1..half {
            assert!(KeyChain::parse(&all[..length]).is_err(), "{length} bytes");
        }
    }
}
