//! A configuration tree as values: what the merge compares and plans. Pure.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::image::Aspect;
use crate::model::{DeviceNumber, ObjectId, Timestamp, Xattrs};

/// A path below `/etc`: names joined by `/`, none in front; `/etc` itself is empty. In bytewise order a directory comes
/// before what is in it.
pub type EtcPath = Box<[u8]>;

/// Files with more bytes are not merged but taken whole: those that people write are smaller by far.
pub const MERGED_MAX: u64 = 16 << 20;

/// What an entry is and holds, apart from its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A directory; its entries are further paths of the tree.
    Directory,
    /// A regular file, by the digest of its content.
    File {
        /// The digest, also of an empty content.
        content: ObjectId,
        /// Its length in bytes.
        size: u64,
    },
    /// A symbolic link and where it leads.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
}

impl Body {
    /// Whether it is a file that a merge may hold in memory.
    #[must_use]
    pub const fn is_mergeable(&self) -> bool {
        matches!(self, Self::File { size, .. } if *size <= MERGED_MAX)
    }

    /// Whether it is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }

    /// Whether two are of one kind, so that their modes mean the same.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// What differs between two, if anything does.
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

/// Who owns an entry, as user and group.
pub type Owner = (u32, u32);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is and holds.
    pub body: Body,
    /// The lower 12 bits of its mode; of a symbolic link always 0777.
    pub mode: u16,
    /// Its owner; `None` where that cannot be told from ours, since only root can give files away.
    pub owner: Option<Owner>,
    /// Its extended attributes.
    pub xattrs: Xattrs,
    /// When its content last changed.
    pub mtime: Timestamp,
    /// Entries with the same number are one inode.
    pub link: Option<u64>,
}

impl Item {
    /// What differs from `other`, its time and links left out.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Aspect> {
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

    /// Whether nothing differs from `other`, its time and links left out.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.differences(other).is_empty()
    }
}

/// An owner that cannot be told is like any other.
pub(super) fn is_same_owner(a: Option<Owner>, b: Option<Owner>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// A tree. Either empty, or with an entry for `/etc` itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EtcTree {
    /// Its entries by path.
    pub entries: BTreeMap<EtcPath, Item>,
}

impl EtcTree {
    /// One entry.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Item> {
        self.entries.get(path)
    }

    /// The paths at and below `path`.
    pub fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a EtcPath, &'a Item)> {
        let from = (Bound::Included(path), Bound::Unbounded);
        let inside = |found: &[u8]| path.is_empty() || found.len() == path.len() || found[path.len()] == b'/';
        let alike = self.entries.range::<[u8], _>(from).take_while(move |(found, _)| found.starts_with(path));
        alike.filter(move |(found, _)| inside(found))
    }
}

/// The directory that holds `path`; `None` for `/etc` itself.
#[must_use]
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Some(&path[..slash]),
        None if path.is_empty() => None,
        None => Some(b""),
    }
}

/// A path as a text that [`path_from_text`] reads back: what is no printable UTF-8 is escaped, and so is the backslash.
#[must_use]
pub fn path_to_text(path: &[u8]) -> String {
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

/// The path that a text stands for.
#[must_use]
pub fn path_from_text(text: &str) -> EtcPath {
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

    pub fn file(content: &str) -> Item {
        let body = Body::File { content: ObjectId::of(content.as_bytes()), size: content.len() as u64 };
        item(body, 0o644)
    }

    pub fn item(body: Body, mode: u16) -> Item {
        Item { body, mode, owner: Some((0, 0)), xattrs: Xattrs::default(), mtime: Timestamp::default(), link: None }
    }

    pub fn directory() -> Item {
        item(Body::Directory, 0o755)
    }

    pub fn symlink(target: &str) -> Item {
        item(Body::Symlink(target.as_bytes().into()), 0o777)
    }

    /// A tree of these entries with all directories above them.
    pub fn tree(entries: &[(&str, Item)]) -> EtcTree {
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
    fn subtrees_are_told_from_neighbours_with_the_same_beginning() {
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
    fn any_path_survives_its_text() {
        for path in [&b"a/b"[..], "ä".as_bytes(), b"a\\x41", b"\xff\n", b"\\", b"x\\"] {
            let text = path_to_text(path);
            assert!(!text.contains(char::is_control));
            assert_eq!(*path_from_text(&text), *path, "{text}");
        }
        assert_eq!(path_to_text(b"a b\n"), "a b\\x0a");
    }
}
