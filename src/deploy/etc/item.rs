//! The values of a configuration tree: entries, paths and trees, as the merge compares and plans them.
//!
//! *Not here*: reading a tree (`scan`) and writing one (`apply`). Everything in this file is pure.
//!
//! *Used by* the other modules of `etc`, by `deploy` and `cli`.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::image::Aspect;
use crate::model::{DeviceNumber, ObjectId, Timestamp, Xattrs};

/// A path below `/etc`: names joined by `/`, without a leading one; `/etc` itself is empty. In bytewise order a directory comes
/// before its entries.
pub(crate) type EtcPath = Box<[u8]>;

/// The largest file in bytes that is merged by line or by entry; larger files are kept or taken as a whole. Files of
/// configuration that people write are far smaller.
pub(crate) const MERGED_BYTES_MAX: u64 = 16 << 20;

/// The kind and the content of an entry, without its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A directory. Its entries are separate paths of the tree.
    Directory,
    /// A regular file.
    File {
        /// The digest of the content, also of an empty one.
        content: ObjectId,
        /// The length in bytes.
        size: u64,
    },
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    Socket,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
}

impl Body {
    /// Returns whether this is a file that is small enough to be merged in memory.
    pub(crate) const fn is_mergeable(&self) -> bool {
        matches!(self, Self::File { size, .. } if *size <= MERGED_BYTES_MAX)
    }

    /// Returns whether this is a directory.
    pub(crate) const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }

    /// Returns whether both are of the same kind, so that their modes can be compared.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Returns the aspect in which the two differ; `None` if they are equal.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<Aspect> {
        if self == other {
            return None;
        }
        Some(match self {
            _ if !self.is_like(other) => Aspect::Type,
            Self::File { .. } => Aspect::Content,
            Self::Symlink(_) => Aspect::Target,
            _ => Aspect::Device,
        })
    }
}

/// The owner of an entry, as user and group id.
pub(crate) type Owner = (u32, u32);

/// One entry of a configuration tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// The kind and the content.
    pub(crate) body: Body,
    /// The lower 12 bits of the mode; always 0777 for a symbolic link.
    pub(crate) mode: u16,
    /// The owner; `None` if owners are ignored, since only root can change them.
    pub(crate) owner: Option<Owner>,
    /// The extended attributes.
    pub(crate) xattrs: Xattrs,
    /// The time of the last change of the content.
    pub(crate) mtime: Timestamp,
    /// A number for hard links: entries with the same number are one inode.
    pub(crate) link: Option<u64>,
}

impl Item {
    /// Returns the aspects in which the entry differs from `other`. Times and hard links are not compared.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Aspect> {
        let mut found: Vec<Aspect> = self.body.difference(&other.body).into_iter().collect();
        if found == [Aspect::Type] {
            return found;
        }
        if self.mode != other.mode {
            found.push(Aspect::Mode);
        }
        if !is_same_owner(self.owner, other.owner) {
            found.push(Aspect::Owner);
        }
        if self.xattrs != other.xattrs {
            found.push(Aspect::Xattrs);
        }
        found
    }

    /// Returns whether the entry is the same as `other`. Times and hard links are not compared.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.differences(other).is_empty()
    }
}

/// Returns whether two owners are the same. An ignored owner is the same as any other.
pub(super) fn is_same_owner(a: Option<Owner>, b: Option<Owner>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// A configuration tree: either empty, or with an entry for `/etc` itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct EtcTree {
    /// The entries by path.
    pub(crate) entries: BTreeMap<EtcPath, Item>,
}

impl EtcTree {
    /// Returns the entry at a path.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Item> {
        self.entries.get(path)
    }

    /// Returns the entries at and below `path`.
    pub(crate) fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a EtcPath, &'a Item)> {
        let from = (Bound::Included(path), Bound::Unbounded);
        let is_inside = |found: &[u8]| path.is_empty() || found.len() == path.len() || found[path.len()] == b'/';
        let same_prefix = self.entries.range::<[u8], _>(from).take_while(move |(found, _)| found.starts_with(path));
        same_prefix.filter(move |(found, _)| is_inside(found))
    }
}

/// Returns the path of the directory that holds `path`; `None` for `/etc` itself.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some(&path[..slash]),
        None if path.is_empty() => None,
        None => Some(b""),
    }
}

/// Returns a path as a text that [`path_from_text`] parses. Bytes that are not UTF-8, control characters and backslashes are
/// escaped.
pub(crate) fn path_to_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                character.to_string().bytes().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// Parses a text that [`path_to_text`] returned.
pub(crate) fn path_from_text(text: &str) -> EtcPath {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").filter(|_| first == b'\\').and_then(|after| after.get(..2));
        let byte =
            digits.and_then(|digits| std::str::from_utf8(digits).ok()).map(|digits| u8::from_str_radix(digits, 16));
        match byte {
            Some(Ok(byte)) => {
                path.push(byte);
                rest = &after[3..];
            }
            _ => {
                path.push(first);
                rest = after;
            }
        }
    }
    path.into()
}

#[cfg(test)]
pub(super) mod examples {
    use super::*;

    pub(crate) fn file(content: &str) -> Item {
        let body = Body::File { content: ObjectId::of(content.as_bytes()), size: content.len() as u64 };
        item(body, 0o644)
    }

    pub(crate) fn item(body: Body, mode: u16) -> Item {
        Item { body, mode, owner: Some((0, 0)), xattrs: Xattrs::default(), mtime: Timestamp::default(), link: None }
    }

    pub(crate) fn directory() -> Item {
        item(Body::Directory, 0o755)
    }

    pub(crate) fn symlink(target: &str) -> Item {
        item(Body::Symlink(target.as_bytes().into()), 0o777)
    }

    /// Returns a tree of these entries with all their parent directories.
    pub(crate) fn tree(entries: &[(&str, Item)]) -> EtcTree {
        let mut tree = EtcTree::default();
        tree.entries.insert(b"".as_slice().into(), directory());
        for (path, item) in entries {
            let mut above = parent(path.as_bytes());
            while let Some(path) = above {
                tree.entries.entry(path.into()).or_insert_with(directory);
                above = parent(path);
            }
            tree.entries.insert(path.as_bytes().into(), item.clone());
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{file, tree};
    use super::*;

    #[test]
    fn below_excludes_names_with_the_same_prefix() {
        let tree = tree(&[("a", file("")), ("b/c", file("")), ("b-d", file("")), ("b/e/f", file(""))]);
        let below = |path: &str| -> Vec<String> {
            let paths = tree.below(path.as_bytes()).map(|(path, _)| String::from_utf8_lossy(path).into_owned());
            paths.collect()
        };
        assert_eq!(below("b"), ["b", "b/c", "b/e", "b/e/f"]);
        assert_eq!(below("a"), ["a"]);
        assert_eq!(below("").len(), tree.entries.len());
        assert_eq!(parent(b"b/e/f"), Some(&b"b/e"[..]));
        assert_eq!((parent(b"b"), parent(b"")), (Some(&b""[..]), None));
    }

    #[test]
    fn paths_round_trip_through_text() {
        for path in [&b"a/b"[..], "ä".as_bytes(), b"a\\x41", b"\xff\n", b"\\", b"x\\"] {
            let text = path_to_text(path);
            assert!(!text.contains(char::is_control));
            assert_eq!(*path_from_text(&text), *path, "{text}");
        }
        assert_eq!(path_to_text(b"a b\n"), "a b\\x0a");
    }
}
