//! The check whether a commit may be booted: its record and its image match their ids and, if `sapwood.verify=require` is
//! given, a key in the initramfs has signed the commit.
//!
//! *Not here*: the contents of files. They are verified when they are read, as in every mount. *Used by* `cli::prepare_root`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::command_line::SignatureCheck;
use crate::deploy::choose::{ChooseError, verify_signed_by};
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
}

/// Verifies the commit `id` and returns its record. `keys` is the directory with the public keys that are trusted.
pub(crate) fn verify_commit(
    store: &Store,
    id: CommitId,
    signature: SignatureCheck,
    keys: &Path,
) -> Result<Commit, VerifyError> {
    let commit = match signature {
        SignatureCheck::NotRequired => store.commit(id)?,
        SignatureCheck::Required => verify_signed_by(store, id, read_keyring(keys)?)?.into_inner(),
    };
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

/// Reads all files in a directory that end with `.pub`.
fn read_keyring(directory: &Path) -> Result<Keyring, VerifyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| VerifyError::Keys { path, source }
    };
    let mut keys: Vec<PublicKey> = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VerifyError::NoKeys(directory.to_owned())),
        other => other.map_err(failed(directory))?,
    };
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            keys.push(text.parse().map_err(|source| VerifyError::Key { path, source })?);
        }
    }
    if keys.is_empty() { Err(VerifyError::NoKeys(directory.to_owned())) } else { Ok(Keyring::new(keys)) }
}
