//! Uploads files whose names are digests of their contents, unless they exist at the destination.
//!
//! *Used by* `publish`.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::error::PublishError;
use super::progress::PublishProgress;
use crate::remote::transport::{Transport, WriteCondition};

/// Uploads bytes, unless a file of this name and length exists.
pub(super) fn put_immutable(
    transport: &Transport,
    path: &str,
    bytes: Vec<u8>,
    progress: &PublishProgress,
) -> Result<(), PublishError> {
    let length = bytes.len() as u64;
    if transport.length(path)? == Some(length) {
        progress.add_already_there(length);
    } else {
        transport.put(path, bytes.into(), &WriteCondition::Overwrite)?;
    }
    Ok(())
}

/// Uploads an unnamed local file, unless a file of this name and length exists.
pub(super) fn put_immutable_file(
    transport: &Transport,
    path: &str,
    file: &File,
    length: u64,
    progress: &PublishProgress,
) -> Result<(), PublishError> {
    if transport.length(path)? == Some(length) {
        progress.add_already_there(length);
    } else {
        // This path leads to the unnamed file while it is open.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        transport.put_file(path, Path::new(&name), &|_| {})?;
    }
    Ok(())
}
