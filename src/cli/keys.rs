//! Where keys are kept, and reading them. Used by the verbs that sign and by those that trust.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::trust::{PublicKey, SecretKey};

/// The keys of the machine.
const SYSTEM: &str = "/etc/sapwood/keys";

/// What the file of a secret key ends with.
pub const SECRET_SUFFIX: &str = "key";

/// What the file of a public key ends with.
pub const PUBLIC_SUFFIX: &str = "pub";

/// What the file of an announcement ends with.
pub const ANNOUNCEMENT_SUFFIX: &str = "announcement";

/// The directory of this user's keys: $SAPWOOD_KEYS, or the machine's for root, or below the user's configuration.
///
/// # Errors
/// When there is no home to look in.
pub fn directory() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("SAPWOOD_KEYS") {
        return Ok(directory);
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from(SYSTEM));
    }
    let configuration = match set("XDG_CONFIG_HOME") {
        Some(directory) => directory,
        None => env::home_dir().context("no home directory to look for keys in")?.join(".config"),
    };
    Ok(configuration.join("sapwood/keys"))
}

/// The file that `key` means: a path if it looks like one, else a name in the directory of keys.
fn file(key: &str, suffix: &str) -> Result<PathBuf> {
    if key.contains('/') || Path::new(key).extension().is_some() {
        return Ok(PathBuf::from(key));
    }
    Ok(directory()?.join(key).with_extension(suffix))
}

/// A key to sign with, by name or file.
///
/// # Errors
/// When there is none, it cannot be read, or others can read it.
pub fn secret(key: &str) -> Result<SecretKey> {
    use std::os::unix::fs::MetadataExt;
    let path = file(key, SECRET_SUFFIX)?;
    let text = fs::read_to_string(&path).with_context(|| {
        format!("cannot read the key '{key}' from {}; 'sapwood key generate {key}' makes one", path.display())
    })?;
    let mode = fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?.mode();
    if mode & 0o077 != 0 {
        bail!("{} can be read by others (mode {:03o}): chmod 600 it", path.display(), mode & 0o777);
    }
    text.parse().with_context(|| format!("{}", path.display()))
}

/// A key to trust: 64 hex digits, a name, or a file.
///
/// # Errors
/// When there is none or it cannot be read.
pub fn public(key: &str) -> Result<PublicKey> {
    if let Ok(key) = key.parse() {
        return Ok(key);
    }
    let path = file(key, PUBLIC_SUFFIX)?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read the key {}", path.display()))?;
    text.parse().with_context(|| format!("{}", path.display()))
}

/// The announcement of a key that is signed with, if an older one announced it.
///
/// # Errors
/// When it is there and cannot be read.
pub fn announcement(key: &str) -> Result<Option<Vec<u8>>> {
    let path = file(key, SECRET_SUFFIX)?.with_extension(ANNOUNCEMENT_SUFFIX);
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some).with_context(|| format!("cannot read {}", path.display())),
    }
}
