//! What killed publishers leave in a directory: files that were never given their name.
//!
//! Every publisher holds a lock together with all others while it writes. Whoever comes first has it alone for a moment, and
//! so knows that nobody is writing and that what looks unfinished will never be finished.

use std::fs;
use std::io;
use std::path::Path;

use crate::disk::{Lock, LockError, Wait};

/// The file that is locked.
const LOCK: &str = ".uploads.lock";

/// Removes what is unfinished if nobody else writes to `directory`, and says to others that we do as long as the lock lives.
///
/// # Errors
/// [`LockError`] when the directory cannot be locked. That something could not be removed is only logged.
pub(super) fn enter(directory: &Path) -> Result<Lock, LockError> {
    let path = directory.join(LOCK);
    fs::create_dir_all(directory).map_err(|source| LockError::Io { path: path.clone(), source })?;
    match Lock::exclusive(&path, Wait::No) {
        Ok(_alone) => {
            if let Err(error) = sweep(directory) {
                tracing::warn!("{}: {error}: unfinished uploads stay behind", directory.display());
            }
        }
        Err(LockError::Held { .. }) => {}
        Err(error) => return Err(error),
    }
    Lock::shared(&path, Wait::Announced(&|_| {}))
}

fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sweep(&entry.path())?;
        } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
            tracing::info!("{} was never finished and is removed", entry.path().display());
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The object store writes to `NAME#1` before it renames; nothing published has such a name.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_goes_unless_somebody_writes() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let packs = directory.path().join("packs");
        fs::create_dir(&packs).expect("writable");
        let put = |name: &str| fs::File::create(packs.join(name)).map(drop).expect("writable");
        ["a.pack", "b.pack#1", "c#x", "#", "d#"].into_iter().for_each(put);
        let left = || {
            let names = fs::read_dir(&packs).expect("listable").map(|entry| entry.expect("listed").file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().expect("UTF-8")).collect();
            names.sort();
            names
        };
        let first = enter(directory.path()).expect("lockable");
        assert_eq!(left(), ["#", "a.pack", "c#x", "d#"]);
        put("e.pack#12");
        let second = enter(directory.path()).expect("lockable");
        assert_eq!(left(), ["#", "a.pack", "c#x", "d#", "e.pack#12"], "the first may be writing it");
        drop((first, second));
        let _third = enter(directory.path()).expect("lockable");
        assert_eq!(left(), ["#", "a.pack", "c#x", "d#"]);
    }
}
