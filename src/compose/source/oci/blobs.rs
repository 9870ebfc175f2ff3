//! The files of a container image on this machine: those of a layout in a directory, or members of an archive.
//!
//! *Invariants*: a file of an archive is found whatever its place; links between members are followed.
//!
//! *Used by* the other files of this folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};

use super::OciError;
use crate::compose::source::tar::{IndexedMember, index_archive};

/// Number of links that are followed to a member.
const LINKS_MAX: usize = 8;

/// Where the files of images lie.
pub(super) enum Blobs {
    /// A directory with a layout.
    Directory(PathBuf),
    /// An archive, with its files by path.
    Archive { path: PathBuf, file: File, members: BTreeMap<Vec<u8>, IndexedMember> },
}

impl Blobs {
    /// Opens a directory or an archive.
    pub(super) fn open(path: &Path) -> Result<Self, OciError> {
        let io_error = |source| OciError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if !metadata.is_file() {
            return Err(OciError::NotAFile(path.to_owned()));
        }
        let members = index_archive(&file).map_err(|source| match is_compressed(&file) {
            true => OciError::Compressed(path.to_owned()),
            false => OciError::Archive { path: path.to_owned(), source: Box::new(source) },
        })?;
        Ok(Self::Archive { path: path.to_owned(), file, members })
    }

    /// Opens a file by its path inside, and returns it with its size in bytes; `None` if there is none.
    pub(super) fn file(&self, name: &str) -> Result<Option<(Take<File>, u64)>, OciError> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                let opened = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    other => other.and_then(|file| file.metadata().map(|metadata| (file, metadata))),
                };
                let (file, metadata) = opened.map_err(|source| OciError::Io { path: path.clone(), source })?;
                if metadata.is_file() {
                    Ok(Some((file.take(metadata.len()), metadata.len())))
                } else {
                    Err(OciError::NotAFile(path))
                }
            }
            Self::Archive { path, file, members } => {
                let Some((offset, size)) = find(members, name) else { return Ok(None) };
                let io_error = |source| OciError::Io { path: path.clone(), source };
                let mut file = file.try_clone().map_err(io_error)?;
                file.seek(SeekFrom::Start(offset)).map_err(io_error)?;
                Ok(Some((file.take(size), size)))
            }
        }
    }

    /// Reads a whole file of at most `max` bytes; `None` if there is none.
    pub(super) fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, OciError> {
        let Some((mut file, size)) = self.file(name)? else { return Ok(None) };
        if size > max {
            return Err(OciError::TooLarge { name: name.to_owned(), size, max });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| OciError::Io { path: name.into(), source })?;
        Ok(Some(bytes))
    }
}

fn is_compressed(mut file: &File) -> bool {
    let mut magic = [0; 4];
    let is_read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut magic)).is_ok();
    is_read
        && matches!(
            magic,
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'] | [b'B', b'Z', b'h', _]
        )
}

/// Finds a file of an archive, also through links, which `docker save` makes for equal layers.
fn find(members: &BTreeMap<Vec<u8>, IndexedMember>, name: &str) -> Option<(u64, u64)> {
    let mut path: Vec<Vec<u8>> = name.split('/').map(|part| part.as_bytes().to_vec()).collect();
    for _ in 0..LINKS_MAX {
        match members.get(&path.join(&b'/'))? {
            IndexedMember::File { offset, size } => return Some((*offset, *size)),
            IndexedMember::Link(target) => {
                path.pop();
                for part in target.split(|byte| *byte == b'/') {
                    match part {
                        b"" | b"." => {}
                        b".." => drop(path.pop()),
                        part => path.push(part.to_vec()),
                    }
                }
            }
        }
    }
    None
}
