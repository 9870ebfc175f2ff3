//! The keys that are trusted for a remote now: those of its configuration, after the changes of keys that the repository
//! announced.
//!
//! A record says of which generation of keys it is. If that is newer than what is known, the chain of announcements is
//! fetched. What the record says is not verified at that time; a wrong generation costs one request.
//!
//! *Not here*: what a chain means (`trust`), and requests (`client`).
//!
//! *Invariants*: a chain only replaces keys. Without an announcement that is signed by a trusted key and by its successor,
//! no key is added; a chain that does not continue the known one is not used.
//!
//! *Used by* `client`.

use super::memory::Memory;
use super::remotes::{LearnKeys, RemoteConfig, RemotesError};
use crate::trust::{
    Announcement, Envelope, KeyChain, KeyGeneration, Keyring, PublicKey, RefRecord, RepositoryId, SignatureError,
    Trust, TrustError, Verified,
};

/// The trusted keys of a remote.
#[derive(Debug, Clone)]
pub(super) struct CurrentKeys {
    configured: Keyring,
    learn: LearnKeys,
    /// The repository whose chain it is.
    repository: Option<RepositoryId>,
    chain: KeyChain,
    /// A published chain in which no key takes the place of a trusted one.
    unrelated: KeyChain,
    generation: KeyGeneration,
    /// Whether the chain is newer than the recorded one.
    is_new: bool,
}

impl CurrentKeys {
    /// Returns the keys of a configuration.
    pub(super) fn new(config: &RemoteConfig) -> Self {
        let configured = config.keyring();
        let generation = KeyGeneration { keys: configured.clone(), number: 0 };
        let (chain, unrelated) = (KeyChain::default(), KeyChain::default());
        Self { configured, learn: config.learn_keys, repository: None, chain, unrelated, generation, is_new: false }
    }

    /// Takes over the recorded chain of the repository of a claimed record, and the one that `fetch` returns if the record
    /// is of a newer generation.
    pub(super) fn follow(
        &mut self,
        claimed: &RefRecord,
        memory: &Memory,
        fetch: impl FnOnce() -> Option<KeyChain>,
    ) -> Result<(), RemotesError> {
        let Some(repository) = claimed.repository() else { return Ok(()) };
        if self.repository != Some(repository) {
            (self.repository, self.is_new) = (Some(repository), false);
            (self.chain, self.unrelated) = (KeyChain::default(), KeyChain::default());
            self.generation = KeyGeneration { keys: self.configured.clone(), number: 0 };
            self.apply(memory.key_chain(repository)?);
        }
        if claimed.generation() > self.published_chain().generation()
            && let Some(found) = fetch()
            && found.generation() > self.chain.generation()
        {
            if self.chain.is_continued_by(&found) {
                self.is_new = true;
                self.apply(found);
            } else {
                tracing::warn!("the published changes of keys do not continue those that were seen before");
            }
        }
        Ok(())
    }

    fn apply(&mut self, chain: KeyChain) {
        let generation = chain.apply(self.configured.clone(), self.learn == LearnKeys::Successors);
        // A chain of other keys, such as one of a key that the user has removed, changes no trusted key.
        if generation.number > 0 {
            (self.chain, self.generation) = (chain, generation);
        } else {
            self.unrelated = chain;
        }
    }

    fn published_chain(&self) -> &KeyChain {
        if self.generation.number > 0 { &self.chain } else { &self.unrelated }
    }

    /// Returns the generation of the trusted keys; 0 when none of them took the place of another.
    pub(super) const fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Returns the trusted keys and those whose places they took.
    pub(super) fn lineage(&self) -> Vec<PublicKey> {
        let replaced = self.chain.announcements().map(|announcement| announcement.old);
        self.generation.keys.keys().iter().copied().chain(replaced).collect()
    }

    /// Returns the rule by which records are accepted.
    pub(super) fn trust(&self) -> Trust {
        Trust::Keys(self.generation.keys.clone())
    }

    /// Checks that an accepted record is of the generation of the keys. Generations say nothing of a signer that took no
    /// other's place, and whose place no other took: one of several builders, each with a key of its own.
    pub(super) fn check_generation(&self, record: &Verified<RefRecord>) -> Result<(), TrustError> {
        let (found, current, published) = (record.generation(), self.generation.number, self.published_chain());
        let is_apart = record.signer().is_some_and(|signer| !published.concerns(signer));
        if found == current || (is_apart && found <= published.generation()) {
            Ok(())
        } else {
            Err(TrustError::OtherGeneration { found, current })
        }
    }

    /// Returns the error of a check, with the reason if the only signers are keys that others replaced.
    pub(super) fn explain(&self, error: TrustError) -> TrustError {
        let TrustError::Signature(SignatureError::UnknownKey { keys }) = &error else { return error };
        match keys.iter().find_map(|key| self.chain.replaced(*key)) {
            Some(&Announcement { old, new, generation, .. }) => TrustError::Replaced { old, new, generation },
            None => error,
        }
    }

    /// Returns the chain that is to be recorded, after a record was accepted with it.
    pub(super) fn new_chain(&self) -> Option<(RepositoryId, &KeyChain)> {
        self.repository
            .filter(|_| self.is_new && self.generation.number > 0)
            .map(|repository| (repository, &self.chain))
    }

    /// Changes the keys of a configuration. Returns whether that made a difference.
    pub(super) fn replace(&self, config: &mut RemoteConfig) -> bool {
        let before = config.keyring();
        let after = self.chain.apply(before.clone(), self.learn == LearnKeys::Successors).keys;
        (config.keys, config.key_refs) = (after.keys().to_vec(), after.limits().clone());
        after != before
    }
}

/// Returns the record in the bytes of a ref, of which nothing has been checked.
pub(super) fn claimed_record(bytes: &[u8]) -> Option<RefRecord> {
    RefRecord::parse(Envelope::parse(bytes).ok()?.0.payload()).ok()
}
