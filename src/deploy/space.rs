//! Checks, before anything is written, that a deployment fits on the boot partition and on the disk.
//!
//! *Not here*: which deployments are removed to free space (`retention`, `removal`).
//!
//! *Used by* `plan` and `apply`.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::boot::Kernel;
use super::commit_files;
use super::etc::EtcPlan;
use super::id::DeploymentId;
use super::skeleton::VarPlan;
use super::sysroot::{State, Sysroot};
use crate::disk::{self, FreeSpace};
use crate::image::{Image, ImageError};
use crate::model::FileKind;

/// The divisor of the safety margin: 1/50 more than the computed size must be free, for names and the filesystem's metadata.
const MARGIN_DIVISOR: u64 = 50;

/// Bytes that must be free on the disk in addition.
const RESERVED_BYTES: u64 = 1 << 20;

/// Why a deployment does not fit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpaceError {
    /// The boot partition is too small for another kernel.
    #[error("{} has no room for the new kernel: it needs {needed} bytes and {available} are free{}", .path.display(), freeable_hint(.freeable))]
    Boot {
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free after the deployments that are removed anyway have left the menu.
        available: u64,
        /// Deployments that could be removed, and how many bytes that would free.
        freeable: Vec<(DeploymentId, u64)>,
    },
    /// The disk is too full.
    #[error("{} has no room: {needed} bytes are needed and {available} are free", .path.display())]
    Disk {
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The free space cannot be queried.
    #[error("cannot find out how much room there is at {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
}

/// Returns the end of a message: the commands that would free space.
fn freeable_hint(freeable: &[(DeploymentId, u64)]) -> String {
    if freeable.is_empty() {
        return "; no deployment can be removed to make any".to_owned();
    }
    let one = |(id, bytes): &(DeploymentId, u64)| format!("'sapwood undeploy {id}' frees {bytes}");
    format!("; {}", freeable.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// The space on the boot partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct BootSpace {
    /// Bytes of the new kernel's files that are not installed yet.
    pub(crate) needed: u64,
    /// Bytes that are free; `None` if the filesystem does not report it.
    pub(crate) available: Option<u64>,
    /// Deployments that are removed anyway, and have to leave the menu before there is space for the new kernel.
    pub(crate) remove_first: Vec<DeploymentId>,
}

impl BootSpace {
    /// Checks that `kernel` fits, if necessary after the deployments in `to_remove` have left the menu.
    pub(crate) fn plan(
        sysroot: &Sysroot,
        state: &State,
        kernel: &Kernel,
        to_remove: &[DeploymentId],
    ) -> Result<Self, SpaceError> {
        let loader = sysroot.loader();
        let free = free_space(&loader.directory)?;
        let directory = loader.kernels_directory(&sysroot.config().id);
        let own = directory.join(&kernel.record.digest);
        let missing = kernel.files.iter().filter(|file| file_length(&own.join(&file.name)) != Some(file.size));
        let needed: u64 = missing.map(|file| round_up_to_unit(file.size, free)).sum();
        let mut plan = Self { needed, available: free.available, remove_first: Vec::new() };
        let Some(available) = free.available.filter(|_| needed > 0) else { return Ok(plan) };
        let needed = needed + needed / MARGIN_DIVISOR;
        if needed <= available {
            return Ok(plan);
        }
        // A kernel that several deployments share is removed with the last of them.
        let freed = |gone: &[DeploymentId]| {
            let kept: BTreeSet<&str> = state
                .deployments
                .iter()
                .filter(|found| found.entry.is_some() && !gone.contains(&found.id))
                .map(|found| found.origin.kernel.digest.as_str())
                .chain([kernel.record.digest.as_str()])
                .collect();
            let gone = state.deployments.iter().filter(|found| gone.contains(&found.id));
            let digests: BTreeSet<&str> = gone.map(|found| found.origin.kernel.digest.as_str()).collect();
            digests.difference(&kept).map(|digest| tree_size(&directory.join(digest), free)).sum::<u64>()
        };
        let after = available + freed(to_remove);
        if needed <= after {
            plan.remove_first = to_remove.to_vec();
            return Ok(plan);
        }
        let removable = state.deployments.iter().filter(|found| {
            !to_remove.contains(&found.id) && state.booted.as_ref() != Some(&found.id) && found.entry.is_some()
        });
        let freeable = removable
            .map(|found| (found.id.clone(), freed(std::slice::from_ref(&found.id))))
            .filter(|(_, bytes)| *bytes > 0);
        let path = loader.directory.clone();
        Err(SpaceError::Boot { path, needed, available: after, freeable: freeable.collect() })
    }
}

/// The space on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct DiskSpace {
    /// Bytes that the deployment needs, including what is still to be fetched.
    pub(crate) needed: u64,
    /// Bytes that are free; `None` if the filesystem does not report it.
    pub(crate) available: Option<u64>,
}

impl DiskSpace {
    /// Checks that the deployment fits.
    pub(crate) fn plan(
        sysroot: &Sysroot,
        image: &Image,
        etc: &EtcPlan,
        var: VarPlan,
        boot: &BootSpace,
        fetch_bytes: u64,
    ) -> Result<Self, SpaceError> {
        let path = sysroot.layout().base();
        let boot_device = free_space(&sysroot.loader().directory)?.device;
        let free = free_space(&path)?;
        let boot_bytes = if boot_device == free.device { boot.needed } else { 0 };
        let entries = etc.entries.len() as u64 * free.allocation_unit;
        let var_bytes = if var == VarPlan::Filled { tree_bytes(image, "/var", free)? } else { 0 };
        let needed = fetch_bytes + etc.bytes() + entries + var_bytes + boot_bytes + RESERVED_BYTES;
        match free.available {
            Some(available) if needed + needed / MARGIN_DIVISOR > available => {
                Err(SpaceError::Disk { path, needed, available })
            }
            available => Ok(Self { needed, available }),
        }
    }
}

fn free_space(path: &Path) -> Result<FreeSpace, SpaceError> {
    disk::free_space(path).map_err(|source| SpaceError::Io { path: path.to_owned(), source })
}

fn round_up_to_unit(bytes: u64, free: FreeSpace) -> u64 {
    bytes.div_ceil(free.allocation_unit) * free.allocation_unit
}

fn file_length(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}

/// Returns the bytes that the files in a directory of the boot partition take up.
fn tree_size(path: &Path, free: FreeSpace) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => tree_size(&entry.path(), free),
        Ok(metadata) => round_up_to_unit(metadata.len(), free),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Returns an upper estimate of the bytes that a directory of the image takes up on the disk.
fn tree_bytes(image: &Image, path: &str, free: FreeSpace) -> Result<u64, ImageError> {
    let mut sum = 0;
    let Some(top) = commit_files::resolve(image, path)?.filter(|top| image.kind(*top) == Ok(FileKind::Directory))
    else {
        return Ok(0);
    };
    image.walk(top, &mut |_, ino, kind| {
        sum += free.allocation_unit;
        if kind == FileKind::Regular {
            sum += image.attributes(ino)?.size;
        }
        Ok::<(), ImageError>(())
    })?;
    Ok(sum)
}
