//! Configuration trees as they are: in a directory of this machine, or as the defaults in an image.
//!
//! Contents are known by digest alone; of an image they need not even be here. No symbolic link is followed, nothing that
//! is mounted below is entered, and a file that vanishes meanwhile is left out.

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

/// Where a commit has its defaults; in the second place if there is nothing in the first.
pub const DEFAULTS: [&str; 2] = ["/usr/etc", "/etc"];

/// Bytes read and hashed at a time.
const CHUNK: usize = 64 << 10;

/// Numbers of hard links in images, apart from those of inodes.
const IMAGE_LINK: u64 = 1 << 63;

/// The label of SELinux.
const LABEL: &[u8] = b"security.selinux";

/// Whether owners and protected attributes can be told and set: only root can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// They count.
    Kept,
    /// They are left out of everything.
    Ignored,
}

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The system refused.
    #[error("cannot read {}", .path.display())]
    Io {
        /// Which entry.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Attributes that no image can hold.
    #[error("bad extended attributes of {}", .path.display())]
    Xattrs {
        /// Which entry.
        path: PathBuf,
        /// What is wrong with them.
        source: XattrError,
    },
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
}

/// The defaults of a commit; an empty tree when it has none.
///
/// # Errors
/// [`ScanError::Image`].
pub fn defaults(image: &Image, ownership: Ownership) -> Result<EtcTree, ScanError> {
    let mut tree = EtcTree::default();
    let Some(top) = defaults_directory(image)? else { return Ok(tree) };
    tree.entries.insert(Box::default(), image_item(image, top, ownership)?);
    image.walk(top, &mut |path, ino, _| {
        tree.entries.insert(path.to_bytes()[1..].into(), image_item(image, ino, ownership)?);
        Ok::<(), ScanError>(())
    })?;
    Ok(tree)
}

/// Where the defaults of a commit are.
fn defaults_directory(image: &Image) -> Result<Option<Ino>, ImageError> {
    for place in DEFAULTS {
        let path = ImagePath::parse(place.as_bytes()).expect("a constant without '..'");
        if let Some(top) = image.resolve(&path)?
            && image.kind(top)? == FileKind::Directory
        {
            return Ok(Some(top));
        }
    }
    Ok(None)
}

fn image_item(image: &Image, ino: Ino, ownership: Ownership) -> Result<Item, ScanError> {
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
        owner: (ownership == Ownership::Kept).then_some((attributes.uid, attributes.gid)),
        xattrs: visible(image.xattrs(ino)?, ownership),
        mtime: attributes.mtime,
        link: is_linked.then(|| IMAGE_LINK | attributes.ino.get()),
        body,
    })
}

/// The attributes that count.
fn visible(mut xattrs: Xattrs, ownership: Ownership) -> Xattrs {
    let hidden = |name: &[u8]| {
        let is_protected = !name.starts_with(b"user.");
        name.starts_with(b"trusted.overlay.") || (ownership == Ownership::Ignored && is_protected)
    };
    let names: Vec<Vec<u8>> = xattrs.iter().map(|(name, _)| name.to_vec()).filter(|name| hidden(name)).collect();
    names.iter().for_each(|name| xattrs.remove(name));
    xattrs
}

/// Takes the labels of SELinux out of `local` where no defaults have any: then they are the kernel's doing, not somebody's.
pub fn forget_foreign_labels(local: &mut EtcTree, defaults: [&EtcTree; 2]) {
    let has_labels = |tree: &EtcTree| tree.entries.values().any(|item| item.xattrs.get(LABEL).is_some());
    if !defaults.into_iter().any(has_labels) {
        local.entries.values_mut().for_each(|item| item.xattrs.remove(LABEL));
    }
}

/// The tree in a directory.
///
/// # Errors
/// [`ScanError`].
pub fn directory(root: &Path, ownership: Ownership) -> Result<EtcTree, ScanError> {
    let io_error = |path: &[u8], source| ScanError::Io { path: join(root, path), source };
    let mut tree = EtcTree::default();
    let top = disk::open_directory(root).map_err(|source| io_error(b"", source))?;
    let stat = rustix::fs::statx(&top, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    let stat = stat.map_err(|errno| io_error(b"", errno.into()))?;
    let item = local_item(&top, b"", b"", &stat, root, ownership)?;
    tree.entries.extend(item.map(|item| (EtcPath::default(), item)));
    let mut pending: Vec<(EtcPath, OwnedFd)> = vec![(EtcPath::default(), top)];
    while let Some((above, directory)) = pending.pop() {
        let listed = disk::list(&directory).map_err(|source| io_error(&above, source))?;
        // What a killed process of ours did not finish is nobody's.
        for entry in listed.into_iter().filter(|entry| *entry.name != *disk::TEMPORARY) {
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

/// One entry; `None` when it has vanished.
fn local_item(
    directory: &OwnedFd,
    name: &[u8],
    path: &[u8],
    stat: &Statx,
    root: &Path,
    ownership: Ownership,
) -> Result<Option<Item>, ScanError> {
    let io_error = |source| ScanError::Io { path: join(root, path), source };
    let body = match body(directory, name, stat) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error)?,
    };
    let pairs = match disk::read_xattrs(directory, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error)?,
    };
    let xattrs = Xattrs::new(pairs).map_err(|source| ScanError::Xattrs { path: join(root, path), source })?;
    let is_linked = stat.stx_nlink > 1 && !body.is_directory();
    Ok(Some(Item {
        mode: if matches!(body, Body::Symlink(_)) { 0o777 } else { stat.stx_mode & 0o7777 },
        owner: (ownership == Ownership::Kept).then_some((stat.stx_uid, stat.stx_gid)),
        xattrs: visible(xattrs, ownership),
        mtime: Timestamp { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec },
        link: is_linked.then_some(stat.stx_ino & !IMAGE_LINK),
        body,
    }))
}

fn body(directory: &OwnedFd, name: &[u8], stat: &Statx) -> io::Result<Body> {
    let device = DeviceNumber { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    Ok(match FileKind::from_mode(stat.stx_mode.into()) {
        Some(FileKind::Directory) => Body::Directory,
        Some(FileKind::Regular) => {
            let (content, size) = digest(disk::open_file_at(directory, name)?)?;
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

/// The digest and the length of a file's content.
fn digest(mut file: File) -> io::Result<(ObjectId, u64)> {
    let (mut hasher, mut chunk, mut size) = (Sha256::new(), vec![0; CHUNK], 0);
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

/// A path below `root`, for messages and for opening.
pub(super) fn join(root: &Path, path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    if path.is_empty() { root.to_owned() } else { root.join(std::ffi::OsStr::from_bytes(path)) }
}
