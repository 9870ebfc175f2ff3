//! *Purpose.* Contents of files that are read through a mount of an image of ours, without reading them: the image has their
//! object ids.
//!
//! *Not here.* How the image comes from the process that holds the mount (`fuse`), and whether it is checked (its caller).
//!
//! *Invariants.* Only a file with the device number of the mount is looked up, in a directory that has it too: what is mounted
//! over the mount, or over it as an overlay, has another one. Whatever does not fit is read.
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
    pub image: Image,
    /// Major number in the upper half, minor in the lower.
    pub device: u64,
}

impl MountedImage {
    /// Returns the content of a regular file in a directory, if both lie on the mount and the size is that of the image.
    pub fn content(&self, directory: u64, file: &Statx) -> Option<Content> {
        if directory != self.device || device_of(file) != self.device {
            return None;
        }
        // The number of an inode is that of its entry, and a file has the same number outside as in the image.
        let ino = Ino::from_raw(file.stx_ino)?;
        self.image.content(ino).ok().filter(|content| content.size == file.stx_size)
    }
}
