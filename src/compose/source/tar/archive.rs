//! An archive as a stream of members: each entry with all that headers before it say about it, then its data.
//!
//! Knows the formats V7, ustar, GNU and PAX with global headers; knows nothing of trees. Only moves forward, so it
//! reads pipes. Invariant: memory is bounded by what one member may say about itself, whatever lengths the archive
//! claims, and an archive that ends before its end mark is an error wherever it ends.
//!
//! Written by hand since the `tar` crate splits records at newlines, which attributes contain, holds extended headers of
//! any length and takes a cut archive for a whole one.

use std::io::{self, BufRead, Read};

use super::header::{BLOCK, Header, HeaderError, gnu_more_runs};
use super::pax::{PaxError, Records, TEXT_MAX};
use super::sparse::{Map, MapReadError, SparseError, push_run};
use crate::model::{DeviceNumber, Extent, Timestamp};

/// Largest file that is accepted: twice what ext4 can hold.
const FILE_SIZE_MAX: u64 = 1 << 45;

/// Largest file with holes that is accepted. A few bytes of an archive can claim any size, and its zeros have to be
/// hashed: 1 TiB takes ten minutes and 128 MiB for the ids of its blocks.
const SPARSE_SIZE_MAX: u64 = 1 << 40;

/// Why an archive cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The system, or the decompression, gives an error.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It ends before its end mark.
    #[error("the archive ends early; it was cut short")]
    Truncated,
    /// A block that should be a header is none.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// An extended header is bad.
    #[error(transparent)]
    Pax(#[from] PaxError),
    /// The map of a sparse file is bad.
    #[error(transparent)]
    Sparse(#[from] SparseError),
    /// The archive ends between an extended header and its entry.
    #[error("an extended header is followed by no entry")]
    Dangling,
    /// A GNU long name is longer than any path.
    #[error("a name has over 1 MiB")]
    LongName,
    /// A size that only a damaged or hostile archive has.
    #[error("the size of {0} bytes is too large")]
    Size(u64),
    /// An entry of a type that has no meaning here, such as a part of a multi-volume archive.
    #[error("the entry type '{}' is not known", .0.escape_ascii())]
    UnknownType(u8),
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MemberKind {
    Directory,
    /// With its size, or its map when it is sparse.
    Regular(FileShape),
    Symlink(Vec<u8>),
    /// Another name for the member of this path.
    HardLink(Vec<u8>),
    CharDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
    Fifo,
}

impl MemberKind {
    /// The bytes of content, holes counted.
    pub(super) const fn size(&self) -> u64 {
        match self {
            Self::Regular(FileShape::Dense { size }) => *size,
            Self::Regular(FileShape::Sparse(map)) => map.size,
            _ => 0,
        }
    }
}

/// How the data of a regular file fill it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileShape {
    Dense { size: u64 },
    Sparse(Map),
}

/// One entry, without its data.
#[derive(Debug)]
pub(super) struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
    pub permissions: u16,
    pub uid: u32,
    pub gid: u32,
    pub user: Vec<u8>,
    pub group: Vec<u8>,
    pub mtime: Timestamp,
    pub records: Records,
}

/// Reads an archive from front to back.
pub(super) struct Archive<R> {
    reader: R,
    position: u64,
    /// Bytes of data of the current member that were not read yet, and the padding behind them.
    data_left: u64,
    padding: u64,
    globals: Records,
    /// Path of the member that is being read, as far as it is known: for messages.
    current: Option<Vec<u8>>,
}

/// What headers of their own said about the next member.
#[derive(Default)]
struct Announced {
    records: Option<Records>,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, position: 0, data_left: 0, padding: 0, globals: Records::default(), current: None }
    }

    /// Bytes read so far.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The path of the member that was being read when something failed.
    pub(super) fn current(&self) -> Option<&[u8]> {
        self.current.as_deref()
    }

    /// The next member, whose data [`Self::read`] then gives; `None` at the end mark.
    pub(super) fn next(&mut self) -> Result<Option<Member>, FormatError> {
        let mut announced = Announced::default();
        loop {
            self.skip_data()?;
            self.current = None;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                let dangling = announced.records.is_some() || announced.path.is_some() || announced.link.is_some();
                return if dangling { Err(FormatError::Dangling) } else { Ok(None) };
            }
            let header = Header::check(&block)?;
            match header.type_flag() {
                b'x' | b'X' => {
                    self.begin_data(header.size()?)?;
                    let mut records = self.globals.clone();
                    records.read(&mut *self)?;
                    announced.records = Some(records);
                }
                b'g' => {
                    self.begin_data(header.size()?)?;
                    let mut globals = std::mem::take(&mut self.globals);
                    globals.read(&mut *self)?;
                    self.globals = globals;
                }
                b'L' => announced.path = Some(self.long_name(&header)?),
                b'K' => announced.link = Some(self.long_name(&header)?),
                // A volume label and the ACLs of old Solaris: nothing a tree has.
                b'V' | b'A' => self.begin_data(header.size()?)?,
                _ => return self.member(&header, announced).map(Some),
            }
        }
    }

    /// Reads what follows the end mark, so that the checksum at the end of a compressed archive is checked and the
    /// writer of a pipe is not killed.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.position += io::copy(&mut self.reader, &mut io::sink())?;
        Ok(self.position)
    }

    fn member(&mut self, header: &Header<'_>, announced: Announced) -> Result<Member, FormatError> {
        let records = announced.records.unwrap_or_else(|| self.globals.clone());
        let path = records.sparse.name.clone().or_else(|| records.path.clone()).or(announced.path);
        let path = path.unwrap_or_else(|| header.path());
        self.current = Some(path.clone());
        let link = || records.link.clone().or(announced.link).unwrap_or_else(|| header.link().to_vec());
        let kind = match header.type_flag() {
            b'1' => MemberKind::HardLink(link()),
            b'2' => MemberKind::Symlink(link()),
            b'3' => MemberKind::CharDevice(device(header, &records)?),
            b'4' => MemberKind::BlockDevice(device(header, &records)?),
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            // A GNU incremental dump lists a directory's names as its data.
            b'D' => {
                self.begin_member_data(header, &records)?;
                MemberKind::Directory
            }
            // V7 had no type for directories but wrote a slash.
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

    fn file_shape(&mut self, header: &Header<'_>, records: &Records) -> Result<FileShape, FormatError> {
        if header.type_flag() == b'S' {
            let map = self.old_gnu_map(header)?;
            self.begin_member_data(header, records)?;
            return self.sparse(map);
        }
        let stored = self.begin_member_data(header, records)?;
        let sparse = &records.sparse;
        match (sparse.major, sparse.minor) {
            (None, None) => match Map::of_records(sparse) {
                Some(map) => self.sparse(map?),
                None => Ok(FileShape::Dense { size: stored }),
            },
            (Some(1), Some(0)) => {
                let size = sparse.real_size.ok_or(SparseError::Malformed)?;
                let map = Map::read(size, &mut *self).map_err(|error| match error {
                    MapReadError::Read(error) => FormatError::Read(error),
                    MapReadError::Map(error) => FormatError::Sparse(error),
                })?;
                self.sparse(map)
            }
            (major, minor) => Err(SparseError::Version(major.unwrap_or(0), minor.unwrap_or(0)).into()),
        }
    }

    fn sparse(&self, map: Map) -> Result<FileShape, FormatError> {
        if map.size > SPARSE_SIZE_MAX {
            return Err(FormatError::Size(map.size));
        }
        if map.data_length() != self.data_left {
            return Err(SparseError::DataLength.into());
        }
        Ok(FileShape::Sparse(map))
    }

    /// The map of an old GNU sparse file: in the header, then in blocks before the data.
    fn old_gnu_map(&mut self, header: &Header<'_>) -> Result<Map, FormatError> {
        let (mut runs, mut more) = header.gnu_runs()?;
        while more {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            let (further, again): (Vec<Extent>, _) = gnu_more_runs(&block)?;
            for run in further {
                push_run(&mut runs, run)?;
            }
            more = again;
        }
        Ok(Map::new(header.gnu_real_size()?, runs)?)
    }

    fn long_name(&mut self, header: &Header<'_>) -> Result<Vec<u8>, FormatError> {
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

    fn begin_member_data(&mut self, header: &Header<'_>, records: &Records) -> Result<u64, FormatError> {
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

    fn fill(&mut self, block: &mut [u8; BLOCK]) -> Result<(), FormatError> {
        self.reader.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FormatError::Truncated,
            _ => FormatError::Read(error),
        })?;
        self.position += BLOCK as u64;
        Ok(())
    }
}

/// The data of the current member; ending before they do is an error, not an end.
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

fn device(header: &Header<'_>, records: &Records) -> Result<DeviceNumber, HeaderError> {
    Ok(DeviceNumber {
        major: records.major.map_or_else(|| header.major(), Ok)?,
        minor: records.minor.map_or_else(|| header.minor(), Ok)?,
    })
}
