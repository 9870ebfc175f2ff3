//! The commit record and its byte format, version 1.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWCMT\0"
//!      8    4  version = 1
//!     12       features and fields, see `record`
//! ```
//!
//! *Not here*: the clock, since the time is a field; signatures, which are kept in a file of their own (`trust`).
//!
//! *Invariants*: [`tag::EXTRA`] repeats with ascending keys, so one commit has exactly one encoding, and its id, the SHA-256 of
//! these bytes, is reproducible.
//!
//! *Used by* every layer that reads or makes commits.

use std::collections::BTreeMap;

use super::record::{RecordError, RecordFields, RecordKind, RecordWriter};
use super::{CommitId, ImageId, RefName};

const KIND: RecordKind =
    RecordKind { magic: *b"SAPWCMT\0", version: 1, what: "commit record", repeats: Some(tag::EXTRA) };

/// Largest record that is accepted, in bytes. A package list of 10,000 packages with checksums has about 2 MiB.
pub(crate) const COMMIT_SIZE_MAX: usize = 16 << 20;

mod tag {
    pub(crate) const IMAGE: u16 = 1;
    pub(crate) const PARENT: u16 = 2;
    pub(crate) const REF: u16 = 3;
    pub(crate) const SEQUENCE: u16 = 4;
    pub(crate) const TIMESTAMP: u16 = 5;
    pub(crate) const SUBJECT: u16 = 6;
    pub(crate) const VERSION: u16 = 7;
    pub(crate) const ENTRIES: u16 = 8;
    pub(crate) const CONTENT_BYTES: u16 = 9;
    pub(crate) const EXTRA: u16 = 64;
}

/// The record of a root filesystem at one moment, and of its position in the history of its ref.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Commit {
    /// The image with the metadata of the tree.
    pub image: ImageId,
    /// The commit before this one, if any.
    pub parent: Option<CommitId>,
    /// The ref this commit was made for.
    #[serde(rename = "ref")]
    pub ref_name: RefName,
    /// One more than the parent's, so that an older commit cannot pass for a newer one.
    pub sequence: u64,
    /// The time of the commit in seconds since 1970, given by the caller.
    pub timestamp: i64,
    /// A description of one line for people; may be empty.
    pub subject: String,
    /// The version of the operating system, such as `12.8`.
    pub version: Option<String>,
    /// Number of entries of the image, the root included.
    pub entries: u64,
    /// Sum of the sizes of the image's regular files in bytes, each inode once.
    pub content_bytes: u64,
    /// Further facts by key, such as package lists.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// Why bytes are not a commit record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The bytes do not have the expected id.
    #[error("the record does not have the digest it is named by")]
    WrongId,
    /// The bytes are not a record of this kind.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The error for a text of one line that has a control character, which could move a cursor or end the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} has a control character: {text:?}")]
pub struct ControlCharacter {
    /// The name of the field: `subject` or `version`.
    pub(crate) what: &'static str,
    /// The text of the field.
    pub(crate) text: String,
}

impl Commit {
    /// Checks that the subject and the version of a new commit are texts of one line. Commits that were made before this check
    /// existed can still be read.
    pub(crate) fn check_text(subject: &str, version: Option<&str>) -> Result<(), ControlCharacter> {
        for (what, text) in [("subject", Some(subject)), ("version", version)] {
            if let Some(text) = text.filter(|text| text.contains(char::is_control)) {
                return Err(ControlCharacter { what, text: text.to_owned() });
            }
        }
        Ok(())
    }

    /// Encodes this commit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut record = RecordWriter::new(KIND);
        record.field(tag::IMAGE, self.image.as_bytes());
        if let Some(parent) = &self.parent {
            record.field(tag::PARENT, parent.as_bytes());
        }
        record.field(tag::REF, self.ref_name.as_str().as_bytes());
        record.field(tag::SEQUENCE, &self.sequence.to_le_bytes());
        record.field(tag::TIMESTAMP, &self.timestamp.to_le_bytes());
        record.field(tag::SUBJECT, self.subject.as_bytes());
        if let Some(version) = &self.version {
            record.field(tag::VERSION, version.as_bytes());
        }
        record.field(tag::ENTRIES, &self.entries.to_le_bytes());
        record.field(tag::CONTENT_BYTES, &self.content_bytes.to_le_bytes());
        for (key, value) in &self.extra {
            record.field(tag::EXTRA, format!("{key}\0{value}").as_bytes());
        }
        record.finish()
    }

    /// Returns the id of this commit.
    #[must_use]
    pub fn id(&self) -> CommitId {
        CommitId::of(&self.encode())
    }

    /// Decodes a record and checks that it has the id `id`.
    ///
    /// # Errors
    /// [`CommitError`] for any deviation from the canonical form.
    pub(crate) fn decode(bytes: &[u8], id: CommitId) -> Result<Self, CommitError> {
        if CommitId::of(bytes) != id {
            return Err(CommitError::WrongId);
        }
        Self::parse(bytes)
    }

    /// Decodes a record whose id is not known.
    ///
    /// # Errors
    /// [`CommitError`] for any deviation from the canonical form.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommitError> {
        if bytes.len() > COMMIT_SIZE_MAX {
            return Err(RecordError::Length.into());
        }
        let record = RecordFields::parse(KIND, bytes)?;
        Ok(Self {
            image: ImageId::from_slice(record.require(tag::IMAGE, "image")?).ok_or(RecordError::Field("image"))?,
            parent: match record.get(tag::PARENT) {
                Some(value) => Some(CommitId::from_slice(value).ok_or(RecordError::Field("parent"))?),
                None => None,
            },
            ref_name: record.text(tag::REF, "ref")?.parse().map_err(|_| RecordError::Field("ref"))?,
            sequence: record.number(tag::SEQUENCE, "sequence")?,
            timestamp: record.time(tag::TIMESTAMP, "timestamp")?,
            subject: record.text(tag::SUBJECT, "subject")?.to_owned(),
            version: match record.get(tag::VERSION) {
                Some(_) => Some(record.text(tag::VERSION, "version")?.to_owned()),
                None => None,
            },
            entries: record.number(tag::ENTRIES, "entries")?,
            content_bytes: record.number(tag::CONTENT_BYTES, "content bytes")?,
            extra: extra(&record.repeated)?,
        })
    }
}

/// Returns the further facts, and checks that their keys ascend.
fn extra(values: &[&[u8]]) -> Result<BTreeMap<String, String>, RecordError> {
    let mut extra: BTreeMap<String, String> = BTreeMap::new();
    for value in values {
        let text = std::str::from_utf8(value).map_err(|_| RecordError::Field("extra"))?;
        let (key, value) = text.split_once('\0').ok_or(RecordError::Field("extra"))?;
        if extra.last_key_value().is_some_and(|(last, _)| last.as_str() >= key) {
            return Err(RecordError::Order);
        }
        extra.insert(key.to_owned(), value.to_owned());
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Commit {
        Commit {
            image: ImageId::of(b"image"),
            parent: Some(CommitId::of(b"parent")),
            ref_name: "debian/12/x86_64/server".parse().expect("legal"),
            sequence: 7,
            timestamp: -1,
            subject: "a subject".into(),
            version: Some("12.8".into()),
            entries: 3,
            content_bytes: 42,
            extra: [("a".into(), "1".into()), ("b".into(), "2\0x".into())].into(),
        }
    }

    #[test]
    fn commit_decodes_from_its_encoding() {
        let commit = example();
        assert_eq!(Commit::decode(&commit.encode(), commit.id()), Ok(commit));
        let bare = Commit { parent: None, version: None, extra: BTreeMap::new(), ..example() };
        assert_eq!(Commit::decode(&bare.encode(), bare.id()), Ok(bare));
    }

    /// Pins the format: a change of these bytes makes every existing commit unreadable.
    #[test]
    fn commit_id_of_the_example_never_changes() {
        assert_eq!(example().id().to_string(), "6be5c5f1932762cbc268594367dfa4b8d38ac8a79b50fe6a1ece1a85f639c9ec");
    }

    #[test]
    fn truncated_or_damaged_commit_is_refused_or_another_commit() {
        let bytes = example().encode();
        for length in 0..bytes.len() {
            if let Ok(commit) = Commit::parse(&bytes[..length]) {
                assert_ne!(commit, example());
            }
        }
        for index in 0..12 {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0xff;
            assert!(Commit::parse(&damaged).is_err(), "byte {index}");
        }
    }

    #[test]
    fn commit_with_a_wrong_id_is_refused() {
        assert_eq!(Commit::decode(&example().encode(), CommitId::of(b"x")), Err(CommitError::WrongId));
    }
}
