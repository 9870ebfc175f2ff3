//! Tells on which running instance of a filesystem a file is, if an unchanged ctime of that file proves that it is unchanged.
//!
//! ctime proves this only where it is the clock of the kernel that writes the filesystem. In a read-only image (squashfs,
//! ISO), on a network and behind FUSE it is a number that the maker of the image or a server chose, and reproducible builds
//! choose the same one for different contents. Device and inode numbers do not help: a device number is used again as soon
//! as it is free.
//!
//! So a file's ctime is trusted on a filesystem of a type that keeps ctime itself, mounted for writing, and only within one
//! instance of that filesystem:
//! - the filesystem that holds the directory given to [`FilesystemInstances::for_cache_in`]. The cache of attributes is in that
//!   directory, so a replaced filesystem replaces the cache too;
//! - any other filesystem while it stays mounted. The kernel numbers mounts uniquely since Linux 6.8 (`STATX_MNT_ID_UNIQUE`);
//!   older kernels reuse numbers, and no other filesystem is trusted there.
//!
//! *Not here*: the cache of attributes (`store/stat_cache.rs`).
//!
//! *Invariants*: whatever cannot be determined, because of an error too, counts as "not trusted": the file is read.
//!
//! *Used by* `compose`, which reads directories.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::Statx;

use super::directory::{MOUNT_ID_UNIQUE, open_directory, stat_of};
use super::mountinfo::MountTable;

/// Types of filesystems whose ctime is the clock of this machine's kernel, as `statfs(2)` and `linux/magic.h` number them:
/// ext2 to ext4, XFS, Btrfs, tmpfs, F2FS.
const CTIME_FILESYSTEMS: [u32; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];

/// The type of overlayfs, whose files have the ctime of the layer that they are in.
const OVERLAY: u32 = 0x794C_7630;

/// One instance of a filesystem, as a number that another instance shares only by chance (2^-64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FilesystemInstance(pub(crate) u64);

impl FilesystemInstance {
    /// The filesystem that holds the cache of attributes.
    const CACHE: Self = Self(0);
}

/// The instances of filesystems that were determined so far; each is determined once.
#[derive(Debug)]
pub(crate) struct FilesystemInstances {
    cache_device: Option<(u32, u32)>,
    boot_id: Option<u64>,
    known: HashMap<(u32, u32, u64), Option<FilesystemInstance>>,
}

impl FilesystemInstances {
    /// Returns an empty table for a cache of attributes that is in `directory`.
    pub(crate) fn for_cache_in(directory: impl AsFd) -> Self {
        let stat = stat_of(directory);
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok().map(|id| hash_number(&[&id]));
        Self { cache_device: stat.ok().map(|stat| device(&stat)), boot_id: boot, known: HashMap::new() }
    }

    /// Returns the instance that holds the file with the attributes `file`, if the ctime of that file can be trusted.
    /// `directory` is the file's directory, or the file itself.
    pub(crate) fn of(&mut self, directory: impl AsFd, file: &Statx) -> Option<FilesystemInstance> {
        let ((major, minor), mount) = (device(file), mount(file));
        let key = (major, minor, mount.unwrap_or(0));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let instance = self.determine(directory, file);
        self.known.insert(key, instance);
        instance
    }

    fn determine(&self, directory: impl AsFd, file: &Statx) -> Option<FilesystemInstance> {
        let holder = stat_of(&directory).ok()?;
        // If something is mounted on a file, the file is on another filesystem than its directory.
        if mount(&holder) != mount(file) {
            return None;
        }
        let kind = writable_kind(&directory)?;
        let is_overlay = kind == OVERLAY;
        if is_overlay && !layers_keep_ctime(device(&holder)) || !is_overlay && device(&holder) != device(file) {
            return None;
        }
        if !is_overlay && self.cache_device == Some(device(file)) {
            return Some(FilesystemInstance::CACHE);
        }
        let (boot, mount) = (self.boot_id?, mount(file)?);
        Some(FilesystemInstance(hash_number(&[&boot.to_le_bytes(), &mount.to_le_bytes()])))
    }
}

const fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// Returns the unique number of the mount through which a file was reached, if the kernel reports one.
fn mount(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & MOUNT_ID_UNIQUE != 0).then_some(stat.stx_mnt_id)
}

/// Returns the type of a filesystem that is mounted for writing and is an overlay or keeps ctime itself.
fn writable_kind(file: impl AsFd) -> Option<u32> {
    let flags = rustix::fs::fstatvfs(&file).ok()?.f_flag;
    // A type has 32 bits; some machines sign-extend it.
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type as u32;
    let is_writable = !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    (is_writable && (kind == OVERLAY || CTIME_FILESYSTEMS.contains(&kind))).then_some(kind)
}

/// Returns whether each layer of the overlay with this device number is on a filesystem that keeps ctime. A layer that cannot
/// be found by its path counts as one that is not.
fn layers_keep_ctime((major, minor): (u32, u32)) -> bool {
    let device = format!("{major}:{minor}");
    let Ok(table) = MountTable::read() else { return false };
    let Some(options) = table.mounts_of(&device).next().map(|mount| mount.options.as_str()) else { return false };
    let layers = layers(options);
    let keeps =
        |layer: &PathBuf| open_directory(layer).ok().and_then(writable_kind).is_some_and(|kind| kind != OVERLAY);
    options.contains("upperdir=") && layers.iter().all(|layer| layer.is_absolute() && keeps(layer))
}

/// Returns the directories named in the options of an overlay: `lowerdir=A:B,upperdir=C`, or `lowerdir+=A,lowerdir+=B` and
/// `datadir+=D` (kernel documentation, `filesystems/overlayfs`). A path with an escaped colon or comma is split wrongly, and so
/// is not found.
fn layers(options: &str) -> Vec<PathBuf> {
    let mut layers = Vec::new();
    for option in options.split(',') {
        let Some((name, value)) = option.split_once('=') else { continue };
        if ["lowerdir", "lowerdir+", "datadir+", "upperdir"].contains(&name) {
            layers.extend(value.split(':').filter(|path| !path.is_empty()).map(PathBuf::from));
        }
    }
    layers
}

fn hash_number(parts: &[&[u8]]) -> u64 {
    use sha2::{Digest as _, Sha256};
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let digest = hasher.finalize();
    // Zero is `FilesystemInstance::CACHE`.
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes")).max(1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn instance(instances: &mut FilesystemInstances, directory: &Path) -> Option<FilesystemInstance> {
        let opened = open_directory(directory).expect("exists");
        let stat = stat_of(&opened).expect("stat");
        instances.of(&opened, &stat)
    }

    #[test]
    fn cache_filesystem_is_trusted_and_proc_and_sys_are_not() {
        let cache = tempfile::tempdir_in(".").expect("a temporary directory");
        let mut instances = FilesystemInstances::for_cache_in(open_directory(cache.path()).expect("exists"));
        assert_eq!(instance(&mut instances, cache.path()), Some(FilesystemInstance::CACHE));
        assert_eq!(instance(&mut instances, Path::new("/proc")), None);
        assert_eq!(instance(&mut instances, Path::new("/sys")), None);
    }

    #[test]
    fn overlay_layers_are_read_from_mount_options() {
        let paths = |options| layers(options).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths("rw,lowerdir=/a:/b,upperdir=/c,workdir=/d,index=off"), ["/a", "/b", "/c"]);
        assert_eq!(paths("ro,lowerdir+=/a,lowerdir+=/b,datadir+=/e"), ["/a", "/b", "/e"]);
        assert_eq!(paths("rw,lowerdir=l/X::/e,upperdir=/c"), ["l/X", "/e", "/c"]);
    }
}
