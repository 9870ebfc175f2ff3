//! Finds where a file has data and where it has holes.
//!
//! *Used by* `compose`, which reads directories.

use std::fs::File;
use std::io;

use rustix::fs::SeekFrom;

/// Returns the runs of data of a file of `size` bytes as `(offset, length)`, ascending and not touching; `None` when the file
/// has no hole. Moves the file's position.
///
/// # Errors
/// Those of `lseek(2)`. A filesystem without support for holes reports one run.
pub(crate) fn data_extents(file: &File, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    let mut extents = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start.min(size),
            // No data up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            Err(error) => return Err(error.into()),
        };
        if end <= start {
            break;
        }
        extents.push((start, end - start));
        position = end;
    }
    let dense = size == 0 || extents == [(0, size)];
    Ok((!dense).then_some(extents))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn data_extents_lists_data_between_holes() {
        let file = tempfile::tempfile_in(".").expect("a temporary file");
        file.set_len(1 << 20).expect("extended");
        assert_eq!(data_extents(&file, 1 << 20).expect("seekable"), Some(vec![]));
        file.write_all_at(&[1; 4096], 256 << 10).expect("written");
        assert_eq!(data_extents(&file, 1 << 20).expect("seekable"), Some(vec![(256 << 10, 4096)]));
        file.write_all_at(&vec![1; 1 << 20], 0).expect("written");
        assert_eq!(data_extents(&file, 1 << 20).expect("seekable"), None);
    }
}
