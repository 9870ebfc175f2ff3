//! A read-only filesystem over one image, without a kernel: what `lookup`, `stat`, `readdir`, `read` answer.
//!
//! Not here: FUSE (its names, its reply types, its caching), where objects come from, how an image is laid out.
//!
//! Invariant: there is no state. A node is its number in the image, a directory position is a child's index, nothing is
//! opened and nothing is forgotten, so any process that maps the same image answers any request. Used by `fuse`.
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

pub use directory::{Entry, Listing};
pub use error::FsError;
pub use read::Whence;
pub use record::Recorder;
pub use volume::{Volume, VolumeFigures};

use crate::image::{Attributes, Image, ImageError, Ino};
use crate::model::{FileKind, ImagePath, NAME_MAX, ObjectId};
use crate::store::{Absent, Fetch, MemoryObjects, ObjectSource};

/// The number of the mounted directory, whichever directory of the image that is.
pub const ROOT_NODE: u64 = 1;

/// Why a directory of an image cannot be the root of a filesystem.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The image has no such path.
    #[error("the commit has no directory {path}")]
    Missing {
        /// The path.
        path: ImagePath,
    },
    /// The path leads to something else; a symbolic link is not followed, since what it means depends on where it is.
    #[error("{path} is a {} in this commit, not a directory{}", .kind.word(), link_hint(.target))]
    NotADirectory {
        /// The path.
        path: ImagePath,
        /// What is there.
        kind: FileKind,
        /// Where it points, if it is a symbolic link.
        target: Option<String>,
    },
    /// What is needed to find it does not come.
    #[error("cannot fetch what is needed to look up {path}")]
    Fetch {
        /// The path.
        path: ImagePath,
        /// Why.
        source: crate::store::ReadError,
    },
    /// The image cannot be read.
    #[error("cannot look up {path}")]
    Image {
        /// The path.
        path: ImagePath,
        /// Why.
        source: ImageError,
    },
}

fn link_hint(target: &Option<String>) -> String {
    target.as_ref().map_or_else(String::new, |target| format!(" (it points to {target}: name that instead)"))
}

/// A read-only filesystem.
pub struct Vfs {
    image: Image,
    objects: Arc<dyn ObjectSource>,
    root: Ino,
    volume: Volume,
    fetcher: Option<Arc<dyn Fetch>>,
    recorder: RwLock<Option<Arc<Recorder>>>,
    availability: Availability,
}

/// Whether a filesystem answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Availability {
    Serving,
    Refusing,
}

impl Vfs {
    /// The filesystem of `image` from the directory `subdir` down, its contents taken from `objects`.
    ///
    /// # Errors
    /// [`RootError`] when `subdir` is not a directory of the image.
    pub fn new(
        image: Image,
        objects: Arc<dyn ObjectSource>,
        subdir: &ImagePath,
        volume: Volume,
    ) -> Result<Self, RootError> {
        let root = find_root(&image, subdir)?;
        let availability = Availability::Serving;
        Ok(Self { image, objects, root, volume, fetcher: None, recorder: RwLock::default(), availability })
    }

    /// Returns a filesystem that answers nothing: for a mount whose contents cannot be opened. `image` is any image.
    ///
    /// # Errors
    /// [`RootError`] when the image is damaged.
    pub fn refusing(image: Image) -> Result<Self, RootError> {
        let vfs = Self::new(image, Arc::new(MemoryObjects::default()), &ImagePath::root(), Volume::default())?;
        Ok(Self { availability: Availability::Refusing, ..vfs })
    }

    /// Checks that the filesystem answers at all.
    ///
    /// # Errors
    /// [`FsError::Unavailable`].
    pub const fn check_available(&self) -> Result<(), FsError> {
        match self.availability {
            Availability::Serving => Ok(()),
            Availability::Refusing => Err(FsError::Unavailable),
        }
    }

    /// The same over an image and contents of which parts are absent and can be fetched. Waits for what finding the
    /// directory needs.
    ///
    /// # Errors
    /// [`RootError`] when `subdir` is not a directory of the image, or cannot be found for want of it.
    pub fn lazy<S: ObjectSource + Fetch + 'static>(
        image: Image,
        source: Arc<S>,
        subdir: &ImagePath,
        volume: Volume,
    ) -> Result<Self, RootError> {
        let root = loop {
            match find_root(&image, subdir) {
                Err(RootError::Image { path, source: ImageError::Absent { block } }) => {
                    let deadline = Instant::now() + source.patience();
                    let fetched = source.fetch(&Absent::ImageBlock(block), deadline);
                    fetched.map_err(|source| RootError::Fetch { path, source })?;
                }
                found => break found?,
            }
        };
        let fetcher: Arc<dyn Fetch> = Arc::<S>::clone(&source);
        let (fetcher, availability) = (Some(fetcher), Availability::Serving);
        Ok(Self { image, objects: source, root, volume, fetcher, recorder: RwLock::default(), availability })
    }

    /// Has reads noted from now on, or no longer. Gives back who noted them before.
    pub fn set_recorder(&self, recorder: Option<Arc<Recorder>>) -> Option<Arc<Recorder>> {
        std::mem::replace(&mut *self.recorder.write(), recorder)
    }

    /// What brings that which is absent; none when everything is here.
    #[must_use]
    pub const fn fetcher(&self) -> Option<&Arc<dyn Fetch>> {
        self.fetcher.as_ref()
    }

    /// The entry `name` of the directory `node`; `.` and `..` are understood, as NFS servers ask for them.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`], [`FsError::NameTooLong`], or damage.
    pub fn lookup(&self, node: u64, name: &[u8]) -> Result<Attributes, FsError> {
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

    /// What `stat` answers. The number in it is the image's; [`Self::node_of`] gives the kernel's.
    ///
    /// # Errors
    /// [`FsError::Stale`] or damage.
    pub fn attributes(&self, node: u64) -> Result<Attributes, FsError> {
        self.attributes_of(self.ino(node)?)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::WrongKind`] for anything but a link.
    pub fn readlink(&self, node: u64) -> Result<&[u8], FsError> {
        Ok(self.image.symlink(self.ino(node)?)?)
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoXattrsAnywhere`] when the image holds none at all, [`FsError::NoXattr`] when this inode lacks it.
    pub fn xattr(&self, node: u64, name: &[u8]) -> Result<&[u8], FsError> {
        if !self.image.has_xattrs() {
            return Err(FsError::NoXattrsAnywhere);
        }
        self.image.xattr(self.ino(node)?, name)?.ok_or(FsError::NoXattr)
    }

    /// The names of all extended attributes, each followed by NUL, as `listxattr(2)` returns them. An image without any
    /// answers with an empty list: tools that copy attributes take "not supported" for a failure, and few programs list
    /// attributes so often that the message would matter.
    ///
    /// # Errors
    /// Damage.
    pub fn xattr_names(&self, node: u64) -> Result<Vec<u8>, FsError> {
        let xattrs = self.image.xattrs(self.ino(node)?)?;
        Ok(xattrs.iter().flat_map(|(name, _)| [name, b"\0"]).flatten().copied().collect())
    }

    /// Whether some inode has an access control list, which the kernel then has to be told to obey.
    ///
    /// # Errors
    /// Damage.
    pub fn has_acls(&self) -> Result<bool, FsError> {
        // What answers later on the same connection may have some.
        Ok(self.check_available().is_err() || self.image.any_has_xattr(b"system.posix_acl_access")?)
    }

    /// The object with the content of a file; none for an empty one.
    ///
    /// # Errors
    /// [`FsError::IsADirectory`], [`FsError::WrongKind`] or damage.
    pub fn object(&self, node: u64) -> Result<Option<ObjectId>, FsError> {
        Ok(self.image.object(self.ino(node)?)?)
    }

    /// Where the contents come from.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn ObjectSource> {
        &self.objects
    }

    /// The image that is shown.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// The number by which the kernel knows an inode of the image.
    #[must_use]
    pub fn node_of(&self, ino: Ino) -> u64 {
        if ino == self.root { ROOT_NODE } else { ino.get() }
    }

    /// The inverse of [`Self::node_of`].
    fn ino(&self, node: u64) -> Result<Ino, FsError> {
        if node == ROOT_NODE {
            return Ok(self.root);
        }
        Ino::from_raw(node).ok_or(FsError::Stale(node))
    }

    fn attributes_of(&self, ino: Ino) -> Result<Attributes, FsError> {
        Ok(self.image.attributes(ino)?)
    }

    /// The directory above; the mounted one is its own parent, so that nobody climbs out of a `subdir=` mount.
    fn parent(&self, ino: Ino) -> Result<Ino, FsError> {
        if ino == self.root { Ok(ino) } else { Ok(self.image.parent(ino)?) }
    }

    /// The attributes of a regular file, or why it is none.
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

fn find_root(image: &Image, path: &ImagePath) -> Result<Ino, RootError> {
    let broken = |source| RootError::Image { path: path.clone(), source };
    let ino = image.resolve(path).map_err(broken)?.ok_or_else(|| RootError::Missing { path: path.clone() })?;
    let kind = image.attributes(ino).map_err(broken)?.kind;
    if kind == FileKind::Directory {
        return Ok(ino);
    }
    let target = match kind {
        FileKind::Symlink => Some(String::from_utf8_lossy(image.symlink(ino).map_err(broken)?).into_owned()),
        _ => None,
    };
    Err(RootError::NotADirectory { path: path.clone(), kind, target })
}
