//! Sending files whose names tell their contents: what is there already is not sent again.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::error::PublishError;
use super::progress::PublishProgress;
use crate::remote::transport::{Put, Transport};

/// Sends bytes, unless they are there.
pub(super) fn put_immutable(
    transport: &Transport,
    path: &str,
    bytes: Vec<u8>,
    progress: &PublishProgress,
) -> Result<(), PublishError> {
    let length = bytes.len() as u64;
    if transport.length(path)? == Some(length) {
        progress.was_there(length);
    } else {
        transport.put(path, bytes.into(), &Put::Overwrite)?;
    }
    Ok(())
}

/// Sends a file that has no name here, unless it is there.
pub(super) fn put_immutable_file(
    transport: &Transport,
    path: &str,
    file: &File,
    length: u64,
    progress: &PublishProgress,
) -> Result<(), PublishError> {
    if transport.length(path)? == Some(length) {
        progress.was_there(length);
    } else {
        // This is its name while it is open.
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        transport.put_file(path, Path::new(&name), &|_| {})?;
    }
    Ok(())
}
