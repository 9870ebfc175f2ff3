//! The kernel of a commit: where it is in the image, and what it is called on the boot partition.
//!
//! ```text
//! /usr/lib/modules/VERSION/vmlinuz
//! /usr/lib/modules/VERSION/initramfs.img    or `initramfs`
//! /usr/lib/modules/VERSION/devicetree       one blob; or `dtb/`, a directory of them
//! ```
//!
//! On the boot partition these lie in a directory named by a digest of all of them, so that deployments with the same
//! kernel share it, and one that differs in the least has its own.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::entry::DeviceTree;
use crate::image::{Image, ImageError, Ino};
use crate::model::{FileKind, ImagePath, ObjectId};

const MODULES: &[u8] = b"/usr/lib/modules";

/// The names that an initramfs may have in the commit, in the order of preference.
const INITRAMFS: [&str; 2] = ["initramfs.img", "initramfs"];

/// Hex digits of the digest that names a kernel's directory: enough for all kernels of a machine and short enough for any
/// loader.
const DIGEST_DIGITS: usize = 32;

/// Why a commit cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// No kernel.
    #[error("there is no kernel in it: nothing at /usr/lib/modules/VERSION/vmlinuz")]
    NoKernel,
    /// A kernel and no initramfs.
    #[error("there is no initramfs beside its kernel: nothing at /usr/lib/modules/{0}/initramfs.img")]
    NoInitramfs(String),
    /// A version that cannot be named in a boot entry.
    #[error("'{0}' cannot be the version of a kernel")]
    Version(String),
    /// The image is damaged.
    #[error("its image is damaged")]
    Image(#[from] ImageError),
}

/// One file for the boot partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootFile {
    /// Its path in the kernel's directory.
    pub name: String,
    /// Its content; `None` for an empty file.
    pub object: Option<ObjectId>,
    /// Its length in bytes.
    pub size: u64,
}

/// The kernel of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What a deployment keeps of it.
    pub record: KernelRecord,
    /// Its files.
    pub files: Vec<BootFile>,
}

/// What a deployment keeps of its kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KernelRecord {
    /// Its version.
    pub version: String,
    /// Names its directory on the boot partition.
    pub digest: String,
    /// Device trees that come with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devicetree: Option<DeviceTreeKind>,
}

/// How a kernel's device trees come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceTreeKind {
    /// One blob.
    File,
    /// A directory of them.
    Directory,
}

impl KernelRecord {
    /// Where its kernel is, seen from the directory of kernels at `base`.
    #[must_use]
    pub fn linux(&self, base: &str) -> String {
        format!("{base}/{}/vmlinuz", self.digest)
    }

    /// Where its initramfs is.
    #[must_use]
    pub fn initrd(&self, base: &str) -> String {
        format!("{base}/{}/initramfs.img", self.digest)
    }

    /// Where its device trees are.
    #[must_use]
    pub fn device_tree(&self, base: &str) -> Option<DeviceTree> {
        Some(match self.devicetree? {
            DeviceTreeKind::File => DeviceTree::File(format!("{base}/{}/devicetree", self.digest)),
            DeviceTreeKind::Directory => DeviceTree::Directory(format!("{base}/{}/dtb", self.digest)),
        })
    }
}

/// The directory of `image` with the kernel that boots: of several the one with the highest version.
///
/// # Errors
/// [`KernelError`].
pub fn find_directory(image: &Image) -> Result<(String, Ino), KernelError> {
    let modules = ImagePath::parse(MODULES).ok().and_then(|path| image.resolve(&path).transpose()).transpose()?;
    let modules =
        modules.filter(|modules| image.kind(*modules) == Ok(FileKind::Directory)).ok_or(KernelError::NoKernel)?;
    let mut found: Option<(String, Ino)> = None;
    for child in image.children(modules, 0)? {
        let child = child?;
        if child.kind != FileKind::Directory || image.lookup(child.ino, b"vmlinuz")?.is_none() {
            continue;
        }
        let version = String::from_utf8_lossy(child.name).into_owned();
        if !version.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KernelError::Version(version));
        }
        if found.as_ref().is_none_or(|(best, _)| version_key(best) < version_key(&version)) {
            found = Some((version, child.ino));
        }
    }
    found.ok_or(KernelError::NoKernel)
}

/// The kernel of `image`.
///
/// # Errors
/// [`KernelError`].
pub fn find(image: &Image) -> Result<Kernel, KernelError> {
    let (version, directory) = find_directory(image)?;
    let linux = image.lookup(directory, b"vmlinuz")?.ok_or(KernelError::NoKernel)?;
    let mut initramfs = None;
    for name in INITRAMFS {
        initramfs = initramfs.or(image.lookup(directory, name.as_bytes())?);
    }
    let initramfs = initramfs.ok_or_else(|| KernelError::NoInitramfs(version.clone()))?;
    let mut files = vec![file(image, "vmlinuz", linux)?, file(image, "initramfs.img", initramfs)?];
    let mut devicetree = None;
    if let Some(blob) = image.lookup(directory, b"devicetree")? {
        files.push(file(image, "devicetree", blob)?);
        devicetree = Some(DeviceTreeKind::File);
    } else if let Some(blobs) =
        image.lookup(directory, b"dtb")?.filter(|ino| image.kind(*ino) == Ok(FileKind::Directory))
    {
        image.walk(blobs, &mut |path, ino, kind| {
            if kind == FileKind::Regular {
                let name = format!("dtb{}", String::from_utf8_lossy(&path.to_bytes()));
                files.push(file(image, &name, ino)?);
            }
            Ok::<(), KernelError>(())
        })?;
        devicetree = Some(DeviceTreeKind::Directory);
    }
    files.sort();
    let record = KernelRecord { version, digest: digest(&files), devicetree };
    Ok(Kernel { record, files })
}

fn file(image: &Image, name: &str, ino: Ino) -> Result<BootFile, ImageError> {
    let (object, size) = (image.object(ino)?, image.attributes(ino)?.size);
    Ok(BootFile { name: name.to_owned(), object, size })
}

fn digest(files: &[BootFile]) -> String {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(file.name.as_bytes());
        hasher.update([0]);
        hasher.update(file.object.unwrap_or_else(|| ObjectId::of(b"")).as_bytes());
    }
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    digest[..DIGEST_DIGITS].to_owned()
}

/// Orders versions as people do: runs of digits by their value, everything else by its bytes.
fn version_key(version: &str) -> Vec<(u64, &str)> {
    let mut key = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let (text, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        key.push((digits.parse().unwrap_or(0), text));
        rest = after;
    }
    key
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
                    let object = Some(ObjectId::of(content.as_bytes()));
                    let kind = if index + 1 < parts.len() {
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
    fn the_newest_kernel_with_its_files_is_found() {
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
    fn the_directory_is_named_by_what_is_in_it() {
        let kernel = |linux, initramfs| {
            let files = [("usr/lib/modules/6/vmlinuz", linux), ("usr/lib/modules/6/initramfs.img", initramfs)];
            find(&image(&files)).expect("whole").record.digest
        };
        assert_eq!(kernel("a", "b"), kernel("a", "b"));
        assert_ne!(kernel("a", "b"), kernel("b", "a"));
        assert_ne!(kernel("a", "b"), kernel("a", "c"));
    }

    #[test]
    fn what_cannot_boot_is_said() {
        assert_eq!(find(&image(&[("usr/bin/true", "x")])), Err(KernelError::NoKernel));
        assert_eq!(find(&image(&[("usr/lib/modules", "x")])), Err(KernelError::NoKernel));
        let bare = image(&[("usr/lib/modules/6/vmlinuz", "x")]);
        assert_eq!(find(&bare), Err(KernelError::NoInitramfs("6".to_owned())));
    }
}
