//! The new `/`: which mounts it is made of, in order, and making them.
//!
//! ```text
//! /          the skeleton of the deployment, read-only
//! /etc       of the deployment, writable
//! /var       of the stateroot, writable
//! /tmp       in memory, unless the commit has a link there
//! /usr       the commit (mounted between `assembly` and `arrival`)
//! /sysroot   the physical root
//! /boot      what is in /boot there; a boot partition of its own is fstab's
//! ```
//!
//! It is put together beside the physical root and moved over it at the end, since PID 1 of the initramfs goes there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::StatVfsMountFlags;

use crate::deploy::layout::DeploymentLayout;
use crate::deploy::sysroot::BootTarget;
use crate::disk;

/// Where the physical root is in the new one.
pub const PHYSICAL: &str = "sysroot";

/// What the initramfs has mounted and the new root gets too. Whoever leaves the initramfs moves them; until then the daemon
/// needs them.
const KERNEL: [&str; 4] = ["dev", "proc", "sys", "run"];

/// One change of the tree of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Changes from here on concern nobody else: only private mounts can be moved.
    Private(PathBuf),
    /// A directory to mount on, in memory.
    Directory(PathBuf),
    /// Show a directory at another place too.
    Bind {
        /// Which.
        from: PathBuf,
        /// Where.
        to: PathBuf,
    },
    /// The same unless it is empty, as a mount point is.
    BindFilled {
        /// Which.
        from: PathBuf,
        /// Where.
        to: PathBuf,
    },
    /// The same with all that is mounted below.
    BindAll {
        /// Which.
        from: PathBuf,
        /// Where.
        to: PathBuf,
    },
    /// Nobody writes here.
    ReadOnly(PathBuf),
    /// A filesystem in memory for everybody's temporary files.
    Temporary(PathBuf),
    /// Take a mount with all that is below it to another place.
    Move {
        /// From where.
        from: PathBuf,
        /// To where.
        to: PathBuf,
    },
}

/// Why the new root cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The physical root cannot be written to.
    #[error("cannot make {} writable, which /etc and /var are on", .path.display())]
    ReadOnly {
        /// Where it is mounted.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A step failed.
    #[error("cannot {action} {}", .path.display())]
    Step {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The new root of a deployment.
#[derive(Debug, Clone)]
pub struct Tree<'a> {
    target: &'a BootTarget,
    physical: &'a Path,
    place: PathBuf,
}

impl<'a> Tree<'a> {
    /// For a deployment below the physical root, which is mounted at `physical` and where the new root is to be.
    #[must_use]
    pub fn new(target: &'a BootTarget, physical: &'a Path) -> Self {
        let mut place = physical.as_os_str().to_owned();
        place.push(".new");
        Self { target, physical, place: place.into() }
    }

    /// Where it is put together.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The steps to everything but what the daemon serves.
    #[must_use]
    pub fn assembly(&self) -> Vec<Step> {
        let deployment = DeploymentLayout::new(self.target.directory.clone());
        let at = |name: &str| self.place.join(name);
        let bind = |from: PathBuf, to: PathBuf| Step::Bind { from, to };
        let mut steps = vec![
            Step::Private("/".into()),
            Step::Directory(self.place.clone()),
            bind(deployment.skeleton(), self.place.clone()),
            Step::ReadOnly(self.place.clone()),
            bind(deployment.etc(), at("etc")),
            bind(self.target.var.clone(), at("var")),
            Step::Temporary(at("tmp")),
        ];
        steps.extend(KERNEL.map(|name| Step::BindAll { from: Path::new("/").join(name), to: at(name) }));
        // What is mounted already, systemd would not mount again.
        steps.push(Step::BindFilled { from: self.physical.join("boot"), to: at("boot") });
        steps.push(Step::Move { from: self.physical.to_owned(), to: at(PHYSICAL) });
        steps
    }

    /// The step that makes it what the initramfs leaves for.
    #[must_use]
    pub fn arrival(&self) -> Step {
        Step::Move { from: self.place.clone(), to: self.physical.to_owned() }
    }
}

/// Makes the physical root writable if it is not.
///
/// # Errors
/// [`TreeError::ReadOnly`].
pub fn make_writable(physical: &Path) -> Result<(), TreeError> {
    let failed = |source: io::Error| TreeError::ReadOnly { path: physical.to_owned(), source };
    let flags = rustix::fs::statvfs(physical).map_err(|errno| failed(errno.into()))?.f_flag;
    if !flags.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    mount(None::<&str>, physical, None::<&str>, MsFlags::MS_REMOUNT, None::<&str>).map_err(|errno| failed(errno.into()))
}

impl Step {
    /// Does it.
    ///
    /// # Errors
    /// [`TreeError::Step`].
    pub fn apply(&self) -> Result<(), TreeError> {
        let (action, path, done) = match self {
            Self::Private(path) => ("make private", path, change(path, MsFlags::MS_REC | MsFlags::MS_PRIVATE)),
            Self::Directory(path) => ("create", path, disk::make_directories(path)),
            Self::Bind { from, to } => ("mount on", to, bind(from, to, MsFlags::MS_BIND)),
            Self::BindFilled { from, to } => ("mount on", to, bind_filled(from, to)),
            Self::BindAll { from, to } => ("mount on", to, bind(from, to, MsFlags::MS_BIND | MsFlags::MS_REC)),
            Self::ReadOnly(path) => ("make read-only", path, read_only(path)),
            Self::Temporary(path) => ("mount on", path, temporary(path)),
            Self::Move { from, to } => ("move to", to, bind(from, to, MsFlags::MS_MOVE)),
        };
        done.map_err(|source| TreeError::Step { action, path: path.clone(), source })
    }
}

fn change(path: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?)
}

/// What the commit has as a link, or not at all, is left as it is.
fn bind(from: &Path, to: &Path, flags: MsFlags) -> io::Result<()> {
    if !is_directory(to)? || !is_directory(from)? {
        return Ok(());
    }
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}

fn bind_filled(from: &Path, to: &Path) -> io::Result<()> {
    match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        listed => {
            if listed?.next().is_some() {
                bind(from, to, MsFlags::MS_BIND)?;
            }
            Ok(())
        }
    }
}

fn read_only(path: &Path) -> io::Result<()> {
    change(path, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_RELATIME)
}

fn temporary(path: &Path) -> io::Result<()> {
    if !is_directory(path)? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_STRICTATIME;
    Ok(mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some("mode=1777"))?)
}

fn is_directory(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(other?.is_dir()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::layout::SysrootLayout;

    #[test]
    fn the_physical_root_moves_last_and_everything_on_it_is_found_before() {
        let layout = SysrootLayout::new("/sysroot".into());
        let id: crate::deploy::id::DeploymentId = "main/0123456789ab.0".parse().expect("legal");
        let target = BootTarget {
            origin: crate::deploy::origin::tests::example(),
            directory: layout.deployment(&id).directory().to_owned(),
            var: layout.var(id.stateroot()),
            repository: layout.repository(),
            id,
        };
        let tree = Tree::new(&target, Path::new("/sysroot"));
        let steps = tree.assembly();
        let bind = |from: &str, to: &str| Step::Bind { from: from.into(), to: to.into() };
        assert_eq!(steps[0], Step::Private("/".into()));
        assert!(steps.contains(&bind("/sysroot/sapwood/deploy/main/0123456789ab.0/etc", "/sysroot.new/etc")));
        assert!(steps.contains(&bind("/sysroot/sapwood/deploy/main/var", "/sysroot.new/var")));
        let last = Step::Move { from: "/sysroot".into(), to: "/sysroot.new/sysroot".into() };
        assert_eq!(steps.last(), Some(&last));
        assert_eq!(tree.arrival(), Step::Move { from: "/sysroot.new".into(), to: "/sysroot".into() });
    }
}
