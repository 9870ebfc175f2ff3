//! Walks the image in the order of the tree and creates every name of an export.
//!
//! *Not here*: contents and metadata of regular files (`fill`).
//!
//! *Invariants*: at most [`OPEN_DIRECTORIES_MAX`] of the directories between the top and the current one stay open. On the
//! way up a closed one is opened again through `..` and recognised by device and inode number.
//!
//! *Used by* `export_directory`.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use crossbeam_channel::Sender;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::apply::apply;
use super::fill::FillJob;
use super::state::{ExportCause, ExportState, image_cause, io_cause};
use crate::disk::EntryRef;
use crate::export::report::{ExportProgress, Loss};
use crate::image::{Attributes, Image, Ino};
use crate::model::{ACL_ACCESS, ACL_DEFAULT, FileKind};

/// Most directories between the top and the current one that stay open.
const OPEN_DIRECTORIES_MAX: usize = 32;

/// Most files of one batch for the fillers.
pub(super) const BATCH_FILES: usize = 16;

/// Content in bytes at which a batch is sent before it has [`BATCH_FILES`] files.
const BATCH_BYTES: u64 = 4 << 20;

/// What the target may contain before the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetContents {
    /// Nothing, so that the export overwrites neither another export nor a user's files.
    #[default]
    Empty,
    /// Anything: entries of the image replace those of the same name, directories are merged, other entries stay.
    Any,
}

/// A directory between the top and the current one, the current one included.
struct DirectoryFrame {
    attributes: Attributes,
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// Index of the child at which the walk continues.
    next: u32,
    /// Length of the directory's path in bytes.
    path_length: usize,
    /// A shared copy of the path, made when a hard link first needs it.
    shared_path: Option<Rc<[u8]>>,
}

/// Directory and name of the first name of a hard link; `None` when it could not be created.
type FirstName = Option<(Rc<[u8]>, Box<[u8]>)>;

pub(super) struct ExportWalk<'a> {
    image: &'a Image,
    contents: TargetContents,
    state: &'a ExportState,
    progress: &'a ExportProgress,
    jobs: Sender<Vec<FillJob>>,
    batch: Vec<FillJob>,
    batch_bytes: u64,
    top: OwnedFd,
    frames: Vec<DirectoryFrame>,
    /// Path of the current entry from the top of the export, with a leading slash.
    path: Vec<u8>,
    links: HashMap<Ino, FirstName>,
    /// The open directory that has the first name of the last hard link.
    link_directory: Option<(Rc<[u8]>, OwnedFd)>,
    root: Ino,
}

impl<'a> ExportWalk<'a> {
    pub(super) fn new(
        image: &'a Image,
        top: OwnedFd,
        root: Ino,
        contents: TargetContents,
        state: &'a ExportState,
        progress: &'a ExportProgress,
        jobs: Sender<Vec<FillJob>>,
    ) -> Self {
        Self {
            image,
            contents,
            state,
            progress,
            jobs,
            batch: Vec::new(),
            batch_bytes: 0,
            top,
            frames: Vec::new(),
            path: Vec::new(),
            links: HashMap::new(),
            link_directory: None,
            root,
        }
    }

    pub(super) fn run(mut self) -> Result<(), ExportCause> {
        let top = self.top.try_clone().map_err(|error| io_cause("open", b"/", error))?;
        let attributes = self.image.attributes(self.root).map_err(image_cause(b"/"))?;
        self.enter(attributes, top)?;
        while !self.frames.is_empty() && !self.state.has_failed() {
            if !self.make_entries()? {
                self.leave()?;
            }
        }
        self.send_batch();
        Ok(())
    }

    /// Creates entries of the innermost directory up to its next subdirectory, which becomes the innermost. Returns
    /// `false` when no entries are left or a thread has failed.
    fn make_entries(&mut self) -> Result<bool, ExportCause> {
        let image = self.image;
        let Some(frame) = self.frames.last() else { return Ok(false) };
        let (ino, next) = (frame.attributes.ino, frame.next);
        let children = image.children(ino, next).map_err(image_cause(&self.path))?;
        for entry in children {
            let entry = entry.map_err(image_cause(&self.path))?;
            if self.state.has_failed() {
                return Ok(false);
            }
            self.path.push(b'/');
            self.path.extend_from_slice(entry.name);
            let attributes = image.attributes(entry.ino).map_err(image_cause(&self.path))?;
            self.progress.add_entry();
            if attributes.kind == FileKind::Directory {
                let fd = self.make_directory(entry.name)?;
                if let Some(frame) = self.frames.last_mut() {
                    frame.next = entry.index + 1;
                }
                self.enter(attributes, fd)?;
                return Ok(true);
            }
            self.make_entry(entry.name, attributes)?;
            self.path.truncate(self.path.len() - entry.name.len() - 1);
        }
        Ok(false)
    }

    fn enter(&mut self, attributes: Attributes, fd: OwnedFd) -> Result<(), ExportCause> {
        let identity = directory_identity(&fd).map_err(|errno| io_cause("stat", &self.path, errno))?;
        self.frames.push(DirectoryFrame {
            attributes,
            fd: Some(fd),
            identity,
            next: 0,
            path_length: self.path.len(),
            shared_path: None,
        });
        if let Some(index) = self.frames.len().checked_sub(OPEN_DIRECTORIES_MAX + 1) {
            self.frames[index].fd = None;
        }
        Ok(())
    }

    /// Finishes the innermost directory and returns to its parent.
    fn leave(&mut self) -> Result<(), ExportCause> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let Some(fd) = frame.fd else { return Ok(()) };
        if let Some(above) = self.frames.last_mut()
            && above.fd.is_none()
        {
            let reopened = open_directory(fd.as_fd(), b"..", OFlags::RDONLY)
                .map_err(|errno| io_cause("reopen", &self.path, errno))?;
            if directory_identity(&reopened) != Ok(above.identity) {
                return Err(io_cause("find the directory above", &self.path, Errno::STALE));
            }
            above.fd = Some(reopened);
        }
        self.state.add_made(1, 0);
        let path: &[u8] = if self.path.is_empty() { b"/" } else { &self.path };
        let xattrs = self.image.xattrs(frame.attributes.ino).map_err(image_cause(path))?;
        apply(self.state, EntryRef::Open(fd.as_fd()), path, &frame.attributes, &xattrs)?;
        let above = self.frames.last().map_or(0, |above| above.path_length);
        self.path.truncate(above);
        Ok(())
    }

    fn current_directory(&self) -> Result<BorrowedFd<'_>, ExportCause> {
        let fd = self.frames.last().and_then(|frame| frame.fd.as_ref());
        fd.map(AsFd::as_fd).ok_or_else(|| io_cause("reopen", &self.path, Errno::BADF))
    }

    fn make_directory(&self, name: &[u8]) -> Result<OwnedFd, ExportCause> {
        let current = self.current_directory()?;
        let made = match rustix::fs::mkdirat(current, name, Mode::RWXU) {
            Err(Errno::EXIST) if self.contents == TargetContents::Any => {
                match open_directory(current, name, OFlags::RDONLY) {
                    Ok(fd) => {
                        restrict_access(&fd).map_err(|errno| io_cause("restrict access to", &self.path, errno))?;
                        return Ok(fd);
                    }
                    Err(_) => self.remove_and_retry(name, || rustix::fs::mkdirat(current, name, Mode::RWXU)),
                }
            }
            other => other,
        };
        made.and_then(|()| open_directory(current, name, OFlags::RDONLY))
            .map_err(|errno| io_cause("create", &self.path, errno))
    }

    /// Creates an entry that is not a directory.
    fn make_entry(&mut self, name: &[u8], attributes: Attributes) -> Result<(), ExportCause> {
        let linked = attributes.nlink > 1;
        if linked && let Some(first) = self.links.get(&attributes.ino).cloned() {
            return match first {
                Some((directory, first)) => self.link(&directory, &first, name),
                None => Ok(()),
            };
        }
        let ino = attributes.ino;
        let made = if attributes.kind == FileKind::Regular {
            self.make_file(name, attributes)?;
            true
        } else {
            self.make_special(name, &attributes)?
        };
        if linked {
            let first = made.then(|| (self.shared_path(), name.into()));
            self.links.insert(ino, first);
        }
        Ok(())
    }

    fn make_file(&mut self, name: &[u8], attributes: Attributes) -> Result<(), ExportCause> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let current = self.current_directory()?;
        let open = || rustix::fs::openat(current, name, flags, Mode::RUSR | Mode::WUSR);
        let opened = match open() {
            Err(Errno::EXIST) => self.remove_and_retry(name, open),
            other => other,
        };
        let file = File::from(opened.map_err(|errno| io_cause("create", &self.path, errno))?);
        self.batch_bytes += attributes.size;
        self.batch.push(FillJob { file, attributes, path: self.path.as_slice().into() });
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.send_batch();
        }
        Ok(())
    }

    /// Creates a symbolic link, device, fifo or socket. Returns `false` when the target cannot hold it.
    fn make_special(&self, name: &[u8], attributes: &Attributes) -> Result<bool, ExportCause> {
        let current = self.current_directory()?;
        let ino = attributes.ino;
        let node = |kind| {
            let device = attributes.device.map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
            rustix::fs::mknodat(current, name, kind, Mode::RUSR | Mode::WUSR, device)
        };
        let target = match attributes.kind {
            FileKind::Symlink => self.image.symlink(ino).map_err(image_cause(&self.path))?,
            _ => &[],
        };
        let make = || match attributes.kind {
            FileKind::Symlink => rustix::fs::symlinkat(target, current, name),
            FileKind::CharDevice => node(FileType::CharacterDevice),
            FileKind::BlockDevice => node(FileType::BlockDevice),
            FileKind::Fifo => node(FileType::Fifo),
            FileKind::Socket => node(FileType::Socket),
            FileKind::Regular | FileKind::Directory => Err(Errno::INVAL),
        };
        let made = match make() {
            Err(Errno::EXIST) => self.remove_and_retry(name, make),
            other => other,
        };
        if matches!(attributes.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            if !self.state.tolerate(Loss::Device, "make the device", &self.path, made)? {
                return Ok(false);
            }
        } else {
            made.map_err(|errno| io_cause("create", &self.path, errno))?;
        }
        self.state.add_made(1, 0);
        let xattrs = self.image.xattrs(ino).map_err(image_cause(&self.path))?;
        apply(self.state, EntryRef::At(current, name), &self.path, attributes, &xattrs)?;
        Ok(true)
    }

    fn link(&mut self, directory: &Rc<[u8]>, first: &[u8], name: &[u8]) -> Result<(), ExportCause> {
        let is_cached = self.link_directory.as_ref().is_some_and(|(path, _)| path == directory);
        if !is_cached {
            let fd = open_path(self.top.as_fd(), directory).map_err(|errno| io_cause("reopen", directory, errno))?;
            self.link_directory = Some((directory.clone(), fd));
        }
        let Some((_, from)) = &self.link_directory else { return Ok(()) };
        let current = self.current_directory()?;
        let link = || rustix::fs::linkat(from, first, current, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => self.remove_and_retry(name, link),
            other => other,
        };
        linked.map_err(|errno| io_cause("link", &self.path, errno))?;
        self.state.add_made(1, 0);
        Ok(())
    }

    /// Removes the existing entry of this name, if `contents` allows that, and calls `retry`.
    fn remove_and_retry<T>(&self, name: &[u8], retry: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if self.contents == TargetContents::Empty {
            // Two names that differ in the image are the same in the target, as on a filesystem that ignores case.
            return Err(Errno::EXIST);
        }
        let current = self.frames.last().and_then(|frame| frame.fd.as_ref()).ok_or(Errno::BADF)?;
        rustix::fs::unlinkat(current, name, AtFlags::empty())?;
        retry()
    }

    /// Returns the path of the innermost directory, copied once for all its hard links.
    fn shared_path(&mut self) -> Rc<[u8]> {
        let path = &self.path;
        match self.frames.last_mut() {
            Some(frame) => {
                let length = frame.path_length;
                frame.shared_path.get_or_insert_with(|| path[..length].into()).clone()
            }
            None => Rc::default(),
        }
    }

    /// Sends the batch to the fillers, which drain their queue even after a failure.
    fn send_batch(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() && self.jobs.send(batch).is_err() {
            tracing::debug!("no thread is left to fill files");
        }
    }
}

/// Gives an existing directory the state of a new one: other users have no access until it is finished, and its entries
/// inherit no ACL.
pub(super) fn restrict_access(directory: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fchmod(directory, Mode::RWXU) {
        // The directory belongs to another user, and this user may write to it.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    for attribute in [ACL_ACCESS, ACL_DEFAULT] {
        match rustix::fs::fremovexattr(directory, attribute) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8], access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Opens the directory `path` below `top` name by name, because the path may be longer than the kernel accepts.
fn open_path(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut directory = rustix::io::fcntl_dupfd_cloexec(top, 0)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        // The mode of a finished directory may forbid reading it; `O_PATH` only passes through.
        directory = open_directory(directory.as_fd(), name, OFlags::PATH)?;
    }
    Ok(directory)
}

/// Returns the device and inode number by which a directory is recognised.
fn directory_identity(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}
