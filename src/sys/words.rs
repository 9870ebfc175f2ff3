//! Numbers that several processes share: an anonymous file of 64-bit words, mapped by each.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

/// Nobody may change the length of a mapped file: its readers would be killed by `SIGBUS`.
const FIXED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Shared words, all zero at first. Cheap to clone; memory is used only where something was written.
#[derive(Clone)]
pub struct Words(Arc<Source>);

struct Source {
    map: memmap2::MmapRaw,
    file: File,
}

impl Words {
    /// `count` new words. The name is for whoever looks into `/proc`.
    ///
    /// # Errors
    /// Those of `memfd_create(2)` and `mmap(2)`.
    pub fn create(name: &str, count: usize) -> io::Result<Self> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, (count * size_of::<u64>()) as u64)?;
        fcntl_add_seals(&file, FIXED)?;
        Self::open(file)
    }

    /// The words behind a descriptor that [`Self::create`] has made, perhaps in another process.
    ///
    /// # Errors
    /// Those of `mmap(2)`, and `InvalidData` for a file whose length could change.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(&file)?.contains(FIXED) {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let file = File::from(file);
        let map = memmap2::MmapRaw::map_raw(&file)?;
        Ok(Self(Arc::new(Source { map, file })))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[expect(unsafe_code, reason = "the mapping is a slice of atomics")]
    fn deref(&self) -> &[AtomicU64] {
        let map = &self.0.map;
        // SAFETY: the mapping is page-aligned, lives as long as `self`, cannot shrink (it is sealed), any bits are a valid
        // u64, and all processes that have it reach it through atomics.
        unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<u64>()) }
    }
}

impl AsFd for Words {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Words({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_see_the_same_numbers() {
        let one = Words::create("test", 1000).expect("Linux has anonymous files");
        one[999].store(7, Ordering::Relaxed);
        let two = Words::open(one.as_fd().try_clone_to_owned().expect("descriptors are not exhausted")).expect("maps");
        assert_eq!((two.len(), two[999].load(Ordering::Relaxed), two[0].load(Ordering::Relaxed)), (1000, 7, 0));
        let plain = tempfile::tempfile().expect("a temporary file");
        assert!(Words::open(plain.into()).is_err(), "a file that can be shortened");
    }
}
