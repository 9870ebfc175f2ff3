//! Creates the skeleton of `/` and the initial `/var` of a stateroot. The skeleton is a small directory with the links and
//! mount points of the top level, so that `/` itself depends on no daemon.
//!
//! The skeleton is mounted read-only. Writable directories that commits have at the top level (`/home`, `/root`, …) become
//! links into `/var`; their contents are copied there when `/var` is filled.
//!
//! *Not here*: mounting (`boot`).
//!
//! *Invariants*: a `/var` that is not empty is never changed.
//!
//! *Used by* `plan` and `apply`.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};

use super::etc::PreserveOwners;
use crate::disk::{self, EntryRef};
use crate::export::{ExportDirectoryError, ExportOptions, ExportProgress, TargetContents, export_directory};
use crate::image::{Image, ImageError, Ino};
use crate::model::FileKind;
use crate::store::Store;

/// The mount points that every system needs, with their modes.
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

/// The directories that become links into `/var`, with their names there and their modes.
const VAR_LINKS: [(&str, &str, u16); 6] = [
    ("home", "home", 0o755),
    ("mnt", "mnt", 0o755),
    ("opt", "opt", 0o755),
    ("root", "roothome", 0o700),
    ("srv", "srv", 0o755),
    ("media", "media", 0o755),
];

/// The link to Sapwood's own files: its name and its target, relative to the skeleton.
const SAPWOOD_LINK: (&str, &str) = ("sapwood", "sysroot/sapwood");

/// Why a skeleton or a `/var` cannot be created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SkeletonError {
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The commit has no `/usr`.
    #[error("there is no /usr in it")]
    NoUsr,
    /// The commit's `/var` could not be copied.
    #[error("cannot fill /var")]
    Var(#[from] ExportDirectoryError),
    /// The skeleton on the disk has another entry than the image stands for.
    #[error("{} {problem}, which its commit does not say: it was changed on the disk", .path.display())]
    Changed { path: PathBuf, problem: &'static str },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// What a deployment does with the `/var` of the stateroot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VarPlan {
    /// The `/var` has contents and is not changed.
    Kept,
    /// The `/var` is absent or empty and is filled from the commit.
    Filled,
}

/// The planned top level of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Skeleton {
    /// The directories and their modes.
    pub(crate) directories: Vec<(String, u16)>,
    /// The symbolic links and their targets.
    pub(crate) links: Vec<(String, Vec<u8>)>,
    /// The directories that are to be mounted from the image.
    pub(crate) mounts: Vec<String>,
    /// Names that are left out: of files at the top level, and names that are not UTF-8.
    pub(crate) left_out: Vec<String>,
    /// The directories of the image whose contents belong into `/var`, with their names there.
    pub(crate) into_var: Vec<(Ino, String)>,
}

impl Skeleton {
    /// Plans the skeleton for a commit.
    pub(crate) fn of(image: &Image) -> Result<Self, SkeletonError> {
        let mut skeleton = Self::default();
        for child in image.children(image.root(), 0)? {
            let child = child?;
            let Ok(name) = std::str::from_utf8(child.name) else {
                skeleton.left_out.push(child.name.escape_ascii().to_string());
                continue;
            };
            match child.kind {
                FileKind::Symlink => skeleton.links.push((name.to_owned(), image.symlink(child.ino)?.to_vec())),
                FileKind::Directory => skeleton.add_directory(image, name, child.ino)?,
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
        if !is_there(&skeleton, SAPWOOD_LINK.0) {
            skeleton.links.push((SAPWOOD_LINK.0.to_owned(), SAPWOOD_LINK.1.into()));
        }
        skeleton.directories.sort();
        skeleton.links.sort();
        Ok(skeleton)
    }

    fn add_directory(&mut self, image: &Image, name: &str, ino: Ino) -> Result<(), ImageError> {
        let is_empty = image.child_count(ino)? == 0;
        let is_mount_point = MOUNT_POINTS.iter().any(|(known, _)| *known == name);
        let in_var = VAR_LINKS.iter().find(|(known, ..)| *known == name);
        match in_var {
            // A non-empty `/opt` has programs from packages: they stay part of the commit.
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

    /// Creates the skeleton at `target`, which must not exist. The result is not synced.
    pub(crate) fn make(&self, target: &Path) -> Result<(), SkeletonError> {
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

    /// Checks that `target` has the entries of this skeleton and no others, and that its directories are empty.
    pub(crate) fn check(&self, target: &Path) -> Result<(), SkeletonError> {
        let changed = |path: PathBuf, problem| Err(SkeletonError::Changed { path, problem });
        let is_directory = |path: &Path| match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|found| found.is_dir()).map_err(io_error("read", path)),
        };
        if !is_directory(target)? {
            return changed(target.to_owned(), "is no directory");
        }
        for entry in std::fs::read_dir(target).map_err(io_error("list", target))? {
            let name = entry.map_err(io_error("list", target))?.file_name();
            let known =
                self.directories.iter().map(|(known, _)| known).chain(self.links.iter().map(|(known, _)| known));
            if !known.into_iter().any(|known| name == known.as_str()) {
                return changed(target.join(name), "was added");
            }
        }
        for (name, _) in &self.directories {
            let path = target.join(name);
            if !is_directory(&path)? {
                return changed(path, "is no directory");
            }
            if !is_absent_or_empty(&path)? {
                return changed(path, "is not empty");
            }
        }
        for (name, to) in &self.links {
            let path = target.join(name);
            match rustix::fs::readlink(&path, Vec::new()) {
                Ok(found) if found.as_bytes() == &to[..] => {}
                Ok(_) => return changed(path, "is a link to another place"),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => return changed(path, "is no link"),
                Err(errno) => return Err(io_error("read", &path)(errno.into())),
            }
        }
        Ok(())
    }
}

/// Fills the `/var` of a stateroot from a commit if it is absent or empty. It is created as `temporary` and renamed in one
/// step.
pub(crate) fn fill_var(
    image: &Image,
    skeleton: &Skeleton,
    store: &Store,
    temporary: &Path,
    var: &Path,
    ownership: PreserveOwners,
) -> Result<(), SkeletonError> {
    if !is_absent_or_empty(var)? {
        return Ok(());
    }
    disk::remove_directory(temporary).map_err(io_error("remove", temporary))?;
    let export = |ino: Ino, target: &Path| {
        let fidelity = match ownership {
            PreserveOwners::Yes => crate::export::Fidelity::Required,
            PreserveOwners::No => crate::export::Fidelity::BestEffort,
        };
        let options = ExportOptions { fidelity, contents: TargetContents::Any, threads: 1 };
        export_directory(image, ino, store, target, options, &ExportProgress::default()).map(drop)
    };
    match image.lookup(image.root(), b"var")?.filter(|ino| image.kind(*ino) == Ok(FileKind::Directory)) {
        Some(ino) => export(ino, temporary)?,
        None => make_directory(temporary, 0o755)?,
    }
    for (_, name, mode) in VAR_LINKS {
        let path = temporary.join(name);
        if rustix::fs::lstat(&path).is_err() {
            make_directory(&path, mode)?;
        }
    }
    for (ino, name) in &skeleton.into_var {
        export(*ino, &temporary.join(name))?;
    }
    let synced = disk::open_directory(temporary).and_then(disk::sync_filesystem);
    synced.map_err(io_error("sync", temporary))?;
    disk::rename_directory(temporary, var).map_err(io_error("name", var))
}

/// Returns whether `path` does not exist or is an empty directory.
pub(crate) fn is_absent_or_empty(path: &Path) -> Result<bool, SkeletonError> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("list", path)(error)),
    }
}

fn make_directory(path: &Path, mode: u16) -> Result<(), SkeletonError> {
    let made = rustix::fs::mkdir(path, Mode::RWXU).map_err(io::Error::from).and_then(|()| {
        let directory = disk::open_directory(path)?;
        Ok(EntryRef::Open(directory.as_fd()).chmod(mode)?)
    });
    made.map_err(io_error("create", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SkeletonError + use<> {
    let path = path.to_owned();
    move |source| SkeletonError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes a skeleton on the disk.
    type Attack = fn(&Path) -> io::Result<()>;

    #[test]
    fn changed_skeleton_is_refused_and_an_unchanged_one_passes() {
        use std::os::unix::fs::symlink;
        let skeleton = Skeleton {
            directories: vec![("etc".into(), 0o755), ("usr".into(), 0o755)],
            links: vec![("bin".into(), b"usr/bin".to_vec())],
            ..Skeleton::default()
        };
        let attacks: [(&str, Attack); 8] = [
            ("other link", |at| std::fs::remove_file(at.join("bin")).and_then(|()| symlink("var/bin", at.join("bin")))),
            ("directory for link", |at| {
                std::fs::remove_file(at.join("bin")).and_then(|()| std::fs::create_dir(at.join("bin")))
            }),
            ("missing link", |at| std::fs::remove_file(at.join("bin"))),
            ("link for directory", |at| {
                std::fs::remove_dir(at.join("usr")).and_then(|()| symlink("var/usr", at.join("usr")))
            }),
            ("missing directory", |at| std::fs::remove_dir(at.join("etc"))),
            ("added link", |at| symlink("var/lib64", at.join("lib64"))),
            ("added file", |at| std::fs::File::create(at.join("x")).map(drop)),
            ("file in a directory", |at| std::fs::File::create(at.join("usr/x")).map(drop)),
        ];
        let place = tempfile::tempdir().expect("a directory");
        for (name, attack) in attacks {
            let target = place.path().join(name);
            skeleton.make(&target).expect("new");
            skeleton.check(&target).expect("unchanged");
            attack(&target).expect("writable");
            let refused = skeleton.check(&target).expect_err(name);
            assert!(matches!(refused, SkeletonError::Changed { .. }), "{name}: {refused}");
        }
    }
}
