//! The check whether a commit may be booted: its record and its image match their ids and, if `sapwood.verify=require` is
//! given, a key in the initramfs has signed the commit, and the skeleton of `/` is the one that the image stands for.
//!
//! *Not here*: the contents of files, which the mount verifies when they are read; which refs are allowed, see `policy`.
//! *Used by* `cli::prepare_root`.

use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::command_line::SignatureCheck;
use super::policy::{BootPolicy, PolicyError};
use crate::deploy::choose::{ChooseError, verify_signed_by};
use crate::deploy::skeleton::{Skeleton, SkeletonError};
use crate::image::ImageError;
use crate::model::{Commit, CommitId, ImageId};
use crate::store::{ReadError, Store};
use crate::trust::{KeyError, Keyring, PublicKey};

/// Why a commit is not booted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// Its record or image cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block of its image is damaged.
    #[error("image {id} is damaged")]
    Image { id: ImageId, source: ImageError },
    /// A signature is required, and the initramfs has no key.
    #[error("sapwood.verify=require, and there is no key in {} of the initramfs", .0.display())]
    NoKeys(PathBuf),
    /// The keys cannot be read.
    #[error("cannot read the keys in {}", .path.display())]
    Keys {
        /// The directory of the keys, or one file in it.
        path: PathBuf,
        source: io::Error,
    },
    /// A file in the directory of the keys is not a key.
    #[error("{} is no key", .path.display())]
    Key { path: PathBuf, source: KeyError },
    /// No key of the initramfs has signed it.
    #[error(transparent)]
    Signature(#[from] ChooseError),
    /// The policy of the initramfs does not allow it.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The skeleton of `/` is not that of the image.
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
}

/// The places in the initramfs with what it trusts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrustedFiles<'a> {
    /// The directory with the public keys.
    pub(crate) keys: &'a Path,
    /// The public key of the machine itself, which may be missing.
    pub(crate) machine_key: &'a Path,
}

/// Verifies the commit `id` and returns its record.
pub(crate) fn verify_commit(
    store: &Store,
    id: CommitId,
    signature: SignatureCheck,
    policy: &BootPolicy,
    trusted: TrustedFiles<'_>,
) -> Result<Commit, VerifyError> {
    let commit = match signature {
        SignatureCheck::NotRequired => store.commit(id)?,
        SignatureCheck::Required => verify_signed_by(store, id, read_keyring(policy, trusted)?)?.into_inner(),
    };
    policy.check(&commit)?;
    match store.image(commit.image) {
        // The missing blocks of a lazy image are verified when they are fetched.
        Err(ReadError::MissingImage { .. }) if store.is_lazy(id) => {}
        Err(other) => return Err(other.into()),
        Ok(image) => {
            let here = (0..image.block_count()).filter(|block| image.has_block(*block));
            let damaged = |source| VerifyError::Image { id: commit.image, source };
            here.into_iter().try_for_each(|block| image.verify_block(block)).map_err(damaged)?;
        }
    }
    Ok(commit)
}

/// Checks that the directory with the skeleton has what the image of a verified commit says, and nothing else. Returns the
/// directories that are mounted from the image.
pub(crate) fn verify_skeleton(store: &Store, commit: &Commit, directory: &Path) -> Result<Vec<String>, VerifyError> {
    let skeleton = Skeleton::of(&store.image(commit.image)?)?;
    skeleton.check(directory)?;
    Ok(skeleton.mounts)
}

/// Returns the trusted keys: those of the directory and of the policy, and the machine's own only if the policy allows it.
fn read_keyring(policy: &BootPolicy, trusted: TrustedFiles<'_>) -> Result<Keyring, VerifyError> {
    let mut keys = read_key_directory(trusted.keys)?;
    keys.extend(&policy.keys);
    if let Some(machine_key) = read_key_if_present(trusted.machine_key)? {
        keys.retain(|key| *key != machine_key);
        keys.extend(policy.allow_machine_key.then_some(machine_key));
    }
    if keys.is_empty() {
        return Err(VerifyError::NoKeys(trusted.keys.to_owned()));
    }
    Ok(Keyring::new(keys).requiring(policy.signatures.unwrap_or(NonZeroU32::MIN)))
}

fn read_key_if_present(path: &Path) -> Result<Option<PublicKey>, VerifyError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(VerifyError::Keys { path: path.to_owned(), source }),
        Ok(text) => {
            let key = text.parse().map_err(|source| VerifyError::Key { path: path.to_owned(), source })?;
            Ok(Some(key))
        }
    }
}

/// Reads all files in a directory that end with `.pub`. A missing directory is an empty one.
fn read_key_directory(directory: &Path) -> Result<Vec<PublicKey>, VerifyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| VerifyError::Keys { path, source }
    };
    let mut keys: Vec<PublicKey> = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
        other => other.map_err(failed(directory))?,
    };
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            keys.push(text.parse().map_err(|source| VerifyError::Key { path, source })?);
        }
    }
    Ok(keys)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the tests make files that need not be durable")]
mod tests {
    use super::*;
    use crate::trust::SecretKey;

    #[test]
    fn machine_key_is_trusted_only_if_the_policy_allows_it() {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name);
        let [vendor, machine] = [1, 2].map(|seed| SecretKey::from_seed(&[seed; 32]).public());
        fs::create_dir(at("keys")).expect("writable");
        fs::write(at("keys/machine.pub"), machine.to_line("")).expect("writable");
        fs::write(at("machine.pub"), machine.to_line("")).expect("writable");
        let (keys, machine_key) = (at("keys"), at("machine.pub"));
        let trusted = TrustedFiles { keys: &keys, machine_key: &machine_key };
        let mut policy = BootPolicy::default();
        assert!(matches!(read_keyring(&policy, trusted), Err(VerifyError::NoKeys(_))));
        policy.keys.push(vendor);
        let keyring = read_keyring(&policy, trusted).expect("a key");
        assert_eq!((keyring.contains(vendor), keyring.contains(machine)), (true, false));
        policy.allow_machine_key = true;
        assert!(read_keyring(&policy, trusted).expect("keys").contains(machine));
    }
}
