//! The key files of this user: where they are, and reading them.
//!
//! *Not here*: making keys, see `cli::key`; what a key signs, see `trust`.
//!
//! *Invariants*: a secret key that other users can read is not used.
//!
//! *Used by* `remote` and `cli`.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::trust::{ChainError, KeyChain, KeyError, PublicKey, SecretKey};

/// The directory of the keys of the machine.
const SYSTEM_DIRECTORY: &str = "/etc/sapwood/keys";

/// The extension of the file of a secret key.
pub(crate) const SECRET_SUFFIX: &str = "key";

/// The extension of the file of a public key.
pub(crate) const PUBLIC_SUFFIX: &str = "pub";

/// The extension of the file of an announcement.
pub(crate) const ANNOUNCEMENT_SUFFIX: &str = "announcement";

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// The user has no directory for keys.
    #[error("no home directory to look for keys in")]
    NoHome,
    /// The file of a secret key cannot be read.
    #[error("cannot read the key '{key}' from {}; 'sapwood key generate {key}' makes one", .path.display())]
    Secret { key: String, path: PathBuf, source: io::Error },
    /// Another file cannot be read.
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Other users can read the secret key.
    #[error("{} can be read by others (mode {mode:03o}): chmod 600 it", .path.display())]
    NotPrivate { path: PathBuf, mode: u32 },
    /// The file holds no announcements.
    #[error("{}", .path.display())]
    Announcement { path: PathBuf, source: ChainError },
    /// The file holds no key.
    #[error("{}", .path.display())]
    Parse { path: PathBuf, source: KeyError },
}

/// Returns the directory of this user's keys: `$SAPWOOD_KEYS`, else that of the machine for root, else a directory in the
/// user's configuration.
///
/// # Errors
/// When there is no home directory.
pub(crate) fn directory() -> Result<PathBuf, KeyFileError> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("SAPWOOD_KEYS") {
        return Ok(directory);
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from(SYSTEM_DIRECTORY));
    }
    let configuration = match set("XDG_CONFIG_HOME") {
        Some(directory) => directory,
        None => env::home_dir().ok_or(KeyFileError::NoHome)?.join(".config"),
    };
    Ok(configuration.join("sapwood/keys"))
}

/// Returns the file that `key` means: a path if it has a `/` or an extension, else a name in the directory of keys.
fn key_file(key: &str, suffix: &str) -> Result<PathBuf, KeyFileError> {
    if key.contains('/') || Path::new(key).extension().is_some() {
        return Ok(PathBuf::from(key));
    }
    Ok(directory()?.join(key).with_extension(suffix))
}

/// Reads a key to sign with, given by name or file.
///
/// # Errors
/// When there is no such key, it cannot be read, or other users can read it.
pub(crate) fn read_secret(key: &str) -> Result<SecretKey, KeyFileError> {
    let path = key_file(key, SECRET_SUFFIX)?;
    let text = fs::read_to_string(&path).map_err(|source| {
        let key = key.to_owned();
        KeyFileError::Secret { key, path: path.clone(), source }
    })?;
    let mode = fs::metadata(&path).map_err(io_error("look at", &path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::NotPrivate { path, mode });
    }
    text.parse().map_err(|source| KeyFileError::Parse { path, source })
}

/// Reads a key to trust, given as 64 hex digits, a name, or a file.
///
/// # Errors
/// When there is no such key or it cannot be read.
pub(crate) fn read_public(key: &str) -> Result<PublicKey, KeyFileError> {
    if let Ok(key) = key.parse() {
        return Ok(key);
    }
    let path = key_file(key, PUBLIC_SUFFIX)?;
    let text = fs::read_to_string(&path).map_err(io_error("read the key", &path))?;
    text.parse().map_err(|source| KeyFileError::Parse { path, source })
}

/// Reads which keys a key that is used for signing replaced; an empty chain when it replaced none.
///
/// # Errors
/// When the file exists and cannot be read.
pub(crate) fn read_key_chain(key: &str) -> Result<KeyChain, KeyFileError> {
    let path = key_file(key, SECRET_SUFFIX)?.with_extension(ANNOUNCEMENT_SUFFIX);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(KeyChain::default()),
        Err(source) => Err(KeyFileError::Io { action: "read", path, source }),
        Ok(bytes) => match KeyChain::parse(&bytes) {
            Err(ChainError::Former) => {
                tracing::warn!("{} is of an earlier version, and is not used", path.display());
                Ok(KeyChain::default())
            }
            other => other.map_err(|source| KeyFileError::Announcement { path, source }),
        },
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError + use<> {
    let path = path.to_owned();
    move |source| KeyFileError::Io { action, path, source }
}
