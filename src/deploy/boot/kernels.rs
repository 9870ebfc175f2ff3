//! Finds the kernel of a commit in its image, and names the directory that it has on the boot partition.
//!
//! ```text
//! /usr/lib/modules/VERSION/vmlinuz
//! /usr/lib/modules/VERSION/initramfs.img    or `initramfs`
//! /usr/lib/modules/VERSION/devicetree       one blob; or `dtb/`, a directory of them
//! ```
//!
//! If there is no kernel in that directory, the paths that distributions' packages use are searched:
//!
//! ```text
//! /boot/vmlinuz-VERSION
//! /boot/initrd.img-VERSION                  or `initramfs-VERSION.img`
//! ```
//!
//! Of several kernels the newest is taken, unless `/usr/lib/sapwood/kernel` is a link to the directory of modules of another one
//! (`ln -s ../modules/VERSION`). Links in these paths are followed within the image.
//!
//! On the boot partition the files are in a directory named by a digest of all of them: deployments with the same kernel share
//! it, and a kernel that differs in any byte has a directory of its own.
//!
//! *Not here*: copying the files (`deploy::boot_menu`). *Used by* `deploy::plan`, `deploy::boot_menu`, `deploy::origin`, `cli`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::entry::DeviceTree;
use super::version::compare_kernels;
use crate::image::{Image, ImageError, Ino};
use crate::model::{FileKind, ImagePath, ObjectId};
use crate::source::{LastLink, follow};

/// The directory of kernels and modules in an image.
const MODULES_DIRECTORY: &str = "/usr/lib/modules";

/// The directory where distributions' packages install kernels.
const BOOT_DIRECTORY: &str = "/boot";

/// The link that chooses one of several kernels: the name of its target is the version.
const CHOICE: &str = "/usr/lib/sapwood/kernel";

/// Number of hexadecimal digits of the digest that names a kernel's directory: enough for all kernels of a machine and short
/// enough for any loader.
const DIGEST_DIGITS: usize = 32;

/// Why a commit cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KernelError {
    /// The commit has no kernel.
    #[error("there is no kernel in it: nothing at /usr/lib/modules/VERSION/vmlinuz or /boot/vmlinuz-VERSION")]
    NoKernel,
    /// The commit has a kernel without an initramfs.
    #[error("there is no initramfs for its kernel: nothing at {0}")]
    NoInitramfs(String),
    /// The kernel or the initramfs is an empty file.
    #[error("{0} is empty")]
    Empty(String),
    /// A link of the commit leads nowhere, or to something that is no file.
    #[error("there is no file where the link {0} leads")]
    Link(String),
    /// The link that chooses a kernel names none of the commit.
    #[error("{CHOICE} chooses the kernel '{0}', and there is none of that version")]
    Chosen(String),
    /// The kernel has a version that a boot entry cannot hold.
    #[error("'{0}' cannot be the version of a kernel")]
    Version(String),
    /// The image is damaged.
    #[error("its image is damaged")]
    Image(#[from] ImageError),
}

/// One file to copy to the boot partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootFile {
    /// The path of the file in the kernel's directory.
    pub(crate) name: String,
    /// The content; `None` for an empty file.
    pub(crate) object: Option<ObjectId>,
    /// The length in bytes.
    pub(crate) size: u64,
}

/// The kernel of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The facts that the origin of a deployment keeps.
    pub(crate) record: KernelRecord,
    pub(crate) files: Vec<BootFile>,
    /// The paths in the image: of files, and of directories of device trees.
    pub(crate) paths: Vec<String>,
    /// The versions of other kernels of the commit.
    pub(crate) others: Vec<String>,
}

/// The facts about its kernel that the origin of a deployment keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct KernelRecord {
    pub(crate) version: String,
    /// The digest that names the kernel's directory on the boot partition.
    pub(crate) digest: String,
    /// The form of the device trees, if the kernel has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) devicetree: Option<DeviceTreeKind>,
}

/// The form of a kernel's device trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DeviceTreeKind {
    /// One device tree blob.
    File,
    /// A directory of device tree blobs.
    Directory,
}

impl KernelRecord {
    /// Returns the path of the kernel; `base` is the directory of all kernels.
    pub(crate) fn linux(&self, base: &str) -> String {
        format!("{base}/{}/vmlinuz", self.digest)
    }

    /// Returns the path of the initramfs.
    pub(crate) fn initrd(&self, base: &str) -> String {
        format!("{base}/{}/initramfs.img", self.digest)
    }

    /// Returns the path of the device trees.
    pub(crate) fn device_tree(&self, base: &str) -> Option<DeviceTree> {
        Some(match self.devicetree? {
            DeviceTreeKind::File => DeviceTree::File(format!("{base}/{}/devicetree", self.digest)),
            DeviceTreeKind::Directory => DeviceTree::Directory(format!("{base}/{}/dtb", self.digest)),
        })
    }
}

/// The paths at which a kernel of one version and its files may be, the preferred paths first.
struct KernelCandidate {
    version: String,
    linux: String,
    initramfs: [String; 2],
    devicetree: String,
    devicetrees: String,
}

impl KernelCandidate {
    fn in_modules(version: &str) -> Self {
        let at = |name: &str| format!("{MODULES_DIRECTORY}/{version}/{name}");
        Self {
            version: version.to_owned(),
            linux: at("vmlinuz"),
            initramfs: [at("initramfs.img"), at("initramfs")],
            devicetree: at("devicetree"),
            devicetrees: at("dtb"),
        }
    }

    fn in_boot(version: &str) -> Self {
        Self {
            linux: format!("{BOOT_DIRECTORY}/vmlinuz-{version}"),
            initramfs: [
                format!("{BOOT_DIRECTORY}/initrd.img-{version}"),
                format!("{BOOT_DIRECTORY}/initramfs-{version}.img"),
            ],
            ..Self::in_modules(version)
        }
    }
}

/// Finds the kernel of `image`; of several, the one that the image chooses, else the newest.
pub(crate) fn find(image: &Image) -> Result<Kernel, KernelError> {
    let modules = directory_names(image, MODULES_DIRECTORY)?;
    let mut found = existing(image, modules.iter().map(|name| KernelCandidate::in_modules(name)))?;
    if found.is_empty() {
        let boot = directory_names(image, BOOT_DIRECTORY)?;
        let versions = boot.iter().filter_map(|name| name.strip_prefix("vmlinuz-"));
        found = existing(image, versions.map(KernelCandidate::in_boot))?;
    }
    found.sort_by(|a, b| compare_kernels(&a.version, &b.version));
    let index = match chosen_version(image)? {
        Some(version) => match found.iter().position(|candidate| candidate.version == version) {
            Some(index) => index,
            None => return Err(KernelError::Chosen(version)),
        },
        None => found.len().checked_sub(1).ok_or_else(|| missing_kernel(image, &modules))?,
    };
    let candidate = found.swap_remove(index);
    let is_plain = candidate.version.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain {
        return Err(KernelError::Version(candidate.version));
    }
    let mut others: Vec<String> = found.into_iter().map(|candidate| candidate.version).collect();
    others.sort_by(|a, b| compare_kernels(a, b));
    collect_files(image, candidate, others)
}

/// Returns the version that the image chooses; `None` if it leaves that open.
fn chosen_version(image: &Image) -> Result<Option<String>, KernelError> {
    let Ok(path) = ImagePath::parse(CHOICE.as_bytes()) else { return Ok(None) };
    let Some(ino) = image.resolve(&path)?.filter(|ino| image.kind(*ino) == Ok(FileKind::Symlink)) else {
        return Ok(None);
    };
    let target = String::from_utf8_lossy(image.symlink(ino)?).into_owned();
    Ok(target.trim_end_matches('/').rsplit('/').next().map(str::to_owned))
}

/// Returns why no kernel was found: there may be a link in its place that leads nowhere.
fn missing_kernel(image: &Image, modules: &[String]) -> KernelError {
    let links = modules.iter().map(|name| KernelCandidate::in_modules(name).linux);
    let is_link = |path: &String| {
        let path = ImagePath::parse(path.as_bytes()).ok();
        path.and_then(|path| image.resolve(&path).ok()?).is_some_and(|ino| image.kind(ino) == Ok(FileKind::Symlink))
    };
    links.into_iter().find(is_link).map_or(KernelError::NoKernel, KernelError::Link)
}

/// Returns the names in a directory of the image; none if there is no such directory.
fn directory_names(image: &Image, path: &str) -> Result<Vec<String>, KernelError> {
    let Some(directory) = lookup(image, path)?.filter(|ino| image.kind(*ino) == Ok(FileKind::Directory)) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for child in image.children(directory, 0)? {
        names.push(String::from_utf8_lossy(child?.name).into_owned());
    }
    Ok(names)
}

/// Returns the candidates whose kernel exists.
fn existing(
    image: &Image,
    candidates: impl Iterator<Item = KernelCandidate>,
) -> Result<Vec<KernelCandidate>, KernelError> {
    let mut found = Vec::new();
    for candidate in candidates {
        if is_file(image, &candidate.linux)? {
            found.push(candidate);
        }
    }
    Ok(found)
}

/// Collects the files that belong to a kernel, and their digest.
fn collect_files(image: &Image, candidate: KernelCandidate, others: Vec<String>) -> Result<Kernel, KernelError> {
    let [preferred, other] = &candidate.initramfs;
    let initramfs = if is_file(image, preferred)? { preferred } else { other };
    if !is_file(image, initramfs)? {
        return Err(KernelError::NoInitramfs(preferred.clone()));
    }
    let mut files = Vec::new();
    let mut paths = Vec::new();
    for (name, path) in [("vmlinuz", &candidate.linux), ("initramfs.img", initramfs)] {
        let (target, ino) = follow_path(image, path)?.ok_or(KernelError::NoKernel)?;
        let file = boot_file(image, name, ino)?;
        if file.size == 0 {
            return Err(KernelError::Empty(path.clone()));
        }
        files.push(file);
        paths.push(String::from_utf8_lossy(&target.to_bytes()).into_owned());
    }
    let mut devicetree = None;
    let blobs = lookup(image, &candidate.devicetrees)?.filter(|ino| image.kind(*ino) == Ok(FileKind::Directory));
    if let Some(blob) = lookup(image, &candidate.devicetree)? {
        files.push(boot_file(image, "devicetree", blob)?);
        devicetree = Some(DeviceTreeKind::File);
        paths.push(candidate.devicetree);
    } else if let Some(blobs) = blobs {
        image.walk(blobs, &mut |path, ino, kind| {
            if kind == FileKind::Regular {
                let name = format!("dtb{}", String::from_utf8_lossy(&path.to_bytes()));
                files.push(boot_file(image, &name, ino)?);
            }
            Ok::<(), KernelError>(())
        })?;
        devicetree = Some(DeviceTreeKind::Directory);
        paths.push(candidate.devicetrees);
    }
    files.sort();
    let record = KernelRecord { version: candidate.version, digest: files_digest(&files), devicetree };
    Ok(Kernel { record, files, paths, others })
}

fn is_file(image: &Image, path: &str) -> Result<bool, KernelError> {
    Ok(lookup(image, path)?.is_some_and(|ino| image.kind(ino) == Ok(FileKind::Regular)))
}

/// Returns the inode that a path leads to; `None` too for a path that no image can have.
fn lookup(image: &Image, path: &str) -> Result<Option<Ino>, KernelError> {
    Ok(follow_path(image, path)?.map(|(_, ino)| ino))
}

fn follow_path(image: &Image, path: &str) -> Result<Option<(ImagePath, Ino)>, KernelError> {
    let Ok(path) = ImagePath::parse(path.as_bytes()) else { return Ok(None) };
    Ok(follow(image, &path, LastLink::Followed)?)
}

fn boot_file(image: &Image, name: &str, ino: Ino) -> Result<BootFile, ImageError> {
    let (object, size) = (image.object(ino)?, image.attributes(ino)?.size);
    Ok(BootFile { name: name.to_owned(), object, size })
}

/// Returns the digest of the names and contents of all files.
fn files_digest(files: &[BootFile]) -> String {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(file.name.as_bytes());
        hasher.update([0]);
        hasher.update(file.object.unwrap_or_else(|| ObjectId::of(b"")).as_bytes());
    }
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    digest[..DIGEST_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Tree, encode};
    use crate::model::{Content, EntryName, Metadata, Node, NodeKind};
    use crate::sys::Mapping;

    fn image(paths: &[(&str, &str)]) -> Image {
        let mut tree = Tree::new(Metadata::default());
        for (path, content) in paths {
            let mut at = tree.root();
            let parts: Vec<&str> = path.split('/').collect();
            for (index, part) in parts.iter().enumerate() {
                let name = EntryName::new(part.as_bytes()).expect("legal");
                at = tree.child(at, part.as_bytes()).unwrap_or_else(|| {
                    let object = Some(ObjectId::of(content.as_bytes())).filter(|_| !content.is_empty());
                    let kind = if let Some(target) = content.strip_prefix("-> ").filter(|_| index + 1 == parts.len()) {
                        NodeKind::Symlink(target.as_bytes().into())
                    } else if index + 1 < parts.len() {
                        NodeKind::Directory
                    } else {
                        NodeKind::Regular(Content { object, size: content.len() as u64, ..Content::default() })
                    };
                    tree.insert(at, name, Node { metadata: Metadata::default(), kind }).expect("free")
                });
            }
        }
        Image::open(Mapping::of_bytes(encode(&tree).expect("legal").bytes)).expect("sound")
    }

    #[test]
    fn find_returns_the_newest_kernel_with_its_files() {
        let found = find(&image(&[
            ("usr/lib/modules/6.1.0-9/vmlinuz", "old"),
            ("usr/lib/modules/6.1.0-9/initramfs.img", "i"),
            ("usr/lib/modules/6.1.0-10/vmlinuz", "new"),
            ("usr/lib/modules/6.1.0-10/initramfs", "i"),
            ("usr/lib/modules/6.1.0-10/dtb/vendor/board.dtb", "d"),
            ("usr/lib/modules/extra/readme", "no kernel"),
        ]))
        .expect("there is one");
        assert_eq!(found.record.version, "6.1.0-10");
        assert_eq!(found.record.devicetree, Some(DeviceTreeKind::Directory));
        let names: Vec<&str> = found.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["dtb/vendor/board.dtb", "initramfs.img", "vmlinuz"]);
        assert_eq!(found.record.digest.len(), DIGEST_DIGITS);
    }

    #[test]
    fn find_follows_links_and_refuses_empty_files() {
        let path = |name: &str| format!("usr/lib/modules/6/{name}");
        let with = |linux: &str, initramfs: &str| {
            let (vmlinuz, initrd) = (path("vmlinuz"), path("initramfs.img"));
            find(&image(&[(&vmlinuz, linux), (&initrd, initramfs), ("usr/lib/kernel/6", "k")]))
        };
        let linked = with("-> ../../kernel/6", "i").expect("the link leads to a file");
        assert_eq!(linked.paths[0], "/usr/lib/kernel/6");
        assert_eq!(linked.record.digest, with("k", "i").expect("there is one").record.digest);
        assert_eq!(with("-> nowhere", "i"), Err(KernelError::Link(format!("/{}", path("vmlinuz")))));
        assert_eq!(with("k", ""), Err(KernelError::Empty(format!("/{}", path("initramfs.img")))));
        assert_eq!(with("", "i"), Err(KernelError::Empty(format!("/{}", path("vmlinuz")))));
    }

    #[test]
    fn find_takes_the_chosen_kernel_or_the_newest_release() {
        let mut paths = Vec::new();
        for version in ["6.10-rc7-amd64", "6.10-amd64", "6.9-amd64"] {
            paths.push((format!("usr/lib/modules/{version}/vmlinuz"), "k"));
            paths.push((format!("usr/lib/modules/{version}/initramfs.img"), "i"));
        }
        let mut paths: Vec<(&str, &str)> = paths.iter().map(|(path, content)| (path.as_str(), *content)).collect();
        let found = find(&image(&paths)).expect("there are three");
        assert_eq!(found.record.version, "6.10-amd64");
        assert_eq!(found.others, ["6.9-amd64", "6.10-rc7-amd64"]);
        paths.push(("usr/lib/sapwood/kernel", "-> ../modules/6.9-amd64"));
        assert_eq!(find(&image(&paths)).expect("it is chosen").record.version, "6.9-amd64");
        paths.pop();
        paths.push(("usr/lib/sapwood/kernel", "-> ../modules/5"));
        assert_eq!(find(&image(&paths)), Err(KernelError::Chosen("5".to_owned())));
    }

    #[test]
    fn digest_depends_on_all_files() {
        let kernel = |linux, initramfs| {
            let files = [("usr/lib/modules/6/vmlinuz", linux), ("usr/lib/modules/6/initramfs.img", initramfs)];
            find(&image(&files)).expect("whole").record.digest
        };
        assert_eq!(kernel("a", "b"), kernel("a", "b"));
        assert_ne!(kernel("a", "b"), kernel("b", "a"));
        assert_ne!(kernel("a", "b"), kernel("a", "c"));
    }

    #[test]
    fn find_reports_missing_kernels_and_initramfs() {
        assert_eq!(find(&image(&[("usr/bin/true", "x")])), Err(KernelError::NoKernel));
        assert_eq!(find(&image(&[("usr/lib/modules", "x")])), Err(KernelError::NoKernel));
        let bare = image(&[("usr/lib/modules/6/vmlinuz", "x")]);
        assert_eq!(find(&bare), Err(KernelError::NoInitramfs("/usr/lib/modules/6/initramfs.img".to_owned())));
        let unnameable = image(&[("usr/lib/modules/6 1/vmlinuz", "x"), ("usr/lib/modules/6 1/initramfs", "x")]);
        assert_eq!(find(&unnameable), Err(KernelError::Version("6 1".to_owned())));
    }

    #[test]
    fn find_prefers_modules_to_distribution_paths() {
        let debian = [
            ("boot/vmlinuz-6.1.0-9-amd64", "k"),
            ("boot/initrd.img-6.1.0-9-amd64", "i"),
            ("boot/vmlinuz-6.1.0-8", "k"),
        ];
        let found = find(&image(&debian)).expect("there is one");
        assert_eq!(found.record.version, "6.1.0-9-amd64");
        assert_eq!(found.paths, ["/boot/vmlinuz-6.1.0-9-amd64", "/boot/initrd.img-6.1.0-9-amd64"]);
        let fedora = [("boot/vmlinuz-6.12", "k"), ("boot/initramfs-6.12.img", "i")];
        assert_eq!(find(&image(&fedora)).expect("there is one").record.version, "6.12");
        let ours = [("usr/lib/modules/5/vmlinuz", "k"), ("usr/lib/modules/5/initramfs", "i")];
        assert_eq!(find(&image(&[&debian[..], &ours].concat())).expect("there is one").record.version, "5");
    }
}
