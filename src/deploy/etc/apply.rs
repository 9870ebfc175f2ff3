//! Writes a planned tree to a directory.
//!
//! Entries that are right already are not touched. In a live tree a file is replaced in one step, by a rename; in a fresh tree
//! files are created under their final names. Directories get their attributes last, after all changes in them.
//!
//! *Not here*: what the tree contains (`plan`), and saving what is replaced (`journal`).
//!
//! *Invariants*: only replaced files are synced. A caller that needs the tree to be durable syncs the filesystem.
//!
//! *Used by* `edit`, `journal` and `deploy::apply`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, makedev};
use rustix::io::Errno;

use super::decision::{PlannedContent, PlannedEntry};
use super::item::{Body, EtcPath, EtcTree, Item, parent};
use super::scan::{PreserveOwners, join_path};
use crate::disk::{self, EntryRef};
use crate::model::{DeviceNumber, ObjectId};
use crate::store::{ObjectSource as _, ReadError, Store};

/// Bytes of a default that are copied at a time.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The content of a default cannot be read.
    #[error("cannot read the default of '{path}'")]
    Object {
        /// The path below `/etc`.
        path: String,
        source: ReadError,
    },
    /// The object is shorter than the image says.
    #[error("the content of the default of '{0}' is too short")]
    Short(String),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// The state of the directory before a tree is written to it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum TargetTree<'a> {
    /// The directory does not exist yet.
    Fresh,
    /// The directory may be in use, and this was its tree when the change was planned. Changes by other processes since then
    /// are not undone.
    Live(&'a EtcTree),
}

/// The sources of file contents, and whether owners are set.
#[derive(Clone, Copy)]
pub(crate) struct ContentSources<'a> {
    /// The directory that [`PlannedContent::Local`] is relative to.
    pub(crate) local: &'a Path,
    /// The repository that has the objects of defaults.
    pub(crate) store: &'a Store,
    /// Whether owners are set.
    pub(crate) ownership: PreserveOwners,
}

/// The number of entries that were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Applied {
    /// Entries that were created or replaced.
    pub(crate) written: usize,
    /// Entries that were removed.
    pub(crate) removed: usize,
}

/// Writes to `target` so that it holds exactly `entries`. A fresh target must not exist.
///
/// # Errors
/// [`ApplyError`]. The operation can be repeated, and then completes the rest.
pub(crate) fn apply(
    entries: &BTreeMap<EtcPath, PlannedEntry>,
    target: &Path,
    sources: ContentSources<'_>,
    target_tree: TargetTree<'_>,
) -> Result<Applied, ApplyError> {
    let nothing = EtcTree::default();
    let current = match target_tree {
        TargetTree::Fresh => {
            let made = rustix::fs::mkdir(target, Mode::RWXU);
            made.map_err(|errno| ApplyError::Io { action: "create", path: target.to_owned(), source: errno.into() })?;
            &nothing
        }
        TargetTree::Live(current) => current,
    };
    let top = disk::open_directory(target).map_err(|source| ApplyError::Io {
        action: "open",
        path: target.to_owned(),
        source,
    })?;
    let mut writer = TreeWriter {
        target,
        sources,
        target_tree,
        top,
        open: Vec::new(),
        links: HashMap::new(),
        touched: HashSet::new(),
        applied: Applied::default(),
    };
    writer.remove(entries, current)?;
    writer.write(entries, current)?;
    writer.finish_directories(entries, current)?;
    Ok(writer.applied)
}

/// The state of one [`apply`].
struct TreeWriter<'a> {
    target: &'a Path,
    sources: ContentSources<'a>,
    target_tree: TargetTree<'a>,
    top: OwnedFd,
    /// The open directories from the top down to the one that was used last.
    open: Vec<(EtcPath, OwnedFd)>,
    /// The first name of each inode that has several.
    links: HashMap<u64, (EtcPath, PlannedEntry)>,
    /// The directories in which an entry changed.
    touched: HashSet<EtcPath>,
    applied: Applied,
}

impl TreeWriter<'_> {
    /// Removes entries that are not planned or that are of another kind than planned, the deepest first.
    fn remove(&mut self, entries: &BTreeMap<EtcPath, PlannedEntry>, current: &EtcTree) -> Result<(), ApplyError> {
        for (path, item) in current.entries.iter().rev() {
            // A file is replaced by another in one step; a directory and a file cannot replace each other.
            let planned = entries.get(path).map(|planned| planned.item.body.is_directory());
            if planned == Some(item.body.is_directory()) {
                continue;
            }
            let flags = if item.body.is_directory() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let (directory, name) = self.open_parent(path)?;
            match rustix::fs::unlinkat(directory, name, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.io_error("remove", path)(errno.into())),
            }
            self.note_change(path);
            self.applied.removed += 1;
        }
        // Some of the open directories may have been removed.
        self.open.clear();
        Ok(())
    }

    fn write(&mut self, entries: &BTreeMap<EtcPath, PlannedEntry>, current: &EtcTree) -> Result<(), ApplyError> {
        for (path, planned) in entries.iter().filter(|(path, _)| !path.is_empty()) {
            let item = &planned.item;
            let existing = current.get(path);
            if item.body.is_directory() {
                if !existing.is_some_and(|existing| existing.body.is_directory()) {
                    let (directory, name) = self.open_parent(path)?;
                    let made = rustix::fs::mkdirat(directory, name, Mode::RWXU);
                    made.map_err(|errno| self.io_error("create", path)(errno.into()))?;
                    self.note_change(path);
                }
                continue;
            }
            // Names that share an inode are found while they are written.
            let is_right = existing.is_some_and(|existing| existing.is_same(item) && existing.mtime == item.mtime);
            if !is_right {
                self.write_entry(path, planned)?;
                self.note_change(path);
                self.applied.written += 1;
            }
            if let Some(link) = item.link {
                self.links.entry(link).or_insert_with(|| (path.clone(), planned.clone()));
            }
        }
        Ok(())
    }

    /// Writes an entry that is not a directory.
    fn write_entry(&mut self, path: &EtcPath, planned: &PlannedEntry) -> Result<(), ApplyError> {
        if let Some(first) = self.first_name(path, planned) {
            return self.write_link(path, &first);
        }
        let (sources, target_tree) = (self.sources, self.target_tree);
        let (directory, name) = self.open_parent(path)?;
        let make = |name: &[u8]| create_entry(directory, name, path, planned, sources);
        let created = match target_tree {
            TargetTree::Fresh => make(name).map(drop),
            TargetTree::Live(_) => disk::replace_at(directory, name, make),
        };
        created.map_err(|error| match error {
            CreateError::Io(source) => self.io_error("create", path)(source),
            CreateError::Other(error) => error,
        })
    }

    /// Returns the first name of the inode if it was written before with the same content and attributes.
    fn first_name(&self, path: &EtcPath, planned: &PlannedEntry) -> Option<EtcPath> {
        let (first, other) = self.links.get(&planned.item.link?)?;
        let is_same = first != path && other.item.is_same(&planned.item) && other.item.mtime == planned.item.mtime;
        is_same.then(|| first.clone())
    }

    fn write_link(&mut self, path: &EtcPath, first: &EtcPath) -> Result<(), ApplyError> {
        let (from, from_name) = self.open_parent(first)?;
        let from = from.try_clone_to_owned().map_err(self.io_error("open", first))?;
        let target_tree = self.target_tree;
        let (directory, name) = self.open_parent(path)?;
        let link = |name: &[u8]| -> io::Result<Option<File>> {
            rustix::fs::linkat(&from, from_name, directory, name, AtFlags::empty())?;
            Ok(None)
        };
        let linked = match target_tree {
            TargetTree::Fresh => link(name).map(drop),
            TargetTree::Live(_) => disk::replace_at(directory, name, link),
        };
        linked.map_err(self.io_error("link", path))
    }

    /// Sets the attributes of directories that are new or different, or in which an entry changed.
    fn finish_directories(
        &mut self,
        entries: &BTreeMap<EtcPath, PlannedEntry>,
        current: &EtcTree,
    ) -> Result<(), ApplyError> {
        for (path, planned) in entries.iter().rev().filter(|(_, planned)| planned.item.body.is_directory()) {
            let item = &planned.item;
            let existing = current.get(path).filter(|existing| existing.body.is_directory());
            let is_right = existing.is_some_and(|existing| existing.is_same(item) && existing.mtime == item.mtime);
            if is_right && !self.touched.contains(path) {
                continue;
            }
            let fd = self.open_directory(path)?.try_clone_to_owned().map_err(self.io_error("open", path))?;
            let stale = existing.map(|existing| &existing.xattrs);
            for (name, _) in
                stale.iter().flat_map(|stale| stale.iter()).filter(|(name, _)| item.xattrs.get(name).is_none())
            {
                let removed = EntryRef::Open(fd.as_fd()).remove_xattr(name);
                removed.map_err(|errno| self.io_error("remove an attribute of", path)(errno.into()))?;
            }
            let set = set_attributes(EntryRef::Open(fd.as_fd()), item, self.sources.ownership);
            set.map_err(|errno| self.io_error("set the attributes of", path)(errno.into()))?;
        }
        Ok(())
    }

    /// Notes that the directory which holds `path` changed.
    fn note_change(&mut self, path: &[u8]) {
        self.touched.extend(parent(path).map(EtcPath::from));
    }

    /// Opens the directory that holds `path`. Returns it with the last component of the path.
    fn open_parent<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8]), ApplyError> {
        let above = parent(path).unwrap_or_default();
        let name = if above.is_empty() { path } else { &path[above.len() + 1..] };
        Ok((self.open_directory(above)?, name))
    }

    /// Opens a directory of the tree without following symbolic links.
    fn open_directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, ApplyError> {
        let is_above = |open: &[u8]| path == open || (path.starts_with(open) && path[open.len()] == b'/');
        while self.open.last().is_some_and(|(open, _)| !is_above(open)) {
            self.open.pop();
        }
        let mut done = self.open.last().map_or(0, |(open, _)| open.len());
        while done < path.len() {
            let start = if done == 0 { 0 } else { done + 1 };
            let end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| start + slash);
            let from = self.open.last().map_or(self.top.as_fd(), |(_, fd)| fd.as_fd());
            let opened = disk::open_directory_at(from, &path[start..end]);
            let opened = opened.map_err(self.io_error("open", &path[..end]))?;
            self.open.push((path[..end].into(), opened));
            done = end;
        }
        Ok(self.open.last().map_or(self.top.as_fd(), |(_, fd)| fd.as_fd()))
    }

    fn io_error(&self, action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> ApplyError + use<> {
        let path = join_path(self.target, path);
        move |source| ApplyError::Io { action, path, source }
    }
}

/// Why one entry cannot be created.
enum CreateError {
    Io(io::Error),
    Other(ApplyError),
}

impl From<io::Error> for CreateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for CreateError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Creates one entry as `name`, with its content and attributes. Returns the open file if it is a regular file.
fn create_entry(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    planned: &PlannedEntry,
    sources: ContentSources<'_>,
) -> Result<Option<File>, CreateError> {
    let item = &planned.item;
    let node = |kind: FileType, device: DeviceNumber| {
        rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, makedev(device.major, device.minor))
    };
    let none = DeviceNumber { major: 0, minor: 0 };
    match &item.body {
        Body::File { content, size } => {
            let file = disk::create_file_at(directory, name)?;
            write_content(&file, path, *content, *size, &planned.content, sources)?;
            set_attributes(EntryRef::Open(file.as_fd()), item, sources.ownership)?;
            return Ok(Some(file));
        }
        Body::Symlink(target) => rustix::fs::symlinkat(&target[..], directory, name)?,
        Body::Fifo => node(FileType::Fifo, none)?,
        Body::Socket => node(FileType::Socket, none)?,
        Body::CharDevice(device) => node(FileType::CharacterDevice, *device)?,
        Body::BlockDevice(device) => node(FileType::BlockDevice, *device)?,
        Body::Directory => {}
    }
    set_attributes(EntryRef::At(directory, name), item, sources.ownership)?;
    Ok(None)
}

/// Writes the content of a regular file.
fn write_content(
    file: &File,
    path: &[u8],
    content: ObjectId,
    size: u64,
    from: &PlannedContent,
    sources: ContentSources<'_>,
) -> Result<(), CreateError> {
    match from {
        PlannedContent::Made(bytes) => Ok((&*file).write_all(bytes)?),
        PlannedContent::Local(path) => {
            let mut source = open_local(sources.local, path)?;
            io::copy(&mut source, &mut &*file)?;
            Ok(())
        }
        _ if size == 0 => Ok(()),
        PlannedContent::Object(_) | PlannedContent::None => {
            let shown_path = || path.escape_ascii().to_string();
            let mut buffer = vec![0; COPY_BUFFER_BYTES.min(usize::try_from(size).unwrap_or(COPY_BUFFER_BYTES))];
            let mut done = 0;
            while done < size {
                let read = sources.store.read_at(content, done, &mut buffer);
                let length =
                    read.map_err(|source| CreateError::Other(ApplyError::Object { path: shown_path(), source }))?;
                if length == 0 {
                    return Err(CreateError::Other(ApplyError::Short(shown_path())));
                }
                (&*file).write_all(&buffer[..length])?;
                done += length as u64;
            }
            Ok(())
        }
    }
}

/// Opens a file of a tree without following a symbolic link anywhere in its path.
pub(super) fn open_local(root: &Path, path: &[u8]) -> io::Result<File> {
    let mut directory = disk::open_directory(root)?;
    let (above, name) = match parent(path) {
        Some(above) if !above.is_empty() => (above, &path[above.len() + 1..]),
        _ => (&b""[..], path),
    };
    for part in above.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        directory = disk::open_directory_at(&directory, part)?;
    }
    disk::open_file_at(&directory, name)
}

/// Sets the attributes of an entry. The owner comes first, since changing it clears setuid bits and capabilities; the mode
/// comes late, since it may forbid the other changes.
fn set_attributes(entry: EntryRef<'_>, item: &Item, ownership: PreserveOwners) -> Result<(), Errno> {
    if let (Some((uid, gid)), PreserveOwners::Yes) = (item.owner, ownership) {
        entry.chown(uid, gid)?;
    }
    for (name, value) in item.xattrs.iter() {
        entry.set_xattr(name, value)?;
    }
    if !matches!(item.body, Body::Symlink(_)) {
        entry.chmod(item.mode)?;
    }
    entry.set_mtime(item.mtime.seconds, item.mtime.nanoseconds)
}
