//! Headers of a PAX archive.
//!
//! An entry has one ustar block. What does not fit it, or that ustar has no field for, stands in records of an extended
//! header before it: POSIX.1-2017 `pax`, with `SCHILY.xattr.*` and `SCHILY.acl.*` of star and `GNU.sparse.*` of GNU tar.
//! The header is written only where it is needed.

use std::io::{self, Write};
use std::ops::Range;

use crate::image::Attributes;
use crate::model::{ACL_ACCESS, ACL_DEFAULT, DeviceNumber, PosixAcl, Xattrs};

/// The unit an archive is made of.
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

/// Name of every extended header, for readers that take it for a file.
const EXTENDED_NAME: &[u8] = b"././@PaxHeader";

/// Stands in a field that is too small for the owner: nobody, so that a reader which knows no extended headers does not
/// give the file to root.
const NOBODY: u64 = 65_534;

/// What an entry is.
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

/// The header of one entry, to be filled and then written.
pub(super) struct Header {
    block: [u8; BLOCK],
    records: Vec<u8>,
}

impl Header {
    pub(super) fn new(kind: EntryType, path: &[u8]) -> Self {
        let mut header = Self { block: [0; BLOCK], records: Vec::new() };
        header.block[TYPE] = kind.flag();
        header.block[MAGIC].copy_from_slice(b"ustar\x0000");
        header.text(NAME, "path", path);
        for field in [MODE, UID, GID, SIZE, MTIME, MAJOR, MINOR] {
            header.octal(field, 0);
        }
        header
    }

    /// Of a file with holes, of `size` bytes with them, whose map precedes its data. Readers that do not know the format
    /// see another name and so do not take the map for content.
    pub(super) fn sparse(path: &[u8], size: u64) -> Self {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = slash.map_or((&b"."[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        let mut header = Self::new(EntryType::Regular, &[directory, b"/GNUSparseFile.0/", name].concat());
        header.record("GNU.sparse.major", b"1");
        header.record("GNU.sparse.minor", b"0");
        header.record("GNU.sparse.name", path);
        header.record("GNU.sparse.realsize", size.to_string().as_bytes());
        header
    }

    /// Mode, owner and time.
    pub(super) fn metadata(&mut self, attributes: &Attributes) {
        self.octal(MODE, attributes.permissions.into());
        for (field, key, id) in [(UID, "uid", attributes.uid), (GID, "gid", attributes.gid)] {
            if !self.octal(field.clone(), id.into()) {
                self.octal(field, NOBODY);
                self.record(key, id.to_string().as_bytes());
            }
        }
        let seconds = attributes.mtime.seconds;
        let nanoseconds = attributes.mtime.nanoseconds;
        let fits = u64::try_from(seconds).is_ok_and(|seconds| self.octal(MTIME, seconds));
        if !fits || nanoseconds > 0 {
            self.record("mtime", decimal(seconds, nanoseconds).as_bytes());
        }
    }

    pub(super) fn link(&mut self, target: &[u8]) {
        self.text(LINK, "linkpath", target);
    }

    pub(super) fn device(&mut self, device: DeviceNumber) {
        for (field, key, number) in [(MAJOR, "SCHILY.devmajor", device.major), (MINOR, "SCHILY.devminor", device.minor)]
        {
            if !self.octal(field, number.into()) {
                self.record(key, number.to_string().as_bytes());
            }
        }
    }

    /// Length of the data that follow.
    pub(super) fn size(&mut self, size: u64) {
        if !self.octal(SIZE, size) {
            self.record("size", size.to_string().as_bytes());
        }
    }

    /// Extended attributes; ACLs also as text, since GNU tar sets those after the attributes.
    pub(super) fn xattrs(&mut self, xattrs: &Xattrs) {
        for (attribute, key) in [(ACL_ACCESS, "SCHILY.acl.access"), (ACL_DEFAULT, "SCHILY.acl.default")] {
            if let Some(acl) = xattrs.get(attribute).and_then(|value| PosixAcl::from_xattr(value).ok()) {
                self.record(key, acl.to_string().as_bytes());
            }
        }
        for (name, value) in xattrs.iter() {
            self.record_bytes(&[b"SCHILY.xattr.", escape(name).as_slice()].concat(), value);
        }
    }

    /// Writes the extended header, if there is one, and the block.
    pub(super) fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            let mut extended = Self::new(EntryType::Extended, EXTENDED_NAME);
            extended.octal(MODE, 0o644);
            // Eight GiB of records cannot be: attributes are in memory and each has 64 KiB at most.
            extended.octal(SIZE, records.len() as u64);
            extended.write_block(out)?;
            out.write_all(&records)?;
            pad(out, records.len() as u64)?;
        }
        self.write_block(out)
    }

    fn write_block(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.block[CHECKSUM].fill(b' ');
        let sum: u32 = self.block.iter().map(|byte| u32::from(*byte)).sum();
        self.block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&self.block)
    }

    /// Puts a number into a field; `false`, and the field as it was, if it is too large.
    fn octal(&mut self, field: Range<usize>, number: u64) -> bool {
        let digits = field.len() - 1;
        let text = format!("{number:0digits$o}\0");
        let fits = text.len() == field.len();
        if fits {
            self.block[field].copy_from_slice(text.as_bytes());
        }
        fits
    }

    /// Puts a text into a field; if it is too long, its beginning, and the whole into a record.
    fn text(&mut self, field: Range<usize>, key: &str, text: &[u8]) {
        let length = text.len().min(field.len());
        self.block[field.start..field.start + length].copy_from_slice(&text[..length]);
        if length < text.len() {
            self.record(key, text);
        }
    }

    fn record(&mut self, key: &str, value: &[u8]) {
        self.record_bytes(key.as_bytes(), value);
    }

    /// `"LENGTH KEY=VALUE\n"`, where the length counts its own digits.
    fn record_bytes(&mut self, key: &[u8], value: &[u8]) {
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

/// Zeros up to the next block after `length` bytes.
pub(super) fn pad(out: &mut impl Write, length: u64) -> io::Result<()> {
    let past = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    out.write_all(&[0; BLOCK][..(BLOCK - past) % BLOCK])
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |digits| digits as usize + 1)
}

/// Seconds with nine decimal places, or none where they are zeros. Time counts forward from the whole second below,
/// text counts away from zero.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    if fraction == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:09}") }
}

/// The name of an attribute in a key: as GNU tar writes it, `=` and `%` escaped.
fn escape(name: &[u8]) -> Vec<u8> {
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
            assert_eq!(decimal(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in 0..2000 {
            let mut header = Header::new(EntryType::Regular, b"x");
            header.record("k", &vec![b'v'; length]);
            let digits = header.records.iter().position(|byte| *byte == b' ').expect("a space");
            let stated = std::str::from_utf8(&header.records[..digits]).expect("digits");
            assert_eq!(stated.parse(), Ok(header.records.len()), "{length}");
        }
    }
}
