//! A tar archive as a tree, its contents going into the repository on the way.
//!
//! Takes what GNU tar, bsdtar, star, Python and Go write: V7, ustar, GNU and PAX, sparse files, extended attributes,
//! ACLs, hard links, devices; plain or compressed with zstd, gzip or xz. Nothing is ever unpacked to disk. The archive is
//! read once, front to back, so it may be a pipe.
//!
//! What an archive leaves open is decided as follows.
//! - Leading `/` and `./` do not count; `..` is refused.
//! - Directories without an entry of their own belong to root, have mode 0755 and the time 0.
//! - A later entry replaces an earlier one of the same path; a directory keeps its entries and takes the new metadata.
//! - Owners are numbers: names in the archive only serve to find the numbers in ACLs written with names.
//! - Symbolic links are never followed, neither in paths nor as targets of hard links.
//!
//! The same files give the same tree as when read from a directory. [`read_tar`] is called by `commit --tar`.

mod archive;
mod decompress;
mod encoding;
mod header;
mod pax;
mod place;
mod sparse;

use std::io::{self, Read};

pub use archive::FormatError;
pub use decompress::UnknownCompression;
pub use header::HeaderError;
pub use pax::PaxError;
pub use place::EntryError;
pub use sparse::SparseError;

use self::archive::{Archive, FileShape, Member, MemberKind};
use self::place::Placer;
use self::sparse::SparseReader;
use super::Progress;
use crate::image::Tree;
use crate::model::{AclSubject, Content, ImagePath, NodeKind};
use crate::store::{StoreWriter, WriteError};

/// Largest `etc/passwd` or `etc/group` whose names are learnt.
const NAMES_FILE_MAX: u64 = 1 << 20;

/// Most bytes of a path that a message shows.
const ENTRY_WORDS_MAX: usize = 1000;

/// Why an archive did not become a tree.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive cannot be opened as one.
    #[error("cannot read the archive")]
    Open(#[source] io::Error),
    /// The archive cannot be read further.
    #[error("archive{}, byte {position}", entry_words(.entry.as_deref()))]
    Format {
        /// How far it was read, in bytes before compression.
        position: u64,
        /// The entry being read, if its path was read already.
        entry: Option<String>,
        /// What is wrong.
        source: FormatError,
    },
    /// An entry has no place in a tree.
    #[error("archive entry '{entry}'")]
    Entry {
        /// The path as the archive has it.
        entry: String,
        /// What is wrong.
        source: EntryError,
    },
    /// The content of an entry could not be stored.
    #[error("archive entry '{entry}'")]
    Store {
        /// The path as the archive has it.
        entry: String,
        /// What is wrong.
        source: WriteError,
    },
}

fn entry_words(entry: Option<&str>) -> String {
    entry.map_or_else(String::new, |entry| format!(" entry '{entry}'"))
}

/// How an archive is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct TarOptions {
    /// Record this owner and group for everything instead of those in the archive.
    pub owner: Option<(u32, u32)>,
}

/// Reads an archive, stores its contents through `writer` and returns its tree.
///
/// # Errors
/// [`TarError`], naming the entry where there is one. What was stored until then stays unreferenced.
pub fn read_tar(
    reader: impl Read,
    writer: &StoreWriter,
    options: TarOptions,
    progress: &Progress,
) -> Result<Tree, TarError> {
    let mut archive = Archive::new(decompress::plain(reader).map_err(TarError::Open)?);
    let mut placer = Placer::new(options.owner);
    loop {
        let member = match archive.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(source) => return Err(format_error(&archive, source)),
        };
        let size = member.kind.size();
        progress.found(size);
        take(&mut archive, &mut placer, member, writer)?;
        progress.read(size);
    }
    let position = archive.position();
    archive.finish().map_err(|source| TarError::Format { position, entry: None, source: source.into() })?;
    placer.finish().map_err(|(path, source)| TarError::Entry { entry: path.to_string(), source })
}

/// Puts one member into the tree and its data into the store.
fn take<R: io::BufRead>(
    archive: &mut Archive<R>,
    placer: &mut Placer,
    member: Member,
    writer: &StoreWriter,
) -> Result<(), TarError> {
    let entry_error = |source: EntryError| TarError::Entry { entry: words(&member.path), source };
    let path = ImagePath::parse(&member.path).map_err(|error| entry_error(error.into()))?;
    let kind = match &member.kind {
        MemberKind::HardLink(target) => {
            let target = ImagePath::parse(target).map_err(|error| entry_error(error.into()))?;
            return placer.link(&path, &target).map_err(entry_error);
        }
        MemberKind::Regular(shape) => match store(archive, placer, &path, shape, writer) {
            Ok(content) => NodeKind::Regular(content),
            // The reading failed, not the storing: say so, with the place.
            Err(WriteError::Read(source)) => return Err(format_error(archive, read_error(source))),
            Err(source) => return Err(TarError::Store { entry: words(&member.path), source }),
        },
        MemberKind::Directory => NodeKind::Directory,
        MemberKind::Symlink(target) => NodeKind::Symlink(target.as_slice().into()),
        MemberKind::CharDevice(device) => NodeKind::CharDevice(*device),
        MemberKind::BlockDevice(device) => NodeKind::BlockDevice(*device),
        MemberKind::Fifo => NodeKind::Fifo,
    };
    placer.place(path, &member, kind).map_err(entry_error)
}

fn store<R: io::BufRead>(
    archive: &mut Archive<R>,
    placer: &mut Placer,
    path: &ImagePath,
    shape: &FileShape,
    writer: &StoreWriter,
) -> Result<Content, WriteError> {
    match shape {
        FileShape::Sparse(map) => {
            let content = writer.put(map.size, &mut SparseReader::new(map, archive))?;
            Ok(Content { extents: map.extents(), ..content })
        }
        FileShape::Dense { size } => match names_file(path) {
            Some(subject) if *size <= NAMES_FILE_MAX => {
                let mut bytes = Vec::new();
                archive.read_to_end(&mut bytes).map_err(WriteError::Read)?;
                placer.names().learn_file(subject, &bytes);
                writer.put(*size, &mut bytes.as_slice())
            }
            _ => writer.put(*size, archive),
        },
    }
}

fn names_file(path: &ImagePath) -> Option<AclSubject> {
    match path.components() {
        [etc, file] if etc.as_bytes() == b"etc" => match file.as_bytes() {
            b"passwd" => Some(AclSubject::User),
            b"group" => Some(AclSubject::Group),
            _ => None,
        },
        _ => None,
    }
}

fn format_error<R>(archive: &Archive<R>, source: FormatError) -> TarError
where
    R: io::BufRead,
{
    let source = match source {
        FormatError::Read(error) => read_error(error),
        other => other,
    };
    TarError::Format { position: archive.position(), entry: archive.current().map(words), source }
}

fn read_error(error: io::Error) -> FormatError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FormatError::Truncated,
        _ => FormatError::Read(error),
    }
}

/// A path as the archive has it, for messages; of a very long one the end, which tells it from others.
fn words(path: &[u8]) -> String {
    let (dots, end) = match path.len().checked_sub(ENTRY_WORDS_MAX) {
        Some(start) if start > 0 => ("…", &path[start..]),
        _ => ("", path),
    };
    match std::str::from_utf8(end) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{dots}{text}"),
        _ => format!("{dots}{}", end.escape_ascii()),
    }
}
