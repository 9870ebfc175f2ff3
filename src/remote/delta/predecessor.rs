//! Finds the older file that a new file probably came from.
//!
//! The search order is: the file at the same path; the one file whose path is equal when numbers are ignored
//! (`/lib/modules/6.1.0-18/…` and `/lib/modules/6.1.0-21/…`, `libssl.so.3.0.11` and `libssl.so.3.0.15`); a file of the
//! same name whose size is near. A wrong guess costs some bytes and nothing else.
//!
//! *Used by* `write`.

use std::collections::{HashMap, HashSet};

use crate::image::{Image, ImageError};
use crate::model::{FileKind, ObjectId};

/// A new object and its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectPair {
    /// Index in the new image.
    pub new: u32,
    /// Index in the old image.
    pub old: u32,
}

/// A file of the old image.
#[derive(Debug, Clone, Copy)]
struct OldFile {
    object: u32,
    size: u64,
}

/// The old files by their paths and names.
#[derive(Default)]
struct PredecessorIndex {
    paths: HashMap<Vec<u8>, OldFile>,
    without_numbers: HashMap<Vec<u8>, Vec<OldFile>>,
    names: HashMap<Vec<u8>, Vec<OldFile>>,
}

/// Returns each object of `new` that is not in `old` and has a likely predecessor, with that predecessor; in the order
/// of the new image.
///
/// # Errors
/// [`ImageError`] when either image is damaged.
pub(crate) fn find_pairs(old: &Image, new: &Image) -> Result<Vec<ObjectPair>, ImageError> {
    let known: HashSet<ObjectId> = old.objects()?.collect();
    let ids: Vec<ObjectId> = new.objects()?.collect();
    let index = PredecessorIndex::of(old)?;
    let mut done = vec![false; ids.len()];
    let mut pairs = Vec::new();
    for_each_file(new, &mut |path, object, size| {
        let Some(done) = done.get_mut(object as usize).filter(|done| !**done) else { return };
        *done = true;
        if known.contains(&ids[object as usize]) {
            return;
        }
        if let Some(old) = index.find(path, size) {
            pairs.push(ObjectPair { new: object, old: old.object });
        }
    })?;
    pairs.sort_unstable_by_key(|pair| pair.new);
    Ok(pairs)
}

impl PredecessorIndex {
    fn of(old: &Image) -> Result<Self, ImageError> {
        let mut index = Self::default();
        for_each_file(old, &mut |path, object, size| {
            let old = OldFile { object, size };
            index.paths.insert(path.to_vec(), old);
            index.without_numbers.entry(without_numbers(path)).or_default().push(old);
            index.names.entry(without_numbers(file_name(path))).or_default().push(old);
        })?;
        Ok(index)
    }

    fn find(&self, path: &[u8], size: u64) -> Option<OldFile> {
        if let Some(old) = self.paths.get(path) {
            return Some(*old);
        }
        let alike = self.without_numbers.get(&without_numbers(path));
        if let Some(old) = alike.and_then(|alike| nearest(alike, size)) {
            return Some(old);
        }
        let same_name = self.names.get(&without_numbers(file_name(path)))?;
        // Many files have the name `__init__.py`; only one of similar size is likely to be the predecessor.
        nearest(same_name, size).filter(|old| old.size.abs_diff(size) <= size / 4)
    }
}

fn nearest(candidates: &[OldFile], size: u64) -> Option<OldFile> {
    candidates.iter().min_by_key(|old| (old.size.abs_diff(size), old.object)).copied()
}

/// Calls `callback` with path, object and size of each regular file that has content.
fn for_each_file(image: &Image, callback: &mut dyn FnMut(&[u8], u32, u64)) -> Result<(), ImageError> {
    image.walk::<ImageError>(image.root(), &mut |path, ino, kind| {
        if kind == FileKind::Regular
            && let Some(object) = image.object_index(ino)?
        {
            callback(&path.to_bytes(), object, image.attributes(ino)?.size);
        }
        Ok(())
    })
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Returns the path with every run of digits, and of dots between digits, replaced by one `#`.
fn without_numbers(path: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(path.len());
    for (at, byte) in path.iter().enumerate() {
        let is_digit = |at: usize| path.get(at).is_some_and(u8::is_ascii_digit);
        let joins = *byte == b'.' && at > 0 && is_digit(at - 1) && is_digit(at + 1);
        match (byte.is_ascii_digit() || joins, result.last()) {
            (true, Some(b'#')) => {}
            (true, _) => result.push(b'#'),
            (false, _) => result.push(*byte),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_without_numbers_has_one_mark_for_each_version() {
        for (path, expected) in [
            ("/lib/modules/6.1.0-18-amd64/kernel/fs/ext4.ko", "/lib/modules/#-#-amd#/kernel/fs/ext#.ko"),
            ("/usr/lib/libssl.so.3.0.11", "/usr/lib/libssl.so.#"),
            ("/usr/bin/env", "/usr/bin/env"),
            ("v1.x", "v#.x"),
        ] {
            assert_eq!(String::from_utf8(without_numbers(path.as_bytes())).expect("ASCII"), expected);
        }
    }

    #[test]
    fn predecessor_search_tries_path_then_numbers_then_name() {
        let mut index = PredecessorIndex::default();
        let mut add = |path: &str, object, size| {
            let old = OldFile { object, size };
            index.paths.insert(path.into(), old);
            index.without_numbers.entry(without_numbers(path.as_bytes())).or_default().push(old);
            index.names.entry(without_numbers(file_name(path.as_bytes()))).or_default().push(old);
        };
        add("/lib/modules/6.1.0-18/ext4.ko", 1, 1000);
        add("/lib/modules/6.1.0-17/ext4.ko", 2, 900);
        add("/usr/bin/tool", 3, 500);
        add("/a/__init__.py", 4, 100);
        for (path, size, expected) in [
            ("/usr/bin/tool", 9, Some(3)),
            ("/lib/modules/6.1.0-21/ext4.ko", 1001, Some(1)),
            ("/lib/modules/6.1.0-21/ext4.ko", 901, Some(2)),
            ("/usr/sbin/tool", 520, Some(3)),
            ("/b/__init__.py", 110, Some(4)),
            ("/b/__init__.py", 300, None),
            ("/new", 1, None),
        ] {
            assert_eq!(index.find(path.as_bytes(), size).map(|old| old.object), expected, "{path} {size}");
        }
    }
}
