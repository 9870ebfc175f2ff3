//! Whether a commit may be booted: its record and its image are what their names say and, if that is asked for, a key in the
//! initramfs has signed it.
//!
//! Contents are not read here. A read of them is checked as any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::command_line::Signature;
use crate::deploy::source::{ChooseError, signed_by};
use crate::image::ImageError;
use crate::model::{Commit, CommitId, ImageId};
use crate::store::{ReadError, Store};
use crate::trust::{KeyError, Keyring, PublicKey};

/// Why a commit is not booted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its names and digests are damaged.
    #[error("image {id} is damaged")]
    Image {
        /// Which.
        id: ImageId,
        /// How.
        source: ImageError,
    },
    /// There is nobody to trust.
    #[error("sapwood.verify=require, and there is no key in {} of the initramfs", .0.display())]
    NoKeys(PathBuf),
    /// Keys that cannot be read.
    #[error("cannot read the keys in {}", .path.display())]
    Keys {
        /// The directory, or the key in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is no key.
    #[error("{} is no key", .path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// No key of the initramfs has signed it.
    #[error(transparent)]
    Signature(#[from] ChooseError),
}

/// Checks the commit `id`; `keys` is the directory of the keys that count.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(store: &Store, id: CommitId, signature: Signature, keys: &Path) -> Result<Commit, VerifyError> {
    let commit = match signature {
        Signature::Trusted => store.commit(id)?,
        Signature::Required => signed_by(store, id, keyring(keys)?)?.into_inner(),
    };
    match store.image(commit.image) {
        // What a lazy image lacks is verified when it comes.
        Err(ReadError::MissingImage { .. }) if store.is_lazy(id) => {}
        Err(other) => return Err(other.into()),
        Ok(image) => {
            let here = (0..image.blocks_of_image()).filter(|block| image.has_block(*block));
            let damaged = |source| VerifyError::Image { id: commit.image, source };
            here.into_iter().try_for_each(|block| image.verify_block(block)).map_err(damaged)?;
        }
    }
    Ok(commit)
}

/// All keys in a directory.
fn keyring(directory: &Path) -> Result<Keyring, VerifyError> {
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
