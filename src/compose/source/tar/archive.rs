//! Reads an archive as a stream of members: each entry with everything that the headers before it state, then its data.
//!
//! It supports the formats V7, ustar, GNU and PAX with global headers, and only moves forward, so it can read pipes.
//! The `tar` crate is not used because it splits records at newlines, which attributes contain, holds extended headers
//! of any length in memory and accepts a truncated archive as complete.
//!
//! *Not here*: trees (`tree_builder`), and the layout of the header block (`header`).
//!
//! *Invariants*: memory is bounded by the limits for one member, whatever lengths the archive claims. An archive that
//! ends inside a member or its headers is an error; one that ends after a member, without an end mark, is not.
//!
//! *Used by* `read_tar`.

use std::io::{self, BufRead, Read};

use super::header::{BLOCK, HeaderBlock, HeaderError, gnu_more_runs};
use super::pax::{PaxError, PaxRecords, TEXT_MAX};
use super::sparse::{MapReadError, SparseError, SparseMap, push_run};
use crate::model::{DeviceNumber, Extent, Timestamp};

/// Largest file in bytes that is accepted: twice what ext4 can hold.
const FILE_SIZE_MAX: u64 = 1 << 45;

/// Largest sparse file in bytes that is accepted. A few bytes of an archive can claim any size, and the zeros have to be
/// hashed: 1 TiB takes ten minutes and 128 MiB of memory for the ids of its blocks.
const SPARSE_SIZE_MAX: u64 = 1 << 40;

/// Why an archive cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Reading or decompressing failed.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The archive ends inside a member, or has none.
    #[error("the archive ends early; it was cut short")]
    Truncated,
    /// A block is not a valid header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// An extended header is invalid.
    #[error(transparent)]
    Pax(#[from] PaxError),
    /// The map of a sparse file is invalid.
    #[error(transparent)]
    Sparse(#[from] SparseError),
    /// The end mark follows an extended header, where its entry should be.
    #[error("an extended header is followed by no entry")]
    Dangling,
    /// A GNU long name is longer than any path.
    #[error("a name has over 1 MiB")]
    LongName,
    /// A size is larger than any file can be.
    #[error("the size of {0} bytes is too large")]
    Size(u64),
    /// An entry has an unsupported type, such as a part of a multi-volume archive.
    #[error("the entry type '{}' is not known", .0.escape_ascii())]
    UnknownType(u8),
}

/// The type of a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    Directory,
    /// A regular file with its size, or with its map when it is sparse.
    Regular(FileShape),
    Symlink(Vec<u8>),
    /// Another name for the member with the path `target`. The archive may have the content with it.
    HardLink {
        target: Vec<u8>,
        size: u64,
    },
    CharDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
    Fifo,
}

impl MemberKind {
    /// Returns the size of the content in bytes, with holes.
    pub(super) const fn size(&self) -> u64 {
        match self {
            Self::Regular(FileShape::Dense { size }) => *size,
            Self::Regular(FileShape::Sparse(map)) => map.size,
            Self::HardLink { size, .. } => *size,
            _ => 0,
        }
    }
}

/// The size of a regular file, and where its data belong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileShape {
    Dense { size: u64 },
    Sparse(SparseMap),
}

/// An entry without its data.
#[derive(Debug)]
pub(super) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: Vec<u8>,
    pub(crate) group: Vec<u8>,
    pub(crate) mtime: Timestamp,
    pub(crate) records: PaxRecords,
}

/// Reads an archive from front to back.
pub(super) struct Archive<R> {
    reader: R,
    position: u64,
    /// Unread data of the current member in bytes; `padding` is what follows it up to the next block.
    data_left: u64,
    padding: u64,
    globals: PaxRecords,
    /// Path of the current member for messages, if it is known already.
    current: Option<Vec<u8>>,
    /// The number of members so far.
    members: u64,
    lacks_end_mark: bool,
}

/// What separate headers before a member state about it.
#[derive(Default)]
struct HeaderOverrides {
    records: Option<PaxRecords>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl HeaderOverrides {
    const fn are_empty(&self) -> bool {
        self.records.is_none() && self.path.is_none() && self.link.is_none()
    }
}

impl<R: BufRead> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            position: 0,
            data_left: 0,
            padding: 0,
            globals: PaxRecords::default(),
            current: None,
            members: 0,
            lacks_end_mark: false,
        }
    }

    /// Returns whether the archive ended after a whole member, without an end mark.
    pub(super) const fn lacks_end_mark(&self) -> bool {
        self.lacks_end_mark
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.reader.fill_buf()?.is_empty())
    }

    /// Returns the number of bytes read so far.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// Returns the path of the current member, for messages.
    pub(super) fn current(&self) -> Option<&[u8]> {
        self.current.as_deref()
    }

    /// Returns the next member, whose data [`Self::read`] then returns, or `None` at the end mark.
    pub(super) fn next(&mut self) -> Result<Option<Member>, FormatError> {
        let mut overrides = HeaderOverrides::default();
        loop {
            self.skip_data()?;
            self.current = None;
            let mut block = [0; BLOCK];
            if self.members > 0 && overrides.are_empty() && self.is_at_end()? {
                self.lacks_end_mark = true;
                return Ok(None);
            }
            self.read_block(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                return if overrides.are_empty() { Ok(None) } else { Err(FormatError::Dangling) };
            }
            let header = HeaderBlock::check(&block)?;
            match header.type_flag() {
                b'x' | b'X' => {
                    self.begin_data(header.size()?)?;
                    let mut records = self.globals.clone();
                    records.read(&mut *self)?;
                    overrides.records = Some(records);
                }
                b'g' => {
                    self.begin_data(header.size()?)?;
                    let mut globals = std::mem::take(&mut self.globals);
                    globals.read(&mut *self)?;
                    self.globals = globals;
                }
                b'L' => overrides.path = Some(self.read_long_name(&header)?),
                b'K' => overrides.link = Some(self.read_long_name(&header)?),
                // A volume label or the ACLs of old Solaris, which a tree cannot hold.
                b'V' | b'A' => self.begin_data(header.size()?)?,
                _ => {
                    self.members += 1;
                    return self.read_member(&header, overrides).map(Some);
                }
            }
        }
    }

    /// Reads to the end of the stream and returns its length, so that the checksum at the end of a compressed archive is
    /// verified and the writer of a pipe gets no SIGPIPE.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.position += io::copy(&mut self.reader, &mut io::sink())?;
        Ok(self.position)
    }

    fn read_member(&mut self, header: &HeaderBlock<'_>, overrides: HeaderOverrides) -> Result<Member, FormatError> {
        let is_pax = overrides.records.is_some();
        let records = overrides.records.unwrap_or_else(|| self.globals.clone());
        let path = records.sparse.name.clone().or_else(|| records.path.clone()).or(overrides.path);
        let path = path.unwrap_or_else(|| header.path());
        self.current = Some(path.clone());
        let link = || records.link.clone().or(overrides.link).unwrap_or_else(|| header.link().to_vec());
        let kind = match header.type_flag() {
            b'1' => MemberKind::HardLink { target: link(), size: self.link_data(header, &records, is_pax)? },
            b'2' => MemberKind::Symlink(link()),
            b'3' => MemberKind::CharDevice(device_number(header, &records)?),
            b'4' => MemberKind::BlockDevice(device_number(header, &records)?),
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            // A GNU incremental dump has a directory's names as its data.
            b'D' => {
                self.begin_member_data(header, &records)?;
                MemberKind::Directory
            }
            // V7 has no type for directories; their names end in a slash.
            b'0' | b'\0' | b'7' if path.ends_with(b"/") => {
                self.begin_member_data(header, &records)?;
                MemberKind::Directory
            }
            b'0' | b'\0' | b'7' | b'S' => MemberKind::Regular(self.file_shape(header, &records)?),
            other => return Err(FormatError::UnknownType(other)),
        };
        Ok(Member {
            kind,
            permissions: header.permissions()?,
            uid: records.uid.map_or_else(|| header.uid(), Ok)?,
            gid: records.gid.map_or_else(|| header.gid(), Ok)?,
            user: records.user.clone().unwrap_or_else(|| header.user().to_vec()),
            group: records.group.clone().unwrap_or_else(|| header.group().to_vec()),
            mtime: records.mtime.map_or_else(|| header.mtime(), Ok)?,
            path,
            records,
        })
    }

    /// Returns the size of the content that the archive has with a hard link. Only PAX archives have one (`pax -o linkdata`):
    /// programs that write the older formats may state the size of the file, and write nothing.
    fn link_data(&mut self, header: &HeaderBlock<'_>, records: &PaxRecords, is_pax: bool) -> Result<u64, FormatError> {
        if is_pax { self.begin_member_data(header, records) } else { Ok(0) }
    }

    fn file_shape(&mut self, header: &HeaderBlock<'_>, records: &PaxRecords) -> Result<FileShape, FormatError> {
        if header.type_flag() == b'S' {
            let map = self.read_old_gnu_map(header)?;
            self.begin_member_data(header, records)?;
            return self.check_sparse(map);
        }
        let stored = self.begin_member_data(header, records)?;
        let sparse = &records.sparse;
        match (sparse.major, sparse.minor) {
            (None, None) => match SparseMap::from_records(sparse) {
                Some(map) => self.check_sparse(map?),
                None => Ok(FileShape::Dense { size: stored }),
            },
            (Some(1), Some(0)) => {
                let size = sparse.real_size.ok_or(SparseError::Malformed)?;
                let map = SparseMap::read(size, &mut *self).map_err(|error| match error {
                    MapReadError::Read(error) => FormatError::Read(error),
                    MapReadError::Map(error) => FormatError::Sparse(error),
                })?;
                self.check_sparse(map)
            }
            (major, minor) => Err(SparseError::Version(major.unwrap_or(0), minor.unwrap_or(0)).into()),
        }
    }

    fn check_sparse(&self, map: SparseMap) -> Result<FileShape, FormatError> {
        if map.size > SPARSE_SIZE_MAX {
            return Err(FormatError::Size(map.size));
        }
        if map.data_length() != self.data_left {
            return Err(SparseError::DataLength.into());
        }
        Ok(FileShape::Sparse(map))
    }

    /// Returns the map of an old GNU sparse file, which is in the header and in blocks before the data.
    fn read_old_gnu_map(&mut self, header: &HeaderBlock<'_>) -> Result<SparseMap, FormatError> {
        let (mut runs, mut more) = header.gnu_runs()?;
        while more {
            let mut block = [0; BLOCK];
            self.read_block(&mut block)?;
            let (further, has_more): (Vec<Extent>, _) = gnu_more_runs(&block)?;
            for run in further {
                push_run(&mut runs, run)?;
            }
            more = has_more;
        }
        Ok(SparseMap::new(header.gnu_real_size()?, runs)?)
    }

    fn read_long_name(&mut self, header: &HeaderBlock<'_>) -> Result<Vec<u8>, FormatError> {
        let size = header.size()?;
        if size > TEXT_MAX as u64 {
            return Err(FormatError::LongName);
        }
        self.begin_data(size)?;
        let mut name = Vec::new();
        self.read_to_end(&mut name)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    fn begin_member_data(&mut self, header: &HeaderBlock<'_>, records: &PaxRecords) -> Result<u64, FormatError> {
        let size = records.size.map_or_else(|| header.size(), Ok)?;
        self.begin_data(size)?;
        Ok(size)
    }

    fn begin_data(&mut self, size: u64) -> Result<(), FormatError> {
        check_size(size)?;
        self.data_left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), FormatError> {
        let unread = self.data_left + std::mem::take(&mut self.padding);
        self.data_left = 0;
        let skipped = io::copy(&mut self.reader.by_ref().take(unread), &mut io::sink())?;
        self.position += skipped;
        if skipped == unread { Ok(()) } else { Err(FormatError::Truncated) }
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), FormatError> {
        self.reader.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::Truncated,
            _ => FormatError::Read(error),
        })?;
        self.position += BLOCK as u64;
        Ok(())
    }
}

/// Reads the data of the current member. An archive that ends before them is an error.
impl<R: BufRead> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.data_left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if room == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends early"));
        }
        self.position += count as u64;
        self.data_left -= count as u64;
        Ok(count)
    }
}

const fn check_size(size: u64) -> Result<(), FormatError> {
    if size > FILE_SIZE_MAX { Err(FormatError::Size(size)) } else { Ok(()) }
}

fn device_number(header: &HeaderBlock<'_>, records: &PaxRecords) -> Result<DeviceNumber, HeaderError> {
    Ok(DeviceNumber {
        major: records.major.map_or_else(|| header.major(), Ok)?,
        minor: records.minor.map_or_else(|| header.minor(), Ok)?,
    })
}
