//! Finds the members of an uncompressed archive in a file, so that each can be read on its own.
//!
//! *Used by* `oci` for archives of container images, whose layers are members.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};

use super::archive::{Archive, FileShape, MemberKind};
use super::{TarError, format_error};
use crate::model::ImagePath;

/// What an archive has under a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IndexedMember {
    /// A file, with the place of its content in the archive.
    File {
        /// In bytes from the beginning.
        offset: u64,
        /// In bytes.
        size: u64,
    },
    /// A link, with its target as written.
    Link(Vec<u8>),
}

/// Returns the files and symbolic links of an archive by their paths, without `./` in front. Others are left out.
///
/// # Errors
/// [`TarError`] when the file is no archive, or compressed.
pub(crate) fn index_archive(mut file: &File) -> Result<BTreeMap<Vec<u8>, IndexedMember>, TarError> {
    file.seek(SeekFrom::Start(0)).map_err(TarError::Open)?;
    let mut archive = Archive::new(BufReader::with_capacity(64 << 10, file));
    let mut members = BTreeMap::new();
    while let Some(member) = archive.next().map_err(|source| format_error(&archive, source))? {
        let indexed = match member.kind {
            MemberKind::Regular(FileShape::Dense { size }) => IndexedMember::File { offset: archive.position(), size },
            MemberKind::Symlink(target) => IndexedMember::Link(target),
            _ => continue,
        };
        // A path that leads out of the archive names nothing.
        if let Ok(path) = ImagePath::parse(&member.path) {
            members.insert(join(&path), indexed);
        }
    }
    Ok(members)
}

/// Returns a path without a slash in front.
fn join(path: &ImagePath) -> Vec<u8> {
    path.components().iter().map(|name| name.as_bytes()).collect::<Vec<_>>().join(&b'/')
}
