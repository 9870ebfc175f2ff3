//! Detects the boot loader of a sysroot, and names the directories of its files.
//!
//! *Not here*: the contents of the files (`bls`, `grub`, `extlinux`).
//!
//! *Used by* `menu`, `deploy::sysroot`, `deploy::boot_menu` and `deploy::space`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::MountTable;

/// The kind of a boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LoaderKind {
    /// Detect the boot loader by its files.
    #[default]
    Auto,
    /// Entries of the Boot Loader Specification on an EFI system or extended boot partition, with boot counting.
    SystemdBoot,
    /// A static `grub.cfg` and a file of entries, with boot counting.
    Grub,
    /// `extlinux.conf`, also for U-Boot.
    Extlinux,
    /// No known boot loader: entries of the Boot Loader Specification are written to `/boot`.
    None,
}

impl LoaderKind {
    /// Returns the name in settings and messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::SystemdBoot => "systemd-boot",
            Self::Grub => "grub",
            Self::Extlinux => "extlinux",
            Self::None => "none",
        }
    }
}

/// The mount points of EFI system partitions, in the order in which `bootctl` searches them.
const ESP_MOUNT_POINTS: [&str; 3] = ["efi", "boot", "boot/efi"];

/// The directory of kernels of all sysroots, on the loader's partition.
const KERNELS_DIRECTORY: &str = "sapwood";

/// The directory where the kernel shows the variables of the firmware.
const EFI_VARIABLES: &str = "sys/firmware/efi/efivars";

/// The boot directory of all other loaders.
const BOOT_DIRECTORY: &str = "boot";

/// The directories of GRUB below the boot directory; distributions use one or the other.
const GRUB_DIRECTORIES: [&str; 2] = ["grub", "grub2"];

/// A boot loader and the directory of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootLoader {
    pub(crate) kind: LoaderKind,
    /// The directory that is, or is on, the partition that the loader reads.
    pub(crate) directory: PathBuf,
    /// The path of the directory as the loader spells it: empty for the top of a partition, `/boot` for a directory of one,
    /// `/@rootfs/boot` for one of a btrfs subvolume.
    pub(crate) prefix: String,
    /// Directories of other partitions of which the loader shows entries, too: the EFI system partition first.
    pub(crate) others: Vec<PathBuf>,
    /// The directory of EFI variables; those of the running firmware, if the sysroot is that of the running system.
    pub(crate) efi_variables: PathBuf,
}

impl BootLoader {
    /// Returns the loader of the sysroot at `root`, as configured or as detected.
    ///
    /// # Errors
    /// Those of reading the status of the directories.
    pub(crate) fn of(root: &Path, kind: LoaderKind, boot: Option<&Path>) -> io::Result<Self> {
        let (kind, boot) = match (kind, boot) {
            (LoaderKind::Auto, _) => detect(root, boot),
            (LoaderKind::SystemdBoot, None) => {
                (kind, find_entries_partition(root).unwrap_or_else(|| BOOT_DIRECTORY.into()))
            }
            (_, boot) => (kind, boot.unwrap_or_else(|| Path::new(BOOT_DIRECTORY)).to_owned()),
        };
        let directory = root.join(&boot);
        let reads_whole_partition = matches!(kind, LoaderKind::SystemdBoot | LoaderKind::None);
        let prefix = if reads_whole_partition { String::new() } else { path_on_filesystem(root, &boot)? };
        let is_other = |place: &Path| place != boot && has_systemd_boot(&root.join(place));
        let others = match kind {
            LoaderKind::SystemdBoot => ESP_MOUNT_POINTS
                .iter()
                .filter(|place| is_other(Path::new(place)))
                .map(|place| root.join(place))
                .collect(),
            _ => Vec::new(),
        };
        Ok(Self { kind, directory, prefix, others, efi_variables: root.join(EFI_VARIABLES) })
    }

    /// Returns a loader whose partition is mounted at `directory`, alone.
    #[cfg(test)]
    pub(super) fn at(kind: LoaderKind, directory: &Path) -> Self {
        let efi_variables = directory.join(EFI_VARIABLES);
        Self { kind, directory: directory.to_owned(), prefix: String::new(), others: Vec::new(), efi_variables }
    }

    /// Returns the directory of kernels of the sysroot `id` as a path on the loader's partition.
    pub(crate) fn kernels_loader_path(&self, id: &str) -> String {
        format!("{}{}", self.prefix, Self::kernels_path(id))
    }

    /// Returns the end of that path, which is the same with all loaders.
    pub(crate) fn kernels_path(id: &str) -> String {
        format!("/{KERNELS_DIRECTORY}/{id}")
    }

    /// Returns the directory of kernels of the sysroot `id`.
    pub(crate) fn kernels_directory(&self, id: &str) -> PathBuf {
        self.directory.join(KERNELS_DIRECTORY).join(id)
    }

    /// Returns the configuration of systemd-boot, on the partition of its program.
    pub(crate) fn configuration(&self) -> PathBuf {
        let mut partitions = std::iter::once(&self.directory).chain(&self.others);
        partitions.find(|partition| has_loader(partition)).unwrap_or(&self.directory).join("loader/loader.conf")
    }

    /// Returns the directory of entries of the Boot Loader Specification.
    pub(crate) fn entries_directory(&self) -> PathBuf {
        self.directory.join("loader/entries")
    }

    /// Returns the directory of GRUB's files.
    pub(crate) fn grub_directory(&self) -> PathBuf {
        let found = GRUB_DIRECTORIES.iter().map(|name| self.directory.join(name)).find(|path| path.is_dir());
        found.unwrap_or_else(|| self.directory.join(GRUB_DIRECTORIES[0]))
    }

    /// Returns the directory of `extlinux.conf`.
    pub(crate) fn extlinux_directory(&self) -> PathBuf {
        self.directory.join("extlinux")
    }
}

/// Returns the path of `root/boot` on the filesystem that it is on; empty for the top of one.
///
/// A loader sees a filesystem from its top, also when only a subvolume or another directory of it is mounted. A sysroot that is
/// no mount itself stands for the disk that it will be copied to.
fn path_on_filesystem(root: &Path, boot: &Path) -> io::Result<String> {
    let root = root.canonicalize()?;
    // A link such as `/boot` → `/efi/boot` is followed; what does not exist yet will be a directory.
    let directory = root.join(boot);
    let directory = directory.canonicalize().unwrap_or(directory);
    let table = MountTable::read()?;
    let mount = table.containing(&directory).filter(|mount| mount.path.starts_with(&root));
    let on_filesystem = match mount {
        Some(mount) => mount.root.join(directory.strip_prefix(&mount.path).unwrap_or(&directory)),
        None => Path::new("/").join(directory.strip_prefix(&root).unwrap_or(&directory)),
    };
    let path = on_filesystem.to_string_lossy().trim_end_matches('/').to_owned();
    Ok(path)
}

/// Detects the boot loader by its files. Returns its kind and its directory, relative to `root`.
fn detect(root: &Path, boot: Option<&Path>) -> (LoaderKind, PathBuf) {
    let at = |place: &Path| root.join(place);
    let place = boot.map_or_else(|| PathBuf::from(BOOT_DIRECTORY), Path::to_owned);
    if boot.is_none_or(|boot| has_systemd_boot(&at(boot)))
        && let Some(partition) = boot.map(Path::to_owned).or_else(|| find_entries_partition(root))
    {
        return (LoaderKind::SystemdBoot, partition);
    }
    if GRUB_DIRECTORIES.iter().any(|name| at(&place).join(name).is_dir()) {
        return (LoaderKind::Grub, place);
    }
    if at(&place).join("extlinux").is_dir() {
        return (LoaderKind::Extlinux, place);
    }
    (LoaderKind::None, place)
}

/// Returns the mount point of the partition for entries on which `bootctl install` was run: the one that has some already, else
/// the extended boot partition, which is made for kernels, else the EFI system partition.
fn find_entries_partition(root: &Path) -> Option<PathBuf> {
    let places = || ESP_MOUNT_POINTS.iter().map(PathBuf::from).filter(|place| has_systemd_boot(&root.join(place)));
    let in_use = places().find(|place| root.join(place).join(KERNELS_DIRECTORY).is_dir());
    let is_extended = |place: &PathBuf| {
        let directory = root.join(place);
        directory.join("loader/entries.srel").is_file() && !has_loader(&directory)
    };
    in_use.or_else(|| places().find(is_extended)).or_else(|| places().next())
}

/// Returns whether the partition has the program of systemd-boot.
fn has_loader(directory: &Path) -> bool {
    let listed = fs::read_dir(directory.join("EFI/systemd")).into_iter().flatten().flatten();
    listed.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("systemd-boot"))
}

/// Returns whether `bootctl install` was run on the partition: it installs the loader itself or, on an extended boot partition,
/// the files that the loader reads.
fn has_systemd_boot(directory: &Path) -> bool {
    has_loader(directory)
        || directory.join("loader/entries.srel").is_file()
        || directory.join("loader/loader.conf").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_detected_by_their_files() {
        let table: &[(&[&str], LoaderKind, &str)] = &[
            (&[], LoaderKind::None, "boot"),
            (&["boot/grub/x86_64-efi"], LoaderKind::Grub, "boot"),
            (&["boot/grub2"], LoaderKind::Grub, "boot"),
            (&["boot/extlinux"], LoaderKind::Extlinux, "boot"),
            (&["boot/efi/EFI/systemd/systemd-bootx64.efi", "boot/grub"], LoaderKind::SystemdBoot, "boot/efi"),
            (&["efi/EFI/systemd/systemd-bootaa64.efi"], LoaderKind::SystemdBoot, "efi"),
            (&["boot/efi/EFI/debian/grubx64.efi", "boot/grub"], LoaderKind::Grub, "boot"),
            // An extended boot partition is preferred to the EFI system partition, unless that is in use already.
            (&["efi/EFI/systemd/systemd-bootx64.efi", "boot/loader/entries.srel"], LoaderKind::SystemdBoot, "boot"),
            (
                &["efi/EFI/systemd/systemd-bootx64.efi", "boot/loader/entries.srel", "efi/sapwood"],
                LoaderKind::SystemdBoot,
                "efi",
            ),
        ];
        for (paths, kind, place) in table {
            let root = tempfile::tempdir().expect("a temporary directory");
            for path in paths.iter().map(|path| root.path().join(path)) {
                fs::create_dir_all(path.parent().expect("inside")).expect("made");
                if path.extension().is_some_and(|end| end == "srel") {
                    crate::disk::replace(&path, b"type1\n").expect("written");
                } else {
                    fs::create_dir_all(path).expect("made");
                }
            }
            let found = BootLoader::of(root.path(), LoaderKind::Auto, None).expect("readable");
            assert_eq!((found.kind, found.directory), (*kind, root.path().join(place)), "{paths:?}");
        }
    }

    #[test]
    fn settings_override_detection_and_paths_are_the_loaders() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(root.path().join("boot/grub")).expect("made");
        let seen = |kind| BootLoader::of(root.path(), kind, None).expect("readable").kernels_loader_path("0123abcd");
        assert_eq!(seen(LoaderKind::Grub), "/boot/sapwood/0123abcd");
        assert_eq!(seen(LoaderKind::Extlinux), "/boot/sapwood/0123abcd");
        assert_eq!(seen(LoaderKind::SystemdBoot), "/sapwood/0123abcd");
        let other = BootLoader::of(root.path(), LoaderKind::SystemdBoot, Some(Path::new("esp"))).expect("readable");
        assert_eq!(other.directory, root.path().join("esp"));
    }
}
