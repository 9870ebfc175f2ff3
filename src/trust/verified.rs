//! Values that exist only after a check, and the checks.
//!
//! *Invariants*: only this module makes a [`Verified`] value.
//!
//! *Used by* `remote`, `deploy`, `boot` and `cli`.

use std::ops::Deref;

use super::envelope::{Envelope, EnvelopeError, SignaturePurpose};
use super::key::PublicKey;
use super::keyring::{Keyring, SignatureError};
use super::reference::{CommitOrigin, LastSeen, RefRecord};
use super::repository_id::RepositoryId;
use crate::model::{Commit, CommitError, CommitId, RecordError, RefName};

/// The reason why a ref or a commit is refused. Each reason has a variant of its own, since the remedies differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The bytes are no signed record.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// There is no valid signature by a trusted key.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The payload is no ref record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The payload is not the expected commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record of another ref was served in its place.
    #[error("it is for ref {found}, not for {expected}")]
    OtherRef {
        /// The ref asked for.
        expected: RefName,
        /// The ref it is for.
        found: RefName,
    },
    /// The record is of another repository than the client follows.
    #[error("it is of {}, not of repository {expected}, which is followed here", name_repository(.found.as_ref()))]
    OtherRepository {
        /// The repository that is followed.
        expected: RepositoryId,
        /// The repository it is of; `None` for a record of version 1, which does not say.
        found: Option<RepositoryId>,
    },
    /// Only keys signed that newer ones have replaced.
    #[error("it is signed by key {}, which key {} replaced in generation {generation}", .old.short(), .new.short())]
    Replaced {
        /// The key that signed.
        old: PublicKey,
        /// The key that replaced it.
        new: PublicKey,
        /// The generation that began then.
        generation: u64,
    },
    /// The record is of another generation than the keys that are trusted.
    #[error("it is of generation {found} of the repository's keys, and generation {current} is trusted")]
    OtherGeneration {
        /// The generation in the record.
        found: u64,
        /// The generation of the trusted keys.
        current: u64,
    },
    /// The record is older than one that was seen before.
    #[error("its sequence {found} is older than {}, which was seen before", .seen.sequence)]
    Older {
        /// What was seen before.
        seen: LastSeen,
        /// The sequence now.
        found: u64,
    },
    /// Another commit has the same sequence.
    #[error("it names commit {} with the sequence of {}, which was seen before: history was rewritten",
            .found.short(), .seen.short())]
    Rewritten {
        /// The commit seen before.
        seen: CommitId,
        /// The commit now.
        found: CommitId,
    },
    /// The record is older than the configuration of the remote allows.
    #[error("its sequence {found} is below {minimum}, which this machine was told to expect")]
    BelowMinimum {
        /// The least sequence.
        minimum: u64,
        /// The sequence now.
        found: u64,
    },
    /// The ref record and the commit disagree.
    #[error("the ref says sequence {record}, the commit {commit}")]
    Sequence {
        /// In the ref record.
        record: u64,
        /// In the commit.
        commit: u64,
    },
}

fn name_repository(found: Option<&RepositoryId>) -> String {
    found.map_or_else(|| "no stated repository".to_owned(), |found| format!("repository {found}"))
}

/// A value that passed its check: by a signature or, if the user allowed that, without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    signer: Option<PublicKey>,
}

impl<T> Verified<T> {
    /// Returns the key that signed it; `None` when the remote is insecure or the value was made on this machine.
    #[must_use]
    pub const fn signer(&self) -> Option<PublicKey> {
        self.signer
    }

    /// Returns the value alone.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl Verified<Commit> {
    /// Accepts a commit that was made on this machine and has no signature; the user explicitly allowed it.
    pub(crate) const fn made_locally(value: Commit) -> Self {
        Self { value, signer: None }
    }

    /// Checks the parent of a verified commit. The parent's id is in the child, so the child's signature covers it.
    ///
    /// # Errors
    /// [`TrustError::Commit`] when `bytes` are not the parent.
    pub(crate) fn parent(&self, bytes: &[u8]) -> Result<Option<Self>, TrustError> {
        let Some(id) = self.parent else { return Ok(None) };
        let (envelope, _) = Envelope::parse(bytes)?;
        let value = Commit::decode(envelope.payload(), id)?;
        Ok(Some(Self { value, signer: self.signer }))
    }
}

/// The rule by which refs and commits are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Signatures by these keys are required, as the keyring says.
    Keys(Keyring),
    /// No signature is required; the user explicitly allowed it.
    InsecureUnsigned,
}

impl Trust {
    fn check(
        &self,
        purpose: SignaturePurpose,
        envelope: &Envelope,
        name: &RefName,
    ) -> Result<Option<PublicKey>, SignatureError> {
        match self {
            Self::Keys(ring) => ring.check(purpose, envelope, name).map(Some),
            Self::InsecureUnsigned => Ok(None),
        }
    }

    /// Checks a ref record for `name` of the repository `expected`; of any when that is `None`. Also returns the bytes
    /// after the envelope. Whether it is older than what was seen is checked by [`RefRecord::check_newer`].
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn accept_ref<'a>(
        &self,
        bytes: &'a [u8],
        name: &RefName,
        expected: Option<RepositoryId>,
    ) -> Result<(Verified<RefRecord>, &'a [u8]), TrustError> {
        let (envelope, rest) = Envelope::parse(bytes)?;
        let signer = self.check(SignaturePurpose::Ref, &envelope, name)?;
        let value = RefRecord::parse(envelope.payload())?;
        if value.name != *name {
            return Err(TrustError::OtherRef { expected: name.clone(), found: value.name });
        }
        match expected {
            Some(expected) if value.repository() != Some(expected) => {
                Err(TrustError::OtherRepository { expected, found: value.repository() })
            }
            _ => Ok((Verified { value, signer }, rest)),
        }
    }

    /// Checks the commit that a ref record names. If the record does not bind any commit to the ref, this one must have been made
    /// for it.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn accept_commit(&self, bytes: &[u8], record: &RefRecord) -> Result<Verified<Commit>, TrustError> {
        let (envelope, _) = Envelope::parse(bytes)?;
        let signer = self.check(SignaturePurpose::Commit, &envelope, &record.name)?;
        let value = Commit::decode(envelope.payload(), record.commit)?;
        if record.binding.is_some_and(|binding| binding.origin == CommitOrigin::AnyRef) {
            return Ok(Verified { value, signer });
        }
        if value.ref_name != record.name {
            return Err(TrustError::OtherRef { expected: record.name.clone(), found: value.ref_name });
        }
        if value.sequence != record.sequence {
            return Err(TrustError::Sequence { record: record.sequence, commit: value.sequence });
        }
        Ok(Verified { value, signer })
    }
}

impl RefRecord {
    /// Checks that the record is not older than what was seen of its ref. `generation` is that of the keys that are trusted
    /// now.
    ///
    /// # Errors
    /// [`TrustError::Older`] or [`TrustError::Rewritten`].
    pub fn check_newer(&self, seen: Option<LastSeen>, generation: u64) -> Result<(), TrustError> {
        match seen {
            // A key that was replaced signs nothing that stands in the way of its successor.
            Some(seen) if generation > seen.generation => Ok(()),
            Some(seen) if generation < seen.generation => {
                Err(TrustError::OtherGeneration { found: generation, current: seen.generation })
            }
            Some(seen) if self.sequence < seen.sequence => Err(TrustError::Older { seen, found: self.sequence }),
            Some(seen) if self.sequence == seen.sequence && self.commit != seen.commit => {
                Err(TrustError::Rewritten { seen: seen.commit, found: self.commit })
            }
            _ => Ok(()),
        }
    }
}

impl Trust {
    /// Checks a stored commit with its published signatures, which must have the id `id`, as one of the ref `name`; of
    /// the ref that it was made for when that is `None`. Whether it was the newest of its ref was checked when it was
    /// fetched.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn accept_stored_commit(
        &self,
        bytes: &[u8],
        id: CommitId,
        name: Option<&RefName>,
    ) -> Result<Verified<Commit>, TrustError> {
        let (envelope, _) = Envelope::parse(bytes)?;
        let value = Commit::decode(envelope.payload(), id)?;
        let signer = self.check(SignaturePurpose::Commit, &envelope, name.unwrap_or(&value.ref_name))?;
        Ok(Verified { value, signer })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Binding, SecretKey};
    use super::*;
    use crate::model::ImageId;

    fn key(number: u8) -> SecretKey {
        SecretKey::from_seed(&[number; 32])
    }

    fn trust(number: u8) -> Trust {
        Trust::Keys(Keyring::new([key(number).public()]))
    }

    fn commit(sequence: u64) -> Commit {
        Commit {
            image: ImageId::of(b"image"),
            parent: None,
            ref_name: "main".parse().expect("legal"),
            sequence,
            timestamp: 0,
            subject: String::new(),
            version: None,
            entries: 1,
            content_bytes: 0,
            extra: BTreeMap::new(),
        }
    }

    fn signed_ref(sequence: u64, by: u8) -> Vec<u8> {
        let record = RefRecord::of(&commit(sequence), 5).encode();
        Envelope::unsigned(record).signed(SignaturePurpose::Ref, &key(by)).encode()
    }

    #[test]
    fn each_reason_for_refusing_a_ref_has_its_own_error() {
        let main: RefName = "main".parse().expect("legal");
        let seen = |sequence| Some(LastSeen { sequence, ..RefRecord::of(&commit(sequence), 0).seen(0) });
        let accept = |bytes: &[u8], name: &RefName, seen| {
            let (record, _) = trust(1).accept_ref(bytes, name, None)?;
            record.check_newer(seen, 0)
        };
        assert_eq!(accept(&signed_ref(3, 1), &main, seen(3)), Ok(()));
        assert_eq!(accept(&signed_ref(3, 1), &main, seen(2)), Ok(()));
        let unsigned = Envelope::unsigned(RefRecord::of(&commit(3), 5).encode()).encode();
        assert_eq!(accept(&unsigned, &main, None), Err(SignatureError::Unsigned.into()));
        let unknown = SignatureError::UnknownKey { keys: vec![key(2).public()] };
        assert_eq!(accept(&signed_ref(3, 2), &main, None), Err(unknown.into()));
        let mut forged = signed_ref(3, 1);
        *forged.last_mut().expect("not empty") ^= 1;
        assert_eq!(accept(&forged, &main, None), Err(SignatureError::Forged { key: key(1).public() }.into()));
        let other: RefName = "other".parse().expect("legal");
        let refusal = TrustError::OtherRef { expected: other.clone(), found: main.clone() };
        assert_eq!(accept(&signed_ref(3, 1), &other, None), Err(refusal));
        let older = TrustError::Older { seen: seen(4).expect("some"), found: 3 };
        assert_eq!(accept(&signed_ref(3, 1), &main, seen(4)), Err(older));
        let rewritten = LastSeen { commit: CommitId::of(b"another"), ..seen(3).expect("some") };
        let refusal = TrustError::Rewritten { seen: rewritten.commit, found: commit(3).id() };
        assert_eq!(accept(&signed_ref(3, 1), &main, Some(rewritten)), Err(refusal));
    }

    #[test]
    fn record_of_version_2_binds_repository_ref_and_commit() {
        let main: RefName = "main".parse().expect("legal");
        let [own, other] = [1, 2].map(|number| RepositoryId::from_bytes([number; 16]));
        let binding = Some(Binding { repository: own, generation: 0, expires: Some(9), origin: CommitOrigin::AnyRef });
        let record = RefRecord { binding, sequence: 8, ..RefRecord::of(&commit(3), 5) };
        let sign =
            |record: &RefRecord| Envelope::unsigned(record.encode()).signed(SignaturePurpose::Ref, &key(1)).encode();
        let accept = |bytes: &[u8], expected| trust(1).accept_ref(bytes, &main, expected).map(|(found, _)| found.value);
        assert_eq!(accept(&sign(&record), Some(own)), Ok(record.clone()));
        assert_eq!(accept(&sign(&record), None), Ok(record.clone()));
        let refusal = |found| Err(TrustError::OtherRepository { expected: other, found });
        assert_eq!(accept(&sign(&record), Some(other)), refusal(Some(own)));
        assert_eq!(accept(&signed_ref(3, 1), Some(other)), refusal(None));
        // The commit was made for another ref and has another sequence.
        let promoted = RefRecord { name: "stable".parse().expect("legal"), ..record };
        let bytes = Envelope::unsigned(commit(3).encode()).signed(SignaturePurpose::Commit, &key(1)).encode();
        assert_eq!(trust(1).accept_commit(&bytes, &promoted).expect("bound").id(), commit(3).id());
        let former = RefRecord { binding: None, ..promoted };
        assert!(matches!(trust(1).accept_commit(&bytes, &former), Err(TrustError::OtherRef { .. })));
    }

    #[test]
    fn commit_must_be_signed_as_commit_and_match_its_ref_record() {
        let record = RefRecord::of(&commit(3), 5);
        let good = Envelope::unsigned(commit(3).encode()).signed(SignaturePurpose::Commit, &key(1)).encode();
        assert_eq!(trust(1).accept_commit(&good, &record).expect("good").signer(), Some(key(1).public()));
        let as_ref = Envelope::unsigned(commit(3).encode()).signed(SignaturePurpose::Ref, &key(1)).encode();
        assert!(matches!(trust(1).accept_commit(&as_ref, &record), Err(TrustError::Signature(_))));
        let another = Envelope::unsigned(commit(4).encode()).signed(SignaturePurpose::Commit, &key(1)).encode();
        assert_eq!(trust(1).accept_commit(&another, &record), Err(CommitError::WrongId.into()));
        assert_eq!(Trust::InsecureUnsigned.accept_commit(&as_ref, &record).expect("anything").signer(), None);
        assert_eq!(
            trust(1).accept_stored_commit(&good, commit(3).id(), None).expect("good").signer(),
            Some(key(1).public())
        );
        assert_eq!(trust(1).accept_stored_commit(&good, commit(4).id(), None), Err(CommitError::WrongId.into()));
        assert!(matches!(trust(2).accept_stored_commit(&good, commit(3).id(), None), Err(TrustError::Signature(_))));
    }

    #[test]
    fn newer_generation_of_keys_is_newer_whatever_the_sequence() {
        let of = |sequence, generation| {
            let binding = Some(Binding {
                repository: RepositoryId::from_bytes([1; 16]),
                generation,
                expires: None,
                origin: CommitOrigin::AnyRef,
            });
            RefRecord { binding, ..RefRecord::of(&commit(sequence), 5) }
        };
        assert_eq!(of(3, 1).check_newer(Some(of(900, 0).seen(0)), 1), Ok(()));
        let refusal = TrustError::OtherGeneration { found: 0, current: 1 };
        assert_eq!(of(900, 0).check_newer(Some(of(3, 1).seen(1)), 0), Err(refusal));
    }
}
