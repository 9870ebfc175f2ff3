//! The ref record: a signed statement which commit a ref names.
//!
//! The signature of a commit proves that the commit is genuine; that of the ref record proves that the commit is the
//! one to use now. Without the second, a server could serve an old commit with known vulnerabilities for ever. The
//! record has the form of [`crate::model::RecordFields`].
//!
//! *Used by* `verified`, and by `remote`, which writes and records it.

use crate::model::{Commit, CommitId, RecordError, RecordFields, RecordKind, RecordWriter, RefName};

const KIND: RecordKind = RecordKind { magic: *b"SAPWREF\0", version: 1, what: "ref record", repeats: None };

mod tag {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const COMMIT: u16 = 2;
    pub(crate) const SEQUENCE: u16 = 3;
    pub(crate) const TIMESTAMP: u16 = 4;
}

/// A statement which commit a ref names.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RefRecord {
    /// The ref.
    pub name: RefName,
    /// Its newest commit.
    pub commit: CommitId,
    /// The sequence of that commit.
    pub sequence: u64,
    /// When the record was signed, in seconds since 1970.
    pub timestamp: i64,
}

/// The newest state that a client has seen of a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastSeen {
    /// The sequence of the commit.
    pub sequence: u64,
    /// The commit.
    pub commit: CommitId,
}

impl LastSeen {
    /// Reads the text of a record of what was seen.
    ///
    /// # Errors
    /// When it is not TOML, or lacks a key.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Returns the text that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("a number and an id have a TOML form")
    }
}

impl RefRecord {
    /// Returns the record that publishes `commit` under its own ref.
    #[must_use]
    pub fn of(commit: &Commit, timestamp: i64) -> Self {
        Self { name: commit.ref_name.clone(), commit: commit.id(), sequence: commit.sequence, timestamp }
    }

    /// Returns the state that a client records after it accepted the record.
    #[must_use]
    pub const fn seen(&self) -> LastSeen {
        LastSeen { sequence: self.sequence, commit: self.commit }
    }

    /// Returns the bytes that [`Self::parse`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut record = RecordWriter::new(KIND);
        record.field(tag::NAME, self.name.as_str().as_bytes());
        record.field(tag::COMMIT, self.commit.as_bytes());
        record.field(tag::SEQUENCE, &self.sequence.to_le_bytes());
        record.field(tag::TIMESTAMP, &self.timestamp.to_le_bytes());
        record.finish()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record = RecordFields::parse(KIND, bytes)?;
        Ok(Self {
            name: record.text(tag::NAME, "name")?.parse().map_err(|_| RecordError::Field("name"))?,
            commit: CommitId::from_slice(record.require(tag::COMMIT, "commit")?).ok_or(RecordError::Field("commit"))?,
            sequence: record.number(tag::SEQUENCE, "sequence")?,
            timestamp: record.time(tag::TIMESTAMP, "timestamp")?,
        })
    }
}
