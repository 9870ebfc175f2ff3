//! Writes the headers of a PAX archive.
//!
//! Each entry has one ustar block. Values that do not fit it, or for which ustar has no field, are written as records of
//! an extended header before it: POSIX.1-2017 `pax`, with `SCHILY.xattr.*` and `SCHILY.acl.*` of star and `GNU.sparse.*`
//! of GNU tar. The extended header is written only where it is needed.
//!
//! *Not here*: reading archives (`compose::source::tar`).
//!
//! *Used by* `export_tar`.

use std::io::{self, Write};
use std::ops::Range;

use crate::image::Attributes;
use crate::model::{ACL_ACCESS, ACL_DEFAULT, DeviceNumber, PosixAcl, Xattrs};

/// Size in bytes of the blocks that make up an archive.
pub(super) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;

/// Name of every extended header, seen by readers that extract it as a file.
const EXTENDED_NAME: &[u8] = b"././@PaxHeader";

/// The id of the user `nobody`, written into a field that is too small for the owner, so that a reader without support
/// for extended headers does not give the file to root.
const NOBODY_ID: u64 = 65_534;

/// The type of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryType {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    Extended,
}

impl EntryType {
    const fn flag(self) -> u8 {
        match self {
            Self::Regular => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
            Self::Extended => b'x',
        }
    }
}

/// The header of one entry while it is being built.
pub(super) struct EntryHeader {
    block: [u8; BLOCK],
    records: Vec<u8>,
}

impl EntryHeader {
    pub(super) fn new(kind: EntryType, path: &[u8]) -> Self {
        let mut header = Self { block: [0; BLOCK], records: Vec::new() };
        header.block[TYPE] = kind.flag();
        header.block[MAGIC].copy_from_slice(b"ustar\x0000");
        header.put_text(NAME, "path", path);
        for field in [MODE, UID, GID, SIZE, MTIME, MAJOR, MINOR] {
            header.put_octal(field, 0);
        }
        header
    }

    /// Returns the header of a sparse file whose map precedes its data; `size` includes the holes. Readers that do not know
    /// the format see another name, so they do not mistake the map for the file's content.
    pub(super) fn sparse(path: &[u8], size: u64) -> Self {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = slash.map_or((&b"."[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        let mut header = Self::new(EntryType::Regular, &[directory, b"/GNUSparseFile.0/", name].concat());
        header.add_record("GNU.sparse.major", b"1");
        header.add_record("GNU.sparse.minor", b"0");
        header.add_record("GNU.sparse.name", path);
        header.add_record("GNU.sparse.realsize", size.to_string().as_bytes());
        header
    }

    /// Sets mode, owner and time.
    pub(super) fn set_metadata(&mut self, attributes: &Attributes) {
        self.put_octal(MODE, attributes.permissions.into());
        for (field, key, id) in [(UID, "uid", attributes.uid), (GID, "gid", attributes.gid)] {
            if !self.put_octal(field.clone(), id.into()) {
                self.put_octal(field, NOBODY_ID);
                self.add_record(key, id.to_string().as_bytes());
            }
        }
        let seconds = attributes.mtime.seconds;
        let nanoseconds = attributes.mtime.nanoseconds;
        let fits = u64::try_from(seconds).is_ok_and(|seconds| self.put_octal(MTIME, seconds));
        if !fits || nanoseconds > 0 {
            self.add_record("mtime", format_time(seconds, nanoseconds).as_bytes());
        }
    }

    pub(super) fn set_link(&mut self, target: &[u8]) {
        self.put_text(LINK, "linkpath", target);
    }

    pub(super) fn set_device(&mut self, device: DeviceNumber) {
        for (field, key, number) in [(MAJOR, "SCHILY.devmajor", device.major), (MINOR, "SCHILY.devminor", device.minor)]
        {
            if !self.put_octal(field, number.into()) {
                self.add_record(key, number.to_string().as_bytes());
            }
        }
    }

    /// Sets the length in bytes of the data that follow.
    pub(super) fn set_size(&mut self, size: u64) {
        if !self.put_octal(SIZE, size) {
            self.add_record("size", size.to_string().as_bytes());
        }
    }

    /// Adds the extended attributes. ACLs are also written as text, because GNU tar sets those after the attributes.
    pub(super) fn set_xattrs(&mut self, xattrs: &Xattrs) {
        for (attribute, key) in [(ACL_ACCESS, "SCHILY.acl.access"), (ACL_DEFAULT, "SCHILY.acl.default")] {
            if let Some(acl) = xattrs.get(attribute).and_then(|value| PosixAcl::from_xattr(value).ok()) {
                self.add_record(key, acl.to_string().as_bytes());
            }
        }
        for (name, value) in xattrs.iter() {
            self.add_record_bytes(&[b"SCHILY.xattr.", escape_xattr_name(name).as_slice()].concat(), value);
        }
    }

    /// Writes the extended header, if one is needed, and the block.
    pub(super) fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            let mut extended = Self::new(EntryType::Extended, EXTENDED_NAME);
            extended.put_octal(MODE, 0o644);
            // The field holds up to 8 GiB, which records cannot reach: attributes are in memory, each with at most 64 KiB.
            extended.put_octal(SIZE, records.len() as u64);
            extended.write_block(out)?;
            out.write_all(&records)?;
            write_padding(out, records.len() as u64)?;
        }
        self.write_block(out)
    }

    fn write_block(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.block[CHECKSUM].fill(b' ');
        let sum: u32 = self.block.iter().map(|byte| u32::from(*byte)).sum();
        self.block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&self.block)
    }

    /// Writes a number into a field. Returns `false` and leaves the field unchanged if the number is too large.
    fn put_octal(&mut self, field: Range<usize>, number: u64) -> bool {
        let digits = field.len() - 1;
        let text = format!("{number:0digits$o}\0");
        let fits = text.len() == field.len();
        if fits {
            self.block[field].copy_from_slice(text.as_bytes());
        }
        fits
    }

    /// Writes a text into a field. If it is too long, the field gets its beginning and a record the whole text.
    fn put_text(&mut self, field: Range<usize>, key: &str, text: &[u8]) {
        let length = text.len().min(field.len());
        self.block[field.start..field.start + length].copy_from_slice(&text[..length]);
        if length < text.len() {
            self.add_record(key, text);
        }
    }

    fn add_record(&mut self, key: &str, value: &[u8]) {
        self.add_record_bytes(key.as_bytes(), value);
    }

    /// Appends the record `"LENGTH KEY=VALUE\n"`, whose length includes its own digits.
    fn add_record_bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + b" =\n".len();
        let mut length = rest + decimal_digits(rest);
        length = rest + decimal_digits(length);
        self.records.extend_from_slice(length.to_string().as_bytes());
        self.records.push(b' ');
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }
}

/// Writes the zeros that pad `length` bytes of data to a whole block.
pub(super) fn write_padding(out: &mut impl Write, length: u64) -> io::Result<()> {
    let past = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    out.write_all(&[0; BLOCK][..(BLOCK - past) % BLOCK])
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

/// Returns a time as decimal seconds with nine decimal places, or with none where they are zeros. `nanoseconds` count
/// forward from the whole second below; the text counts away from zero.
fn format_time(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    if fraction == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:09}") }
}

/// Escapes `=` and `%` in the name of an attribute for use in a key, as GNU tar does.
fn escape_xattr_name(name: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'=' => escaped.extend_from_slice(b"%3D"),
            b'%' => escaped.extend_from_slice(b"%25"),
            other => escaped.push(*other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_away_from_zero() {
        for (seconds, nanoseconds, text) in [
            (1, 0, "1"),
            (1, 5, "1.000000005"),
            (-2, 500_000_000, "-1.500000000"),
            (-1, 0, "-1"),
            (-1, 999_999_999, "-0.000000001"),
        ] {
            assert_eq!(format_time(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn record_length_counts_its_own_digits() {
        for length in 0..2000 {
            let mut header = EntryHeader::new(EntryType::Regular, b"x");
            header.add_record("k", &vec![b'v'; length]);
            let digits = header.records.iter().position(|byte| *byte == b' ').expect("a space");
            let stated = std::str::from_utf8(&header.records[..digits]).expect("digits");
            assert_eq!(stated.parse(), Ok(header.records.len()), "{length}");
        }
    }
}
