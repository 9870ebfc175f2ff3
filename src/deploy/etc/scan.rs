//! Reads configuration trees: from a directory of this machine, or as the defaults in an image.
//!
//! *Not here*: contents. A tree has only their digests, so the contents of an image need not be in the repository.
//!
//! *Invariants*: no symbolic link is followed, mount points are not entered, and files that vanish during the scan are left
//! out.
//!
//! *Used by* `edit`, `deploy::plan`, `deploy::apply` and `cli`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags};
use sha2::{Digest as _, Sha256};

use super::item::{Body, EtcPath, EtcTree, Item};
use crate::disk;
use crate::image::{Image, ImageError, Ino};
use crate::model::{DeviceNumber, FileKind, ImagePath, ObjectId, Timestamp, XattrError, Xattrs};

/// The directories where a commit may have its defaults; the second one is used if the first does not exist.
pub(crate) const DEFAULTS_DIRECTORIES: [&str; 2] = ["/usr/etc", "/etc"];

/// Bytes that are read and hashed at a time.
const HASH_BUFFER_BYTES: usize = 64 << 10;

/// A bit that distinguishes link numbers of images from those of directories, which are inode numbers.
const IMAGE_LINK_BIT: u64 = 1 << 63;

/// The extended attribute with the SELinux label.
const SELINUX_XATTR: &[u8] = b"security.selinux";

/// Whether owners and protected extended attributes are read and set. Only root can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PreserveOwners {
    /// Owners and protected attributes are read, compared and set.
    Yes,
    /// Owners and protected attributes are ignored.
    No,
}

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("cannot read {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A file has extended attributes that no image can hold.
    #[error("bad extended attributes of {}", .path.display())]
    Xattrs { path: PathBuf, source: XattrError },
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
}

/// Reads the defaults of a commit; an empty tree if it has none.
pub(crate) fn scan_defaults(image: &Image, ownership: PreserveOwners) -> Result<EtcTree, ScanError> {
    let mut tree = EtcTree::default();
    let Some(top) = defaults_directory(image)? else { return Ok(tree) };
    tree.entries.insert(Box::default(), image_item(image, top, ownership)?);
    image.walk(top, &mut |path, ino, _| {
        tree.entries.insert(path.to_bytes()[1..].into(), image_item(image, ino, ownership)?);
        Ok::<(), ScanError>(())
    })?;
    Ok(tree)
}

/// Returns the directory of the defaults of a commit.
fn defaults_directory(image: &Image) -> Result<Option<Ino>, ImageError> {
    for path in DEFAULTS_DIRECTORIES {
        let path = ImagePath::parse(path.as_bytes()).expect("a constant without '..'");
        if let Some(top) = image.resolve(&path)?
            && image.kind(top)? == FileKind::Directory
        {
            return Ok(Some(top));
        }
    }
    Ok(None)
}

fn image_item(image: &Image, ino: Ino, ownership: PreserveOwners) -> Result<Item, ScanError> {
    let attributes = image.attributes(ino)?;
    let device = || attributes.device.unwrap_or(DeviceNumber { major: 0, minor: 0 });
    let body = match attributes.kind {
        FileKind::Directory => Body::Directory,
        FileKind::Regular => {
            Body::File { content: image.object(ino)?.unwrap_or_else(|| ObjectId::of(b"")), size: attributes.size }
        }
        FileKind::Symlink => Body::Symlink(image.symlink(ino)?.into()),
        FileKind::Fifo => Body::Fifo,
        FileKind::Socket => Body::Socket,
        FileKind::CharDevice => Body::CharDevice(device()),
        FileKind::BlockDevice => Body::BlockDevice(device()),
    };
    let is_linked = attributes.nlink > 1 && attributes.kind != FileKind::Directory;
    Ok(Item {
        mode: if attributes.kind == FileKind::Symlink { 0o777 } else { attributes.permissions },
        owner: (ownership == PreserveOwners::Yes).then_some((attributes.uid, attributes.gid)),
        xattrs: without_hidden_xattrs(image.xattrs(ino)?, ownership),
        mtime: attributes.mtime,
        link: is_linked.then(|| IMAGE_LINK_BIT | attributes.ino.get()),
        body,
    })
}

/// Removes the attributes that are not compared: those of overlayfs and, if owners are ignored, all but `user.` attributes.
fn without_hidden_xattrs(mut xattrs: Xattrs, ownership: PreserveOwners) -> Xattrs {
    let hidden = |name: &[u8]| {
        let is_protected = !name.starts_with(b"user.");
        name.starts_with(b"trusted.overlay.") || (ownership == PreserveOwners::No && is_protected)
    };
    let names: Vec<Vec<u8>> = xattrs.iter().map(|(name, _)| name.to_vec()).filter(|name| hidden(name)).collect();
    names.iter().for_each(|name| xattrs.remove(name));
    xattrs
}

/// Removes the SELinux labels from `local` if none of the defaults has labels: then the kernel set them, not the administrator.
pub(crate) fn ignore_policy_labels(local: &mut EtcTree, defaults: [&EtcTree; 2]) {
    let has_labels = |tree: &EtcTree| tree.entries.values().any(|item| item.xattrs.get(SELINUX_XATTR).is_some());
    if !defaults.into_iter().any(has_labels) {
        local.entries.values_mut().for_each(|item| item.xattrs.remove(SELINUX_XATTR));
    }
}

/// Reads the tree in a directory.
pub(crate) fn scan_directory(root: &Path, ownership: PreserveOwners) -> Result<EtcTree, ScanError> {
    let io_error = |path: &[u8], source| ScanError::Io { path: join_path(root, path), source };
    let mut tree = EtcTree::default();
    let top = disk::open_directory(root).map_err(|source| io_error(b"", source))?;
    let stat = rustix::fs::statx(&top, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    let stat = stat.map_err(|errno| io_error(b"", errno.into()))?;
    let item = local_item(&top, b"", b"", &stat, root, ownership)?;
    tree.entries.extend(item.map(|item| (EtcPath::default(), item)));
    let mut pending: Vec<(EtcPath, OwnedFd)> = vec![(EtcPath::default(), top)];
    while let Some((above, directory)) = pending.pop() {
        let listed = disk::list(&directory).map_err(|source| io_error(&above, source))?;
        // Temporary files of a killed process are not part of the tree.
        for entry in listed.into_iter().filter(|entry| *entry.name != *disk::TEMPORARY_NAME) {
            let path: EtcPath =
                if above.is_empty() { entry.name.clone() } else { [&above[..], b"/", &entry.name].concat().into() };
            let Some(item) = local_item(&directory, &entry.name, &path, &entry.stat, root, ownership)? else {
                continue;
            };
            let is_mount = entry.stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
            if item.body.is_directory() && !is_mount {
                match disk::open_directory_at(&directory, &entry.name) {
                    Ok(opened) => pending.push((path.clone(), opened)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(io_error(&path, source)),
                }
            }
            tree.entries.insert(path, item);
        }
    }
    Ok(tree)
}

/// Reads one entry; `None` if it vanished.
fn local_item(
    directory: &OwnedFd,
    name: &[u8],
    path: &[u8],
    stat: &Statx,
    root: &Path,
    ownership: PreserveOwners,
) -> Result<Option<Item>, ScanError> {
    let io_error = |source| ScanError::Io { path: join_path(root, path), source };
    let body = match read_body(directory, name, stat) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error)?,
    };
    let pairs = match disk::read_xattrs(directory, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error)?,
    };
    let xattrs = Xattrs::new(pairs).map_err(|source| ScanError::Xattrs { path: join_path(root, path), source })?;
    let is_linked = stat.stx_nlink > 1 && !body.is_directory();
    Ok(Some(Item {
        mode: if matches!(body, Body::Symlink(_)) { 0o777 } else { stat.stx_mode & 0o7777 },
        owner: (ownership == PreserveOwners::Yes).then_some((stat.stx_uid, stat.stx_gid)),
        xattrs: without_hidden_xattrs(xattrs, ownership),
        mtime: Timestamp { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec },
        link: is_linked.then_some(stat.stx_ino & !IMAGE_LINK_BIT),
        body,
    }))
}

/// Reads the kind and the content of an entry; a regular file is hashed.
fn read_body(directory: &OwnedFd, name: &[u8], stat: &Statx) -> io::Result<Body> {
    let device = DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    Ok(match FileKind::from_mode(stat.stx_mode.into()) {
        Some(FileKind::Directory) => Body::Directory,
        Some(FileKind::Regular) => {
            let (content, size) = hash_file(disk::open_file_at(directory, name)?)?;
            Body::File { content, size }
        }
        Some(FileKind::Symlink) => {
            Body::Symlink(rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes().into())
        }
        Some(FileKind::Fifo) => Body::Fifo,
        Some(FileKind::Socket) => Body::Socket,
        Some(FileKind::CharDevice) => Body::CharDevice(device),
        Some(FileKind::BlockDevice) => Body::BlockDevice(device),
        None => return Err(io::Error::from(io::ErrorKind::Unsupported)),
    })
}

/// Returns the digest and the length of a file's content.
fn hash_file(mut file: File) -> io::Result<(ObjectId, u64)> {
    let (mut hasher, mut chunk, mut size) = (Sha256::new(), vec![0; HASH_BUFFER_BYTES], 0);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((ObjectId::from_bytes(hasher.finalize().into()), size)),
            length => {
                hasher.update(&chunk[..length]);
                size += length as u64;
            }
        }
    }
}

/// Returns a path below `root`, for messages and for opening.
pub(super) fn join_path(root: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    if path.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(path)) }
}
