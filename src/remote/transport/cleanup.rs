//! Removes what killed publishers leave in a directory: files that were never renamed to their final name.
//!
//! Every publisher holds a shared lock while it writes. The first one to arrive gets the lock exclusively for a moment;
//! then no other process writes, and unfinished files will never be finished.
//!
//! *Used by* `write`.

use std::fs;
use std::io;
use std::path::Path;

use crate::disk::{Lock, LockError, Wait};

/// The file that is locked.
const UPLOADS_LOCK: &str = ".uploads.lock";

/// Removes unfinished files if no other process writes to `directory`, and returns the lock that announces to others
/// that this process writes.
///
/// # Errors
/// [`LockError`] when the directory cannot be locked. A failure to remove files is only logged.
pub(super) fn clean_and_lock(directory: &Path) -> Result<Lock, LockError> {
    let path = directory.join(UPLOADS_LOCK);
    fs::create_dir_all(directory).map_err(|source| LockError::Io { path: path.clone(), source })?;
    match Lock::exclusive(&path, Wait::No) {
        Ok(_alone) => {
            if let Err(error) = remove_unfinished(directory) {
                tracing::warn!("{}: {error}: unfinished uploads were not removed", directory.display());
            }
        }
        Err(LockError::Held { .. }) => {}
        Err(error) => return Err(error),
    }
    Lock::shared(&path, Wait::Announced(&|_| {}))
}

fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            remove_unfinished(&entry.path())?;
        } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
            tracing::info!("{} was never finished and is removed", entry.path().display());
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns whether a name is that of an unfinished file. The object store writes to `NAME#1` before it renames; no
/// published file has such a name.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_files_are_removed_unless_another_process_writes() {
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
        let first = clean_and_lock(directory.path()).expect("lockable");
        assert_eq!(left(), ["#", "a.pack", "c#x", "d#"]);
        put("e.pack#12");
        let second = clean_and_lock(directory.path()).expect("lockable");
        assert_eq!(left(), ["#", "a.pack", "c#x", "d#", "e.pack#12"], "the first may be writing it");
        drop((first, second));
        let _third = clean_and_lock(directory.path()).expect("lockable");
        assert_eq!(left(), ["#", "a.pack", "c#x", "d#"]);
    }
}
