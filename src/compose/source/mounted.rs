//! Finds the contents of files on a mount of this program without reading them: the mounted image has their object ids.
//!
//! *Not here*: how the image comes from the process that holds the mount (`fuse`), and checking it (the caller).
//!
//! *Invariants*: a file is looked up only if it and its directory have the device number of the mount. Another mount on
//! top of it, or an overlay, has another device number. All other files are read.
//!
//! *Used by* `read_directory`.

use rustix::fs::Statx;

use super::walk::device_of;
use crate::image::{Image, Ino};
use crate::model::Content;

/// An image and the device number of its mount.
#[derive(Debug, Clone)]
pub struct MountedImage {
    /// The image, whose digests were checked.
    pub(crate) image: Image,
    /// Major number in the upper half, minor in the lower.
    pub(crate) device: u64,
}

impl MountedImage {
    /// Returns the content of a regular file in a directory, if both lie on the mount and the size is that of the image.
    pub(crate) fn content(&self, directory: u64, file: &Statx) -> Option<Content> {
        if directory != self.device || device_of(file) != self.device {
            return None;
        }
        // The inode number of a mounted file is the number of its entry in the image.
        let ino = Ino::from_raw(file.stx_ino)?;
        self.image.content(ino).ok().filter(|content| content.size == file.stx_size)
    }
}
