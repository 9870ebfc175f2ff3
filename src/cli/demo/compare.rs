//! The comparison of two directory trees: every entry, every attribute, every byte. It also has the two loads that the
//! demonstration measures, `walk` and `read_everything`.
//!
//! *Used by* `demo::mod`.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

use crate::disk;

/// The number of bytes that are read and compared at a time.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// The result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// The number of regular files that were compared.
    pub(crate) files: u64,
    /// The number of bytes in them.
    pub(crate) bytes: u64,
    /// A text for each difference.
    pub(crate) differences: Vec<String>,
}

/// Compares everything below `left` and `right`, with one thread for each processor.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn compare(left: &Path, right: &Path) -> Result<Comparison> {
    let (left_paths, right_paths) = (list(left)?, list(right)?);
    let differences = Mutex::new(Vec::new());
    let note = |text: String| {
        if let Ok(mut list) = differences.lock() {
            list.push(text);
        }
    };
    for path in missing(&left_paths, &right_paths) {
        note(format!("{} is missing in the mount", path.display()));
    }
    for path in missing(&right_paths, &left_paths) {
        note(format!("{} is only in the mount", path.display()));
    }
    let (next, files, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> Result<()> {
        let mut buffers = [vec![0; READ_BUFFER_BYTES], vec![0; READ_BUFFER_BYTES]];
        while let Some(path) = left_paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            if right_paths.binary_search(path).is_err() {
                continue;
            }
            let pair = (left.join(path), right.join(path));
            let (difference, length) = compare_entry(&pair.0, &pair.1, &mut buffers)
                .with_context(|| format!("cannot compare {}", pair.0.display()))?;
            if let Some(what) = difference {
                note(format!("{}: {what}", path.display()));
            }
            if let Some(length) = length {
                files.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(length, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let differences = differences.into_inner().unwrap_or_default();
    Ok(Comparison { files: files.into_inner(), bytes: bytes.into_inner(), differences })
}

fn missing<'a>(paths: &'a [PathBuf], others: &'a [PathBuf]) -> impl Iterator<Item = &'a PathBuf> {
    paths.iter().filter(|path| others.binary_search(path).is_err())
}

/// Returns all paths below `top`, relative to it, in ascending order.
fn list(top: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let full = top.join(&directory);
        for entry in fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                pending.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

/// Returns what differs between two entries, if anything, and the number of bytes compared if they are files.
fn compare_entry(left: &Path, right: &Path, buffers: &mut [Vec<u8>; 2]) -> Result<(Option<&'static str>, Option<u64>)> {
    let (a, b) = (fs::symlink_metadata(left)?, fs::symlink_metadata(right)?);
    let checks: [(&str, fn(&Metadata) -> i128); 6] = [
        ("mode", |m| m.mode().into()),
        ("owner", |m| m.uid().into()),
        ("group", |m| m.gid().into()),
        ("mtime", |m| i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec())),
        ("device number", |m| m.rdev().into()),
        // The size of a directory means something else on each filesystem. So does its link count, which is not compared.
        ("size", |m| if m.is_dir() { 0 } else { m.size().into() }),
    ];
    if let Some((what, _)) = checks.into_iter().find(|(_, value)| value(&a) != value(&b)) {
        return Ok((Some(what), None));
    }
    if a.is_symlink() && fs::read_link(left)? != fs::read_link(right)? {
        return Ok((Some("link target"), None));
    }
    if xattrs(left)? != xattrs(right)? {
        return Ok((Some("extended attributes"), None));
    }
    if !a.is_file() {
        return Ok((None, None));
    }
    let (mut a, mut b) = (File::open(left)?, File::open(right)?);
    let mut length = 0;
    loop {
        let [first, second] = buffers;
        let read = fill(&mut a, first)?;
        if fill(&mut b, second)? != read || first[..read] != second[..read] {
            return Ok((Some("content"), Some(length)));
        }
        length += read as u64;
        if read < READ_BUFFER_BYTES {
            return Ok((None, Some(length)));
        }
    }
}

fn xattrs(path: &Path) -> Result<Vec<impl Ord + use<>>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let mut pairs = disk::read_xattrs(disk::open_directory(parent)?, name.as_encoded_bytes())?;
    pairs.sort();
    Ok(pairs)
}

fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..])? {
            0 => break,
            length => done += length,
        }
    }
    Ok(done)
}

/// Reads the attributes of every entry below `top`, as `find -size` does, and returns the number of entries.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn walk(top: &Path) -> Result<u64> {
    let mut count = 0;
    let mut pending = vec![top.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            count += 1;
            if entry.metadata()?.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    Ok(count)
}

/// Reads every regular file below `top` and returns the number of bytes.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn read_everything(top: &Path) -> Result<u64> {
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    let mut bytes = 0;
    let mut pending = vec![top.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let mut file = File::open(entry.path())?;
                loop {
                    let read = file.read(&mut buffer)?;
                    bytes += read as u64;
                    if read == 0 {
                        break;
                    }
                }
            }
        }
    }
    Ok(bytes)
}
