//! What a commit was made from, as one digest: equal inputs need no second compose.
//!
//! In it: the decided treefile, the content of the files it adds, the exact packages with their checksums, and the
//! version of the rules of [`super::layout`]. Not in it: the time, names of directories of this machine, the parent.

use std::fs;
use std::io;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::packages::PackageList;
use super::treefile::Treefile;

/// The key of a commit's facts that holds the digest.
pub const KEY: &str = "compose.inputs";

/// Raised when the same inputs are to give another image.
const RULES: u32 = 1;

/// The digest in hex.
///
/// # Errors
/// Which file cannot be read, and why.
pub fn digest(treefile: &Treefile, packages: &PackageList) -> Result<String, (PathBuf, io::Error)> {
    let mut plain = treefile.clone();
    // Their packages are in the list, and where the files are is nobody's concern.
    plain.local_packages.clear();
    let mut hasher = Sha256::new();
    hasher.update(format!("sapwood compose inputs {RULES} {}\n", env!("CARGO_PKG_VERSION")));
    for file in &mut plain.add_files {
        let bytes = fs::read(&file.source).map_err(|error| (file.source.clone(), error))?;
        hasher.update(Sha256::digest(bytes));
        file.source = PathBuf::new();
    }
    let text = serde_json::to_vec(&(plain, &packages.packages)).unwrap_or_default();
    hasher.update(text);
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
