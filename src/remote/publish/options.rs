//! The choices of whoever publishes.

use super::frames::FrameSizes;
use crate::remote::format::ProfileText;
use crate::remote::lease::LeaseTerms;
use crate::trust::{PublicKey, SecretKey};

/// Most bytes of a pack. Large enough that a whole system is a dozen packs, small enough that each is one upload, cheap to send
/// again, and read whole by clients from servers without ranges.
pub const PACK_SIZE: u64 = 64 << 20;

/// Level of zstd for packs: within three times the time of `mksquashfs` at zstd 3, see `benches/results`. Paid once, for every
/// download.
pub const DEFAULT_LEVEL: i32 = 7;

/// How to publish.
pub struct PublishOptions {
    /// Level of zstd for packs.
    pub level: i32,
    /// What shares a frame.
    pub frames: FrameSizes,
    /// Most bytes of a pack, unless one frame alone has more; what was sent of one that is not finished is sent again.
    pub pack_size: u64,
    /// Threads that compress.
    pub threads: usize,
    /// Who signs.
    pub signers: Vec<SecretKey>,
    /// Announcements of new keys by old ones, by the new key.
    pub announcements: Vec<(PublicKey, Vec<u8>)>,
    /// What a boot reads, to be published for clients that fetch ahead.
    pub profile: Option<ProfileText>,
    /// Seconds since 1970.
    pub now: i64,
    /// How long the right to write names lasts.
    pub lease: LeaseTerms,
    /// Hears once that somebody has to be waited for, and who.
    pub announce: Box<dyn Fn(&str) + Send + Sync>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            level: DEFAULT_LEVEL,
            frames: FrameSizes::default(),
            pack_size: PACK_SIZE,
            threads: 1,
            signers: Vec::new(),
            announcements: Vec::new(),
            profile: None,
            now: 0,
            lease: LeaseTerms::default(),
            announce: Box::new(|_| {}),
        }
    }
}
