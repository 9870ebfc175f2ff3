//! Computes the digests by which `diff` recognises equal subtrees. `layout` specifies what is hashed.
//!
//! *Used by* `image::encode`, which stores the digests, and `image::verify`, which compares them.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::contents::object;
use super::view::{ImageView, lower, upper};
use super::xattrs::XattrSet;
use crate::model::{FileKind, SubtreeId};

/// Computes the digest of every directory, in the order of the `directories` section.
pub(super) fn digests(view: ImageView<'_>) -> Result<Vec<SubtreeId>, ImageError> {
    let directories = view.sections.directories.all(view.bytes)?;
    let mut digests = vec![SubtreeId::from_bytes([0; 32]); directories.len()];
    let mut state = DigestState {
        xattr_set_digests: HashMap::new(),
        path_digests: HashMap::from([(0, [0; 32])]),
        record: Vec::new(),
    };
    // Children have larger numbers, so in descending order the digests of a directory's subdirectories are ready before it.
    for number in (0..digests.len()).rev() {
        let directory = view.sections.directories.get(view.bytes, number)?;
        state.record.clear();
        // The subdirectories of one directory are consecutive in the section of directories.
        let children = view.children(directory)?;
        let mut subdirectory = view.sections.directories.partition_point(view.bytes, |found| found < children.start)?;
        for child in children {
            state.record_common(view, child)?;
            if view.kind(child)? == FileKind::Directory {
                state.record.extend_from_slice(digests.get(subdirectory).map_or(&[0; 32], |digest| digest.as_bytes()));
                subdirectory += 1;
            } else {
                state.record_payload(view, child)?;
            }
        }
        digests[number] = SubtreeId::of(&state.record);
    }
    Ok(digests)
}

struct DigestState {
    /// Digests of sets of extended attributes, by number: a set may be large and shared by many.
    xattr_set_digests: HashMap<u32, [u8; 32]>,
    /// Path digests of the ancestors of hard links, by entry.
    path_digests: HashMap<u32, [u8; 32]>,
    /// The records of the children so far.
    record: Vec<u8>,
}

impl DigestState {
    /// Appends the fields that every kind has.
    fn record_common(&mut self, view: ImageView<'_>, entry: u32) -> Result<(), ImageError> {
        let name = view.raw_name(entry)?;
        let name_length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        let mtime = view.mtime(entry)?;
        self.record.extend_from_slice(&name_length.to_le_bytes());
        self.record.extend_from_slice(name);
        self.record.extend_from_slice(&view.mode(entry)?.to_le_bytes());
        self.record.extend_from_slice(&view.uid(entry)?.to_le_bytes());
        self.record.extend_from_slice(&view.gid(entry)?.to_le_bytes());
        self.record.extend_from_slice(&mtime.seconds.to_le_bytes());
        self.record.extend_from_slice(&mtime.nanoseconds.to_le_bytes());
        let set = self.xattr_set_digest(view, entry)?;
        self.record.extend_from_slice(&set);
        let links = if view.kind(entry)? == FileKind::Directory { 0 } else { view.links(entry)? };
        self.record.extend_from_slice(&links.to_le_bytes());
        if links > 1 {
            let path = self.path_digest(view, view.primary(entry)?)?;
            self.record.extend_from_slice(&path);
        }
        Ok(())
    }

    /// Appends the fields of the entry's kind, which is not a directory.
    fn record_payload(&mut self, view: ImageView<'_>, entry: u32) -> Result<(), ImageError> {
        match view.kind(entry)? {
            FileKind::Regular => {
                self.record.extend_from_slice(&view.size(entry)?.to_le_bytes());
                let object = object(view, entry)?;
                self.record.extend_from_slice(object.as_ref().map_or(&[0; 32], |object| object.as_bytes()));
                let extents = view.extents(view.primary(entry)?)?;
                let count = extents.map_or(0, |extents| extents.len() + 1);
                self.record.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
                for extent in extents.iter().flat_map(|extents| extents.iter()) {
                    self.record.extend_from_slice(&extent.offset.to_le_bytes());
                    self.record.extend_from_slice(&extent.length.to_le_bytes());
                }
            }
            FileKind::Symlink => {
                let target = view.target(entry)?;
                self.record.extend_from_slice(&u16::try_from(target.len()).unwrap_or(u16::MAX).to_le_bytes());
                self.record.extend_from_slice(target);
            }
            FileKind::CharDevice | FileKind::BlockDevice => {
                let data = view.data(entry)?;
                self.record.extend_from_slice(&lower(data).to_le_bytes());
                self.record.extend_from_slice(&upper(data).to_le_bytes());
            }
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => {}
        }
        Ok(())
    }

    /// Returns the digest of the extended attributes of `entry`.
    fn xattr_set_digest(&mut self, view: ImageView<'_>, entry: u32) -> Result<[u8; 32], ImageError> {
        let number = view.sections.xattrs.get_or_zero(view.bytes, entry as usize)?;
        if number == 0 {
            return Ok([0; 32]);
        }
        if let Some(digest) = self.xattr_set_digests.get(&number) {
            return Ok(*digest);
        }
        let digest = Sha256::digest(XattrSet::numbered(view, number, entry)?.as_bytes()).into();
        self.xattr_set_digests.insert(number, digest);
        Ok(digest)
    }

    /// Returns the path digest of `entry`. Keeps the digests of its ancestors, so that many deep links cost no more than the
    /// directories that they are in.
    fn path_digest(&mut self, view: ImageView<'_>, entry: u32) -> Result<[u8; 32], ImageError> {
        let mut chain = Vec::new();
        let mut at = entry;
        let mut digest = loop {
            if let Some(digest) = self.path_digests.get(&at) {
                break *digest;
            }
            chain.push(at);
            at = view.parent(at)?;
        };
        for entry in chain.into_iter().rev() {
            digest = Sha256::new().chain_update(digest).chain_update(view.raw_name(entry)?).finalize().into();
            self.path_digests.insert(entry, digest);
        }
        Ok(digest)
    }
}
