//! The digest of everything that a commit is made from: if it is equal to the parent's, no compose is needed.
//!
//! The digest contains the decided treefile, the content of the files it adds, the exact packages with their checksums, the
//! version of this program, and the version of the rules of `layout`. It does not contain the time, names of directories of
//! this machine, or the parent.
//!
//! *Used by* `pipeline`; its digest of a file also by `engine`.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::packages::PackageList;
use super::treefile::Treefile;
use crate::disk;
use crate::model::ImageId;

/// The key in a commit's `extra` under which the digest is kept.
pub(crate) const KEY: &str = "compose.inputs";

/// Raise this when the same inputs have to give another image than before.
const RULES_VERSION: u32 = 2;

/// Returns the digest in hex. `base` is the image of the commit that this one is composed on.
///
/// # Errors
/// The path of a file that cannot be read, and the reason.
pub(crate) fn digest(
    treefile: &Treefile,
    base: Option<ImageId>,
    packages: &PackageList,
) -> Result<String, (PathBuf, io::Error)> {
    let mut plain = treefile.clone();
    // The packages of these files are in the list, and their paths do not change the image.
    plain.local_packages.clear();
    // Nor does the ref.
    plain.ref_name = plain.distribution.parse().unwrap_or(plain.ref_name);
    // The image counts, not the name that the base has.
    plain.base = base.map(|image| image.to_string());
    let mut hasher = Sha256::new();
    hasher.update(format!("sapwood compose inputs {RULES_VERSION} {}\n", env!("CARGO_PKG_VERSION")));
    for file in &mut plain.add_files {
        let digest = file_digest(&file.source).map_err(|error| (file.source.clone(), error))?;
        hasher.update(digest);
        file.source = PathBuf::new();
    }
    let text = serde_json::to_vec(&(plain, &packages.packages)).unwrap_or_default();
    hasher.update(text);
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the SHA-256 of a regular file.
pub(super) fn file_digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = disk::open_regular_file(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            length => hasher.update(&buffer[..length]),
        }
    }
}
