//! The options of publishing.
//!
//! *Used by* `publish`, `prune` and `cli`.

use super::frames::FrameSizes;
use crate::remote::format::ProfileText;
use crate::remote::lease::LeaseTerms;
use crate::trust::{Binding, CommitOrigin, KeyChain, Keyring, RepositoryId, SecretKey};

/// The most bytes of a pack. Large enough that a whole system is a dozen packs; small enough that each is one upload,
/// cheap to send again, and can be read whole by clients from servers without ranges.
pub(crate) const PACK_SIZE: u64 = 64 << 20;

/// The zstd level for packs: within three times the time of `mksquashfs` at zstd 3, see `benches/results`. The cost is
/// paid once, the saving on every download.
pub(crate) const DEFAULT_LEVEL: i32 = 7;

/// Options of publishing.
pub(crate) struct PublishOptions {
    /// Level of zstd for packs.
    pub(crate) level: i32,
    /// The sizes of frames.
    pub(crate) frames: FrameSizes,
    /// The most bytes of a pack, unless one frame alone has more. An unfinished upload of a pack is sent again as a
    /// whole.
    pub(crate) pack_size: u64,
    /// Number of threads that compress.
    pub(crate) threads: usize,
    /// The keys that sign.
    pub(crate) signers: Vec<SecretKey>,
    /// Which key of the repository replaced which.
    pub(crate) key_chain: KeyChain,
    /// The profile of what a boot reads, for clients that read ahead.
    pub(crate) profile: Option<ProfileText>,
    /// The current time in seconds since 1970.
    pub(crate) now: i64,
    /// The identity of the destination; `None` to write refs of version 1, which name no repository.
    pub(crate) repository: Option<RepositoryId>,
    /// For how many seconds refs are to be taken as new; `None` for ever.
    pub(crate) lifetime: Option<i64>,
    /// The durations of the lease.
    pub(crate) lease: LeaseTerms,
    /// Called once, with the holder, when the lease has to be waited for.
    pub(crate) announce: Box<dyn Fn(&str) + Send + Sync>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            level: DEFAULT_LEVEL,
            frames: FrameSizes::default(),
            pack_size: PACK_SIZE,
            threads: 1,
            signers: Vec::new(),
            key_chain: KeyChain::default(),
            profile: None,
            now: 0,
            repository: None,
            lifetime: None,
            lease: LeaseTerms::default(),
            announce: Box::new(|_| {}),
        }
    }
}

impl PublishOptions {
    /// Returns the keys that sign, without those that others of the chain replaced.
    pub(super) fn current_keys(&self) -> Keyring {
        let keys = self.signers.iter().map(SecretKey::public);
        Keyring::new(keys.filter(|key| self.key_chain.replaced(*key).is_none()))
    }

    /// Returns what the record of a ref says of the repository; `origin` says for which ref its commit was made.
    pub(super) fn binding(&self, origin: CommitOrigin) -> Option<Binding> {
        let expires = self.lifetime.map(|lifetime| self.now.saturating_add(lifetime));
        let generation = self.key_chain.generation();
        self.repository.map(|repository| Binding { repository, generation, expires, origin })
    }
}
