//! Where the processes of a mount keep what they have at run time, and what they are called.
//!
//! *Used by* the other files of this folder, and by the verbs of `cli` that find mounts.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::registry::Registry;
use crate::disk::is_own_directory;

/// The name of the processes behind a mount. As root it is preceded by `@`, which makes systemd spare them at shutdown until
/// their filesystem is no longer needed.
pub(crate) const PROCESS_NAME: &str = "sapwood-mount";

/// The subcommand of the process that writes to the repository for a worker.
pub(super) const BROKER_SUBCOMMAND: &str = "broker";

/// Returns the name of the processes behind a mount.
pub(super) fn process_name() -> String {
    let mark = if nix::unistd::geteuid().is_root() { "@" } else { "" };
    format!("{mark}{PROCESS_NAME}")
}

/// Returns the list of this user's mounts.
pub(crate) fn registry() -> Registry {
    Registry::new(runtime_directory().join("running"))
}

/// Makes the directory for runtime files, unless it exists, and returns it.
///
/// # Errors
/// When it cannot be made, or is no directory that only this user can change: links could be put into it.
pub(crate) fn make_runtime_directory() -> io::Result<PathBuf> {
    let directory = runtime_directory();
    let mode = if nix::unistd::geteuid().is_root() { 0o755 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(&directory)?;
    if is_own_directory(&directory)? { Ok(directory) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Returns the directory for runtime files: `/run/sapwood` for root; for other users, root of a user namespace included, a
/// directory below `XDG_RUNTIME_DIR`, else below the temporary directory. Root of a user namespace without that variable, as in
/// containers, has `/run/sapwood`, too.
pub(crate) fn runtime_directory() -> PathBuf {
    let user = nix::unistd::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory: &OsString| !directory.is_empty()) {
        Some(directory) if !user.is_root() || is_in_user_namespace() => PathBuf::from(directory).join("sapwood"),
        _ if user.is_root() => PathBuf::from("/run/sapwood"),
        _ => std::env::temp_dir().join(format!("sapwood-{user}")),
    }
}

/// Returns whether this process is in a user namespace that does not have all users of the machine as they are.
fn is_in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}
