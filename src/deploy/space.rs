//! Room: on the boot partition and on the disk, before anything is written.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::boot::Kernel;
use super::etc::EtcPlan;
use super::files;
use super::id::DeploymentId;
use super::skeleton::VarPlan;
use super::sysroot::{State, Sysroot};
use crate::disk::{self, Room};
use crate::image::{Image, ImageError};
use crate::model::FileKind;

/// Room that is left beside what is needed, for names and the filesystem's own: 1 in so many bytes, and this much.
const MARGIN: u64 = 50;
const RESERVE: u64 = 1 << 20;

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The boot partition is too small for another kernel.
    #[error("{} has no room for the new kernel: it needs {needed} bytes and {available} are free{}", .path.display(), list(.freeable))]
    Boot {
        /// Where it is.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free, also after all that goes anyway is gone.
        available: u64,
        /// What could be removed, and how many bytes that would free.
        freeable: Vec<(DeploymentId, u64)>,
    },
    /// The disk is too small.
    #[error("{} has no room: {needed} bytes are needed and {available} are free", .path.display())]
    Disk {
        /// Where it is.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        available: u64,
    },
    /// How much room there is could not be found out.
    #[error("cannot find out how much room there is at {}", .path.display())]
    Io {
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
}

fn list(freeable: &[(DeploymentId, u64)]) -> String {
    if freeable.is_empty() {
        return "; no deployment can be removed to make any".to_owned();
    }
    let one = |(id, bytes): &(DeploymentId, u64)| format!("'sapwood undeploy {id}' frees {bytes}");
    format!("; {}", freeable.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// The room on the boot partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct BootRoom {
    /// Bytes that the new kernel needs beyond what is there.
    pub needed: u64,
    /// Bytes free, where the filesystem tells.
    pub available: Option<u64>,
    /// Deployments that go anyway and must leave before there is room.
    pub remove_first: Vec<DeploymentId>,
}

impl BootRoom {
    /// Finds out whether `kernel` fits, perhaps after `outgoing` deployments have left the menu.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn plan(
        sysroot: &Sysroot,
        state: &State,
        kernel: &Kernel,
        outgoing: &[DeploymentId],
    ) -> Result<Self, SpaceError> {
        let loader = sysroot.loader();
        let room = room(&loader.directory)?;
        let directory = loader.kernels(&sysroot.config().id);
        let own = directory.join(&kernel.record.digest);
        let missing = kernel.files.iter().filter(|file| length(&own.join(&file.name)) != Some(file.size));
        let needed: u64 = missing.map(|file| whole_units(file.size, room)).sum();
        let mut plan = Self { needed, available: room.available, remove_first: Vec::new() };
        let Some(available) = room.available.filter(|_| needed > 0) else { return Ok(plan) };
        let needed = needed + needed / MARGIN;
        if needed <= available {
            return Ok(plan);
        }
        // A kernel that several deployments share goes with the last of them.
        let freed = |gone: &[DeploymentId]| {
            let stays: BTreeSet<&str> = state
                .deployments
                .iter()
                .filter(|found| found.entry.is_some() && !gone.contains(&found.id))
                .map(|found| found.origin.kernel.digest.as_str())
                .chain([kernel.record.digest.as_str()])
                .collect();
            let gone = state.deployments.iter().filter(|found| gone.contains(&found.id));
            let digests: BTreeSet<&str> = gone.map(|found| found.origin.kernel.digest.as_str()).collect();
            digests.difference(&stays).map(|digest| tree_size(&directory.join(digest), room)).sum::<u64>()
        };
        let after = available + freed(outgoing);
        if needed <= after {
            plan.remove_first = outgoing.to_vec();
            return Ok(plan);
        }
        let may_go = state.deployments.iter().filter(|found| {
            !outgoing.contains(&found.id) && state.booted.as_ref() != Some(&found.id) && found.entry.is_some()
        });
        let freeable = may_go
            .map(|found| (found.id.clone(), freed(std::slice::from_ref(&found.id))))
            .filter(|(_, bytes)| *bytes > 0);
        let path = loader.directory.clone();
        Err(SpaceError::Boot { path, needed, available: after, freeable: freeable.collect() })
    }
}

/// The room on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct DiskRoom {
    /// Bytes that the deployment needs, with what is still to be fetched.
    pub needed: u64,
    /// Bytes free, where the filesystem tells.
    pub available: Option<u64>,
}

impl DiskRoom {
    /// Finds out whether the deployment fits.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn plan(
        sysroot: &Sysroot,
        image: &Image,
        etc: &EtcPlan,
        var: VarPlan,
        boot: &BootRoom,
        fetch_bytes: u64,
    ) -> Result<Self, SpaceError> {
        let path = sysroot.layout().base();
        let boot_device = room(&sysroot.loader().directory)?.device;
        let room = room(&path)?;
        let boot_bytes = if boot_device == room.device { boot.needed } else { 0 };
        let entries = etc.entries.len() as u64 * room.unit;
        let var_bytes = if var == VarPlan::Filled { tree_bytes(image, "/var", room)? } else { 0 };
        let needed = fetch_bytes + etc.bytes() + entries + var_bytes + boot_bytes + RESERVE;
        match room.available {
            Some(available) if needed + needed / MARGIN > available => {
                Err(SpaceError::Disk { path, needed, available })
            }
            available => Ok(Self { needed, available }),
        }
    }
}

fn room(path: &Path) -> Result<Room, SpaceError> {
    disk::room(path).map_err(|source| SpaceError::Io { path: path.to_owned(), source })
}

fn whole_units(bytes: u64, room: Room) -> u64 {
    bytes.div_ceil(room.unit) * room.unit
}

fn length(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
}

/// Bytes of the files in a directory of the boot partition.
fn tree_size(path: &Path, room: Room) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => tree_size(&entry.path(), room),
        Ok(metadata) => whole_units(metadata.len(), room),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Bytes of the files in a directory of the image.
fn tree_bytes(image: &Image, path: &str, room: Room) -> Result<u64, ImageError> {
    let mut sum = 0;
    let Some(top) = files::resolve(image, path)?.filter(|top| image.kind(*top) == Ok(FileKind::Directory)) else {
        return Ok(0);
    };
    image.walk(top, &mut |_, ino, kind| {
        sum += room.unit;
        if kind == FileKind::Regular {
            sum += image.attributes(ino)?.size;
        }
        Ok::<(), ImageError>(())
    })?;
    Ok(sum)
}
