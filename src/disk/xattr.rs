//! Reads the extended attributes of an entry of an open directory, without following symbolic links.
//!
//! The kernel has no `lgetxattrat` before 6.13. The path `/proc/self/fd/N/name` reaches any entry without a long path and
//! without opening it: a fifo, a device or a symbolic link cannot be opened for this.
//!
//! *Used by* `disk::entry`, `compose` and `deploy`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

/// Name and value of one attribute.
pub(crate) type XattrPair = (Box<[u8]>, Box<[u8]>);

/// Returns all extended attributes of the entry `name` of `directory`, or of the directory itself when `name` is empty, except
/// those that the kernel hides from this process. The list is empty on a filesystem without extended attributes.
///
/// # Errors
/// Those of `llistxattr(2)` and `lgetxattr(2)`.
pub(crate) fn read_xattrs(directory: impl AsFd, name: &[u8]) -> io::Result<Vec<XattrPair>> {
    let path = proc_path(&directory, name);
    let mut names = vec![0; 256];
    let length = loop {
        match rustix::fs::llistxattr(&path, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < 1 << 20 => names.resize(names.len() * 4, 0),
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    };
    let mut pairs = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if let Some(value) = read_value(&path, name)? {
            pairs.push((name.into(), value));
        }
    }
    Ok(pairs)
}

fn read_value(path: &PathBuf, name: &[u8]) -> io::Result<Option<Box<[u8]>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value.into_boxed_slice()));
            }
            Err(Errno::RANGE) if value.len() < 1 << 20 => value.resize(value.len() * 16, 0),
            // The attribute was removed since it was listed.
            Err(Errno::NODATA) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns a path of any entry of an open directory, however deep that is; of the directory itself when `name` is empty.
pub(super) fn proc_path(directory: impl AsFd, name: &[u8]) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    PathBuf::from(OsString::from_vec(path))
}
