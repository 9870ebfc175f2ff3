//! Maps a file's bytes as a slice, without reading them first.
//!
//! *Used by* every layer that reads images, packs and other large files in place.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes that are either mapped from a file or held in memory; cheap to clone.
///
/// Only files that no process shortens or rewrites may be mapped: those of a repository, which are written under a
/// temporary name, made read-only and renamed into place. Shortening a mapped file kills its readers by `SIGBUS`.
#[derive(Clone)]
pub struct Mapping(Arc<MappedBytes>);

enum MappedBytes {
    File(memmap2::Mmap),
    Memory(Vec<u8>),
}

impl Mapping {
    /// Maps the whole of `file`, read-only.
    ///
    /// # Errors
    /// Those of `mmap(2)`; an empty file maps to no bytes.
    #[expect(unsafe_code, reason = "mmap: the caller promises that the file is never shortened, see the type")]
    pub fn of_file(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::of_bytes(Vec::new()));
        }
        // SAFETY: the type's contract is that mapped files are immutable once they have their name.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self(Arc::new(MappedBytes::File(map))))
    }

    /// Wraps bytes that are held in memory.
    #[must_use]
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Self(Arc::new(MappedBytes::Memory(bytes)))
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.0 {
            MappedBytes::File(map) => map,
            MappedBytes::Memory(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapping({} bytes)", self.len())
    }
}
