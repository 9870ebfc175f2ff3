//! How large the filesystem says it is, such that `df` and installers that check for space see sense.

use std::os::fd::OwnedFd;

use super::{FsError, Vfs};

/// Bytes in a block of the figures.
const BLOCK: u64 = 4096;

/// Where the figures of `statfs` come from.
#[derive(Debug, Default)]
pub struct Volume {
    /// Sum of the sizes of the regular files of the commit.
    pub content_bytes: u64,
    /// A directory on the filesystem that holds the repository; held open so that no path is needed later.
    pub store: Option<OwnedFd>,
}

/// What `statfs` answers, counted in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeFigures {
    /// Bytes in a block.
    pub block_size: u32,
    /// Content of the commit and what is free where the repository lives.
    pub blocks: u64,
    /// Free there.
    pub free: u64,
    /// Free there for anyone but root.
    pub available: u64,
    /// Inodes of the image and those that are free.
    pub files: u64,
    /// Inodes that are free there.
    pub files_free: u64,
}

impl Vfs {
    /// The size of the mount: used is what the commit holds, free is what is free where the repository lives.
    ///
    /// # Errors
    /// [`FsError::Statfs`].
    pub fn figures(&self) -> Result<VolumeFigures, FsError> {
        let used = self.volume.content_bytes.div_ceil(BLOCK).max(1);
        let entries = self.image.inodes();
        let block_size = u32::try_from(BLOCK).expect("4096");
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
        let in_blocks = |count: u64| count.saturating_mul(below.f_frsize) / BLOCK;
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
