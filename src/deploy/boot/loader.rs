//! Detects the boot loader of a sysroot, and names the directories of its files.
//!
//! *Not here*: the contents of the files (`bls`, `grub`, `extlinux`).
//!
//! *Used by* `menu`, `deploy::sysroot`, `deploy::boot_menu` and `deploy::space`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// The path of the directory on that partition: `/boot` if it is not a partition of its own, else empty.
    pub(crate) prefix: String,
}

impl BootLoader {
    /// Returns the loader of the sysroot at `root`, as configured or as detected.
    ///
    /// # Errors
    /// Those of reading the status of the directories.
    pub(crate) fn of(root: &Path, kind: LoaderKind, boot: Option<&Path>) -> io::Result<Self> {
        let (kind, boot) = match (kind, boot) {
            (LoaderKind::Auto, _) => detect(root, boot),
            (LoaderKind::SystemdBoot, None) => (kind, find_esp(root).unwrap_or_else(|| BOOT_DIRECTORY.into())),
            (_, boot) => (kind, boot.unwrap_or_else(|| Path::new(BOOT_DIRECTORY)).to_owned()),
        };
        let directory = root.join(&boot);
        let reads_whole_partition = matches!(kind, LoaderKind::SystemdBoot | LoaderKind::None);
        let prefix = if reads_whole_partition || is_separate_mount(root, &directory)? {
            String::new()
        } else {
            format!("/{}", boot.display())
        };
        Ok(Self { kind, directory, prefix })
    }

    /// Returns the directory of kernels of the sysroot `id` as a path on the loader's partition.
    pub(crate) fn kernels_loader_path(&self, id: &str) -> String {
        format!("{}/sapwood/{id}", self.prefix)
    }

    /// Returns the directory of kernels of the sysroot `id`.
    pub(crate) fn kernels_directory(&self, id: &str) -> PathBuf {
        self.directory.join("sapwood").join(id)
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

/// Returns whether `directory` is on another filesystem than `root`.
fn is_separate_mount(root: &Path, directory: &Path) -> io::Result<bool> {
    match (rustix::fs::stat(root), rustix::fs::stat(directory)) {
        (Ok(root), Ok(directory)) => Ok(root.st_dev != directory.st_dev),
        (_, Err(rustix::io::Errno::NOENT)) => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

/// Detects the boot loader by its files. Returns its kind and its directory, relative to `root`.
fn detect(root: &Path, boot: Option<&Path>) -> (LoaderKind, PathBuf) {
    let at = |place: &Path| root.join(place);
    let place = boot.map_or_else(|| PathBuf::from(BOOT_DIRECTORY), Path::to_owned);
    if boot.is_none_or(|boot| has_systemd_boot(&at(boot)))
        && let Some(esp) = boot.map(Path::to_owned).or_else(|| find_esp(root))
    {
        return (LoaderKind::SystemdBoot, esp);
    }
    if GRUB_DIRECTORIES.iter().any(|name| at(&place).join(name).is_dir()) {
        return (LoaderKind::Grub, place);
    }
    if at(&place).join("extlinux").is_dir() {
        return (LoaderKind::Extlinux, place);
    }
    (LoaderKind::None, place)
}

/// Returns the mount point of the partition on which `bootctl install` was run.
fn find_esp(root: &Path) -> Option<PathBuf> {
    ESP_MOUNT_POINTS.iter().map(PathBuf::from).find(|place| has_systemd_boot(&root.join(place)))
}

/// Returns whether `bootctl install` was run on the partition: it installs the loader itself or, on an extended boot partition,
/// the files that the loader reads.
fn has_systemd_boot(directory: &Path) -> bool {
    let in_efi = |path: &str| {
        let listed = fs::read_dir(directory.join(path)).into_iter().flatten().flatten();
        listed.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("systemd-boot"))
    };
    in_efi("EFI/systemd")
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
        ];
        for (paths, kind, place) in table {
            let root = tempfile::tempdir().expect("a temporary directory");
            paths.iter().for_each(|path| fs::create_dir_all(root.path().join(path)).expect("made"));
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
