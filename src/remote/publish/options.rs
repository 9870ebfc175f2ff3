//! The choices of whoever publishes.

use crate::remote::format::ProfileText;
use crate::trust::{PublicKey, SecretKey};

/// Large enough that a whole system is a dozen packs, small enough that each is one upload, and cheap to send again.
pub const PACK_SIZE: u64 = 64 << 20;

/// How to publish.
#[derive(Default)]
pub struct PublishOptions {
    /// Level of zstd for packs.
    pub level: i32,
    /// Bytes after which a pack ends; what was sent of one that is not finished is sent again.
    pub pack_size: u64,
    /// Threads that compress.
    pub threads: usize,
    /// Who signs.
    pub signers: Vec<SecretKey>,
    /// Announcements of new keys by old ones, by the new key.
    pub announcements: Vec<(PublicKey, Vec<u8>)>,
    /// From how many published ancestors a delta is made.
    pub deltas: u64,
    /// What a boot reads, to be published for clients that fetch ahead.
    pub profile: Option<ProfileText>,
    /// Seconds since 1970.
    pub now: i64,
}
