//! *Purpose.* Tells on which running instance of a filesystem a file lies, where an unchanged ctime of that file proves that
//! it is unchanged.
//!
//! ctime proves this only where it is the clock of the kernel that writes the filesystem. In a read-only image (squashfs,
//! ISO), on a network and behind FUSE it is a number that the maker of the image or a server chose, and reproducible builds
//! choose the same one for different contents. Device and inode numbers do not help: a device number is used again as soon
//! as it is free.
//!
//! So a file is trusted on a filesystem of a type that keeps ctime itself, mounted for writing, and only within one
//! instance of it:
//! - the filesystem that holds the directory given to [`Instances::beside`]. The attributes are remembered there,
//!   so an exchanged filesystem exchanges the memory with it;
//! - any other one while it stays mounted. The kernel numbers mounts uniquely since Linux 6.8 (`STATX_MNT_ID_UNIQUE`); older
//!   kernels use a number again, and nothing is trusted there.
//!
//! *Not here.* What is remembered of a file (`store/stat_cache.rs`).
//!
//! *Invariants.* Every doubt, also an error, is "not trusted": the file is read.
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
const KEEP_CTIME: [u32; 5] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010];

/// overlayfs, whose files have the ctime of the layer they lie in.
const OVERLAY: u32 = 0x794C_7630;

/// One instance of a filesystem, as a number that another instance has only by chance (2^-64).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance(pub u64);

impl Instance {
    /// The filesystem that holds what is remembered.
    const BESIDE: Self = Self(0);
}

/// Instances of filesystems, each looked at once.
#[derive(Debug)]
pub struct Instances {
    beside: Option<(u32, u32)>,
    boot: Option<u64>,
    known: HashMap<(u32, u32, u64), Option<Instance>>,
}

impl Instances {
    /// Returns the instances as seen from `directory`, in which the attributes of files are remembered.
    #[must_use]
    pub fn beside(directory: impl AsFd) -> Self {
        let stat = stat_of(directory);
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").ok().map(|id| number(&[&id]));
        Self { beside: stat.ok().map(|stat| device(&stat)), boot, known: HashMap::new() }
    }

    /// Returns the instance that the file with the attributes `file` lies on, if its ctime can be trusted. `directory` holds
    /// it, or is it.
    pub fn of(&mut self, directory: impl AsFd, file: &Statx) -> Option<Instance> {
        let ((major, minor), mount) = (device(file), mount(file));
        let key = (major, minor, mount.unwrap_or(0));
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let instance = self.look(directory, file);
        self.known.insert(key, instance);
        instance
    }

    fn look(&self, directory: impl AsFd, file: &Statx) -> Option<Instance> {
        let holder = stat_of(&directory).ok()?;
        // A file that something is mounted on lies on another filesystem than its directory.
        if mount(&holder) != mount(file) {
            return None;
        }
        let kind = writable_kind(&directory)?;
        let is_overlay = kind == OVERLAY;
        if is_overlay && !layers_keep_ctime(device(&holder)) || !is_overlay && device(&holder) != device(file) {
            return None;
        }
        if !is_overlay && self.beside == Some(device(file)) {
            return Some(Instance::BESIDE);
        }
        let (boot, mount) = (self.boot?, mount(file)?);
        Some(Instance(number(&[&boot.to_le_bytes(), &mount.to_le_bytes()])))
    }
}

const fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// The unique number of the mount that a file was reached by, where the kernel has one.
fn mount(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & MOUNT_ID_UNIQUE != 0).then_some(stat.stx_mnt_id)
}

/// Returns the type of a filesystem that is mounted for writing and is an overlay or keeps ctime itself.
fn writable_kind(file: impl AsFd) -> Option<u32> {
    let flags = rustix::fs::fstatvfs(&file).ok()?.f_flag;
    // Types are of 32 bits; some machines have them sign-extended.
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type as u32;
    let is_writable = !flags.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    (is_writable && (kind == OVERLAY || KEEP_CTIME.contains(&kind))).then_some(kind)
}

/// Whether each layer of the overlay with this device number lies on a filesystem that keeps ctime. A layer that cannot be
/// found by its path does not.
fn layers_keep_ctime((major, minor): (u32, u32)) -> bool {
    let device = format!("{major}:{minor}");
    let Ok(table) = MountTable::read() else { return false };
    let Some(options) = table.mounts_of(&device).next().map(|mount| mount.options.as_str()) else { return false };
    let layers = layers(options);
    let keeps =
        |layer: &PathBuf| open_directory(layer).ok().and_then(writable_kind).is_some_and(|kind| kind != OVERLAY);
    options.contains("upperdir=") && layers.iter().all(|layer| layer.is_absolute() && keeps(layer))
}

/// The directories named in the options of an overlay: `lowerdir=A:B,upperdir=C`, or `lowerdir+=A,lowerdir+=B` and
/// `datadir+=D` (kernel documentation, `filesystems/overlayfs`). A path with an escaped colon or comma comes out wrong, and so
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

fn number(parts: &[&[u8]]) -> u64 {
    use sha2::{Digest as _, Sha256};
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let digest = hasher.finalize();
    // Never the number of the instance that lies beside.
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes")).max(1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn instance(instances: &mut Instances, directory: &Path) -> Option<Instance> {
        let opened = open_directory(directory).expect("is there");
        let stat = stat_of(&opened).expect("stat");
        instances.of(&opened, &stat)
    }

    #[test]
    fn the_filesystem_beside_is_known_by_itself_and_others_by_their_mount() {
        let place = tempfile::tempdir_in(".").expect("a temporary directory");
        let mut instances = Instances::beside(open_directory(place.path()).expect("is there"));
        assert_eq!(instance(&mut instances, place.path()), Some(Instance::BESIDE));
        assert_eq!(instance(&mut instances, Path::new("/proc")), None);
        assert_eq!(instance(&mut instances, Path::new("/sys")), None);
    }

    #[test]
    fn the_layers_of_an_overlay_are_read_from_its_options() {
        let paths = |options| layers(options).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths("rw,lowerdir=/a:/b,upperdir=/c,workdir=/d,index=off"), ["/a", "/b", "/c"]);
        assert_eq!(paths("ro,lowerdir+=/a,lowerdir+=/b,datadir+=/e"), ["/a", "/b", "/e"]);
        assert_eq!(paths("rw,lowerdir=l/X::/e,upperdir=/c"), ["l/X", "/e", "/c"]);
    }
}
