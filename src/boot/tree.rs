//! The mounts that form the new `/` of a deployment: a plan of steps, and applying a step.
//!
//! ```text
//! /          the skeleton of the deployment, read-only
//! /etc       of the deployment, writable
//! /var       of the stateroot, writable
//! /tmp       in memory, unless the commit has a link there
//! /usr       the commit (mounted between `assembly_steps` and `final_step`)
//! /sysroot   the physical root
//! /boot      what is in /boot of the physical root; /etc/fstab mounts a separate boot partition
//! ```
//!
//! The new root is assembled beside the physical root and moved over it at the end, because PID 1 of the initramfs changes
//! its root to that place.
//!
//! *Not here*: mounting the commit on `/usr`, see `cli::prepare_root`. *Used by* `cli::prepare_root`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::StatVfsMountFlags;

use crate::deploy::layout::DeploymentLayout;
use crate::deploy::sysroot::BootTarget;
use crate::disk;

/// The name of the directory in the new root on which the physical root is mounted.
pub(crate) const PHYSICAL_ROOT: &str = "sysroot";

/// The directories with kernel filesystems that the initramfs has mounted and that are bound into the new root, because the
/// processes behind the mount of `/usr` need them. The program that leaves the initramfs later moves the originals.
const KERNEL_FILESYSTEMS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// One change of the tree of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountStep {
    /// Stops the propagation of changes below this mount to other mount namespaces: only private mounts can be moved.
    Private(PathBuf),
    /// Creates a mount point, in the memory of the initramfs.
    Directory(PathBuf),
    /// Mounts a directory at a second place.
    Bind { from: PathBuf, to: PathBuf },
    /// As `Bind`, unless the directory is empty or missing; an unused mount point is empty.
    BindFilled { from: PathBuf, to: PathBuf },
    /// As `Bind`, with everything that is mounted below the directory.
    BindAll { from: PathBuf, to: PathBuf },
    /// Makes a mount read-only.
    ReadOnly(PathBuf),
    /// Mounts a tmpfs for the temporary files of all users.
    Temporary(PathBuf),
    /// Moves a mount, with everything that is mounted below it.
    Move { from: PathBuf, to: PathBuf },
}

/// Why the new root cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewRootError {
    /// The physical root cannot be made writable.
    #[error("cannot make {} writable, which /etc and /var are on", .path.display())]
    ReadOnly {
        /// The mount point of the physical root.
        path: PathBuf,
        source: io::Error,
    },
    /// A step failed.
    #[error("cannot {action} {}", .path.display())]
    Step { action: &'static str, path: PathBuf, source: io::Error },
}

/// The plan for the new root of a deployment.
#[derive(Debug, Clone)]
pub(crate) struct NewRoot<'a> {
    target: &'a BootTarget,
    physical: &'a Path,
    path: PathBuf,
}

impl<'a> NewRoot<'a> {
    /// Makes a plan for a deployment below the physical root. `physical` is the directory on which the physical root is mounted
    /// and on which the new root is mounted in the end.
    pub(crate) fn new(target: &'a BootTarget, physical: &'a Path) -> Self {
        let mut path = physical.as_os_str().to_owned();
        path.push(".new");
        Self { target, physical, path: path.into() }
    }

    /// Returns the directory in which the new root is assembled.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the steps that assemble the new root, except for mounting the commit and for the final step.
    pub(crate) fn assembly_steps(&self) -> Vec<MountStep> {
        let deployment = DeploymentLayout::new(self.target.directory.clone());
        let at = |name: &str| self.path.join(name);
        let bind = |from: PathBuf, to: PathBuf| MountStep::Bind { from, to };
        let mut steps = vec![
            MountStep::Private("/".into()),
            MountStep::Directory(self.path.clone()),
            bind(deployment.skeleton(), self.path.clone()),
            MountStep::ReadOnly(self.path.clone()),
            bind(deployment.etc(), at("etc")),
            bind(self.target.var.clone(), at("var")),
            MountStep::Temporary(at("tmp")),
        ];
        steps.extend(
            KERNEL_FILESYSTEMS.map(|name| MountStep::BindAll { from: Path::new("/").join(name), to: at(name) }),
        );
        // systemd does not mount again what is mounted already, so an empty /boot is left for fstab.
        steps.push(MountStep::BindFilled { from: self.physical.join("boot"), to: at("boot") });
        steps.push(MountStep::Move { from: self.physical.to_owned(), to: at(PHYSICAL_ROOT) });
        steps
    }

    /// Returns the last step, which moves the new root to the directory that the initramfs changes its root to.
    pub(crate) fn final_step(&self) -> MountStep {
        MountStep::Move { from: self.path.clone(), to: self.physical.to_owned() }
    }
}

/// Mounts the physical root for writing if it is read-only.
pub(crate) fn make_writable(physical: &Path) -> Result<(), NewRootError> {
    let failed = |source: io::Error| NewRootError::ReadOnly { path: physical.to_owned(), source };
    let flags = rustix::fs::statvfs(physical).map_err(|errno| failed(errno.into()))?.f_flag;
    if !flags.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    mount(None::<&str>, physical, None::<&str>, MsFlags::MS_REMOUNT, None::<&str>).map_err(|errno| failed(errno.into()))
}

impl MountStep {
    /// Carries out the step.
    pub(crate) fn apply(&self) -> Result<(), NewRootError> {
        let (action, path, done) = match self {
            Self::Private(path) => {
                ("make private", path, change_mount_flags(path, MsFlags::MS_REC | MsFlags::MS_PRIVATE))
            }
            Self::Directory(path) => ("create", path, disk::make_directories(path)),
            Self::Bind { from, to } => ("mount on", to, bind_directories(from, to, MsFlags::MS_BIND)),
            Self::BindFilled { from, to } => ("mount on", to, bind_if_filled(from, to)),
            Self::BindAll { from, to } => {
                ("mount on", to, bind_directories(from, to, MsFlags::MS_BIND | MsFlags::MS_REC))
            }
            Self::ReadOnly(path) => ("make read-only", path, make_read_only(path)),
            Self::Temporary(path) => ("mount on", path, mount_tmpfs(path)),
            Self::Move { from, to } => ("move to", to, bind_directories(from, to, MsFlags::MS_MOVE)),
        };
        done.map_err(|source| NewRootError::Step { action, path: path.clone(), source })
    }
}

fn change_mount_flags(path: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?)
}

/// Mounts `from` on `to`. Does nothing if either is not a directory: the commit may have a link there, or nothing at all.
fn bind_directories(from: &Path, to: &Path, flags: MsFlags) -> io::Result<()> {
    if !is_directory(to)? || !is_directory(from)? {
        return Ok(());
    }
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}

fn bind_if_filled(from: &Path, to: &Path) -> io::Result<()> {
    match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        listed => {
            if listed?.next().is_some() {
                bind_directories(from, to, MsFlags::MS_BIND)?;
            }
            Ok(())
        }
    }
}

fn make_read_only(path: &Path) -> io::Result<()> {
    change_mount_flags(path, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_RELATIME)
}

fn mount_tmpfs(path: &Path) -> io::Result<()> {
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
    fn physical_root_is_moved_after_all_binds_from_it() {
        let layout = SysrootLayout::new("/sysroot".into());
        let id: crate::deploy::id::DeploymentId = "main/0123456789ab.0".parse().expect("legal");
        let target = BootTarget {
            origin: crate::deploy::origin::tests::example(),
            directory: layout.deployment(&id).directory().to_owned(),
            var: layout.var(id.stateroot()),
            repository: layout.repository(),
            id,
        };
        let tree = NewRoot::new(&target, Path::new("/sysroot"));
        let steps = tree.assembly_steps();
        let bind = |from: &str, to: &str| MountStep::Bind { from: from.into(), to: to.into() };
        assert_eq!(steps[0], MountStep::Private("/".into()));
        assert!(steps.contains(&bind("/sysroot/sapwood/deploy/main/0123456789ab.0/etc", "/sysroot.new/etc")));
        assert!(steps.contains(&bind("/sysroot/sapwood/deploy/main/var", "/sysroot.new/var")));
        let last = MountStep::Move { from: "/sysroot".into(), to: "/sysroot.new/sysroot".into() };
        assert_eq!(steps.last(), Some(&last));
        assert_eq!(tree.final_step(), MountStep::Move { from: "/sysroot.new".into(), to: "/sysroot".into() });
    }
}
