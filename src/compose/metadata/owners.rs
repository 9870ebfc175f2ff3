//! The index of owners: which package owns which path of an image.
//!
//! ```text
//! zstd of:  PATH <tab> PACKAGE[,PACKAGE…] <newline>      sorted by path, no directories
//! ```
//!
//! Paths are those of the image: a package's `/bin/ls` and `/etc/hosts` are `/usr/bin/ls` and `/usr/etc/hosts` here.
//!
//! *Used by* `pipeline`, which writes the index, and `cli/whence.rs`, which reads it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::engine::FileOwners;
use super::super::staged::{StagedTree, lossy_text};
use crate::model::NodeKind;

/// The path of the index in an image.
pub(crate) const OWNERS_FILE: &str = "/usr/share/sapwood/owners.zst";

const COMPRESSION_LEVEL: i32 = 12;

/// The largest index that is read, in bytes without compression.
const SIZE_MAX: usize = 512 << 20;

/// The index cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{OWNERS_FILE} is damaged")]
pub(crate) struct OwnerIndexError;

/// The most packages that own a directory below `/var` for which that says something.
const OWNERS_MAX: usize = 4;

/// Paths and the packages that own them; several packages are separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnerIndex(BTreeMap<Vec<u8>, String>);

impl OwnerIndex {
    /// Finds the paths that packages own in an image; paths that are missing there, and directories, are left out,
    /// except for those below `/var`.
    pub(crate) fn build(staged: &StagedTree, file_owners: &FileOwners) -> Self {
        let mut owners = BTreeMap::new();
        for (path, packages) in &file_owners.owners {
            let candidate = candidate_paths(path)
                .into_iter()
                .find(|candidate| staged.node(candidate).is_some_and(|node| node.kind != NodeKind::Directory));
            // What a machine makes by lines of tmpfiles.d is not in the tree.
            let made = || path.starts_with(b"/var/") && packages.len() <= OWNERS_MAX;
            if let Some(path) = candidate.or_else(|| made().then(|| path.clone())) {
                owners.insert(path, packages.join(","));
            }
        }
        Self(owners)
    }

    /// Returns the bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (path, packages) in &self.0 {
            // A path with a line break or a tab does not fit the format; it is left out.
            if !path.contains(&b'\n') && !path.contains(&b'\t') {
                text.extend([path.as_slice(), b"\t", packages.as_bytes(), b"\n"].concat());
            }
        }
        zstd::bulk::compress(&text, COMPRESSION_LEVEL).unwrap_or_default()
    }

    /// Parses the bytes of the file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, OwnerIndexError> {
        let text = zstd::bulk::decompress(bytes, frame_size(bytes)?).map_err(|_| OwnerIndexError)?;
        let mut owners = BTreeMap::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or(OwnerIndexError)?;
            let packages = std::str::from_utf8(&line[tab + 1..]).map_err(|_| OwnerIndexError)?;
            owners.insert(line[..tab].to_vec(), packages.to_owned());
        }
        Ok(Self(owners))
    }

    /// Returns the packages that own a path; for a directory those that own a path below it.
    pub(crate) fn owners(&self, path: &[u8]) -> Vec<&str> {
        if let Some(packages) = self.0.get(path) {
            return packages.split(',').collect();
        }
        let start = [path.strip_suffix(b"/").unwrap_or(path), b"/"].concat();
        let below = self.0.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let packages: BTreeSet<&str> = below.flat_map(|(_, packages)| packages.split(',')).collect();
        packages.into_iter().collect()
    }
}

/// Returns the length that the frame announces, if it is at most [`SIZE_MAX`].
fn frame_size(bytes: &[u8]) -> Result<usize, OwnerIndexError> {
    let announced = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten().ok_or(OwnerIndexError)?;
    usize::try_from(announced).ok().filter(|size| *size <= SIZE_MAX).ok_or(OwnerIndexError)
}

/// Returns the paths of the image that a package's path may have become, the most likely first.
pub(crate) fn candidate_paths(path: &[u8]) -> Vec<Vec<u8>> {
    let mut candidates = vec![path.to_vec()];
    let starts = |prefix: &[u8]| path.starts_with(prefix);
    if starts(b"/etc/")
        || ["/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"].iter().any(|old| starts(old.as_bytes()))
    {
        candidates.insert(0, [b"/usr", path].concat());
    }
    if starts(b"/opt/") {
        candidates.push([b"/usr/lib", path].concat());
    }
    if let Some(rest) = path.strip_prefix(b"/usr/local/") {
        candidates.push([b"/usr/lib/usrlocal/", rest].concat());
    }
    if starts(b"/var/") {
        candidates.push([b"/usr/share/factory", path].concat());
        if let Some(rest) = path.strip_prefix(b"/var/lib/dpkg") {
            candidates.push([b"/usr/lib/sysimage/dpkg", rest].concat());
        }
    }
    // Fedora's sbin is a link to bin.
    if let Some(rest) = path.strip_prefix(b"/usr/sbin/") {
        candidates.push([b"/usr/bin/", rest].concat());
    }
    for (prefix, role) in
        [("/boot/vmlinuz-", "vmlinuz"), ("/boot/System.map-", "System.map"), ("/boot/config-", "config")]
    {
        if let Some(version) = path.strip_prefix(prefix.as_bytes()) {
            candidates.push(format!("/usr/lib/modules/{}/{role}", lossy_text(version)).into_bytes());
        }
    }
    candidates
}

#[cfg(test)]
impl OwnerIndex {
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_paths_are_mapped_to_image_paths() {
        let mut staged = StagedTree::empty();
        for path in
            ["/usr/bin/ls", "/usr/etc/hosts", "/usr/lib/modules/6.1/vmlinuz", "/usr/lib/opt/x/y", "/usr/share/doc/a"]
        {
            staged.write(path, *b"x", 0o644).expect("free");
        }
        let owned = |path: &str, packages: &[&str]| {
            (path.as_bytes().to_vec(), packages.iter().map(|name| (*name).to_owned()).collect())
        };
        let file_owners = FileOwners {
            owners: BTreeMap::from([
                owned("/bin/ls", &["coreutils"]),
                owned("/etc/hosts", &["netbase"]),
                owned("/boot/vmlinuz-6.1", &["linux"]),
                owned("/opt/x/y", &["x"]),
                owned("/usr/share/doc", &["a", "b"]),
                owned("/usr/share/doc/a", &["a", "b"]),
                owned("/usr/share/gone", &["a"]),
            ]),
            ..FileOwners::default()
        };
        let owners = OwnerIndex::decode(&OwnerIndex::build(&staged, &file_owners).encode()).expect("own bytes");
        assert_eq!(owners.len(), 5);
        assert_eq!(owners.owners(b"/usr/bin/ls"), ["coreutils"]);
        assert_eq!(owners.owners(b"/usr/share/doc/a"), ["a", "b"]);
        assert_eq!(owners.owners(b"/usr/lib/modules/6.1/vmlinuz"), ["linux"]);
        assert_eq!(owners.owners(b"/usr/lib"), ["linux", "x"]);
        assert_eq!(owners.owners(b"/usr/li"), Vec::<&str>::new());
        assert_eq!(OwnerIndex::decode(b"nonsense"), Err(OwnerIndexError));
        assert_eq!(OwnerIndex::decode(&[]), Err(OwnerIndexError));
    }
}
