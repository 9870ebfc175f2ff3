//! Imports a tar archive: names and metadata into a tree, contents into the repository.
//!
//! It reads what GNU tar, bsdtar, star, Python and Go write: V7, ustar, GNU and PAX, sparse files, extended attributes,
//! ACLs, hard links, devices; uncompressed or compressed with zstd, gzip or xz. Nothing is unpacked to disk. The archive
//! is read once, front to back, so it may be a pipe.
//!
//! Rules for what an archive does not determine:
//! - Leading `/` and `./` are ignored; `..` is refused.
//! - Directories without an entry of their own belong to root, have mode 0755 and the time 0.
//! - A later entry replaces an earlier one of the same path; a directory keeps its entries and gets the new metadata.
//! - Owners are numbers: names in the archive only serve to find the numbers in ACLs written with names. Where it has none, root
//!   is 0, others are what they are on this machine, and what is not known here is left out; the latter two are logged.
//! - An archive without an end mark is complete if its last member is, as for other programs; this is logged.
//! - Content that comes with a hard link is that of the file.
//! - An entry that is left out is as if it were not in the archive.
//! - Symbolic links are never followed, neither in paths nor as targets of hard links.
//!
//! *Invariants*: the same files give the same tree as when they are read from a directory.
//!
//! *Used by* `cli::commit` for `commit --tar`.

mod archive;
mod decompress;
mod encoding;
mod header;
mod index;
mod layer;
mod pax;
mod sparse;
mod tree_builder;

use std::io::{self, Read};

pub(crate) use archive::FormatError;
pub(super) use decompress::open as decompress;
pub(super) use index::{IndexedMember, index_archive};
pub(crate) use tree_builder::TarEntryError;
pub(super) use tree_builder::default_directory;

use self::archive::{Archive, FileShape, Member, MemberKind};
use self::layer::WHITEOUT_PREFIX;
use self::sparse::SparseReader;
use self::tree_builder::{Layer, TreeBuilder};
use super::{Exclusions, ImportProgress};
use crate::image::Tree;
use crate::model::{AclSubject, Content, ImagePath, NodeKind};
use crate::store::{StoreWriter, WriteError};

/// Largest `etc/passwd` or `etc/group` in bytes whose names are used for ACLs.
const ACCOUNT_FILE_MAX: u64 = 1 << 20;

/// Most bytes of a path that a message shows.
const SHOWN_PATH_MAX: usize = 1000;

/// Why an archive could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive cannot be opened or has an unsupported compression.
    #[error("cannot read the archive")]
    Open(#[source] io::Error),
    /// The archive cannot be read further.
    #[error("archive{}, byte {position}", describe_entry(.entry.as_deref()))]
    Format {
        /// The position reached, in bytes of the uncompressed archive.
        position: u64,
        /// The entry being read, if its path is known already.
        entry: Option<String>,
        /// The cause.
        source: FormatError,
    },
    /// An entry cannot be added to the tree.
    #[error("archive entry '{entry}'")]
    Entry {
        /// The path as written in the archive.
        entry: String,
        /// The cause.
        source: TarEntryError,
    },
    /// The content of an entry could not be stored.
    #[error("archive entry '{entry}'")]
    Store {
        /// The path as written in the archive.
        entry: String,
        /// The cause.
        source: WriteError,
    },
}

fn describe_entry(entry: Option<&str>) -> String {
    entry.map_or_else(String::new, |entry| format!(" entry '{entry}'"))
}

/// What happens to entries whose names begin with `.wh.`, as in layers of container images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whiteouts {
    /// The archive is refused.
    #[default]
    Refuse,
    /// They are entries as any others.
    Verbatim,
    /// The archive is a layer, and is laid over those below as one (`layer`).
    Apply,
}

/// Options of [`read_tar`].
#[derive(Debug, Clone, Default)]
pub struct TarOptions {
    /// Record this owner and group for everything instead of those in the archive.
    pub owner: Option<(u32, u32)>,
    /// What is left out.
    pub exclusions: Exclusions,
    /// What happens to whiteouts.
    pub whiteouts: Whiteouts,
    /// The tree over which that of the archive is laid.
    pub lower: Option<Tree>,
}

/// Reads an archive, stores its contents through `writer` and returns its tree.
///
/// # Errors
/// [`TarError`], which names the entry where there is one. Contents stored until then stay unreferenced.
pub fn read_tar(
    reader: impl Read,
    writer: &StoreWriter,
    mut options: TarOptions,
    progress: &ImportProgress,
) -> Result<Tree, TarError> {
    let mut archive = Archive::new(decompress::open(reader).map_err(TarError::Open)?);
    let mut builder = TreeBuilder::new(
        options.lower.take(),
        options.owner,
        (options.whiteouts == Whiteouts::Apply).then(Layer::default),
    );
    let mut last = None;
    loop {
        let member = match archive.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(source) => return Err(format_error(&archive, source)),
        };
        let size = member.kind.size();
        last = archive.current().map(<[u8]>::to_vec);
        progress.add_found(size);
        import_member(&mut archive, &mut builder, member, writer, &options)?;
        progress.add_read(size);
    }
    if archive.lacks_end_mark() {
        tracing::warn!(
            "the archive has no end mark; if it was cut short, entries after '{}' are missing",
            last.as_deref().map_or_else(String::new, display_path)
        );
    }
    let position = archive.position();
    archive.finish().map_err(|source| TarError::Format { position, entry: None, source: source.into() })?;
    builder.finish().map_err(|(path, source)| TarError::Entry { entry: path.to_string(), source })
}

/// Adds one member to the tree and stores its data.
fn import_member<R: io::BufRead>(
    archive: &mut Archive<R>,
    builder: &mut TreeBuilder,
    member: Member,
    writer: &StoreWriter,
    options: &TarOptions,
) -> Result<(), TarError> {
    let entry_error = |source: TarEntryError| TarError::Entry { entry: display_path(&member.path), source };
    let path = ImagePath::parse(&member.path).map_err(|error| entry_error(error.into()))?;
    let exclusions = &options.exclusions;
    if !exclusions.is_empty()
        && !path.is_root()
        && exclusions.contain_with_parents(&path.to_bytes(), member.kind == MemberKind::Directory)
    {
        return Ok(());
    }
    if options.whiteouts == Whiteouts::Apply && layer::is_below_whiteout(&path) {
        return Ok(());
    }
    if let Some(removed) = path.name().and_then(|name| name.as_bytes().strip_prefix(WHITEOUT_PREFIX)) {
        match options.whiteouts {
            Whiteouts::Refuse => return Err(entry_error(TarEntryError::Whiteout(display_path(removed)))),
            Whiteouts::Apply => return builder.apply_whiteout(&path, removed).map_err(entry_error),
            Whiteouts::Verbatim => {}
        }
    }
    let kind = match &member.kind {
        MemberKind::HardLink { target, size } => {
            let target = ImagePath::parse(target).map_err(|error| entry_error(error.into()))?;
            let content = match size {
                0 => Ok(None),
                size => writer.put(*size, archive).map(Some),
            };
            return match content {
                Ok(content) => builder.add_link(&path, &target, content).map_err(entry_error),
                Err(error) => Err(store_error(archive, &member, error)),
            };
        }
        MemberKind::Regular(shape) => match store_content(archive, builder, &path, shape, writer) {
            Ok(content) => NodeKind::Regular(content),
            Err(error) => return Err(store_error(archive, &member, error)),
        },
        MemberKind::Directory => NodeKind::Directory,
        MemberKind::Symlink(target) => NodeKind::Symlink(target.as_slice().into()),
        MemberKind::CharDevice(device) => NodeKind::CharDevice(*device),
        MemberKind::BlockDevice(device) => NodeKind::BlockDevice(*device),
        MemberKind::Fifo => NodeKind::Fifo,
    };
    builder.add_member(path, &member, kind).map_err(entry_error)
}

fn store_content<R: io::BufRead>(
    archive: &mut Archive<R>,
    builder: &mut TreeBuilder,
    path: &ImagePath,
    shape: &FileShape,
    writer: &StoreWriter,
) -> Result<Content, WriteError> {
    match shape {
        FileShape::Sparse(map) => {
            let content = writer.put(map.size, &mut SparseReader::new(map, archive))?;
            Ok(Content { extents: map.extents(), ..content })
        }
        FileShape::Dense { size } => match account_file_subject(path) {
            Some(subject) if *size <= ACCOUNT_FILE_MAX => {
                let mut bytes = Vec::new();
                archive.read_to_end(&mut bytes).map_err(WriteError::Read)?;
                builder.account_ids().add_file(subject, &bytes);
                writer.put(*size, &mut bytes.as_slice())
            }
            _ => writer.put(*size, archive),
        },
    }
}

fn store_error<R: io::BufRead>(archive: &Archive<R>, member: &Member, error: WriteError) -> TarError {
    match error {
        // Reading failed, not storing: the error names the position in the archive.
        WriteError::Read(source) => format_error(archive, read_error(source)),
        source => TarError::Store { entry: display_path(&member.path), source },
    }
}

fn account_file_subject(path: &ImagePath) -> Option<AclSubject> {
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
    TarError::Format { position: archive.position(), entry: archive.current().map(display_path), source }
}

fn read_error(error: io::Error) -> FormatError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FormatError::Truncated,
        _ => FormatError::Read(error),
    }
}

/// Returns a path of the archive for messages. A very long one is shortened to its end, which distinguishes it best.
fn display_path(path: &[u8]) -> String {
    let (dots, end) = match path.len().checked_sub(SHOWN_PATH_MAX) {
        Some(start) if start > 0 => ("…", &path[start..]),
        _ => ("", path),
    };
    match std::str::from_utf8(end) {
        Ok(text) if !text.chars().any(char::is_control) => format!("{dots}{text}"),
        _ => format!("{dots}{}", end.escape_ascii()),
    }
}
