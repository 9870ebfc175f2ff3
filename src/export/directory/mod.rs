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
mod ledger;
mod walk;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

pub use self::ledger::{ExportCause, Fidelity};
pub use self::walk::TargetContents;

use self::fill::Filler;
use self::ledger::Ledger;
use self::walk::Walk;
use super::report::{Progress, Report};
use crate::disk;
use crate::image::{Image, ImageError, Ino};
use crate::model::FileKind;
use crate::store::ObjectSource;

/// Batches of files that wait to be filled, each of up to [`walk::BATCH_FILES`] open files.
const QUEUE: usize = 3;

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
        source: Box<ExportCause>,
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
        source: Box::new(source),
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
    walk::take_over(&directory).map_err(|errno| error("take over")(errno.into()))?;
    Ok(directory)
}
