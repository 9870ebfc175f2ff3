//! The published profile: which objects of one image a boot or a program reads, in order.
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWPRF\0"
//!      8    4  version = 1
//!     12    4  entries
//!     16       one zstd frame of three columns of u32, one value an entry:
//!              object (index in the image) · first block · count of blocks, 0 for all of the object
//! ```
//!
//! A profile is a hint for read-ahead and nothing else: an entry that names no object of the image is skipped. The
//! publisher makes one for each commit from a list of paths ([`super::ProfileText`]), since paths stay the same over
//! versions and numbers do not.
//!
//! *Used by* `publish`, `pull`, and by the cache's read-ahead.

const MAGIC: [u8; 8] = *b"SAPWPRF\0";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 16;
const ROW_SIZE: usize = 12;
const ZSTD_LEVEL: i32 = 19;

/// The most entries that are read: more than any boot opens files.
const ENTRIES_MAX: usize = 1 << 20;

/// The largest published profile in bytes.
pub(crate) const PROFILE_SIZE_MAX: u64 = HEADER_SIZE as u64 + ENTRIES_MAX as u64 * ROW_SIZE as u64;

/// The reason why bytes are no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The bytes do not start like a profile.
    #[error("not a profile")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("profile version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// There are more entries than allowed, or fewer bytes than the entries require.
    #[error("the profile has a bad length")]
    Length,
    /// The compressed part is damaged.
    #[error("the profile cannot be unpacked")]
    Compression(#[source] std::io::Error),
}

/// An entry of a profile: an object, or some blocks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProfileEntry {
    /// Index of the object in the image.
    pub object: u32,
    /// The first block that is read.
    pub first: u32,
    /// Number of blocks; 0 for all.
    pub blocks: u32,
}

impl ProfileEntry {
    /// Returns the entry for all of the object with this number.
    pub(crate) const fn whole_object(object: u32) -> Self {
        Self { object, first: 0, blocks: 0 }
    }
}

/// A list of what is read, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// The entries, each at most once.
    pub entries: Vec<ProfileEntry>,
}

impl Profile {
    /// Returns the bytes that [`Self::parse`] reads. Entries beyond the limit are left out.
    ///
    /// # Errors
    /// Errors of the compressor: no memory.
    pub fn encode(&self) -> Result<Vec<u8>, std::io::Error> {
        let entries = &self.entries[..self.entries.len().min(ENTRIES_MAX)];
        let columns: [fn(&ProfileEntry) -> u32; 3] = [|entry| entry.object, |entry| entry.first, |entry| entry.blocks];
        let raw: Vec<u8> =
            columns.iter().flat_map(|column| entries.iter().flat_map(|entry| column(entry).to_le_bytes())).collect();
        let count = u32::try_from(entries.len()).expect("at most ENTRIES_MAX");
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&zstd::bulk::compress(&raw, ZSTD_LEVEL)?);
        Ok(bytes)
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// [`ProfileError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ProfileError> {
        let (header, packed) = bytes.split_at_checked(HEADER_SIZE).ok_or(ProfileError::Magic)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        if header[..8] != MAGIC {
            return Err(ProfileError::Magic);
        }
        let version = number(&header[8..12]);
        if version != VERSION {
            return Err(ProfileError::TooNew(version));
        }
        let count = usize::try_from(number(&header[12..16])).map_err(|_| ProfileError::Length)?;
        if count > ENTRIES_MAX {
            return Err(ProfileError::Length);
        }
        let raw = zstd::bulk::decompress(packed, count * ROW_SIZE).map_err(ProfileError::Compression)?;
        if raw.len() != count * ROW_SIZE {
            return Err(ProfileError::Length);
        }
        let value = |column: usize, row: usize| number(&raw[(column * count + row) * 4..][..4]);
        let entry = |row| ProfileEntry { object: value(0, row), first: value(1, row), blocks: value(2, row) };
        Ok(Self { entries: (0..count).map(entry).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_round_trips_and_damaged_profiles_are_refused() {
        let entry = |object| ProfileEntry { object, first: object / 2, blocks: 1 };
        let profile = Profile { entries: (0..1000).map(entry).collect() };
        let bytes = profile.encode().expect("memory");
        assert_eq!(Profile::parse(&bytes).expect("own bytes"), profile);
        for length in 0..bytes.len() {
            assert!(Profile::parse(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut greedy = bytes;
        greedy[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Profile::parse(&greedy), Err(ProfileError::Length)));
        assert_eq!(Profile::parse(&Profile::default().encode().expect("memory")).expect("empty"), Profile::default());
    }
}
