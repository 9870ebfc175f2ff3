//! Making a directory be a planned tree.
//!
//! What is right already is not touched. In a tree that is in use a file is replaced in one step, by a rename; in a fresh one
//! it gets its name at once, since nobody looks yet. Directories get their attributes last, when nothing in them changes any
//! more. Nothing is synced here but replaced files: whoever needs the tree durable syncs its filesystem.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, makedev};
use rustix::io::Errno;

use super::decision::{Planned, PlannedContent};
use super::item::{Body, EtcPath, EtcTree, Item, parent};

use super::scan::{Ownership, join};
use crate::disk::{self, Entry};
use crate::model::{DeviceNumber, ObjectId};
use crate::store::{ObjectSource as _, ReadError, Store};

/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;

/// Why a tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The content of a default cannot be read.
    #[error("cannot read the default of '{path}'")]
    Object {
        /// Below `/etc`.
        path: String,
        /// Why not.
        source: ReadError,
    },
    /// The object is not as long as the image says.
    #[error("the content of the default of '{0}' is too short")]
    Short(String),
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether somebody uses the tree while it is changed.
#[derive(Debug, Clone, Copy)]
pub enum Use<'a> {
    /// It is not there yet.
    Fresh,
    /// It may be in use, and was this when it was planned: what others change meanwhile is left alone.
    Live(&'a EtcTree),
}

/// Where contents come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The directory that [`PlannedContent::Local`] is relative to.
    pub local: &'a Path,
    /// Where objects are.
    pub store: &'a Store,
    /// Whether owners are set.
    pub ownership: Ownership,
}

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Entries made or replaced.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
}

/// Makes `target` hold exactly `entries`. A fresh one must not be there.
///
/// # Errors
/// [`ApplyError`]; doing it again goes on where this ended.
pub fn apply(
    entries: &BTreeMap<EtcPath, Planned>,
    target: &Path,
    sources: Sources<'_>,
    usage: Use<'_>,
) -> Result<Applied, ApplyError> {
    let nothing = EtcTree::default();
    let current = match usage {
        Use::Fresh => {
            let made = rustix::fs::mkdir(target, Mode::RWXU);
            made.map_err(|errno| ApplyError::Io { action: "create", path: target.to_owned(), source: errno.into() })?;
            &nothing
        }
        Use::Live(current) => current,
    };
    let top = disk::open_directory(target).map_err(|source| ApplyError::Io {
        action: "open",
        path: target.to_owned(),
        source,
    })?;
    let mut writer = Writer {
        target,
        sources,
        usage,
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

struct Writer<'a> {
    target: &'a Path,
    sources: Sources<'a>,
    usage: Use<'a>,
    top: OwnedFd,
    /// The directories from the top down to the one that was used last.
    open: Vec<(EtcPath, OwnedFd)>,
    /// The first name of each inode with several.
    links: HashMap<u64, (EtcPath, Planned)>,
    /// Directories in which something changed.
    touched: HashSet<EtcPath>,
    applied: Applied,
}

impl Writer<'_> {
    /// Removes what is not planned, and what is in the way of another kind of entry; the deepest first.
    fn remove(&mut self, entries: &BTreeMap<EtcPath, Planned>, current: &EtcTree) -> Result<(), ApplyError> {
        for (path, item) in current.entries.iter().rev() {
            // A file is replaced by another in one step; a directory and a file cannot replace each other.
            let planned = entries.get(path).map(|planned| planned.item.body.is_directory());
            if planned == Some(item.body.is_directory()) {
                continue;
            }
            let flags = if item.body.is_directory() { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let (directory, name) = self.place(path)?;
            match rustix::fs::unlinkat(directory, name, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.io_error("remove", path)(errno.into())),
            }
            self.note_change(path);
            self.applied.removed += 1;
        }
        // Some of these directories may be gone now.
        self.open.clear();
        Ok(())
    }

    fn write(&mut self, entries: &BTreeMap<EtcPath, Planned>, current: &EtcTree) -> Result<(), ApplyError> {
        for (path, planned) in entries.iter().filter(|(path, _)| !path.is_empty()) {
            let item = &planned.item;
            let there = current.get(path);
            if item.body.is_directory() {
                if !there.is_some_and(|there| there.body.is_directory()) {
                    let (directory, name) = self.place(path)?;
                    let made = rustix::fs::mkdirat(directory, name, Mode::RWXU);
                    made.map_err(|errno| self.io_error("create", path)(errno.into()))?;
                    self.note_change(path);
                }
                continue;
            }
            // Which names share an inode shows only when it is written.
            let is_right = there.is_some_and(|there| there.is_same(item) && there.mtime == item.mtime);
            if !is_right {
                self.entry(path, planned)?;
                self.note_change(path);
                self.applied.written += 1;
            }
            if let Some(link) = item.link {
                self.links.entry(link).or_insert_with(|| (path.clone(), planned.clone()));
            }
        }
        Ok(())
    }

    /// Makes an entry that is no directory.
    fn entry(&mut self, path: &EtcPath, planned: &Planned) -> Result<(), ApplyError> {
        if let Some(first) = self.first_name(path, planned) {
            return self.link(path, &first);
        }
        let (sources, usage) = (self.sources, self.usage);
        let (directory, name) = self.place(path)?;
        let make = |name: &[u8]| make(directory, name, path, planned, sources);
        let made = match usage {
            Use::Fresh => make(name).map(drop),
            Use::Live(_) => disk::replace_at(directory, name, make),
        };
        made.map_err(|error| match error {
            MakeError::Io(source) => self.io_error("create", path)(source),
            MakeError::Other(error) => error,
        })
    }

    /// The name under which the same inode was planned before, if it is the same in everything.
    fn first_name(&self, path: &EtcPath, planned: &Planned) -> Option<EtcPath> {
        let (first, other) = self.links.get(&planned.item.link?)?;
        let is_same = first != path && other.item.is_same(&planned.item) && other.item.mtime == planned.item.mtime;
        is_same.then(|| first.clone())
    }

    fn link(&mut self, path: &EtcPath, first: &EtcPath) -> Result<(), ApplyError> {
        let (from, from_name) = self.place(first)?;
        let from = from.try_clone_to_owned().map_err(self.io_error("open", first))?;
        let usage = self.usage;
        let (directory, name) = self.place(path)?;
        let link = |name: &[u8]| -> io::Result<Option<File>> {
            rustix::fs::linkat(&from, from_name, directory, name, AtFlags::empty())?;
            Ok(None)
        };
        let linked = match usage {
            Use::Fresh => link(name).map(drop),
            Use::Live(_) => disk::replace_at(directory, name, link),
        };
        linked.map_err(self.io_error("link", path))
    }

    /// Gives directories their attributes: those that are new or different, and those in which something changed.
    fn finish_directories(
        &mut self,
        entries: &BTreeMap<EtcPath, Planned>,
        current: &EtcTree,
    ) -> Result<(), ApplyError> {
        for (path, planned) in entries.iter().rev().filter(|(_, planned)| planned.item.body.is_directory()) {
            let item = &planned.item;
            let there = current.get(path).filter(|there| there.body.is_directory());
            let is_right = there.is_some_and(|there| there.is_same(item) && there.mtime == item.mtime);
            if is_right && !self.touched.contains(path) {
                continue;
            }
            let fd = self.directory(path)?.try_clone_to_owned().map_err(self.io_error("open", path))?;
            let stale = there.map(|there| &there.xattrs);
            for (name, _) in
                stale.iter().flat_map(|stale| stale.iter()).filter(|(name, _)| item.xattrs.get(name).is_none())
            {
                let removed = Entry::Open(fd.as_fd()).remove_xattr(name);
                removed.map_err(|errno| self.io_error("remove an attribute of", path)(errno.into()))?;
            }
            let set = set_attributes(Entry::Open(fd.as_fd()), item, self.sources.ownership);
            set.map_err(|errno| self.io_error("set the attributes of", path)(errno.into()))?;
        }
        Ok(())
    }

    fn note_change(&mut self, path: &[u8]) {
        self.touched.extend(parent(path).map(EtcPath::from));
    }

    /// The open directory that holds `path`, and the name there.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8]), ApplyError> {
        let above = parent(path).unwrap_or_default();
        let name = if above.is_empty() { path } else { &path[above.len() + 1..] };
        Ok((self.directory(above)?, name))
    }

    /// An open directory of the tree.
    fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, ApplyError> {
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
        let path = join(self.target, path);
        move |source| ApplyError::Io { action, path, source }
    }
}

enum MakeError {
    Io(io::Error),
    Other(ApplyError),
}

impl From<io::Error> for MakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for MakeError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Makes one entry under `name`, with everything; returns it if it is a file.
fn make(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    planned: &Planned,
    sources: Sources<'_>,
) -> Result<Option<File>, MakeError> {
    let item = &planned.item;
    let node = |kind: FileType, device: DeviceNumber| {
        rustix::fs::mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, makedev(device.major, device.minor))
    };
    let none = DeviceNumber { major: 0, minor: 0 };
    match &item.body {
        Body::File { content, size } => {
            let file = disk::create_file_at(directory, name)?;
            fill(&file, path, *content, *size, &planned.content, sources)?;
            set_attributes(Entry::Open(file.as_fd()), item, sources.ownership)?;
            return Ok(Some(file));
        }
        Body::Symlink(target) => rustix::fs::symlinkat(&target[..], directory, name)?,
        Body::Fifo => node(FileType::Fifo, none)?,
        Body::Socket => node(FileType::Socket, none)?,
        Body::CharDevice(device) => node(FileType::CharacterDevice, *device)?,
        Body::BlockDevice(device) => node(FileType::BlockDevice, *device)?,
        Body::Directory => {}
    }
    set_attributes(Entry::At(directory, name), item, sources.ownership)?;
    Ok(None)
}

fn fill(
    file: &File,
    path: &[u8],
    content: ObjectId,
    size: u64,
    from: &PlannedContent,
    sources: Sources<'_>,
) -> Result<(), MakeError> {
    match from {
        PlannedContent::Made(bytes) => Ok((&*file).write_all(bytes)?),
        PlannedContent::Local(path) => {
            let mut source = open_local(sources.local, path)?;
            io::copy(&mut source, &mut &*file)?;
            Ok(())
        }
        _ if size == 0 => Ok(()),
        PlannedContent::Object(_) | PlannedContent::None => {
            let words = || path.escape_ascii().to_string();
            let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
            let mut done = 0;
            while done < size {
                let read = sources.store.read_at(content, done, &mut buffer);
                let length = read.map_err(|source| MakeError::Other(ApplyError::Object { path: words(), source }))?;
                if length == 0 {
                    return Err(MakeError::Other(ApplyError::Short(words())));
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

/// Owner first, since changing it takes away setuid bits and capabilities; the mode late, since it may forbid the rest.
fn set_attributes(entry: Entry<'_>, item: &Item, ownership: Ownership) -> Result<(), Errno> {
    if let (Some((uid, gid)), Ownership::Kept) = (item.owner, ownership) {
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
