//! Reads a file at a given position, without moving the file's own position.
//!
//! *Used by* every layer that reads parts of files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fills as much of `buffer` as the file has from `offset` on; returns the number of bytes, which is smaller than the buffer
/// only at the end of the file.
///
/// # Errors
/// Those of `pread(2)`.
pub(crate) fn read_from(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(length) => done += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
