//! The skeleton of `/`: a small directory with the links and mount points of the top level, so that `/` itself depends on no
//! daemon, and the `/var` that the first deployment of a stateroot fills.
//!
//! The skeleton is mounted read-only. What people write to and commits have as plain directories (`/home`, `/root`, …)
//! becomes a link into `/var`, and what a commit has in it goes there when `/var` is filled.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};

use super::etc::Ownership;
use crate::disk::{self, Entry};
use crate::export::{DirectoryOptions, ExportDirectoryError, Progress, TargetContents, export_directory};
use crate::image::{Image, ImageError, Ino};
use crate::model::FileKind;
use crate::store::Store;

/// Mount points that every system needs, with their modes.
const MOUNT_POINTS: [(&str, u16); 10] = [
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("sysroot", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
];

/// Directories that become links into `/var`, with the names there and the modes.
const IN_VAR: [(&str, &str, u16); 6] = [
    ("home", "home", 0o755),
    ("mnt", "mnt", 0o755),
    ("opt", "opt", 0o755),
    ("root", "roothome", 0o700),
    ("srv", "srv", 0o755),
    ("media", "media", 0o755),
];

/// Where Sapwood's own files are, seen from the skeleton.
const SAPWOOD: (&str, &str) = ("sapwood", "sysroot/sapwood");

/// Why a skeleton or a `/var` cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SkeletonError {
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The commit has no `/usr`.
    #[error("there is no /usr in it")]
    NoUsr,
    /// The commit's `/var` could not be copied.
    #[error("cannot fill /var")]
    Var(#[from] ExportDirectoryError),
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

/// What becomes of the `/var` of the stateroot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarPlan {
    /// It is left alone.
    Kept,
    /// It is empty: the commit's fills it.
    Filled,
}

/// What the top level is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skeleton {
    /// Mount points and their modes.
    pub directories: Vec<(String, u16)>,
    /// Links and where they lead.
    pub links: Vec<(String, Vec<u8>)>,
    /// Those of the directories that are to be mounted from the image.
    pub mounts: Vec<String>,
    /// What has no place: files at the top level, names that are no text.
    pub left_out: Vec<String>,
    /// Directories of the image that belong into `/var`, with their names there.
    pub into_var: Vec<(Ino, String)>,
}

impl Skeleton {
    /// The skeleton for a commit.
    ///
    /// # Errors
    /// [`SkeletonError`].
    pub fn of(image: &Image) -> Result<Self, SkeletonError> {
        let mut skeleton = Self::default();
        for child in image.children(image.root(), 0)? {
            let child = child?;
            let Ok(name) = std::str::from_utf8(child.name) else {
                skeleton.left_out.push(child.name.escape_ascii().to_string());
                continue;
            };
            match child.kind {
                FileKind::Symlink => skeleton.links.push((name.to_owned(), image.symlink(child.ino)?.to_vec())),
                FileKind::Directory => skeleton.directory(image, name, child.ino)?,
                _ => skeleton.left_out.push(name.to_owned()),
            }
        }
        if !skeleton.directories.iter().any(|(name, _)| name == "usr") {
            return Err(SkeletonError::NoUsr);
        }
        let is_there = |skeleton: &Self, name: &str| {
            skeleton.directories.iter().any(|(found, _)| found == name)
                || skeleton.links.iter().any(|(found, _)| found == name)
        };
        for (name, mode) in MOUNT_POINTS {
            if !is_there(&skeleton, name) {
                skeleton.directories.push((name.to_owned(), mode));
            }
        }
        if !is_there(&skeleton, SAPWOOD.0) {
            skeleton.links.push((SAPWOOD.0.to_owned(), SAPWOOD.1.into()));
        }
        skeleton.directories.sort();
        skeleton.links.sort();
        Ok(skeleton)
    }

    fn directory(&mut self, image: &Image, name: &str, ino: Ino) -> Result<(), ImageError> {
        let is_empty = image.child_count(ino)? == 0;
        let is_mount_point = MOUNT_POINTS.iter().any(|(known, _)| *known == name);
        let in_var = IN_VAR.iter().find(|(known, ..)| *known == name);
        match in_var {
            // Programs that packages put there are the commit's, not the machine's.
            Some((_, target, _)) if is_empty || name != "opt" => {
                self.links.push((name.to_owned(), format!("var/{target}").into_bytes()));
                if !is_empty {
                    self.into_var.push((ino, (*target).to_owned()));
                }
            }
            _ => {
                self.directories.push((name.to_owned(), image.attributes(ino)?.permissions));
                if !is_mount_point && !is_empty {
                    self.mounts.push(name.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Makes the skeleton at `target`, which must not be there. Not synced.
    ///
    /// # Errors
    /// [`SkeletonError::Io`].
    pub fn make(&self, target: &Path) -> Result<(), SkeletonError> {
        make_directory(target, 0o755)?;
        for (name, mode) in &self.directories {
            make_directory(&target.join(name), *mode)?;
        }
        for (name, to) in &self.links {
            let path = target.join(name);
            let linked = rustix::fs::symlinkat(&to[..], CWD, &path);
            linked.map_err(|errno| io_error("create", &path)(errno.into()))?;
        }
        Ok(())
    }
}

/// Fills the `/var` of a stateroot from a commit if nothing is in it: under the name `making` first, then in one step.
///
/// # Errors
/// [`SkeletonError`].
pub fn fill_var(
    image: &Image,
    skeleton: &Skeleton,
    store: &Store,
    making: &Path,
    var: &Path,
    ownership: Ownership,
) -> Result<(), SkeletonError> {
    if !is_absent_or_empty(var)? {
        return Ok(());
    }
    disk::remove_directory(making).map_err(io_error("remove", making))?;
    let export = |ino: Ino, target: &Path| {
        let fidelity = match ownership {
            Ownership::Kept => crate::export::Fidelity::Required,
            Ownership::Ignored => crate::export::Fidelity::BestEffort,
        };
        let options = DirectoryOptions { fidelity, contents: TargetContents::Any, threads: 1 };
        export_directory(image, ino, store, target, options, &Progress::default()).map(drop)
    };
    match image.lookup(image.root(), b"var")?.filter(|ino| image.kind(*ino) == Ok(FileKind::Directory)) {
        Some(ino) => export(ino, making)?,
        None => make_directory(making, 0o755)?,
    }
    for (_, name, mode) in IN_VAR {
        let path = making.join(name);
        if rustix::fs::lstat(&path).is_err() {
            make_directory(&path, mode)?;
        }
    }
    for (ino, name) in &skeleton.into_var {
        export(*ino, &making.join(name))?;
    }
    let synced = disk::open_directory(making).and_then(disk::sync_filesystem);
    synced.map_err(io_error("sync", making))?;
    disk::rename_directory(making, var).map_err(io_error("name", var))
}

/// Whether there is nothing at `path`, or an empty directory.
///
/// # Errors
/// [`SkeletonError::Io`].
pub fn is_absent_or_empty(path: &Path) -> Result<bool, SkeletonError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("list", path)(error)),
    }
}

fn make_directory(path: &Path, mode: u16) -> Result<(), SkeletonError> {
    let made = rustix::fs::mkdir(path, Mode::RWXU).map_err(io::Error::from).and_then(|()| {
        let directory = disk::open_directory(path)?;
        Ok(Entry::Open(directory.as_fd()).chmod(mode)?)
    });
    made.map_err(io_error("create", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SkeletonError + use<> {
    let path = path.to_owned();
    move |source| SkeletonError::Io { action, path, source }
}
