//! An image as a directory of this machine.
//!
//! One thread walks the image and makes names; others fill regular files and finish them. Everything happens relative to
//! open directories, so neither depth nor length of names has a limit but the kernel's, and no symbolic link of the
//! target is followed.
//!
//! Order within an entry: content, owner, attributes, mode, time, since changing the owner takes away setuid and file
//! capabilities, and `user.` attributes need a file that can still be written. Directories get theirs after all their
//! entries, so that a default ACL or a time does not have to be restored. Until the end the top of the target has mode
//! 0700: nobody else can reach in while files do not have their owners yet.

mod apply;
mod fill;
mod walk;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::Mode;
use rustix::io::Errno;

use self::fill::Filler;
use self::walk::Walk;
use super::report::{Loss, Progress, Report, words};
use crate::disk;
use crate::image::{Image, ImageError, Ino};
use crate::model::{ACL_ACCESS, ACL_DEFAULT, FileKind};
use crate::store::{ObjectSource, ReadError};

/// Batches of files that wait to be filled, each of up to [`walk::BATCH_FILES`] open files.
const QUEUE: usize = 3;

/// What to do about things the target cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fidelity {
    /// Leave them out and say so in the report.
    #[default]
    BestEffort,
    /// Fail at the first one.
    Required,
}

/// What may be in the target before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetContents {
    /// Nothing: another export, or somebody's files, are not written over.
    #[default]
    Empty,
    /// Anything: entries of the image replace those of the same name, directories are merged, the rest stays.
    Any,
}

/// Choices for [`export_directory`].
#[derive(Debug, Clone, Copy)]
pub struct DirectoryOptions {
    /// What to do about things the target cannot take.
    pub fidelity: Fidelity,
    /// What may be in the target before.
    pub contents: TargetContents,
    /// Threads that fill files, beside the one that makes them.
    pub threads: usize,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self { fidelity: Fidelity::default(), contents: TargetContents::default(), threads: 2 }
    }
}

/// Why an image was not exported, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum ExportDirectoryError {
    /// The target cannot be made or opened.
    #[error("cannot {action} {}", .path.display())]
    Target {
        /// What was tried.
        action: &'static str,
        /// The target.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The target has entries.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// What is to be exported is not a directory.
    #[error("only a directory can be exported into a directory")]
    NotADirectory,
    /// The image cannot be read, before anything was made.
    #[error("cannot read the image")]
    Image(#[from] ImageError),
    /// It failed on the way.
    #[error("the export into {} is incomplete, {entries} entries were made", .target.display())]
    Incomplete {
        /// The target.
        target: PathBuf,
        /// Entries made before.
        entries: u64,
        /// What failed.
        source: ExportCause,
    },
}

/// What failed on the way.
#[derive(Debug, thiserror::Error)]
pub enum ExportCause {
    /// The system refused.
    #[error("cannot {action} '{path}'")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path of the image.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The content cannot be read.
    #[error("cannot read the content of '{path}'")]
    Content {
        /// The path of the image.
        path: String,
        /// Why not.
        source: ReadError,
    },
    /// The object is shorter than the image says.
    #[error("the object of '{path}' has fewer bytes than the file")]
    ShortObject {
        /// The path of the image.
        path: String,
    },
    /// The image is damaged.
    #[error("the image is damaged at '{path}'")]
    Image {
        /// The path of the image.
        path: String,
        /// What is wrong.
        source: ImageError,
    },
}

/// Writes the directory `root` of `image` into `target`, which is made if it does not exist.
///
/// # Errors
/// [`ExportDirectoryError`]; after [`ExportDirectoryError::Incomplete`] the target is left as far as it came, its top
/// with mode 0700.
pub fn export_directory(
    image: &Image,
    root: Ino,
    objects: &dyn ObjectSource,
    target: &Path,
    options: DirectoryOptions,
    progress: &Progress,
) -> Result<Report, ExportDirectoryError> {
    if image.attributes(root)?.kind != FileKind::Directory {
        return Err(ExportDirectoryError::NotADirectory);
    }
    let directory = prepare(target, options.contents)?;
    let ledger = Ledger::new(options.fidelity);
    let (send, receive) = crossbeam_channel::bounded(QUEUE);
    let walked = std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (receive, ledger) = (receive.clone(), &ledger);
            scope.spawn(move || Filler::new(image, objects, ledger, progress).run(&receive));
        }
        drop(receive);
        Walk::new(image, directory, root, options.contents, &ledger, progress, send).run()
    });
    ledger.finish(walked).map_err(|source| ExportDirectoryError::Incomplete {
        target: target.to_owned(),
        entries: progress.entries(),
        source,
    })
}

/// Opens the target for this process alone, and takes away what its entries would inherit.
fn prepare(target: &Path, contents: TargetContents) -> Result<OwnedFd, ExportDirectoryError> {
    let error =
        |action| move |source: io::Error| ExportDirectoryError::Target { action, path: target.to_owned(), source };
    match rustix::fs::mkdir(target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(error("create")(errno.into())),
    }
    let directory = disk::open_directory(target).map_err(error("open"))?;
    if contents == TargetContents::Empty && !disk::list(&directory).map_err(error("list"))?.is_empty() {
        return Err(ExportDirectoryError::NotEmpty(target.to_owned()));
    }
    match rustix::fs::fchmod(&directory, Mode::RWXU) {
        // A directory of somebody else that this user may write to.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(error("change the mode of")(errno.into())),
    }
    for attribute in [ACL_ACCESS, ACL_DEFAULT] {
        match rustix::fs::fremovexattr(&directory, attribute) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(error("remove the ACL of")(errno.into())),
        }
    }
    Ok(directory)
}

/// The account that all threads of an export share: losses, and the first failure.
struct Ledger {
    fidelity: Fidelity,
    report: Mutex<Report>,
    failure: Mutex<Option<ExportCause>>,
    failed: AtomicBool,
}

impl Ledger {
    fn new(fidelity: Fidelity) -> Self {
        Self { fidelity, report: Mutex::default(), failure: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Whether some thread gave up, so that the others should too.
    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn fail(&self, cause: ExportCause) {
        self.failure.lock().get_or_insert(cause);
        self.failed.store(true, Ordering::Relaxed);
    }

    fn count(&self, entries: u64, bytes: u64) {
        let mut report = self.report.lock();
        report.entries += entries;
        report.content_bytes += bytes;
    }

    /// Takes the result of something the target may be unable to do; returns whether it was done.
    fn allow(
        &self,
        loss: Loss,
        action: &'static str,
        path: &[u8],
        result: Result<(), Errno>,
    ) -> Result<bool, ExportCause> {
        let Err(errno) = result else { return Ok(true) };
        let unable = match errno {
            // No privilege; an id outside the user namespace; a filesystem that has no such thing.
            Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OVERFLOW | Errno::OPNOTSUPP | Errno::NOSYS => true,
            // ext4 says "no space" of an attribute that does not fit the inode's one block.
            Errno::NOSPC | Errno::TOOBIG | Errno::RANGE => loss == Loss::Xattr,
            _ => false,
        };
        if !unable || self.fidelity == Fidelity::Required {
            return Err(io_cause(action, path, errno));
        }
        self.lose(loss, || format!("cannot {action} '{}': {errno}", words(path)));
        Ok(false)
    }

    fn lose(&self, loss: Loss, words: impl FnOnce() -> String) {
        self.report.lock().lose(loss, words);
    }

    fn finish(self, walked: Result<(), ExportCause>) -> Result<Report, ExportCause> {
        // A filler's failure comes first: the walk may only have stopped because of it.
        match self.failure.into_inner() {
            Some(cause) => Err(cause),
            None => walked.map(|()| self.report.into_inner()),
        }
    }
}

fn io_cause(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> ExportCause {
    ExportCause::Io { action, path: words(path), source: source.into() }
}

fn image_cause(path: &[u8]) -> impl FnOnce(ImageError) -> ExportCause {
    |source| ExportCause::Image { path: words(path), source }
}

/// The device and number by which a directory is recognised.
fn identity(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}
