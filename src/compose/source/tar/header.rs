//! Parses one 512-byte header block of an archive into typed fields.
//!
//! It supports the three layouts that occur (V7, POSIX ustar and old GNU) and both encodings of numbers, octal digits
//! and GNU's base-256. Source: POSIX.1-2017 `pax` (ustar Interchange Format) and the GNU tar manual, "Basic Tar Format".
//!
//! *Not here*: the data after the block (`archive`), and writing archives (`export::tar`).
//!
//! *Used by* `archive`.

use std::ops::Range;

use crate::model::{Extent, Timestamp};

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
const MAGIC: Range<usize> = 257..263;
const USER: Range<usize> = 265..297;
const GROUP: Range<usize> = 297..329;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
/// Where star marks its layout, in which the prefix is 24 bytes shorter and followed by times.
const STAR_MAGIC: Range<usize> = 508..512;
const STAR_PREFIX: Range<usize> = 345..476;
/// In the old GNU layout: four runs of a sparse file, a flag that more runs follow in further blocks, and the size with
/// the holes.
const GNU_RUNS: Range<usize> = 386..482;
const GNU_EXTENDED: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;
/// In a block of further runs: 21 runs and the flag.
const GNU_MORE_RUNS: Range<usize> = 0..504;
const GNU_MORE_EXTENDED: usize = 504;
const GNU_RUN: usize = 24;

/// Why a block is not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The checksum does not match.
    #[error("this is not a tar header (its checksum is wrong)")]
    Checksum,
    /// A number cannot be read, or is out of the range of its field.
    #[error("the {0} is not a number that can be stored")]
    Number(&'static str),
}

/// A header block with a correct checksum.
pub(super) struct HeaderBlock<'a>(&'a [u8; BLOCK]);

#[derive(PartialEq, Eq)]
enum HeaderLayout {
    V7,
    Ustar,
    Gnu,
}

impl<'a> HeaderBlock<'a> {
    /// Verifies the checksum, which is the sum of all bytes with the field itself taken as spaces. Some old programs
    /// summed signed bytes, which every reader accepts.
    pub(super) fn check(block: &'a [u8; BLOCK]) -> Result<Self, HeaderError> {
        let stated = parse_number(&block[CHECKSUM]).ok_or(HeaderError::Checksum)?;
        let others = || block[..CHECKSUM.start].iter().chain(&block[CHECKSUM.end..]);
        let spaces = 8 * i64::from(b' ');
        let unsigned = others().map(|byte| i64::from(*byte)).sum::<i64>() + spaces;
        let signed = others().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + spaces;
        if stated == i128::from(unsigned) || stated == i128::from(signed) {
            Ok(Self(block))
        } else {
            Err(HeaderError::Checksum)
        }
    }

    fn layout(&self) -> HeaderLayout {
        match &self.0[MAGIC] {
            b"ustar\0" => HeaderLayout::Ustar,
            b"ustar " => HeaderLayout::Gnu,
            _ => HeaderLayout::V7,
        }
    }

    /// Returns the letter for the type of the entry.
    pub(super) const fn type_flag(&self) -> u8 {
        self.0[TYPE]
    }

    /// Returns the name, with the prefix where the layout has one.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[NAME]);
        let prefix = match self.layout() {
            HeaderLayout::Ustar if &self.0[STAR_MAGIC] == b"tar\0" => until_nul(&self.0[STAR_PREFIX]),
            HeaderLayout::Ustar => until_nul(&self.0[PREFIX]),
            HeaderLayout::V7 | HeaderLayout::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Returns the target of a link.
    pub(super) fn link(&self) -> &'a [u8] {
        until_nul(&self.0[LINK])
    }

    /// Returns the lower 12 bits of the mode.
    pub(super) fn permissions(&self) -> Result<u16, HeaderError> {
        let mode = parse_number(&self.0[MODE]).ok_or(HeaderError::Number("mode"))?;
        u16::try_from(mode & 0o7777).map_err(|_| HeaderError::Number("mode"))
    }

    pub(super) fn uid(&self) -> Result<u32, HeaderError> {
        self.number_field(UID, "owner")
    }

    pub(super) fn gid(&self) -> Result<u32, HeaderError> {
        self.number_field(GID, "group")
    }

    pub(super) fn size(&self) -> Result<u64, HeaderError> {
        self.number_field(SIZE, "size")
    }

    pub(super) fn mtime(&self) -> Result<Timestamp, HeaderError> {
        Ok(Timestamp { seconds: self.number_field(MTIME, "mtime")?, nanoseconds: 0 })
    }

    /// Returns the name of the owner, which is empty in V7 archives and those made with `--numeric-owner`.
    pub(super) fn user(&self) -> &'a [u8] {
        if self.layout() == HeaderLayout::V7 { b"" } else { until_nul(&self.0[USER]) }
    }

    /// Returns the name of the group, which is empty in the same archives.
    pub(super) fn group(&self) -> &'a [u8] {
        if self.layout() == HeaderLayout::V7 { b"" } else { until_nul(&self.0[GROUP]) }
    }

    pub(super) fn major(&self) -> Result<u32, HeaderError> {
        self.number_field(MAJOR, "major device number")
    }

    pub(super) fn minor(&self) -> Result<u32, HeaderError> {
        self.number_field(MINOR, "minor device number")
    }

    /// Returns the size of an old GNU sparse file with its holes.
    pub(super) fn gnu_real_size(&self) -> Result<u64, HeaderError> {
        self.number_field(GNU_REAL_SIZE, "size of the sparse file")
    }

    /// Returns the first runs of an old GNU sparse file, and whether more follow.
    pub(super) fn gnu_runs(&self) -> Result<(Vec<Extent>, bool), HeaderError> {
        Ok((parse_runs(&self.0[GNU_RUNS])?, self.0[GNU_EXTENDED] != 0))
    }

    fn number_field<T: TryFrom<i128>>(&self, field: Range<usize>, name: &'static str) -> Result<T, HeaderError> {
        parse_number(&self.0[field]).and_then(|value| T::try_from(value).ok()).ok_or(HeaderError::Number(name))
    }
}

/// Returns the runs of a block that continues the map of an old GNU sparse file, and whether more follow.
pub(super) fn gnu_more_runs(block: &[u8; BLOCK]) -> Result<(Vec<Extent>, bool), HeaderError> {
    Ok((parse_runs(&block[GNU_MORE_RUNS])?, block[GNU_MORE_EXTENDED] != 0))
}

fn parse_runs(bytes: &[u8]) -> Result<Vec<Extent>, HeaderError> {
    let unsigned = |field: &[u8]| parse_number(field).and_then(|value| u64::try_from(value).ok());
    let run = |bytes: &[u8]| {
        let (offset, length) = bytes.split_at(GNU_RUN / 2);
        Some(Extent { offset: unsigned(offset)?, length: unsigned(length)? })
    };
    // An unused slot begins with a zero, and all slots after it are unused too.
    bytes
        .chunks_exact(GNU_RUN)
        .take_while(|bytes| bytes[0] != 0)
        .map(|bytes| run(bytes).ok_or(HeaderError::Number("sparse map")))
        .collect()
}

/// Returns the bytes before the first NUL.
fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a numeric field. An empty one is 0, since old archives leave unused fields empty.
fn parse_number(field: &[u8]) -> Option<i128> {
    match field.first()? {
        // Base-256, big-endian: the top bit marks the encoding, the next one is the sign.
        first @ 0x80.. => {
            let negative = first & 0x40 != 0;
            let top = if negative { i128::from(first | 0x80) - 0x100 } else { i128::from(first & 0x3f) };
            Some(field[1..].iter().fold(top, |value, byte| value << 8 | i128::from(*byte)))
        }
        _ => {
            let digits = until_nul(field).trim_ascii();
            if digits.is_empty() {
                return Some(0);
            }
            let legal = digits.iter().all(|byte| matches!(byte, b'0'..=b'7'));
            legal.then(|| digits.iter().fold(0, |value, digit| value << 3 | i128::from(digit - b'0')))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"77777777", Some(0o77_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\xff\xff\xff\xff", Some(0xffff_ffff)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", Some(-256)),
            (b"0000648\0", None),
            (b"-1\0", None),
        ] {
            assert_eq!(parse_number(field), expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn checksum_detects_changes_and_may_be_signed() {
        let mut block = [0; BLOCK];
        block[..5].copy_from_slice(b"n\xe4me\0");
        let unsigned: u32 = block.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        for sum in [unsigned, unsigned - 256] {
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(HeaderBlock::check(&block).map(|header| header.path()), Ok(b"n\xe4me".to_vec()));
        }
        block[0] ^= 1;
        assert!(HeaderBlock::check(&block).is_err());
    }
}
