//! The walk that makes every name of an export, in the order of the tree.
//!
//! Invariant: at most [`OPEN_DIRECTORIES`] of the directories on the way down stay open; on the way up a closed one is
//! found again through `..` and recognised by device and number.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use crossbeam_channel::Sender;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::apply::apply;
use super::fill::Job;
use super::ledger::{ExportCause, Ledger, image_cause, io_cause};
use crate::disk::Entry;
use crate::export::report::{Loss, Progress};
use crate::image::{Attributes, Image, Ino};
use crate::model::{ACL_ACCESS, ACL_DEFAULT, FileKind};

/// Directories on the way down that stay open.
const OPEN_DIRECTORIES: usize = 32;

/// Files handed to a filler at a time.
pub(super) const BATCH_FILES: usize = 16;

/// A batch is handed over early at this many bytes.
const BATCH_BYTES: u64 = 4 << 20;

/// What may be in the target before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetContents {
    /// Nothing: another export, or somebody's files, are not written over.
    #[default]
    Empty,
    /// Anything: entries of the image replace those of the same name, directories are merged, the rest stays.
    Any,
}

/// A directory on the way down.
struct Frame {
    attributes: Attributes,
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    /// Where in the directory the walk goes on.
    next: u32,
    /// Length of the path up to here.
    path_length: usize,
    /// The path, once something wanted to keep it.
    shared_path: Option<Rc<[u8]>>,
}

/// Where the first name of a hard link is; `None` when it could not be made.
type FirstName = Option<(Rc<[u8]>, Box<[u8]>)>;

pub(super) struct Walk<'a> {
    image: &'a Image,
    contents: TargetContents,
    ledger: &'a Ledger,
    progress: &'a Progress,
    jobs: Sender<Vec<Job>>,
    batch: Vec<Job>,
    batch_bytes: u64,
    top: OwnedFd,
    frames: Vec<Frame>,
    /// Path of the entry at hand, from the top of the export, with a leading slash.
    path: Vec<u8>,
    links: HashMap<Ino, FirstName>,
    /// The directory of the last hard link's first name.
    link_directory: Option<(Rc<[u8]>, OwnedFd)>,
    root: Ino,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        image: &'a Image,
        top: OwnedFd,
        root: Ino,
        contents: TargetContents,
        ledger: &'a Ledger,
        progress: &'a Progress,
        jobs: Sender<Vec<Job>>,
    ) -> Self {
        Self {
            image,
            contents,
            ledger,
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
        while !self.frames.is_empty() && !self.ledger.has_failed() {
            if !self.step()? {
                self.leave()?;
            }
        }
        self.hand_over();
        Ok(())
    }

    /// Makes entries of the innermost directory up to its next directory, which becomes the innermost; `false` when
    /// there are no more.
    fn step(&mut self) -> Result<bool, ExportCause> {
        let image = self.image;
        let Some(frame) = self.frames.last() else { return Ok(false) };
        let (ino, next) = (frame.attributes.ino, frame.next);
        let children = image.children(ino, next).map_err(image_cause(&self.path))?;
        for entry in children {
            let entry = entry.map_err(image_cause(&self.path))?;
            if self.ledger.has_failed() {
                return Ok(false);
            }
            self.path.push(b'/');
            self.path.extend_from_slice(entry.name);
            let attributes = image.attributes(entry.ino).map_err(image_cause(&self.path))?;
            self.progress.entry();
            if attributes.kind == FileKind::Directory {
                let fd = self.make_directory(entry.name)?;
                if let Some(frame) = self.frames.last_mut() {
                    frame.next = entry.index + 1;
                }
                self.enter(attributes, fd)?;
                return Ok(true);
            }
            self.make(entry.name, attributes)?;
            self.path.truncate(self.path.len() - entry.name.len() - 1);
        }
        Ok(false)
    }

    fn enter(&mut self, attributes: Attributes, fd: OwnedFd) -> Result<(), ExportCause> {
        let identity = identity(&fd).map_err(|errno| io_cause("stat", &self.path, errno))?;
        self.frames.push(Frame {
            attributes,
            fd: Some(fd),
            identity,
            next: 0,
            path_length: self.path.len(),
            shared_path: None,
        });
        if let Some(index) = self.frames.len().checked_sub(OPEN_DIRECTORIES + 1) {
            self.frames[index].fd = None;
        }
        Ok(())
    }

    /// Finishes the innermost directory and goes back to the one above.
    fn leave(&mut self) -> Result<(), ExportCause> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let Some(fd) = frame.fd else { return Ok(()) };
        if let Some(above) = self.frames.last_mut()
            && above.fd.is_none()
        {
            let reopened = open_directory(fd.as_fd(), b"..", OFlags::RDONLY)
                .map_err(|errno| io_cause("reopen", &self.path, errno))?;
            if identity(&reopened) != Ok(above.identity) {
                return Err(io_cause("find the directory above", &self.path, Errno::STALE));
            }
            above.fd = Some(reopened);
        }
        self.ledger.count(1, 0);
        let path: &[u8] = if self.path.is_empty() { b"/" } else { &self.path };
        let xattrs = self.image.xattrs(frame.attributes.ino).map_err(image_cause(path))?;
        apply(self.ledger, Entry::Open(fd.as_fd()), path, &frame.attributes, &xattrs)?;
        let above = self.frames.last().map_or(0, |above| above.path_length);
        self.path.truncate(above);
        Ok(())
    }

    fn here(&self) -> Result<BorrowedFd<'_>, ExportCause> {
        let fd = self.frames.last().and_then(|frame| frame.fd.as_ref());
        fd.map(AsFd::as_fd).ok_or_else(|| io_cause("reopen", &self.path, Errno::BADF))
    }

    fn make_directory(&self, name: &[u8]) -> Result<OwnedFd, ExportCause> {
        let here = self.here()?;
        let made = match rustix::fs::mkdirat(here, name, Mode::RWXU) {
            Err(Errno::EXIST) if self.contents == TargetContents::Any => {
                match open_directory(here, name, OFlags::RDONLY) {
                    Ok(fd) => {
                        take_over(&fd).map_err(|errno| io_cause("take over", &self.path, errno))?;
                        return Ok(fd);
                    }
                    Err(_) => self.replace(name, || rustix::fs::mkdirat(here, name, Mode::RWXU)),
                }
            }
            other => other,
        };
        made.and_then(|()| open_directory(here, name, OFlags::RDONLY))
            .map_err(|errno| io_cause("create", &self.path, errno))
    }

    /// Makes anything but a directory.
    fn make(&mut self, name: &[u8], attributes: Attributes) -> Result<(), ExportCause> {
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
        let here = self.here()?;
        let open = || rustix::fs::openat(here, name, flags, Mode::RUSR | Mode::WUSR);
        let opened = match open() {
            Err(Errno::EXIST) => self.replace(name, open),
            other => other,
        };
        let file = File::from(opened.map_err(|errno| io_cause("create", &self.path, errno))?);
        self.batch_bytes += attributes.size;
        self.batch.push(Job { file, attributes, path: self.path.as_slice().into() });
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.hand_over();
        }
        Ok(())
    }

    /// Makes a symbolic link, device, fifo or socket; `false` when the target cannot have it.
    fn make_special(&self, name: &[u8], attributes: &Attributes) -> Result<bool, ExportCause> {
        let here = self.here()?;
        let ino = attributes.ino;
        let node = |kind| {
            let device = attributes.device.map_or(0, |device| rustix::fs::makedev(device.major, device.minor));
            rustix::fs::mknodat(here, name, kind, Mode::RUSR | Mode::WUSR, device)
        };
        let target = match attributes.kind {
            FileKind::Symlink => self.image.symlink(ino).map_err(image_cause(&self.path))?,
            _ => &[],
        };
        let make = || match attributes.kind {
            FileKind::Symlink => rustix::fs::symlinkat(target, here, name),
            FileKind::CharDevice => node(FileType::CharacterDevice),
            FileKind::BlockDevice => node(FileType::BlockDevice),
            FileKind::Fifo => node(FileType::Fifo),
            FileKind::Socket => node(FileType::Socket),
            FileKind::Regular | FileKind::Directory => Err(Errno::INVAL),
        };
        let made = match make() {
            Err(Errno::EXIST) => self.replace(name, make),
            other => other,
        };
        if matches!(attributes.kind, FileKind::CharDevice | FileKind::BlockDevice) {
            if !self.ledger.allow(Loss::Device, "make the device", &self.path, made)? {
                return Ok(false);
            }
        } else {
            made.map_err(|errno| io_cause("create", &self.path, errno))?;
        }
        self.ledger.count(1, 0);
        let xattrs = self.image.xattrs(ino).map_err(image_cause(&self.path))?;
        apply(self.ledger, Entry::At(here, name), &self.path, attributes, &xattrs)?;
        Ok(true)
    }

    fn link(&mut self, directory: &Rc<[u8]>, first: &[u8], name: &[u8]) -> Result<(), ExportCause> {
        let is_cached = self.link_directory.as_ref().is_some_and(|(path, _)| path == directory);
        if !is_cached {
            let fd = descend(self.top.as_fd(), directory).map_err(|errno| io_cause("reopen", directory, errno))?;
            self.link_directory = Some((directory.clone(), fd));
        }
        let Some((_, from)) = &self.link_directory else { return Ok(()) };
        let here = self.here()?;
        let link = || rustix::fs::linkat(from, first, here, name, AtFlags::empty());
        let linked = match link() {
            Err(Errno::EXIST) => self.replace(name, link),
            other => other,
        };
        linked.map_err(|errno| io_cause("link", &self.path, errno))?;
        self.ledger.count(1, 0);
        Ok(())
    }

    /// Removes what has the name already, where that is wanted, and tries again.
    fn replace<T>(&self, name: &[u8], again: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if self.contents == TargetContents::Empty {
            // Names that differ in the image are one in the target, as on a filesystem that ignores case.
            return Err(Errno::EXIST);
        }
        let here = self.frames.last().and_then(|frame| frame.fd.as_ref()).ok_or(Errno::BADF)?;
        rustix::fs::unlinkat(here, name, AtFlags::empty())?;
        again()
    }

    /// The path of the innermost directory, kept once for all its hard links.
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

    /// Gives the fillers what was gathered. They take all there is, even after a failure.
    fn hand_over(&mut self) {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() && self.jobs.send(batch).is_err() {
            tracing::debug!("no thread is left to fill files");
        }
    }
}

/// Makes a directory that was there before like one just made: nobody else can reach in until it is finished, and its
/// entries inherit no ACL.
pub(super) fn take_over(directory: &OwnedFd) -> Result<(), Errno> {
    match rustix::fs::fchmod(directory, Mode::RWXU) {
        // Somebody else's, that this user may write to.
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

/// Opens the directory of this path below `top`, name by name: the path may be longer than the kernel takes.
fn descend(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut directory = rustix::io::fcntl_dupfd_cloexec(top, 0)?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        // Finished directories may refuse to be read, but not to be passed through.
        directory = open_directory(directory.as_fd(), name, OFlags::PATH)?;
    }
    Ok(directory)
}

/// The device and number by which a directory is recognised.
fn identity(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}
