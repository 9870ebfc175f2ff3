//! Memory of 64-bit words that several processes share: an anonymous file that each process maps.
//!
//! *Not here*: what the words mean.
//!
//! *Used by* `fuse`, for the state that a supervisor shares with its workers.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

/// The seals that fix the length of a mapped file: shortening it would kill its readers by `SIGBUS`.
const FIXED_LENGTH: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Shared words, all zero at first. Cheap to clone; pages take memory only after they were written to.
#[derive(Clone)]
pub(crate) struct SharedWords(Arc<SharedFile>);

struct SharedFile {
    map: memmap2::MmapRaw,
    file: File,
}

impl SharedWords {
    /// Creates `count` words. The name is shown in `/proc`.
    ///
    /// # Errors
    /// Those of `memfd_create(2)` and `mmap(2)`.
    pub(crate) fn create(name: &str, count: usize) -> io::Result<Self> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, (count * size_of::<u64>()) as u64)?;
        fcntl_add_seals(&file, FIXED_LENGTH)?;
        Self::open(file)
    }

    /// Maps the words of a descriptor that [`Self::create`] has made, perhaps in another process.
    ///
    /// # Errors
    /// Those of `mmap(2)`, and `InvalidData` for a file whose length could change.
    pub(crate) fn open(file: OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(&file)?.contains(FIXED_LENGTH) {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let file = File::from(file);
        let map = memmap2::MmapRaw::map_raw(&file)?;
        Ok(Self(Arc::new(SharedFile { map, file })))
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    #[expect(unsafe_code, reason = "the mapping is a slice of atomics")]
    fn deref(&self) -> &[AtomicU64] {
        let map = &self.0.map;
        // SAFETY: the mapping is page-aligned, lives as long as `self`, cannot shrink (it is sealed), any bits are a valid
        // u64, and all processes access it only through atomics.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<u64>()) }
    }
}

impl AsFd for SharedWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl std::fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedWords({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_shared_between_mappings() {
        let one = SharedWords::create("test", 1000).expect("Linux has anonymous files");
        one[999].store(7, Ordering::Relaxed);
        let two =
            SharedWords::open(one.as_fd().try_clone_to_owned().expect("descriptors are not exhausted")).expect("maps");
        assert_eq!((two.len(), two[999].load(Ordering::Relaxed), two[0].load(Ordering::Relaxed)), (1000, 7, 0));
        let plain = tempfile::tempfile().expect("a temporary file");
        assert!(SharedWords::open(plain.into()).is_err(), "a file that can be shortened");
    }
}
