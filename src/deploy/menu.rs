//! From deployments to the boot menu: which entries, with which kernels, in which order of steps.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::boot::{
    BootError, BootFile, Kernel, KernelError, Loader, Target, WantedEntry, arrange, find_kernel, settle_disk,
};
use super::id::DeploymentId;
use super::origin::Origin;
use super::sysroot::{Deployment, State, Sysroot, SysrootLock};
use crate::disk;
use crate::model::ObjectId;
use crate::store::{ObjectSource as _, ReadError, Store};

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// Why the boot menu was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MenuError {
    /// The menu itself.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A kernel cannot be read from the repository.
    #[error("cannot read '{name}' of the kernel")]
    Read {
        /// Which of its files.
        name: String,
        /// Why not.
        source: ReadError,
    },
    /// A kernel in the repository is damaged.
    #[error("'{0}' of the kernel is damaged in the repository: 'sapwood fsck --all' tells what else is")]
    Damaged(String),
    /// The commit of a deployment cannot be read.
    #[error(transparent)]
    Commit(#[from] ReadError),
    /// The kernel of a commit cannot be found.
    #[error("the commit of {deployment} cannot be booted")]
    Kernel {
        /// Which deployment.
        deployment: DeploymentId,
        /// Why not.
        source: KernelError,
    },
    /// A kernel cannot be written or removed.
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

/// What the menu entry of a deployment starts.
#[must_use]
pub fn target(sysroot: &Sysroot, id: &DeploymentId, origin: &Origin) -> Target {
    let base = sysroot.loader().kernels_seen(&sysroot.config().id);
    Target {
        deployment: id.clone(),
        title: origin.menu_title(id),
        linux: origin.kernel.linux(&base),
        initrd: vec![origin.kernel.initrd(&base)],
        devicetree: origin.kernel.device_tree(&base),
        options: origin.kargs.clone(),
    }
}

/// The entry of a deployment that is in the menu: one that somebody edited stays as it is, one on trial stays on trial.
#[must_use]
pub fn entry_of(sysroot: &Sysroot, deployment: &Deployment) -> WantedEntry {
    let own = || target(sysroot, &deployment.id, &deployment.origin);
    let target = deployment.entry.as_ref().map_or_else(own, |entry| entry.target.clone());
    let tries = deployment.entry.as_ref().and_then(|entry| entry.tries);
    WantedEntry { target, tries: tries.map(|tries| tries.left).filter(|left| *left > 0) }
}

/// The menu with `first` at its top and every deployment for which `stays` holds below it, in the order they have; those
/// that failed come last.
#[must_use]
pub fn wanted(
    sysroot: &Sysroot,
    state: &State,
    first: Option<WantedEntry>,
    stays: &dyn Fn(&Deployment) -> bool,
) -> Vec<WantedEntry> {
    let is_first = |id: &DeploymentId| first.as_ref().is_some_and(|first| first.target.deployment == *id);
    let in_menu = state.deployments.iter().filter(|found| found.entry.is_some());
    let mut others: Vec<&Deployment> = in_menu.filter(|found| !is_first(&found.id) && stays(found)).collect();
    others.sort_by_key(|found| state.has_failed(found));
    let others: Vec<WantedEntry> = others.into_iter().map(|found| entry_of(sysroot, found)).collect();
    first.into_iter().chain(others).collect()
}

/// The kernel of a deployment's commit.
///
/// # Errors
/// [`MenuError`].
pub fn kernel_of(sysroot: &Sysroot, deployment: &DeploymentId, origin: &Origin) -> Result<Kernel, MenuError> {
    let store = sysroot.store();
    let image = store.image(store.commit(origin.commit)?.image)?;
    find_kernel(&image).map_err(|source| MenuError::Kernel { deployment: deployment.clone(), source })
}

/// Makes the menu be `entries`, the first of which boots, after the kernels they need were installed: durably, and so that
/// at every moment something boots. Kernels that no entry starts any more are removed last.
///
/// # Errors
/// [`MenuError`]; the menu is then the old one or the new one.
pub fn change(
    sysroot: &Sysroot,
    _lock: &SysrootLock,
    state: &State,
    entries: &[WantedEntry],
    kernels: &[Kernel],
) -> Result<(), MenuError> {
    let directory = sysroot.loader().kernels(&sysroot.config().id);
    let mut installed = 0;
    for kernel in kernels {
        installed += install(sysroot.store(), kernel, &directory.join(&kernel.record.digest))?;
    }
    if installed > 0 {
        settle_disk(sysroot.loader())?;
    }
    let arranged = arrange(state.menu.entries(), entries);
    state.menu.carry_out(&state.menu.swap(&arranged)?)?;
    let used: BTreeSet<&str> = arranged
        .iter()
        .filter_map(|entry| digest_in(sysroot.loader(), &sysroot.config().id, &entry.target.linux))
        .collect();
    remove_unused(sysroot.loader(), &directory, &used)
}

/// The directory of kernels that a path in an entry leads into.
fn digest_in<'a>(loader: &Loader, id: &str, linux: &'a str) -> Option<&'a str> {
    linux.strip_prefix(&loader.kernels_seen(id))?.trim_start_matches('/').split('/').next()
}

/// Installs the files of a kernel that are not there as they should be; returns how many.
fn install(store: &Store, kernel: &Kernel, directory: &Path) -> Result<usize, MenuError> {
    let mut installed = 0;
    for file in &kernel.files {
        let path = directory.join(&file.name);
        let expected = file.object.unwrap_or_else(|| ObjectId::of(b""));
        if is_right(&path, file, expected)? {
            continue;
        }
        let parent = path.parent().unwrap_or(directory);
        disk::make_directories(parent).map_err(io_error("create", parent))?;
        let mut failure = None;
        let copied = disk::install(&path, |target| match copy(store, file, expected, target) {
            Ok(()) => Ok(()),
            Err(Copy::Write(error)) => Err(error),
            Err(Copy::Content(error)) => {
                failure = Some(error);
                Err(io::Error::other("the content"))
            }
        });
        match (copied, failure) {
            (_, Some(error)) => return Err(error),
            (Err(error), None) => return Err(io_error("write", &path)(error)),
            (Ok(()), None) => installed += 1,
        }
    }
    Ok(installed)
}

/// Whether a file is there with the right content: a boot partition has no checksums of its own.
fn is_right(path: &Path, file: &BootFile, expected: ObjectId) -> Result<bool, MenuError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", path)(error)),
        Ok(metadata) if metadata.len() != file.size => Ok(false),
        Ok(_) => Ok(ObjectId::of(&fs::read(path).map_err(io_error("read", path))?) == expected),
    }
}

enum Copy {
    Write(io::Error),
    Content(MenuError),
}

/// Copies an object, and refuses one that is not what its name says.
fn copy(store: &Store, file: &BootFile, expected: ObjectId, mut target: &fs::File) -> Result<(), Copy> {
    let mut buffer = vec![0; CHUNK.min(usize::try_from(file.size).unwrap_or(CHUNK))];
    let mut hasher = crate::model::ContentHasher::new(file.size);
    let mut done = 0;
    while done < file.size {
        let read = store.read_at(expected, done, &mut buffer);
        let length = read.map_err(|source| Copy::Content(MenuError::Read { name: file.name.clone(), source }))?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        target.write_all(&buffer[..length]).map_err(Copy::Write)?;
        done += length as u64;
    }
    let is_right = hasher.finish().is_some_and(|content| content.object == file.object);
    if is_right { Ok(()) } else { Err(Copy::Content(MenuError::Damaged(file.name.clone()))) }
}

fn remove_unused(loader: &Loader, directory: &Path, used: &BTreeSet<&str>) -> Result<(), MenuError> {
    let listed = fs::read_dir(directory).map_err(io_error("list", directory))?;
    let mut removed = false;
    for entry in listed {
        let entry = entry.map_err(io_error("list", directory))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| used.contains(name)) || !entry.path().is_dir() {
            continue;
        }
        disk::remove_directory(&entry.path()).map_err(io_error("remove", &entry.path()))?;
        removed = true;
    }
    if removed { Ok(settle_disk(loader)?) } else { Ok(()) }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MenuError + use<> {
    let path = path.to_owned();
    move |source| MenuError::Io { action, path, source }
}
