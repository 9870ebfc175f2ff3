//! Computes the answer of `statfs`, so that `df` and installers that check for space show useful figures.

use std::os::fd::OwnedFd;

use super::{FsError, Vfs};

/// The unit of the figures, in bytes.
const BLOCK_SIZE: u64 = 4096;

/// The sources of the figures that `statfs` returns.
#[derive(Debug, Default)]
pub struct Volume {
    /// Sum of the sizes of the regular files of the commit.
    pub content_bytes: u64,
    /// A directory on the filesystem that holds the repository. It is kept open so that no path is needed later.
    pub store: Option<OwnedFd>,
}

/// The answer of `statfs`; sizes are counted in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VolumeFigures {
    /// Bytes in a block.
    pub(crate) block_size: u32,
    /// The content of the commit plus the free space where the repository is.
    pub(crate) blocks: u64,
    /// Free where the repository is.
    pub(crate) free: u64,
    /// Free there for users other than root.
    pub(crate) available: u64,
    /// Inodes of the image plus the free inodes where the repository is.
    pub(crate) files: u64,
    /// Free inodes where the repository is.
    pub(crate) files_free: u64,
}

impl Vfs {
    /// Returns the size of the mount. The content of the commit counts as used; free is what is free where the repository is.
    pub(crate) fn figures(&self) -> Result<VolumeFigures, FsError> {
        let used = self.volume.content_bytes.div_ceil(BLOCK_SIZE).max(1);
        let entries = self.image.inodes();
        let block_size = u32::try_from(BLOCK_SIZE).expect("4096");
        let Some(store) = &self.volume.store else {
            return Ok(VolumeFigures {
                block_size,
                blocks: used,
                free: 0,
                available: 0,
                files: entries,
                files_free: 0,
            });
        };
        let below = rustix::fs::fstatvfs(store).map_err(|errno| FsError::Statfs(errno.into()))?;
        let in_blocks = |count: u64| count.saturating_mul(below.f_frsize) / BLOCK_SIZE;
        Ok(VolumeFigures {
            block_size,
            blocks: used + in_blocks(below.f_bfree),
            free: in_blocks(below.f_bfree),
            available: in_blocks(below.f_bavail),
            files: entries + below.f_ffree,
            files_free: below.f_ffree,
        })
    }
}
