//! Turns deployments into the entries of the boot menu and installs the kernels that the entries start.
//!
//! *Not here*: the file formats of the boot loaders and the steps in which a menu is replaced (`boot`).
//!
//! *Invariants*: kernels are installed and synced before an entry starts them, and removed after the last entry that starts
//! them is gone.
//!
//! *Used by* `apply` and `removal`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::boot::{
    BootError, BootFile, BootLoader, EntryTarget, Kernel, KernelError, WantedEntry, assign_orders, find_kernel,
    sync_boot_partition,
};
use super::id::DeploymentId;
use super::leftover::Leftover;
use super::origin::DeploymentOrigin;
use super::sysroot::{Deployment, State, Sysroot, SysrootLock};
use crate::disk;
use crate::model::ObjectId;
use crate::store::{ObjectSource as _, ReadError, Store};

/// Bytes of a kernel file that are copied at a time.
const COPY_BUFFER_BYTES: usize = 1 << 20;

/// Why the boot menu was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MenuError {
    /// The boot menu cannot be read or written.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A kernel cannot be read from the repository.
    #[error("cannot read '{name}' of the kernel")]
    Read {
        /// The file's path in the kernel's directory.
        name: String,
        source: ReadError,
    },
    /// A kernel in the repository is damaged.
    #[error("'{0}' of the kernel is damaged in the repository: 'sapwood fsck --all' tells what else is")]
    Damaged(String),
    /// The commit of a deployment cannot be read.
    #[error(transparent)]
    Commit(#[from] ReadError),
    /// The commit of a deployment has no kernel or no initramfs.
    #[error("the commit of {deployment} cannot be booted")]
    Kernel { deployment: DeploymentId, source: KernelError },
    /// The files of a kernel cannot be written or removed.
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Returns what the boot entry of a deployment starts, made from its origin.
pub(crate) fn entry_target(sysroot: &Sysroot, id: &DeploymentId, origin: &DeploymentOrigin) -> EntryTarget {
    let base = sysroot.loader().kernels_loader_path(&sysroot.config().id);
    EntryTarget {
        deployment: id.clone(),
        title: origin.menu_title(id),
        linux: origin.kernel.linux(&base),
        initrd: vec![origin.kernel.initrd(&base)],
        devicetree: origin.kernel.device_tree(&base),
        options: origin.kargs.clone(),
    }
}

/// Returns the entry of a deployment as it is in the menu now: an entry that was edited by hand stays as it is, an entry on
/// trial keeps the tries it has left. Without an entry it is made from the origin.
pub(crate) fn current_entry(sysroot: &Sysroot, deployment: &Deployment) -> WantedEntry {
    let own = entry_target(sysroot, &deployment.id, &deployment.origin);
    let target = match deployment.entry.as_ref().map(|entry| &entry.target) {
        None => own,
        // The same kernel under another name of its partition, which was written when another one was mounted.
        Some(now) if now.linux != own.linux && is_kernel_of(sysroot, deployment, &now.linux) => {
            EntryTarget { options: now.options.clone(), title: now.title.clone(), ..own }
        }
        Some(now) => now.clone(),
    };
    let tries = deployment.entry.as_ref().and_then(|entry| entry.tries);
    WantedEntry { target, tries: tries.map(|tries| tries.left).filter(|left| *left > 0) }
}

/// Returns whether a path is that of a deployment's kernel, however the partition is spelt in front of it.
fn is_kernel_of(sysroot: &Sysroot, deployment: &Deployment, linux: &str) -> bool {
    kernel_digest(&sysroot.config().id, linux) == Some(&deployment.origin.kernel.digest)
}

/// Returns the menu with `first` at its top and below it, in their present order, the deployments for which `stays` is true.
/// Deployments that failed come last.
pub(crate) fn wanted_entries(
    sysroot: &Sysroot,
    state: &State,
    first: Option<WantedEntry>,
    stays: &dyn Fn(&Deployment) -> bool,
) -> Vec<WantedEntry> {
    let is_first = |id: &DeploymentId| first.as_ref().is_some_and(|first| first.target.deployment == *id);
    let in_menu = state.deployments.iter().filter(|found| found.entry.is_some());
    let mut others: Vec<&Deployment> = in_menu.filter(|found| !is_first(&found.id) && stays(found)).collect();
    others.sort_by_key(|found| state.has_failed(found));
    let others: Vec<WantedEntry> = others.into_iter().map(|found| current_entry(sysroot, found)).collect();
    first.into_iter().chain(others).collect()
}

/// Finds the kernel in the commit of a deployment.
pub(crate) fn find_deployment_kernel(
    sysroot: &Sysroot,
    deployment: &DeploymentId,
    origin: &DeploymentOrigin,
) -> Result<Kernel, MenuError> {
    let store = sysroot.store();
    let image = store.image(store.commit(origin.commit)?.image)?;
    find_kernel(&image).map_err(|source| MenuError::Kernel { deployment: deployment.clone(), source })
}

/// Installs `kernels`, then replaces the menu by `entries`, the first of which boots. Last, removes the kernels that no entry
/// starts any more, and returns those that cannot be removed. Everything is durable, and at every moment the menu has an entry
/// that boots.
///
/// # Errors
/// [`MenuError`]; the menu is then the old one or the new one.
pub(crate) fn replace_menu(
    sysroot: &Sysroot,
    _lock: &SysrootLock,
    state: &State,
    entries: &[WantedEntry],
    kernels: &[Kernel],
) -> Result<Vec<Leftover>, MenuError> {
    let directory = sysroot.loader().kernels_directory(&sysroot.config().id);
    let mut installed = 0;
    for kernel in kernels {
        installed += install_kernel(sysroot.store(), kernel, &directory.join(&kernel.record.digest))?;
    }
    if installed > 0 {
        sync_boot_partition(sysroot.loader())?;
    }
    let arranged = assign_orders(state.menu.entries(), entries);
    state.menu.apply(&state.menu.plan_change(&arranged)?)?;
    let used: BTreeSet<&str> =
        arranged.iter().filter_map(|entry| kernel_digest(&sysroot.config().id, &entry.target.linux)).collect();
    remove_unused_kernels(sysroot.loader(), &directory, &used)
}

/// Returns the digest that names the kernel directory in the path of an entry's kernel, however the partition is spelt in front
/// of it; `None` for paths elsewhere.
fn kernel_digest<'a>(id: &str, linux: &'a str) -> Option<&'a str> {
    let (_, below) = linux.split_once(&BootLoader::kernels_path(id))?;
    below.trim_start_matches('/').split('/').next()
}

/// Installs the files of a kernel that are missing or have another content. Returns how many files were installed.
fn install_kernel(store: &Store, kernel: &Kernel, directory: &Path) -> Result<usize, MenuError> {
    let mut installed = 0;
    for file in &kernel.files {
        let path = directory.join(&file.name);
        let expected = file.object.unwrap_or_else(|| ObjectId::of(b""));
        if has_content(&path, file, expected)? {
            continue;
        }
        let parent = path.parent().unwrap_or(directory);
        disk::make_directories(parent).map_err(io_error("create", parent))?;
        let mut failure = None;
        let copied = disk::install(&path, |target| match copy_object(store, file, expected, target) {
            Ok(()) => Ok(()),
            Err(KernelCopyError::Write(error)) => Err(error),
            Err(KernelCopyError::Content(error)) => {
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

/// Returns whether the file exists with the expected content. It is read as a whole, since a boot partition has no checksums
/// of its own.
fn has_content(path: &Path, file: &BootFile, expected: ObjectId) -> Result<bool, MenuError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("look at", path)(error)),
        Ok(metadata) if metadata.len() != file.size => Ok(false),
        Ok(_) => Ok(ObjectId::of(&fs::read(path).map_err(io_error("read", path))?) == expected),
    }
}

enum KernelCopyError {
    Write(io::Error),
    Content(MenuError),
}

/// Copies an object and checks its digest on the way.
fn copy_object(
    store: &Store,
    file: &BootFile,
    expected: ObjectId,
    mut target: &fs::File,
) -> Result<(), KernelCopyError> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES.min(usize::try_from(file.size).unwrap_or(COPY_BUFFER_BYTES))];
    let mut hasher = crate::model::ContentHasher::new(file.size);
    let mut done = 0;
    while done < file.size {
        let read = store.read_at(expected, done, &mut buffer);
        let length =
            read.map_err(|source| KernelCopyError::Content(MenuError::Read { name: file.name.clone(), source }))?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        target.write_all(&buffer[..length]).map_err(KernelCopyError::Write)?;
        done += length as u64;
    }
    let is_intact = hasher.finish().is_some_and(|content| content.object == file.object);
    if is_intact { Ok(()) } else { Err(KernelCopyError::Content(MenuError::Damaged(file.name.clone()))) }
}

fn remove_unused_kernels(
    loader: &BootLoader,
    directory: &Path,
    used: &BTreeSet<&str>,
) -> Result<Vec<Leftover>, MenuError> {
    let listed = fs::read_dir(directory).map_err(io_error("list", directory))?;
    let (mut removed, mut left) = (false, Vec::new());
    for entry in listed {
        let entry = entry.map_err(io_error("list", directory))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| used.contains(name)) || !entry.path().is_dir() {
            continue;
        }
        match Leftover::after_removing(&entry.path()) {
            Some(leftover) => left.push(leftover),
            None => removed = true,
        }
    }
    if removed {
        sync_boot_partition(loader)?;
    }
    Ok(left)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MenuError + use<> {
    let path = path.to_owned();
    move |source| MenuError::Io { action, path, source }
}
