//! A read-only filesystem over one image, without a kernel: answers `lookup`, `stat`, `readdir`, `read` and the like.
//!
//! *Not here*: FUSE (its types, its caching), the source of objects, the layout of an image.
//!
//! *Invariants*: there is no state. A node is its number in the image, a directory position is a child's index, and nothing
//! is opened or released, so any process that maps the same image can answer any request.
//!
//! *Used by* `fuse` and `cli`.
//!
//! ```text
//! node 1                     the directory that was mounted: the image's root, or that of `subdir=`
//! node n                     the image's inode n; also its st_ino
//! directory position 0 1 2+k before ".", before "..", before child k
//! ```

mod directory;
mod error;
mod read;
mod record;
#[cfg(test)]
mod tests;
mod volume;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::RwLock;

pub(crate) use directory::Listing;
pub(crate) use error::FsError;
pub(crate) use read::Whence;
pub(crate) use record::Recorder;
pub use volume::Volume;

use crate::image::{Attributes, Image, ImageError, Ino};
use crate::model::{FileKind, ImagePath, NAME_MAX, ObjectId};
use crate::store::{Absent, Fetch, MemoryObjects, ObjectSource};

/// The node number of the mounted directory, whichever directory of the image that is.
pub(crate) const ROOT_NODE: u64 = 1;

/// Why a path of an image cannot be the root of a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum SubdirError {
    /// The image has no such path.
    #[error("the commit has no directory {path}")]
    Missing {
        /// The path that was to become the root.
        path: ImagePath,
    },
    /// The path is not a directory. A symbolic link is not followed, since its target depends on where it is mounted.
    #[error("{path} is a {} in this commit, not a directory{}", .kind.word(), link_hint(.target))]
    NotADirectory {
        /// The path that was to become the root.
        path: ImagePath,
        /// The kind of file at the path.
        kind: FileKind,
        /// The target, if it is a symbolic link.
        target: Option<String>,
    },
    /// A block of the image that the lookup needs cannot be fetched.
    #[error("cannot fetch what is needed to look up {path}")]
    Fetch {
        /// The path that was to become the root.
        path: ImagePath,
        /// Why the fetch failed.
        source: crate::store::ReadError,
    },
    /// The image cannot be read.
    #[error("cannot look up {path}")]
    Image {
        /// The path that was to become the root.
        path: ImagePath,
        /// Why the image cannot be read.
        source: ImageError,
    },
}

fn link_hint(target: &Option<String>) -> String {
    target.as_ref().map_or_else(String::new, |target| format!(" (it points to {target}: name that instead)"))
}

/// A read-only filesystem over one image.
pub struct Vfs {
    image: Image,
    objects: Arc<dyn ObjectSource>,
    root: Ino,
    volume: Volume,
    fetcher: Option<Arc<dyn Fetch>>,
    recorder: RwLock<Option<Arc<Recorder>>>,
    availability: Availability,
}

/// Whether a filesystem answers requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Availability {
    Serving,
    Refusing,
}

impl Vfs {
    /// Creates the filesystem of `image` below the directory `subdir`, which reads its contents from `objects`.
    ///
    /// # Errors
    /// [`SubdirError`] when `subdir` is not a directory of the image.
    pub fn new(
        image: Image,
        objects: Arc<dyn ObjectSource>,
        subdir: &ImagePath,
        volume: Volume,
    ) -> Result<Self, SubdirError> {
        let root = find_root(&image, subdir)?;
        let availability = Availability::Serving;
        Ok(Self { image, objects, root, volume, fetcher: None, recorder: RwLock::default(), availability })
    }

    /// Returns a filesystem that answers no request, for a mount whose contents cannot be opened. `image` may be any image.
    ///
    /// # Errors
    /// [`SubdirError`] when the image is damaged.
    pub(crate) fn refusing(image: Image) -> Result<Self, SubdirError> {
        let vfs = Self::new(image, Arc::new(MemoryObjects::default()), &ImagePath::root(), Volume::default())?;
        Ok(Self { availability: Availability::Refusing, ..vfs })
    }

    /// Fails if the filesystem answers no requests, see [`Self::refusing`].
    pub(crate) const fn check_available(&self) -> Result<(), FsError> {
        match self.availability {
            Availability::Serving => Ok(()),
            Availability::Refusing => Err(FsError::Unavailable),
        }
    }

    /// Creates a filesystem over an image and contents of which parts may be absent and are fetched. Waits for the blocks of
    /// the image that the lookup of `subdir` needs.
    ///
    /// # Errors
    /// [`SubdirError`] when `subdir` is not a directory of the image, or when those blocks cannot be fetched.
    pub(crate) fn lazy<S: ObjectSource + Fetch + 'static>(
        image: Image,
        source: Arc<S>,
        subdir: &ImagePath,
        volume: Volume,
    ) -> Result<Self, SubdirError> {
        let root = loop {
            match find_root(&image, subdir) {
                Err(SubdirError::Image { path, source: ImageError::Absent { block } }) => {
                    let deadline = Instant::now() + source.read_timeout();
                    let fetched = source.fetch(&Absent::ImageBlock(block), deadline);
                    fetched.map_err(|source| SubdirError::Fetch { path, source })?;
                }
                found => break found?,
            }
        };
        let fetcher: Arc<dyn Fetch> = Arc::<S>::clone(&source);
        let (fetcher, availability) = (Some(fetcher), Availability::Serving);
        Ok(Self { image, objects: source, root, volume, fetcher, recorder: RwLock::default(), availability })
    }

    /// Sets or removes the recorder that reads are reported to; returns the previous one.
    pub(crate) fn set_recorder(&self, recorder: Option<Arc<Recorder>>) -> Option<Arc<Recorder>> {
        std::mem::replace(&mut *self.recorder.write(), recorder)
    }

    /// Returns the source of absent data; `None` for a commit of which nothing is absent.
    pub(crate) const fn fetcher(&self) -> Option<&Arc<dyn Fetch>> {
        self.fetcher.as_ref()
    }

    /// Looks up `name` in the directory `node`. Accepts `.` and `..`, which NFS servers ask for.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`], [`FsError::NameTooLong`], or damage.
    pub(crate) fn lookup(&self, node: u64, name: &[u8]) -> Result<Attributes, FsError> {
        if name.len() > NAME_MAX {
            return Err(FsError::NameTooLong(name.len()));
        }
        let directory = self.ino(node)?;
        let found = match name {
            b"." => Some(directory),
            b".." => Some(self.parent(directory)?),
            _ => self.image.lookup(directory, name)?,
        };
        self.attributes_of(found.ok_or(FsError::NotFound)?)
    }

    /// Returns what `stat` answers. Its inode number is the image's; [`Self::node_of`] converts it to the kernel's.
    ///
    /// # Errors
    /// [`FsError::Stale`] or damage.
    pub(crate) fn attributes(&self, node: u64) -> Result<Attributes, FsError> {
        self.attributes_of(self.ino(node)?)
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::WrongKind`] for anything but a link.
    pub(crate) fn readlink(&self, node: u64) -> Result<&[u8], FsError> {
        Ok(self.image.symlink(self.ino(node)?)?)
    }

    /// Returns the value of one extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoXattrsAnywhere`] when the image holds none at all, [`FsError::NoXattr`] when this inode lacks it.
    pub(crate) fn xattr(&self, node: u64, name: &[u8]) -> Result<&[u8], FsError> {
        if !self.image.has_xattrs() {
            return Err(FsError::NoXattrsAnywhere);
        }
        self.image.xattr(self.ino(node)?, name)?.ok_or(FsError::NoXattr)
    }

    /// Returns the names of all extended attributes, each followed by NUL, as `listxattr(2)` does. The list is empty for an
    /// image without extended attributes: tools that copy attributes treat "not supported" as a failure, and few programs
    /// list attributes so often that the cost of the message matters.
    ///
    /// # Errors
    /// Damage.
    pub(crate) fn xattr_names(&self, node: u64) -> Result<Vec<u8>, FsError> {
        let xattrs = self.image.xattrs(self.ino(node)?)?;
        Ok(xattrs.iter().flat_map(|(name, _)| [name, b"\0"]).flatten().copied().collect())
    }

    /// Returns whether the kernel has to be told to check access control lists, because some inode may have one.
    ///
    /// # Errors
    /// Damage.
    pub(crate) fn has_acls(&self) -> Result<bool, FsError> {
        // A later worker on the same connection may serve an image that has some.
        Ok(self.check_available().is_err() || self.image.any_has_xattr(b"system.posix_acl_access")?)
    }

    /// Returns the object with the content of a file; `None` for an empty file.
    ///
    /// # Errors
    /// [`FsError::IsADirectory`], [`FsError::WrongKind`] or damage.
    pub(crate) fn object(&self, node: u64) -> Result<Option<ObjectId>, FsError> {
        Ok(self.image.object(self.ino(node)?)?)
    }

    /// Returns the source of file contents.
    pub(crate) fn objects(&self) -> &Arc<dyn ObjectSource> {
        &self.objects
    }

    /// Returns the image that the filesystem shows.
    pub(crate) const fn image(&self) -> &Image {
        &self.image
    }

    /// Returns the node number by which the kernel knows an inode of the image.
    pub(crate) fn node_of(&self, ino: Ino) -> u64 {
        if ino == self.root { ROOT_NODE } else { ino.get() }
    }

    /// Returns the inode of a node number: the inverse of [`Self::node_of`].
    fn ino(&self, node: u64) -> Result<Ino, FsError> {
        if node == ROOT_NODE {
            return Ok(self.root);
        }
        Ino::from_raw(node).ok_or(FsError::Stale(node))
    }

    fn attributes_of(&self, ino: Ino) -> Result<Attributes, FsError> {
        Ok(self.image.attributes(ino)?)
    }

    /// Returns the parent directory. The mounted directory is its own parent, so that `..` never leaves a `subdir=` mount.
    fn parent(&self, ino: Ino) -> Result<Ino, FsError> {
        if ino == self.root { Ok(ino) } else { Ok(self.image.parent(ino)?) }
    }

    /// Returns the attributes of a regular file; fails for any other kind of inode.
    fn regular(&self, ino: Ino) -> Result<Attributes, FsError> {
        let attributes = self.attributes_of(ino)?;
        match attributes.kind {
            FileKind::Regular => Ok(attributes),
            FileKind::Directory => Err(FsError::IsADirectory),
            FileKind::Symlink | FileKind::CharDevice | FileKind::BlockDevice | FileKind::Fifo | FileKind::Socket => {
                Err(FsError::WrongKind)
            }
        }
    }
}

fn find_root(image: &Image, path: &ImagePath) -> Result<Ino, SubdirError> {
    let broken = |source| SubdirError::Image { path: path.clone(), source };
    let ino = image.resolve(path).map_err(broken)?.ok_or_else(|| SubdirError::Missing { path: path.clone() })?;
    let kind = image.attributes(ino).map_err(broken)?.kind;
    if kind == FileKind::Directory {
        return Ok(ino);
    }
    let target = match kind {
        FileKind::Symlink => Some(String::from_utf8_lossy(image.symlink(ino).map_err(broken)?).into_owned()),
        _ => None,
    };
    Err(SubdirError::NotADirectory { path: path.clone(), kind, target })
}
