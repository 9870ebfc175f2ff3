//! The ref record: a signed statement which commit a ref of a repository names.
//!
//! The signature of a commit proves that the commit is genuine; that of the ref record proves that the commit is the
//! one to use now. Without the second, a server could serve an old commit with known vulnerabilities for ever. The
//! record has the form of [`crate::model::RecordFields`]:
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWREF\0"
//!      8    4  version = 1 or 2
//!     12       features and fields, see `record`
//!
//! tag  field
//!   1  the name of the ref
//!   2  its newest commit
//!   3  sequence, 8 B: larger than that of the record before, unless that names the same commit
//!   4  when it was signed, 8 B, in seconds since 1970
//!   5  until when it is to be taken as new, 8 B; absent: for ever
//!   6  the identity of the repository, 16 B; optional in version 1
//!   7  the generation of the keys that sign, 8 B; optional in version 1
//! ```
//!
//! A client accepts version 1 for a commit that was made for this ref and has this sequence. Version 2 itself binds the commit
//! to the ref, so a commit that was made for `testing` can become that of `stable`, and the sequence counts the states of the
//! ref. Version 1 is written where it says all: clients of earlier versions read it, and skip the fields that they do not know.
//!
//! *Used by* `verified`, and by `remote`, which writes and records it.

use super::repository_id::RepositoryId;
use crate::model::{Commit, CommitId, RecordError, RecordFields, RecordKind, RecordWriter, RefName};

const VERSION_1: RecordKind = RecordKind { magic: *b"SAPWREF\0", version: 1, what: "ref record", repeats: None };
const VERSION_2: RecordKind = RecordKind { version: 2, ..VERSION_1 };

mod tag {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const COMMIT: u16 = 2;
    pub(crate) const SEQUENCE: u16 = 3;
    pub(crate) const TIMESTAMP: u16 = 4;
    pub(crate) const EXPIRES: u16 = 5;
    pub(crate) const REPOSITORY: u16 = 6;
    pub(crate) const GENERATION: u16 = 7;
}

/// A statement which commit a ref names.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RefRecord {
    /// The ref.
    pub name: RefName,
    /// Its newest commit.
    pub commit: CommitId,
    /// The number of this state of the ref; in version 1 also that of the commit.
    pub sequence: u64,
    /// When the record was signed, in seconds since 1970.
    pub timestamp: i64,
    /// What it says of the repository; earlier versions wrote nothing.
    pub binding: Option<Binding>,
}

/// For which ref the commit of a record was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitOrigin {
    /// For the ref of the record, and with its sequence: version 1.
    ThisRef,
    /// For any ref: version 2.
    AnyRef,
}

/// The repository that a record is of, and until when it is to be taken as new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Binding {
    /// The repository.
    pub repository: RepositoryId,
    /// The generation of its keys.
    pub generation: u64,
    /// When the record expires, in seconds since 1970; `None` for never.
    pub expires: Option<i64>,
    /// For which ref the commit was made.
    pub origin: CommitOrigin,
}

/// The newest state that a client has seen of a ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastSeen {
    /// The sequence of the commit.
    pub sequence: u64,
    /// The commit.
    pub commit: CommitId,
    /// When the state was signed, in seconds since 1970. Earlier versions did not record it.
    #[serde(default)]
    pub timestamp: i64,
    /// The generation of the keys that the client trusted then.
    #[serde(default)]
    pub generation: u64,
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
        Self { name: commit.ref_name.clone(), commit: commit.id(), sequence: commit.sequence, timestamp, binding: None }
    }

    /// Returns the identity of the repository that the record is of, if it says so.
    #[must_use]
    pub fn repository(&self) -> Option<RepositoryId> {
        self.binding.map(|binding| binding.repository)
    }

    /// Returns the generation of the keys that signed; 0 if it does not say so.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.binding.map_or(0, |binding| binding.generation)
    }

    /// Returns the state that a client records after it accepted the record, with keys of this generation.
    #[must_use]
    pub fn seen(&self, generation: u64) -> LastSeen {
        let Self { sequence, commit, timestamp, .. } = *self;
        LastSeen { sequence, commit, timestamp, generation }
    }

    /// Returns the bytes that [`Self::parse`] reads.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let is_for_any = self.binding.is_some_and(|binding| binding.origin == CommitOrigin::AnyRef);
        let mut record = RecordWriter::new(if is_for_any { VERSION_2 } else { VERSION_1 });
        record.field(tag::NAME, self.name.as_str().as_bytes());
        record.field(tag::COMMIT, self.commit.as_bytes());
        record.field(tag::SEQUENCE, &self.sequence.to_le_bytes());
        record.field(tag::TIMESTAMP, &self.timestamp.to_le_bytes());
        if let Some(Binding { repository, generation, expires, .. }) = &self.binding {
            if let Some(expires) = expires {
                record.field(tag::EXPIRES, &expires.to_le_bytes());
            }
            record.field(tag::REPOSITORY, repository.as_bytes());
            record.field(tag::GENERATION, &generation.to_le_bytes());
        }
        record.finish()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let is_first = bytes.get(8..12) == Some(&VERSION_1.version.to_le_bytes()[..]);
        let record = RecordFields::parse(if is_first { VERSION_1 } else { VERSION_2 }, bytes)?;
        Ok(Self {
            name: record.text(tag::NAME, "name")?.parse().map_err(|_| RecordError::Field("name"))?,
            commit: CommitId::from_slice(record.require(tag::COMMIT, "commit")?).ok_or(RecordError::Field("commit"))?,
            sequence: record.number(tag::SEQUENCE, "sequence")?,
            timestamp: record.time(tag::TIMESTAMP, "timestamp")?,
            binding: match (is_first, record.get(tag::REPOSITORY)) {
                (true, None) => None,
                (true, Some(_)) => Some(Binding::read(&record, CommitOrigin::ThisRef)?),
                (false, _) => Some(Binding::read(&record, CommitOrigin::AnyRef)?),
            },
        })
    }
}

impl Binding {
    fn read(record: &RecordFields<'_>, origin: CommitOrigin) -> Result<Self, RecordError> {
        let repository = record.require(tag::REPOSITORY, "repository")?.try_into();
        Ok(Self {
            repository: RepositoryId::from_bytes(repository.map_err(|_| RecordError::Field("repository"))?),
            generation: record.number(tag::GENERATION, "generation")?,
            expires: match record.get(tag::EXPIRES) {
                Some(_) => Some(record.time(tag::EXPIRES, "expires")?),
                None => None,
            },
            origin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_for_its_own_ref_is_read_by_earlier_versions() {
        let commit = CommitId::of(b"commit");
        let name: RefName = "a/b".parse().expect("legal");
        let former = RefRecord { name, commit, sequence: 3, timestamp: 9, binding: None };
        let bind = |origin| {
            let repository = RepositoryId::from_bytes([7; 16]);
            let binding = Some(Binding { repository, generation: 1, expires: Some(99), origin });
            RefRecord { binding, ..former.clone() }
        };
        let (own, any) = (bind(CommitOrigin::ThisRef), bind(CommitOrigin::AnyRef));
        for record in [&former, &own, &any] {
            assert_eq!(RefRecord::parse(&record.encode()).as_ref(), Ok(record));
        }
        // Earlier versions skip fields that they do not know, which come after those that they know.
        assert!(own.encode().starts_with(&former.encode()));
        assert_eq!(any.encode()[8], 2);
    }
}
