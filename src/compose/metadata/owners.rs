//! Which package owns which path of an image.
//!
//! ```text
//! zstd of:  PATH <tab> PACKAGE[,PACKAGE…] <newline>      sorted by path, no directories
//! ```
//!
//! Paths are those of the image: what a package calls `/bin/ls` or `/etc/hosts` is `/usr/bin/ls` and `/usr/etc/hosts`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::draft::{Draft, words};
use super::super::engine::Ownership;
use crate::model::NodeKind;

/// The file in the image.
pub const OWNERS: &str = "/usr/share/sapwood/owners.zst";

const LEVEL: i32 = 12;

/// Longest list that is read, in bytes.
const SIZE_MAX: usize = 512 << 20;

/// Why the list cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{OWNERS} is damaged")]
pub struct OwnersError;

/// Paths and the packages they belong to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(BTreeMap<Vec<u8>, String>);

impl Owners {
    /// Matches what packages say they own with what is in the image.
    #[must_use]
    pub fn of(draft: &Draft, ownership: &Ownership) -> Self {
        let mut owners = BTreeMap::new();
        for (path, packages) in &ownership.owners {
            let place = places(path)
                .into_iter()
                .find(|place| draft.node(place).is_some_and(|node| node.kind != NodeKind::Directory));
            if let Some(place) = place {
                owners.insert(place, packages.join(","));
            }
        }
        Self(owners)
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (path, packages) in &self.0 {
            // A name with a line break in it is nobody's wish; it is left out rather than told wrongly.
            if !path.contains(&b'\n') && !path.contains(&b'\t') {
                text.extend([path.as_slice(), b"\t", packages.as_bytes(), b"\n"].concat());
            }
        }
        zstd::bulk::compress(&text, LEVEL).unwrap_or_default()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`OwnersError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, OwnersError> {
        let text = zstd::bulk::decompress(bytes, frame_size(bytes)?).map_err(|_| OwnersError)?;
        let mut owners = BTreeMap::new();
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let tab = line.iter().position(|byte| *byte == b'\t').ok_or(OwnersError)?;
            let packages = std::str::from_utf8(&line[tab + 1..]).map_err(|_| OwnersError)?;
            owners.insert(line[..tab].to_vec(), packages.to_owned());
        }
        Ok(Self(owners))
    }

    /// The packages that own a path; for a directory those that own something below it.
    #[must_use]
    pub fn owners(&self, path: &[u8]) -> Vec<&str> {
        if let Some(packages) = self.0.get(path) {
            return packages.split(',').collect();
        }
        let start = [path.strip_suffix(b"/").unwrap_or(path), b"/"].concat();
        let below = self.0.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let packages: BTreeSet<&str> = below.flat_map(|(_, packages)| packages.split(',')).collect();
        packages.into_iter().collect()
    }

    /// How many paths are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no path is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The length that the frame announces, within reason.
fn frame_size(bytes: &[u8]) -> Result<usize, OwnersError> {
    let announced = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten().ok_or(OwnersError)?;
    usize::try_from(announced).ok().filter(|size| *size <= SIZE_MAX).ok_or(OwnersError)
}

/// The paths of the image that a package's path may stand for, the likeliest first.
#[must_use]
pub fn places(path: &[u8]) -> Vec<Vec<u8>> {
    let mut places = vec![path.to_vec()];
    let starts = |prefix: &[u8]| path.starts_with(prefix);
    if starts(b"/etc/")
        || ["/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"].iter().any(|old| starts(old.as_bytes()))
    {
        places.insert(0, [b"/usr", path].concat());
    }
    if starts(b"/opt/") {
        places.push([b"/usr/lib", path].concat());
    }
    if starts(b"/var/") {
        places.push([b"/usr/share/factory", path].concat());
        if let Some(rest) = path.strip_prefix(b"/var/lib/dpkg") {
            places.push([b"/usr/lib/sysimage/dpkg", rest].concat());
        }
    }
    // Fedora's sbin is a link to bin.
    if let Some(rest) = path.strip_prefix(b"/usr/sbin/") {
        places.push([b"/usr/bin/", rest].concat());
    }
    for (prefix, role) in
        [("/boot/vmlinuz-", "vmlinuz"), ("/boot/System.map-", "System.map"), ("/boot/config-", "config")]
    {
        if let Some(version) = path.strip_prefix(prefix.as_bytes()) {
            places.push(format!("/usr/lib/modules/{}/{role}", words(version)).into_bytes());
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_packages_are_found_where_the_image_has_them() {
        let mut draft = Draft::empty();
        for path in
            ["/usr/bin/ls", "/usr/etc/hosts", "/usr/lib/modules/6.1/vmlinuz", "/usr/lib/opt/x/y", "/usr/share/doc/a"]
        {
            draft.write(path, *b"x", 0o644).expect("free");
        }
        let owned = |path: &str, packages: &[&str]| {
            (path.as_bytes().to_vec(), packages.iter().map(|name| (*name).to_owned()).collect())
        };
        let ownership = Ownership {
            owners: BTreeMap::from([
                owned("/bin/ls", &["coreutils"]),
                owned("/etc/hosts", &["netbase"]),
                owned("/boot/vmlinuz-6.1", &["linux"]),
                owned("/opt/x/y", &["x"]),
                owned("/usr/share/doc", &["a", "b"]),
                owned("/usr/share/doc/a", &["a", "b"]),
                owned("/usr/share/gone", &["a"]),
            ]),
            ..Ownership::default()
        };
        let owners = Owners::decode(&Owners::of(&draft, &ownership).encode()).expect("own bytes");
        assert_eq!(owners.len(), 5);
        assert_eq!(owners.owners(b"/usr/bin/ls"), ["coreutils"]);
        assert_eq!(owners.owners(b"/usr/share/doc/a"), ["a", "b"]);
        assert_eq!(owners.owners(b"/usr/lib/modules/6.1/vmlinuz"), ["linux"]);
        assert_eq!(owners.owners(b"/usr/lib"), ["linux", "x"]);
        assert_eq!(owners.owners(b"/usr/li"), Vec::<&str>::new());
        assert_eq!(Owners::decode(b"nonsense"), Err(OwnersError));
        assert_eq!(Owners::decode(&[]), Err(OwnersError));
    }
}
