//! Parses the records of a PAX extended header, which state what does not fit an entry's 512-byte block.
//!
//! A record is `"LENGTH KEY=VALUE\n"` and is read by its length, because values, above all those of extended attributes,
//! may contain any byte. Unknown keys are skipped.
//!
//! *Invariants*: records are read one at a time, so an entry uses no more memory than is kept of it: [`TEXT_MAX`] for
//! all but attributes, [`XATTRS_MAX`] for those.
//!
//! *Used by* `archive`, and `tree_builder` for attributes and ACLs.
//!
//! Keys: POSIX.1-2017 `pax`; `GNU.sparse.*` from the GNU tar manual, "Storing Sparse Files"; `SCHILY.*` from star;
//! `LIBARCHIVE.xattr.*` from libarchive; `RHT.security.selinux` from GNU tar's `--selinux`.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::encoding;
use crate::model::{Timestamp, XATTR_VALUE_MAX};

/// Most bytes of keys and values that one header may hold, attributes not counted. A path at a depth of 1,000 is a
/// quarter of this.
pub(super) const TEXT_MAX: usize = 1 << 20;

/// Most bytes of attributes that one header may hold. Linux lists at most 64 KiB of names for an inode, which with
/// values of 100 bytes each is a twentieth of this.
const XATTRS_MAX: usize = 16 << 20;

/// Longest key: those of attributes are the longest, with every byte of a 255-byte name escaped as `%XX`.
const KEY_MAX: usize = 1024;

/// Digits of the longest possible record length.
const LENGTH_DIGITS_MAX: usize = 20;

/// Why the records of an extended header cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PaxError {
    /// The archive ends inside the header, or cannot be read.
    #[error("the extended header cannot be read: {0}")]
    Read(#[from] io::Error),
    /// A record has no length, no `=` or no newline where its length says.
    #[error("an extended header is malformed")]
    Record,
    /// A value is not valid for its key.
    #[error("extended header '{key}' has the illegal value '{}'", .value.escape_ascii())]
    Value {
        /// The key.
        key: &'static str,
        /// The beginning of the value.
        value: Vec<u8>,
    },
    /// The header exceeds a limit.
    #[error("the extended header is too large: {0}")]
    TooLarge(&'static str),
}

/// The values of all records that an import needs. `None` and empty mean that there was no record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxRecords {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) user: Option<Vec<u8>>,
    pub(crate) group: Option<Vec<u8>>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) acl_access: Option<Vec<u8>>,
    pub(crate) acl_default: Option<Vec<u8>>,
    pub(crate) selinux: Option<Vec<u8>>,
    pub(crate) xattrs: RawXattrs,
    /// The attributes in libarchive's encoding, used where `xattrs` has none of the same name.
    pub(crate) libarchive_xattrs: RawXattrs,
    pub(crate) sparse: SparseRecords,
}

/// Names and values of attributes, not yet validated.
pub(super) type RawXattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The records of a sparse file, in any of the three PAX formats.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` in 0.0 and 0.1, `GNU.sparse.realsize` in 1.0.
    pub(crate) real_size: Option<u64>,
    /// The number of runs that 0.0 and 0.1 state.
    pub(crate) runs: Option<u64>,
    /// Alternating offsets and lengths, from the map of 0.1 or the repeated records of 0.0.
    pub(crate) map: Vec<u64>,
}

impl PaxRecords {
    /// Reads all records of one header, which override the values that are set already.
    pub(super) fn read(&mut self, header: impl Read) -> Result<(), PaxError> {
        let mut header = CountingReader { inner: header, count: 0 };
        let (mut text, mut attributes) = (0, 0);
        while let Some(length) = read_length(&mut header)? {
            let start = header.count;
            let key = read_key(&mut header, length)?;
            let value_length = length.checked_sub(header.count - start + 1).ok_or(PaxError::Record)?;
            match KeyKind::of(&key) {
                KeyKind::Unknown => skip_value(&mut header, value_length)?,
                KeyKind::Text => {
                    text += key.len().saturating_add(usize::try_from(value_length).unwrap_or(usize::MAX));
                    if text > TEXT_MAX {
                        return Err(PaxError::TooLarge("over 1 MiB of text"));
                    }
                    let value = read_value(&mut header, value_length)?;
                    self.set(&key, value)?;
                }
                KeyKind::Attribute => {
                    // libarchive writes values in base64, which is a third longer.
                    let longest = XATTR_VALUE_MAX as u64 / 3 * 4 + 4;
                    attributes += key.len().saturating_add(usize::try_from(value_length).unwrap_or(usize::MAX));
                    if value_length > longest || attributes > XATTRS_MAX {
                        return Err(PaxError::TooLarge("extended attributes beyond what Linux can hold"));
                    }
                    let value = read_value(&mut header, value_length)?;
                    self.set_attribute(&key, value)?;
                }
            }
            if read_byte(&mut header)? != Some(b'\n') {
                return Err(PaxError::Record);
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), PaxError> {
        // An empty value unsets the value of a global header.
        let text = |value: Vec<u8>| (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = text(value),
            b"linkpath" => self.link = text(value),
            b"size" => self.size = parse_number("size", &value)?,
            b"uid" => self.uid = parse_number("uid", &value)?,
            b"gid" => self.gid = parse_number("gid", &value)?,
            b"uname" => self.user = text(value),
            b"gname" => self.group = text(value),
            b"mtime" => self.mtime = parse_time("mtime", &value)?,
            b"SCHILY.devmajor" => self.major = parse_number("SCHILY.devmajor", &value)?,
            b"SCHILY.devminor" => self.minor = parse_number("SCHILY.devminor", &value)?,
            b"SCHILY.acl.access" => self.acl_access = text(value),
            b"SCHILY.acl.default" => self.acl_default = text(value),
            b"RHT.security.selinux" => self.selinux = text(value),
            b"GNU.sparse.major" => self.sparse.major = parse_number("GNU.sparse.major", &value)?,
            b"GNU.sparse.minor" => self.sparse.minor = parse_number("GNU.sparse.minor", &value)?,
            b"GNU.sparse.name" => self.sparse.name = text(value),
            b"GNU.sparse.size" => self.sparse.real_size = parse_number("GNU.sparse.size", &value)?,
            b"GNU.sparse.realsize" => self.sparse.real_size = parse_number("GNU.sparse.realsize", &value)?,
            b"GNU.sparse.numblocks" => self.sparse.runs = parse_number("GNU.sparse.numblocks", &value)?,
            b"GNU.sparse.offset" => self.sparse.map.extend(parse_number::<u64>("GNU.sparse.offset", &value)?),
            b"GNU.sparse.numbytes" => self.sparse.map.extend(parse_number::<u64>("GNU.sparse.numbytes", &value)?),
            b"GNU.sparse.map" => self.sparse.map = parse_sparse_map(&value)?,
            _ => {}
        }
        Ok(())
    }

    fn set_attribute(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), PaxError> {
        if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
            self.xattrs.insert(encoding::unescape_schily(name), value);
        } else if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
            let decoded = encoding::from_base64(&value)
                .ok_or_else(|| PaxError::Value { key: "LIBARCHIVE.xattr", value: excerpt(&value) })?;
            self.libarchive_xattrs.insert(encoding::unescape_url(name), decoded);
        }
        Ok(())
    }
}

const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";

/// The kinds of keys, which differ in how the value is limited.
enum KeyKind {
    Unknown,
    Text,
    Attribute,
}

impl KeyKind {
    fn of(key: &[u8]) -> Self {
        if key.starts_with(SCHILY_XATTR) || key.starts_with(LIBARCHIVE_XATTR) {
            return Self::Attribute;
        }
        match key {
            b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"uname" | b"gname" | b"mtime" => Self::Text,
            b"RHT.security.selinux" | b"SCHILY.acl.access" | b"SCHILY.acl.default" => Self::Text,
            b"SCHILY.devmajor" | b"SCHILY.devminor" => Self::Text,
            _ if key.starts_with(b"GNU.sparse.") => Self::Text,
            _ => Self::Unknown,
        }
    }
}

/// A reader that counts the bytes read from a header.
struct CountingReader<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count += length as u64;
        Ok(length)
    }
}

fn read_byte(header: &mut impl Read) -> io::Result<Option<u8>> {
    let mut byte = [0];
    match header.read_exact(&mut byte) {
        Ok(()) => Ok(Some(byte[0])),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the number of bytes of the record after its length and the space, or `None` at the end of the header.
fn read_length(header: &mut impl Read) -> Result<Option<u64>, PaxError> {
    let mut length = 0_u64;
    for digits in 0..=LENGTH_DIGITS_MAX as u64 {
        match read_byte(header)? {
            Some(digit @ b'0'..=b'9') => {
                let next = length.checked_mul(10).and_then(|length| length.checked_add(u64::from(digit - b'0')));
                length = next.ok_or(PaxError::Record)?;
            }
            Some(b' ') => return Ok(Some(length.checked_sub(digits + 1).ok_or(PaxError::Record)?)),
            // GNU tar and others pad the header with zeros when they stated too large a size for it.
            None | Some(0) if digits == 0 => return Ok(None),
            _ => break,
        }
    }
    Err(PaxError::Record)
}

/// Reads the key and its `=`. A key that is longer than any known one is returned truncated.
fn read_key(header: &mut impl Read, length: u64) -> Result<Vec<u8>, PaxError> {
    let mut key = Vec::new();
    for _ in 0..length {
        match read_byte(header)?.ok_or(PaxError::Record)? {
            b'=' => return Ok(key),
            byte if key.len() < KEY_MAX => key.push(byte),
            _ => return Err(PaxError::TooLarge("a key of over 1024 bytes")),
        }
    }
    Err(PaxError::Record)
}

fn read_value(header: &mut impl Read, length: u64) -> Result<Vec<u8>, PaxError> {
    let mut value = Vec::new();
    if header.take(length).read_to_end(&mut value)? as u64 != length {
        return Err(PaxError::Record);
    }
    Ok(value)
}

fn skip_value(header: &mut impl Read, length: u64) -> Result<(), PaxError> {
    if io::copy(&mut header.take(length), &mut io::sink())? != length {
        return Err(PaxError::Record);
    }
    Ok(())
}

fn excerpt(value: &[u8]) -> Vec<u8> {
    value.iter().copied().take(40).collect()
}

fn parse_number<T: std::str::FromStr>(key: &'static str, value: &[u8]) -> Result<Option<T>, PaxError> {
    if value.is_empty() {
        return Ok(None);
    }
    let parsed = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    parsed.map(Some).ok_or_else(|| PaxError::Value { key, value: excerpt(value) })
}

/// Parses decimal seconds, negative before 1970, with any number of decimal places. Fractions of a nanosecond are
/// rounded towards the past, as in GNU tar.
fn parse_time(key: &'static str, value: &[u8]) -> Result<Option<Timestamp>, PaxError> {
    if value.is_empty() {
        return Ok(None);
    }
    let bad = || PaxError::Value { key, value: excerpt(value) };
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let seconds: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let digit = |place: usize| fraction.as_bytes().get(place).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, place| sum * 10 + digit(place));
    if !whole.starts_with('-') {
        return Ok(Some(Timestamp { seconds, nanoseconds }));
    }
    let rest = fraction.bytes().skip(9).any(|digit| digit != b'0');
    let before = nanoseconds + u32::from(rest);
    let (seconds, nanoseconds) = match before {
        0 => (Some(seconds), 0),
        _ => (seconds.checked_sub(1), 1_000_000_000 - before),
    };
    Ok(Some(Timestamp { seconds: seconds.ok_or_else(bad)?, nanoseconds }))
}

fn parse_sparse_map(value: &[u8]) -> Result<Vec<u64>, PaxError> {
    let bad = || PaxError::Value { key: "GNU.sparse.map", value: excerpt(value) };
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().map_err(|_| bad())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(bytes: &[u8]) -> Result<PaxRecords, PaxError> {
        let mut records = PaxRecords::default();
        records.read(bytes).map(|()| records)
    }

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length);
        let mut bytes = format!("{} {key}=", length.expect("a length that counts itself exists")).into_bytes();
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn values_are_read_by_length() {
        let bytes = [
            record("path", b"a\nb"),
            record("comment", b"skipped=\n"),
            record("SCHILY.xattr.user.a%3Db", b"\n\0=\n"),
            record("LIBARCHIVE.xattr.user.%E2%82%AC", b"AAr/"),
            record("uid", b"4294967294"),
        ]
        .concat();
        let records = records(&bytes).expect("valid");
        assert_eq!(records.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(records.xattrs.get(&b"user.a=b"[..]).map(Vec::as_slice), Some(&b"\n\0=\n"[..]));
        assert_eq!(records.libarchive_xattrs.get("user.€".as_bytes()).map(Vec::as_slice), Some(&b"\0\x0a\xff"[..]));
        assert_eq!(records.uid, Some(u32::MAX - 1));
    }

    #[test]
    fn later_records_win_and_empty_ones_cancel() {
        let bytes = [record("path", b"a"), record("path", b"b"), record("linkpath", b"x"), record("linkpath", b"")];
        let records = records(&bytes.concat()).expect("valid");
        assert_eq!((records.path.as_deref(), records.link), (Some(&b"b"[..]), None));
    }

    #[test]
    fn times_have_any_precision_and_sign() {
        for (text, seconds, nanoseconds) in [
            ("1", 1, 0),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.000000001", -1, 999_999_999),
            ("-0.0000000001", -1, 999_999_999),
            (".25", 0, 250_000_000),
        ] {
            let expected = Timestamp { seconds, nanoseconds };
            assert_eq!(parse_time("mtime", text.as_bytes()).expect("valid"), Some(expected), "{text}");
        }
        for bad in ["x", "1.x", "--1", "1e3", "99999999999999999999", "-9223372036854775808.5"] {
            assert!(parse_time("mtime", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_and_oversized_headers_are_refused() {
        let good = record("path", b"abc");
        for length in 1..good.len() {
            assert!(records(&good[..length]).is_err(), "{length}");
        }
        for bad in [&b"5 a=b\n"[..], b"3 a=b\n", b"99 a=b\n", b"a=b\n", b"7 path\n\n", b"18446744073709551616 a=b\n"] {
            assert!(records(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(matches!(records(&record("path", &[b'x'; TEXT_MAX])), Err(PaxError::TooLarge(_))));
        assert!(matches!(records(&record("SCHILY.xattr.user.x", &[b'x'; 90_000])), Err(PaxError::TooLarge(_))));
        assert!(records(&record("comment", &[b'x'; 2 * TEXT_MAX])).is_ok());
    }
}
