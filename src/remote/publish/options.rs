//! The choices of whoever publishes.

use super::frames::FrameSizes;
use crate::remote::format::ProfileText;
use crate::trust::{PublicKey, SecretKey};

/// How to publish.
#[derive(Default)]
pub struct PublishOptions {
    /// Level of zstd for packs.
    pub level: i32,
    /// What shares a frame.
    pub frames: FrameSizes,
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
