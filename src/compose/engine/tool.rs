//! Functions that both engines need: finding programs, files, checksums.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::super::inputs;
use super::{EngineError, Runner};
use crate::disk::{self, Lock, Wait};

/// Returns the path of the program `name`: in the search path, or in the directories for administrators' programs.
///
/// # Errors
/// [`EngineError::Missing`] names the Debian package that contains it.
pub(crate) fn find_program(name: &str, package: &'static str, purpose: &'static str) -> Result<PathBuf, EngineError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from));
    let mut candidates = directories.map(|directory| directory.join(name));
    candidates.find(|file| file.is_file()).ok_or_else(|| EngineError::Missing {
        program: name.to_owned(),
        package,
        purpose,
    })
}

/// Returns a function that makes an [`EngineError::Io`] about `path`.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError + use<> {
    let path = path.to_owned();
    move |source| EngineError::Io { action, path, source }
}

/// Makes a directory and its parents.
pub(crate) fn make_directory(path: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(path).map_err(io_error("make", path))
}

/// Writes a file of the engine's own. It is not synced: the next compose writes it again.
pub(crate) fn write_file(path: &Path, text: impl AsRef<[u8]>) -> Result<(), EngineError> {
    path.parent().map_or(Ok(()), make_directory)?;
    let written = File::create(path).and_then(|mut file| io::Write::write_all(&mut file, text.as_ref()));
    written.map_err(io_error("write", path))
}

/// Copies a regular file, and returns its size in bytes.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<u64, EngineError> {
    let mut source = disk::open_regular_file(from).map_err(io_error("read", from))?;
    let mut copy = File::create(to).map_err(io_error("write", to))?;
    io::copy(&mut source, &mut copy).map_err(io_error("copy", from))
}

/// Writes a program of the engine's own.
pub(crate) fn write_program(path: &Path, text: &str) -> Result<(), EngineError> {
    write_file(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error("make executable", path))
}

/// The most bytes of a text file that are read. The largest are dpkg's lists, of some megabytes; a script may have made a sparse
/// file of any size.
const TEXT_MAX: u64 = 256 << 20;

/// Reads a regular file of limited size.
pub(crate) fn read_limited(path: &Path) -> Result<Vec<u8>, EngineError> {
    let mut bytes = Vec::new();
    let read = disk::open_regular_file(path).and_then(|file| file.take(TEXT_MAX + 1).read_to_end(&mut bytes));
    match read.map_err(io_error("read", path))? as u64 {
        0..=TEXT_MAX => Ok(bytes),
        _ => Err(io_error("read", path)(io::ErrorKind::FileTooLarge.into())),
    }
}

/// Reads a text file of limited size; bytes that are not UTF-8 are replaced.
pub(crate) fn read_lossy(path: &Path) -> Result<String, EngineError> {
    Ok(String::from_utf8_lossy(&read_limited(path)?).into_owned())
}

/// Returns a directory of a root under a path of this machine that has no links; `None` if it does not exist. Links are resolved
/// inside the root: a package may have made them.
pub(crate) fn directory_in_root(root: &Path, place: &str) -> Result<Option<PathBuf>, EngineError> {
    let top = disk::open_directory(root).map_err(io_error("open", root))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(found) = rustix::fs::openat2(&top, place, flags, Mode::empty(), ResolveFlags::IN_ROOT) else {
        return Ok(None);
    };
    let link = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    fs::read_link(&link).map(Some).map_err(io_error("find", &link))
}

/// Returns whether a path is a regular file, and no link to one.
pub(crate) fn is_plain_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Locks `path` in the cache against other composes, waiting until it is free. `what` says for the notice what the other compose
/// does.
pub(crate) fn wait_for_lock(runner: Runner<'_>, path: &Path, what: &str) -> Result<Lock, EngineError> {
    // The process id of the holder would be one of another pid namespace, so it is not shown.
    let announce = |_: &str| runner.note(&format!("waiting for another compose, which {what}"));
    Ok(Lock::exclusive(path, Wait::Announced(&announce))?)
}

/// Returns the SHA-256 of a file in hex.
pub(crate) fn file_sha256(path: &Path) -> Result<String, EngineError> {
    let digest = inputs::file_digest(path).map_err(io_error("read", path))?;
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
