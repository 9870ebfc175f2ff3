//! Reads and raises the limit of files that this process may have open at a time.
//!
//! *Not here*: which files are kept open (`store`).
//!
//! *Invariants*: the limit is only ever raised.
//!
//! *Used by* `cli` when a program starts, and by `store` for the number of files it keeps open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The highest limit that is requested. Child processes inherit the limit, and some programs close every number up to it.
const DESCRIPTORS_MAX: u64 = 1 << 16;

/// Raises the soft limit of open files to [`DESCRIPTORS_MAX`], or to the hard limit if that is lower. The usual soft limit of
/// 1,024 exists for programs that call `select(2)`, which this one does not.
///
/// # Errors
/// Those of `setrlimit(2)`; the limit is then as it was.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS_MAX, |hard| hard.min(DESCRIPTORS_MAX));
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?)
}

/// Returns how many files this process may have open at a time.
pub(crate) fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
