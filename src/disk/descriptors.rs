//! Purpose: how many files this process may have open at a time.
//!
//! Not here: which files are kept open (`store`). Invariant: the limit is only ever raised. Used by: `cli` when a program
//! starts, `store` for the number of files it keeps open.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that is asked for. Child processes inherit the limit, and some programs close every number up to it.
const ENOUGH: u64 = 1 << 16;

/// Raises the soft limit of open files as far as the hard limit lets it. The usual soft limit of 1,024 is there for
/// programs that call `select(2)`, which this one does not.
///
/// # Errors
/// Those of `setrlimit(2)`; the limit is then as it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |hard| hard.min(ENOUGH));
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?)
}

/// Returns how many files this process may have open at a time.
#[must_use]
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
