//! The format that all small records have in common: a header and fields.
//!
//! ```text
//! offset size
//!      0    8  magic
//!      8    4  version
//!     12    8  compatible features       unknown bits are ignored
//!     20    8  read-only features        unknown bits forbid writing successors
//!     28    8  incompatible features     unknown bits forbid reading
//!     36       fields, each:  u16 tag · u32 length · that many bytes
//! ```
//!
//! All integers are little-endian. A field with an unknown tag is skipped; a writer that adds a field which must not be skipped
//! sets an incompatible feature.
//!
//! *Invariants*: tags ascend strictly, except one that a kind of record may declare as repeating, so that one value has one
//! encoding.
//!
//! *Used by* `model::commit` and `trust`.

use std::collections::BTreeMap;

const HEADER_SIZE: usize = 36;

/// Why bytes are not a record of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes do not start with the magic of this kind of record.
    #[error("not a {0}")]
    Magic(&'static str),
    /// The record was written by a newer Sapwood in a format that this program cannot read.
    #[error("{what} format {version} with features {features:#x} is newer than this program; upgrade sapwood")]
    TooNew {
        /// The kind of record, for messages.
        what: &'static str,
        /// The format version of the record.
        version: u32,
        /// The incompatible feature bits of the record.
        features: u64,
    },
    /// The record ends in the middle of a field, or exceeds the size limit of its kind.
    #[error("the record has a bad length")]
    Length,
    /// The fields are out of order, or one is repeated.
    #[error("the fields are not in canonical order")]
    Order,
    /// A field is missing or its value is illegal.
    #[error("field '{0}' is missing or illegal")]
    Field(&'static str),
}

/// The properties of one kind of record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordKind {
    /// The first bytes.
    pub(crate) magic: [u8; 8],
    /// The format version that is written and read.
    pub(crate) version: u32,
    /// The name of the kind in messages.
    pub(crate) what: &'static str,
    /// The tag that may repeat.
    pub(crate) repeats: Option<u16>,
}

/// A writer that collects the bytes of one record.
pub(crate) struct RecordWriter(Vec<u8>);

impl RecordWriter {
    /// Writes the header of a record.
    pub(crate) fn new(kind: RecordKind) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&kind.magic);
        bytes.extend_from_slice(&kind.version.to_le_bytes());
        bytes.resize(HEADER_SIZE, 0);
        Self(bytes)
    }

    /// Adds a field; tags must ascend.
    pub(crate) fn field(&mut self, tag: u16, value: &[u8]) {
        let length =
            u32::try_from(value.len()).expect("a field is far below 4 GiB: it was typed or parsed by this program");
        self.0.extend_from_slice(&tag.to_le_bytes());
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value);
    }

    /// Returns the record's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The fields of a record, by tag, and the values of the repeating tag in order.
pub(crate) struct RecordFields<'a> {
    single: BTreeMap<u16, &'a [u8]>,
    /// Values of the tag that may repeat.
    pub(crate) repeated: Vec<&'a [u8]>,
}

impl<'a> RecordFields<'a> {
    /// Parses the header and the fields.
    ///
    /// # Errors
    /// [`RecordError`] for any deviation from the canonical form.
    pub(crate) fn parse(kind: RecordKind, bytes: &'a [u8]) -> Result<Self, RecordError> {
        check_header(kind, bytes)?;
        let mut record = Self { single: BTreeMap::new(), repeated: Vec::new() };
        let mut rest = &bytes[HEADER_SIZE..];
        let mut last = 0;
        while !rest.is_empty() {
            let (head, after) = rest.split_at_checked(6).ok_or(RecordError::Length)?;
            let tag = u16::from_le_bytes([head[0], head[1]]);
            let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
            let length = usize::try_from(length).map_err(|_| RecordError::Length)?;
            let (value, after) = after.split_at_checked(length).ok_or(RecordError::Length)?;
            let repeats = kind.repeats == Some(tag);
            if tag < last || (tag == last && !repeats) {
                return Err(RecordError::Order);
            }
            if repeats {
                record.repeated.push(value);
            } else {
                record.single.insert(tag, value);
            }
            (last, rest) = (tag, after);
        }
        Ok(record)
    }

    /// Returns the value of a field; `None` if the record does not have it.
    pub(crate) fn get(&self, tag: u16) -> Option<&'a [u8]> {
        self.single.get(&tag).copied()
    }

    /// Returns the value of a required field; `name` is used in the error message.
    pub(crate) fn require(&self, tag: u16, name: &'static str) -> Result<&'a [u8], RecordError> {
        self.get(tag).ok_or(RecordError::Field(name))
    }

    /// Returns the value of a required field as a number of 8 bytes.
    pub(crate) fn number(&self, tag: u16, name: &'static str) -> Result<u64, RecordError> {
        self.require(tag, name)?.try_into().map(u64::from_le_bytes).map_err(|_| RecordError::Field(name))
    }

    /// Returns the value of a required field as a time in seconds since 1970.
    pub(crate) fn time(&self, tag: u16, name: &'static str) -> Result<i64, RecordError> {
        self.require(tag, name)?.try_into().map(i64::from_le_bytes).map_err(|_| RecordError::Field(name))
    }

    pub(crate) fn text(&self, tag: u16, name: &'static str) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.require(tag, name)?).map_err(|_| RecordError::Field(name))
    }
}

fn check_header(kind: RecordKind, bytes: &[u8]) -> Result<(), RecordError> {
    if bytes.get(..8) != Some(&kind.magic[..]) || bytes.len() < HEADER_SIZE {
        return Err(RecordError::Magic(kind.what));
    }
    let mut version = [0; 4];
    version.copy_from_slice(&bytes[8..12]);
    let mut features = [0; 8];
    features.copy_from_slice(&bytes[28..36]);
    let (version, features) = (u32::from_le_bytes(version), u64::from_le_bytes(features));
    if version == kind.version && features == 0 {
        Ok(())
    } else {
        Err(RecordError::TooNew { what: kind.what, version, features })
    }
}
