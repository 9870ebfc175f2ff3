//! The commit record and its byte format, version 1.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWCMT\0"
//!      8    4  version = 1
//!     12    8  compatible features       unknown bits are ignored
//!     20    8  read-only features        unknown bits forbid writing successors
//!     28    8  incompatible features     unknown bits forbid reading
//!     36       fields, each:  u16 tag · u32 length · that many bytes
//! ```
//!
//! All integers are little-endian. Tags ascend strictly except for [`tag::EXTRA`], which repeats with ascending keys, so
//! that one commit has exactly one encoding and its id, the SHA-256 of these bytes, is reproducible. A field with an
//! unknown tag is skipped: what must not be skipped announces itself by an incompatible feature.
//!
//! Time comes in as a field; nothing here reads a clock. Signatures stand beside the record, not in it.

use std::collections::BTreeMap;

use super::{CommitId, ImageId, RefName};

const MAGIC: [u8; 8] = *b"SAPWCMT\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 36;

/// Largest record that is read, in bytes. A package list of 10,000 packages with checksums is about 2 MiB.
pub const COMMIT_SIZE_MAX: usize = 16 << 20;

mod tag {
    pub const IMAGE: u16 = 1;
    pub const PARENT: u16 = 2;
    pub const REF: u16 = 3;
    pub const SEQUENCE: u16 = 4;
    pub const TIMESTAMP: u16 = 5;
    pub const SUBJECT: u16 = 6;
    pub const VERSION: u16 = 7;
    pub const ENTRIES: u16 = 8;
    pub const CONTENT_BYTES: u16 = 9;
    pub const EXTRA: u16 = 64;
}

/// A root filesystem at one moment, and where it stands in the history of its ref.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Commit {
    /// The tree.
    pub image: ImageId,
    /// The commit before this one, if any.
    pub parent: Option<CommitId>,
    /// The ref this commit was made for.
    #[serde(rename = "ref")]
    pub ref_name: RefName,
    /// One more than the parent's, so that an older commit cannot pass for a newer one.
    pub sequence: u64,
    /// Seconds since 1970, given by whoever commits.
    pub timestamp: i64,
    /// One line for people; may be empty.
    pub subject: String,
    /// The version of the operating system, such as `12.8`.
    pub version: Option<String>,
    /// Number of entries of the image, the root counted.
    pub entries: u64,
    /// Sum of the sizes of its regular files in bytes, each inode once.
    pub content_bytes: u64,
    /// Further facts by key, such as package lists.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// Why bytes are not a commit record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The bytes are not the ones the id names.
    #[error("the record does not have the digest it is named by")]
    WrongId,
    /// The bytes do not start like a commit record.
    #[error("not a commit record")]
    Magic,
    /// Written by a newer Sapwood in a way this one cannot read.
    #[error("commit format {version} with features {features:#x} is newer than this program; upgrade sapwood")]
    TooNew {
        /// Format version found.
        version: u32,
        /// Incompatible feature bits found.
        features: u64,
    },
    /// The record ends in the middle of a field, or is larger than [`COMMIT_SIZE_MAX`].
    #[error("the record has a bad length")]
    Length,
    /// Fields out of order or repeated.
    #[error("the fields are not in canonical order")]
    Order,
    /// A field is missing or its value is illegal.
    #[error("field '{0}' is missing or illegal")]
    Field(&'static str),
}

impl Commit {
    /// The one encoding of this commit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.resize(HEADER_SIZE, 0);
        let mut field = |tag: u16, value: &[u8]| {
            let length = u32::try_from(value.len()).expect("a field is far below 4 GiB: it was typed or parsed by us");
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(value);
        };
        field(tag::IMAGE, self.image.as_bytes());
        if let Some(parent) = &self.parent {
            field(tag::PARENT, parent.as_bytes());
        }
        field(tag::REF, self.ref_name.as_str().as_bytes());
        field(tag::SEQUENCE, &self.sequence.to_le_bytes());
        field(tag::TIMESTAMP, &self.timestamp.to_le_bytes());
        field(tag::SUBJECT, self.subject.as_bytes());
        if let Some(version) = &self.version {
            field(tag::VERSION, version.as_bytes());
        }
        field(tag::ENTRIES, &self.entries.to_le_bytes());
        field(tag::CONTENT_BYTES, &self.content_bytes.to_le_bytes());
        for (key, value) in &self.extra {
            field(tag::EXTRA, format!("{key}\0{value}").as_bytes());
        }
        bytes
    }

    /// The id of this commit.
    #[must_use]
    pub fn id(&self) -> CommitId {
        CommitId::of(&self.encode())
    }

    /// Reads a record and checks that it is the one `id` names.
    ///
    /// # Errors
    /// [`CommitError`] for any deviation from the canonical form.
    pub fn decode(bytes: &[u8], id: CommitId) -> Result<Self, CommitError> {
        if CommitId::of(bytes) != id {
            return Err(CommitError::WrongId);
        }
        Self::parse(bytes)
    }

    /// Reads a record whose id is not known.
    ///
    /// # Errors
    /// [`CommitError`] for any deviation from the canonical form.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommitError> {
        if bytes.len() > COMMIT_SIZE_MAX {
            return Err(CommitError::Length);
        }
        check_header(bytes)?;
        let mut fields = Fields { rest: &bytes[HEADER_SIZE..], last_tag: 0 };
        let mut single = BTreeMap::new();
        let mut extra = BTreeMap::new();
        while let Some((tag, value)) = fields.next()? {
            if tag != tag::EXTRA {
                single.insert(tag, value);
                continue;
            }
            let (key, value) = text(value, "extra")?.split_once('\0').ok_or(CommitError::Field("extra"))?;
            if extra.last_key_value().is_some_and(|(last, _): (&String, _)| last.as_str() >= key) {
                return Err(CommitError::Order);
            }
            extra.insert(key.to_owned(), value.to_owned());
        }
        let take = |tag, name| single.get(&tag).copied().ok_or(CommitError::Field(name));
        Ok(Self {
            image: ImageId::from_slice(take(tag::IMAGE, "image")?).ok_or(CommitError::Field("image"))?,
            parent: match single.get(&tag::PARENT) {
                Some(value) => Some(CommitId::from_slice(value).ok_or(CommitError::Field("parent"))?),
                None => None,
            },
            ref_name: text(take(tag::REF, "ref")?, "ref")?.parse().map_err(|_| CommitError::Field("ref"))?,
            sequence: number(take(tag::SEQUENCE, "sequence")?, "sequence")?,
            timestamp: i64::from_le_bytes(number(take(tag::TIMESTAMP, "timestamp")?, "timestamp")?.to_le_bytes()),
            subject: text(take(tag::SUBJECT, "subject")?, "subject")?.to_owned(),
            version: match single.get(&tag::VERSION) {
                Some(value) => Some(text(value, "version")?.to_owned()),
                None => None,
            },
            entries: number(take(tag::ENTRIES, "entries")?, "entries")?,
            content_bytes: number(take(tag::CONTENT_BYTES, "content bytes")?, "content bytes")?,
            extra,
        })
    }
}

fn check_header(bytes: &[u8]) -> Result<(), CommitError> {
    if bytes.get(..8) != Some(&MAGIC[..]) || bytes.len() < HEADER_SIZE {
        return Err(CommitError::Magic);
    }
    let mut version = [0; 4];
    version.copy_from_slice(&bytes[8..12]);
    let mut features = [0; 8];
    features.copy_from_slice(&bytes[28..36]);
    let (version, features) = (u32::from_le_bytes(version), u64::from_le_bytes(features));
    if version != VERSION || features != 0 {
        return Err(CommitError::TooNew { version, features });
    }
    Ok(())
}

fn text<'a>(value: &'a [u8], name: &'static str) -> Result<&'a str, CommitError> {
    std::str::from_utf8(value).map_err(|_| CommitError::Field(name))
}

fn number(value: &[u8], name: &'static str) -> Result<u64, CommitError> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| CommitError::Field(name))
}

struct Fields<'a> {
    rest: &'a [u8],
    last_tag: u16,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u16, &'a [u8])>, CommitError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (head, rest) = self.rest.split_at_checked(6).ok_or(CommitError::Length)?;
        let tag = u16::from_le_bytes([head[0], head[1]]);
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let length = usize::try_from(length).map_err(|_| CommitError::Length)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(CommitError::Length)?;
        let repeats = tag == tag::EXTRA && self.last_tag == tag::EXTRA;
        if tag <= self.last_tag && !repeats {
            return Err(CommitError::Order);
        }
        self.last_tag = tag;
        self.rest = rest;
        Ok(Some((tag, value)))
    }
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
    fn decodes_what_it_encodes() {
        let commit = example();
        assert_eq!(Commit::decode(&commit.encode(), commit.id()), Ok(commit));
        let bare = Commit { parent: None, version: None, extra: BTreeMap::new(), ..example() };
        assert_eq!(Commit::decode(&bare.encode(), bare.id()), Ok(bare));
    }

    /// Pins the format: a change of these bytes makes every existing commit unreadable.
    #[test]
    fn the_id_of_the_example_never_changes() {
        assert_eq!(example().id().to_string(), "6be5c5f1932762cbc268594367dfa4b8d38ac8a79b50fe6a1ece1a85f639c9ec");
    }

    #[test]
    fn every_truncation_and_every_flipped_header_byte_is_an_error_or_another_commit() {
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
    fn a_record_under_a_wrong_id_is_refused() {
        assert_eq!(Commit::decode(&example().encode(), CommitId::of(b"x")), Err(CommitError::WrongId));
    }
}
