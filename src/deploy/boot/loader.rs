//! Which boot loader a sysroot has, and where its files are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoaderKind {
    /// The one whose files are found.
    #[default]
    Auto,
    /// Entries of the Boot Loader Specification on an EFI system or extended boot partition, with boot counting.
    SystemdBoot,
    /// A static `grub.cfg` and a file of entries, with boot counting.
    Grub,
    /// `extlinux.conf`, also for U-Boot.
    Extlinux,
    /// Nobody: entries of the Boot Loader Specification in `/boot`, for whoever reads them.
    None,
}

impl LoaderKind {
    /// The name in settings and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::SystemdBoot => "systemd-boot",
            Self::Grub => "grub",
            Self::Extlinux => "extlinux",
            Self::None => "none",
        }
    }
}

/// Where EFI system partitions are mounted, in the order in which `bootctl` looks.
const ESP_PLACES: [&str; 3] = ["efi", "boot", "boot/efi"];

/// Where everything else is.
const BOOT: &str = "boot";

/// The directories of GRUB below the boot directory, by distribution.
const GRUB_DIRECTORIES: [&str; 2] = ["grub", "grub2"];

/// A loader and where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Which.
    pub kind: LoaderKind,
    /// The directory that is, or is on, the partition it reads.
    pub directory: PathBuf,
    /// The way from the top of that partition to the directory: `/boot` when it is no partition of its own, else empty.
    pub prefix: String,
}

impl Loader {
    /// The loader of the sysroot at `root`, as configured or as found.
    ///
    /// # Errors
    /// Those of looking at the directories.
    pub fn of(root: &Path, kind: LoaderKind, boot: Option<&Path>) -> io::Result<Self> {
        let (kind, place) = match (kind, boot) {
            (LoaderKind::Auto, _) => detect(root, boot),
            (LoaderKind::SystemdBoot, None) => (kind, esp(root).unwrap_or_else(|| BOOT.into())),
            (_, boot) => (kind, boot.unwrap_or_else(|| Path::new(BOOT)).to_owned()),
        };
        let directory = root.join(&place);
        let reads_whole_partition = matches!(kind, LoaderKind::SystemdBoot | LoaderKind::None);
        let prefix = if reads_whole_partition || is_partition(root, &directory)? {
            String::new()
        } else {
            format!("/{}", place.display())
        };
        Ok(Self { kind, directory, prefix })
    }

    /// The directory of kernels of the sysroot `id`, as the loader sees it.
    #[must_use]
    pub fn kernels_seen(&self, id: &str) -> String {
        format!("{}/sapwood/{id}", self.prefix)
    }

    /// The directory of kernels of the sysroot `id`.
    #[must_use]
    pub fn kernels(&self, id: &str) -> PathBuf {
        self.directory.join("sapwood").join(id)
    }

    /// Where entries of the Boot Loader Specification are.
    #[must_use]
    pub fn entries(&self) -> PathBuf {
        self.directory.join("loader/entries")
    }

    /// Where GRUB's files are.
    #[must_use]
    pub fn grub(&self) -> PathBuf {
        let found = GRUB_DIRECTORIES.iter().map(|name| self.directory.join(name)).find(|path| path.is_dir());
        found.unwrap_or_else(|| self.directory.join(GRUB_DIRECTORIES[0]))
    }

    /// Where `extlinux.conf` is.
    #[must_use]
    pub fn extlinux(&self) -> PathBuf {
        self.directory.join("extlinux")
    }
}

/// Whether something else is mounted at `directory` than at `root`.
fn is_partition(root: &Path, directory: &Path) -> io::Result<bool> {
    match (rustix::fs::stat(root), rustix::fs::stat(directory)) {
        (Ok(root), Ok(directory)) => Ok(root.st_dev != directory.st_dev),
        (_, Err(rustix::io::Errno::NOENT)) => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

fn detect(root: &Path, boot: Option<&Path>) -> (LoaderKind, PathBuf) {
    let at = |place: &Path| root.join(place);
    let place = boot.map_or_else(|| PathBuf::from(BOOT), Path::to_owned);
    if boot.is_none_or(|boot| has_systemd_boot(&at(boot)))
        && let Some(esp) = boot.map(Path::to_owned).or_else(|| esp(root))
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

/// The partition where `bootctl install` was.
fn esp(root: &Path) -> Option<PathBuf> {
    ESP_PLACES.iter().map(PathBuf::from).find(|place| has_systemd_boot(&root.join(place)))
}

/// `bootctl install` leaves the loader itself, or, on an extended boot partition, what it reads.
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
    fn loaders_are_known_by_their_files() {
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
            let found = Loader::of(root.path(), LoaderKind::Auto, None).expect("readable");
            assert_eq!((found.kind, found.directory), (*kind, root.path().join(place)), "{paths:?}");
        }
    }

    #[test]
    fn settings_win_and_paths_are_as_the_loader_sees_them() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(root.path().join("boot/grub")).expect("made");
        let seen = |kind| Loader::of(root.path(), kind, None).expect("readable").kernels_seen("0123abcd");
        assert_eq!(seen(LoaderKind::Grub), "/boot/sapwood/0123abcd");
        assert_eq!(seen(LoaderKind::Extlinux), "/boot/sapwood/0123abcd");
        assert_eq!(seen(LoaderKind::SystemdBoot), "/sapwood/0123abcd");
        let other = Loader::of(root.path(), LoaderKind::SystemdBoot, Some(Path::new("esp"))).expect("readable");
        assert_eq!(other.directory, root.path().join("esp"));
    }
}
