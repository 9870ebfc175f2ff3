//! Writes an image into a directory of this machine.
//!
//! One thread walks the image and creates all names; other threads fill the regular files and set their metadata.
//!
//! *Invariants*: all operations are relative to open directories, so only the kernel limits depth and length of names,
//! and no symbolic link of the target is followed. The order within an entry is content, owner, attributes, mode, time,
//! because changing the owner clears setuid and file capabilities, and `user.` attributes need a writable file.
//! Directories get their metadata after all their entries, so that no default ACL or time has to be restored. Until the
//! end the top of the target has mode 0700: other users cannot reach files that do not have their owners yet.
//!
//! *Used by* `cli::export` and `deploy::skeleton`.

mod apply;
mod fill;
mod state;
mod walk;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

pub(crate) use self::state::ExportCause;
pub use self::state::Fidelity;
pub use self::walk::TargetContents;

use self::fill::Filler;
use self::state::ExportState;
use self::walk::ExportWalk;
use super::report::{ExportProgress, ExportReport};
use crate::disk;
use crate::image::{Image, ImageError, Ino};
use crate::model::FileKind;
use crate::store::ObjectSource;

/// Most batches that wait to be filled, each of up to [`walk::BATCH_FILES`] open files.
const QUEUED_BATCHES_MAX: usize = 3;

/// Choices for [`export_directory`].
#[derive(Debug, Clone, Copy)]
pub struct ExportOptions {
    /// What to do about metadata and entries that the target cannot hold.
    pub fidelity: Fidelity,
    /// What the target may contain before the export.
    pub contents: TargetContents,
    /// Number of threads that fill files, in addition to the one that creates them.
    pub threads: usize,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { fidelity: Fidelity::default(), contents: TargetContents::default(), threads: 2 }
    }
}

/// Why an image was not exported, or only in part.
#[derive(Debug, thiserror::Error)]
pub enum ExportDirectoryError {
    /// The target cannot be created or opened.
    #[error("cannot {action} {}", .path.display())]
    Target {
        /// The action that failed, as a verb for the message.
        action: &'static str,
        /// The target.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The target has entries.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The entry to export is not a directory.
    #[error("only a directory can be exported into a directory")]
    NotADirectory,
    /// The image cannot be read; nothing was created.
    #[error("cannot read the image")]
    Image(#[from] ImageError),
    /// The export failed after it had begun.
    #[error("the export into {} is incomplete, {entries} entries were made", .target.display())]
    Incomplete {
        /// The target.
        target: PathBuf,
        /// Entries that were created before the failure.
        entries: u64,
        /// The first failure.
        source: Box<ExportCause>,
    },
}

/// Writes the directory `root` of `image` into `target`, which is created if it does not exist.
///
/// # Errors
/// [`ExportDirectoryError`]. After [`ExportDirectoryError::Incomplete`] the entries created so far stay in the target,
/// and its top keeps mode 0700.
pub fn export_directory(
    image: &Image,
    root: Ino,
    objects: &dyn ObjectSource,
    target: &Path,
    options: ExportOptions,
    progress: &ExportProgress,
) -> Result<ExportReport, ExportDirectoryError> {
    if image.attributes(root)?.kind != FileKind::Directory {
        return Err(ExportDirectoryError::NotADirectory);
    }
    let directory = prepare_target(target, options.contents)?;
    let state = ExportState::new(options.fidelity);
    let (send, receive) = crossbeam_channel::bounded(QUEUED_BATCHES_MAX);
    let walked = std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            let (receive, state) = (receive.clone(), &state);
            scope.spawn(move || Filler::new(image, objects, state, progress).run(&receive));
        }
        drop(receive);
        ExportWalk::new(image, directory, root, options.contents, &state, progress, send).run()
    });
    state.finish(walked).map_err(|source| ExportDirectoryError::Incomplete {
        target: target.to_owned(),
        entries: progress.entries(),
        source: Box::new(source),
    })
}

/// Opens the target, makes it inaccessible to other users, and removes the ACLs that its entries would inherit.
fn prepare_target(target: &Path, contents: TargetContents) -> Result<OwnedFd, ExportDirectoryError> {
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
    walk::restrict_access(&directory).map_err(|errno| error("restrict access to")(errno.into()))?;
    Ok(directory)
}
