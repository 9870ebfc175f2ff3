//! Caches the contents of the files of a committed directory by their attributes, so that unchanged files are not read again.
//!
//! A file counts as unchanged when the instance of its filesystem, device, inode, size, mtime and ctime are the same as when it
//! was read. Programs cannot set ctime on filesystems that keep it themselves (`disk::FilesystemInstances` tells which; files
//! on others are not cached), but it advances in ticks: a file whose ctime was younger than [`TRUSTED_CTIME_AGE_SECONDS`] when
//! it was read could change again within the same tick, so it is not cached.
//!
//! ```text
//! magic "SAPWSTC\0" · u32 version · u32 rows · rows · SHA-256 of all before
//! row: u64 instance · u64 device · u64 inode · u64 size · i64 s · u32 ns (mtime) · i64 s · u32 ns (ctime)
//!      · 32 object · u32 extents (all ones: dense) · u32 blocks · extents (u64 offset · u64 length) · blocks (32 each)
//! ```
//!
//! *Invariants*: a damaged cache counts as empty.
//!
//! *Used by* `compose`, which reads directories, and by `cli`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::open::Store;
use crate::disk::{self, FilesystemInstance};
use crate::model::{BlockId, Content, Extent, ObjectId, Timestamp};

const MAGIC: [u8; 12] = *b"SAPWSTC\0\x02\0\0\0";
const DENSE: u32 = u32::MAX;

/// How old a ctime must be to be trusted, in seconds. Two seconds cover the coarsest clock of a filesystem in use (FAT's).
pub(crate) const TRUSTED_CTIME_AGE_SECONDS: i64 = 2;

/// The attributes that must be equal for a file to count as unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileIdentity {
    /// The instance of the filesystem, if its ctime can be trusted; otherwise the file is not cached.
    pub(crate) instance: Option<FilesystemInstance>,
    /// The device number of the filesystem.
    pub(crate) device: u64,
    /// The number of the inode.
    pub(crate) inode: u64,
    /// The length in bytes.
    pub(crate) size: u64,
    /// The time of the last change of the content.
    pub(crate) mtime: Timestamp,
    /// The time of the last change of the inode.
    pub(crate) ctime: Timestamp,
}

/// The contents of files when they were last read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StatCache {
    rows: HashMap<FileIdentity, Content>,
}

impl StatCache {
    /// Returns the content of a file, if it is cached and unchanged.
    pub(crate) fn get(&self, identity: &FileIdentity) -> Option<&Content> {
        identity.instance.and_then(|_| self.rows.get(identity))
    }

    /// Adds a file that was read at `now` (seconds since 1970), unless its ctime cannot be trusted.
    pub(crate) fn insert(&mut self, identity: FileIdentity, content: Content, now: i64) {
        let is_trusted = content.object.is_some() && identity.instance.is_some();
        if is_trusted && identity.ctime.seconds.saturating_add(TRUSTED_CTIME_AGE_SECONDS) < now {
            self.rows.insert(identity, content);
        }
    }

    /// Reads the cache of the directory `root` from `store`; returns an empty one when there is none or it cannot be used.
    pub(crate) fn load(store: &Store, root: &Path) -> Self {
        match fs::read(Self::path(store, root)) {
            Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
                tracing::debug!("the attribute cache is damaged or of another version; every file is read");
                Self::default()
            }),
            Err(_) => Self::default(),
        }
    }

    /// Writes the cache of the directory `root` to `store`.
    ///
    /// # Errors
    /// Those of writing a file; the old cache is then unchanged.
    pub(crate) fn save(&self, store: &Store, root: &Path) -> io::Result<()> {
        fs::create_dir_all(store.layout().stat_caches())?;
        disk::replace(&Self::path(store, root), &self.encode())
    }

    fn path(store: &Store, root: &Path) -> PathBuf {
        let name = ObjectId::of(root.as_os_str().as_encoded_bytes()).short();
        store.layout().stat_caches().join(name)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + self.rows.len() * 100 + 36);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&length(self.rows.len()).to_le_bytes());
        for (identity, content) in &self.rows {
            let instance = identity.instance.map_or(u64::MAX, |instance| instance.0);
            for number in [instance, identity.device, identity.inode, identity.size] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            for time in [identity.mtime, identity.ctime] {
                bytes.extend_from_slice(&time.seconds.to_le_bytes());
                bytes.extend_from_slice(&time.nanoseconds.to_le_bytes());
            }
            bytes.extend_from_slice(content.object.as_ref().map_or(&[0; 32], |id| id.as_bytes()));
            let extents = content.extents.as_deref();
            bytes.extend_from_slice(&extents.map_or(DENSE, |extents| length(extents.len())).to_le_bytes());
            bytes.extend_from_slice(&length(content.blocks.len()).to_le_bytes());
            for extent in extents.unwrap_or_default() {
                bytes.extend_from_slice(&extent.offset.to_le_bytes());
                bytes.extend_from_slice(&extent.length.to_le_bytes());
            }
            content.blocks.iter().for_each(|block| bytes.extend_from_slice(block.as_bytes()));
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).expect("a commit has fewer than 2^32 entries and a file fewer blocks and extents")
}

fn decode(bytes: &[u8]) -> Option<StatCache> {
    let (body, digest) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if Sha256::digest(body)[..] != *digest || !body.starts_with(&MAGIC) {
        return None;
    }
    let mut cursor = Cursor(&body[MAGIC.len()..]);
    let count = cursor.u32()?;
    let mut rows = HashMap::new();
    for _ in 0..count {
        let instance = Some(FilesystemInstance(cursor.u64()?));
        let (device, inode, size) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let (mtime, ctime) = (cursor.time()?, cursor.time()?);
        let object = ObjectId::from_slice(cursor.take(32)?)?;
        let (extent_count, block_count) = (cursor.u32()?, cursor.u32()?);
        let extents = match extent_count {
            DENSE => None,
            count => Some((0..count).map(|_| cursor.extent()).collect::<Option<_>>()?),
        };
        let blocks = (0..block_count).map(|_| BlockId::from_slice(cursor.take(32)?)).collect::<Option<_>>()?;
        let identity = FileIdentity { instance, device, inode, size, mtime, ctime };
        rows.insert(identity, Content { object: Some(object), size, blocks, extents });
    }
    cursor.0.is_empty().then_some(StatCache { rows })
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn time(&mut self) -> Option<Timestamp> {
        let seconds = i64::from_le_bytes(self.take(8)?.try_into().ok()?);
        Some(Timestamp { seconds, nanoseconds: self.u32()? })
    }

    fn extent(&mut self) -> Option<Extent> {
        Some(Extent { offset: self.u64()?, length: self.u64()? })
    }
}

#[cfg(test)]
impl StatCache {
    fn len(&self) -> usize {
        self.rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> StatCache {
        let mut cache = StatCache::default();
        for number in 0..5_u64 {
            let time = Timestamp { seconds: -1, nanoseconds: 5 };
            let identity = FileIdentity {
                instance: Some(FilesystemInstance(3)),
                device: 1,
                inode: number,
                size: 9,
                mtime: time,
                ctime: time,
            };
            let extents = (number > 2).then(|| vec![Extent { offset: number, length: 1 }]);
            let object = Some(ObjectId::of(&number.to_le_bytes()));
            let blocks = vec![BlockId::of(b"x"); usize::from(number == 4)];
            cache.insert(identity, Content { object, size: 9, blocks, extents }, 100);
        }
        cache
    }

    #[test]
    fn stat_cache_decodes_from_its_encoding_and_refuses_damage() {
        let cache = example();
        let bytes = cache.encode();
        assert_eq!(decode(&bytes), Some(cache));
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert_eq!(decode(&damaged), None);
            assert_eq!(decode(&bytes[..index]), None);
        }
    }

    #[test]
    fn file_with_a_recent_or_untrusted_ctime_is_not_cached() {
        let mut cache = StatCache::default();
        let time = Timestamp { seconds: 99, nanoseconds: 0 };
        let identity = FileIdentity {
            instance: Some(FilesystemInstance(0)),
            device: 1,
            inode: 1,
            size: 1,
            mtime: time,
            ctime: time,
        };
        let content = Content { object: Some(ObjectId::of(b"x")), size: 1, ..Content::default() };
        cache.insert(identity, content.clone(), 100);
        assert!(cache.rows.is_empty());
        cache.insert(FileIdentity { instance: None, ..identity }, content.clone(), 102);
        assert!(cache.rows.is_empty(), "its ctime proves nothing");
        cache.insert(identity, content, 102);
        assert_eq!(cache.len(), 1);
    }
}
