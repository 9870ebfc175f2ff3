//! The list of packages that a commit was composed of, and the difference between two lists.
//!
//! The list is part of the commit's record, so that it can be read without fetching contents. It is a text with one line
//! a package, compressed with zstd and encoded in base64:
//!
//! ```text
//! sapwood-packages 1 deb
//! NAME <tab> VERSION <tab> ARCHITECTURE <tab> SOURCE <tab> SHA-256 of the package file <newline>
//! ```
//!
//! A field that is not known is empty; the source is empty too if it has the package's name. Lines are sorted.
//!
//! *Not here*: reading the databases of dpkg and rpm (`engine`).
//!
//! *Used by* the rest of `compose`, which writes lists, and by `cli`, which shows them.

pub mod base64;
mod version;

use std::cmp::Ordering;
use std::collections::BTreeMap;

pub use version::compare_versions;

/// The key in a commit's metadata whose value is the list.
pub(crate) const KEY: &str = "compose.packages";

const HEADER: &str = "sapwood-packages 1 ";

/// The zstd level for the list. It is high because the list is small, read often and kept for ever.
const COMPRESSION_LEVEL: i32 = 19;

/// Largest list that is decoded, in bytes without compression: some 100,000 packages.
const SIZE_MAX: usize = 32 << 20;

/// The package format, which determines how versions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageFormat {
    /// Packages of dpkg.
    Deb,
    /// Packages of rpm.
    Rpm,
}

impl PackageFormat {
    /// Returns the suffix of package files.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// A package of a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with epoch and release if it has them.
    pub(crate) version: String,
    /// Its architecture.
    pub(crate) arch: String,
    /// The source package it was built from.
    pub(crate) source: String,
    /// SHA-256 of the package file, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) sha256: Option<String>,
}

impl Package {
    /// Returns whether each field is one word, so that a list can hold it unchanged, and the name does not look like an
    /// option.
    pub(crate) fn is_plain(&self) -> bool {
        let is_word = |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        let Self { name, version, arch, source, sha256 } = self;
        [name, version, arch, source].into_iter().chain(sha256).all(is_word) && !name.starts_with('-')
    }
}

/// The packages of a commit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PackageList {
    /// The format of all packages.
    pub format: PackageFormat,
    /// The packages, sorted.
    pub(crate) packages: Vec<Package>,
}

/// Why a commit's list cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the list of packages in the commit is damaged ({0})")]
pub struct PackageListError(&'static str);

impl PackageList {
    /// Returns a list, sorted and without duplicates.
    #[must_use]
    pub fn new(format: PackageFormat, mut packages: Vec<Package>) -> Self {
        packages.sort();
        packages.dedup();
        Self { format, packages }
    }

    /// Returns the list in the form that a commit stores.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}{}\n", self.format.word());
        for package in &self.packages {
            let source = if package.source == package.name { "" } else { &package.source };
            let sha256 = package.sha256.as_deref().unwrap_or_default();
            text.push_str(&[&package.name, &package.version, &package.arch, source, sha256].join("\t"));
            text.push('\n');
        }
        let packed = zstd::bulk::compress(text.as_bytes(), COMPRESSION_LEVEL).unwrap_or_default();
        base64::encode(&packed)
    }

    /// Parses the form that [`Self::encode`] returns.
    ///
    /// # Errors
    /// [`PackageListError`].
    pub fn decode(text: &str) -> Result<Self, PackageListError> {
        let packed = base64::decode(text).ok_or(PackageListError("no base64"))?;
        let bytes = zstd::bulk::decompress(&packed, SIZE_MAX).map_err(|_| PackageListError("no zstd frame"))?;
        let text = String::from_utf8(bytes).map_err(|_| PackageListError("no UTF-8"))?;
        let (header, lines) = text.split_once('\n').ok_or(PackageListError("no header"))?;
        let format = match header.strip_prefix(HEADER) {
            Some("deb") => PackageFormat::Deb,
            Some("rpm") => PackageFormat::Rpm,
            _ => return Err(PackageListError("an unknown header")),
        };
        let packages = lines
            .split_terminator('\n')
            .map(|line| parse_line(line).ok_or(PackageListError("a bad line")))
            .collect::<Result<_, _>>()?;
        Ok(Self { format, packages })
    }

    fn by_name(&self) -> BTreeMap<(&str, &str), &Package> {
        // Of several installed versions of a package, such as kernels, the newest is used.
        let mut names = BTreeMap::new();
        for package in &self.packages {
            let slot = names.entry((package.name.as_str(), package.arch.as_str())).or_insert(package);
            if compare_versions(self.format, &package.version, &slot.version) == Ordering::Greater {
                *slot = package;
            }
        }
        names
    }
}

fn parse_line(line: &str) -> Option<Package> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [name, version, arch, source, sha256] = fields[..] else { return None };
    Some(Package {
        name: name.to_owned(),
        version: version.to_owned(),
        arch: arch.to_owned(),
        source: if source.is_empty() { name.to_owned() } else { source.to_owned() },
        sha256: (!sha256.is_empty()).then(|| sha256.to_owned()),
    })
}

/// The change of one package between two lists.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum PackageChange {
    /// The package is new.
    Added {
        /// The package.
        package: Package,
    },
    /// The package was removed.
    Removed {
        /// The package.
        package: Package,
    },
    /// The package has a newer version.
    Upgraded {
        /// The package in the old list.
        old: Package,
        /// The package in the new list.
        new: Package,
    },
    /// The package has an older version.
    Downgraded {
        /// The package in the old list.
        old: Package,
        /// The package in the new list.
        new: Package,
    },
    /// The version is the same, but the package file differs.
    Rebuilt {
        /// The package in the old list.
        old: Package,
        /// The package in the new list.
        new: Package,
    },
}

impl PackageChange {
    /// Returns the package's name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Added { package } | Self::Removed { package } => &package.name,
            Self::Upgraded { new, .. } | Self::Downgraded { new, .. } | Self::Rebuilt { new, .. } => &new.name,
        }
    }
}

/// Returns the changes between two lists, sorted by name. A package whose architecture changed is the same package if
/// each list has only one of its name.
#[must_use]
pub fn diff(old: &PackageList, new: &PackageList) -> Vec<PackageChange> {
    let (before, after) = (old.by_name(), new.by_name());
    let mut changes = Vec::new();
    let mut moved: Vec<&str> = Vec::new();
    for ((name, arch), package) in &after {
        let same = before.get(&(*name, *arch)).copied();
        let elsewhere = || {
            let only =
                |list: &BTreeMap<(&str, &str), &Package>| list.keys().filter(|(other, _)| other == name).count() == 1;
            let other = before.iter().find(|((other, _), _)| other == name).map(|(_, package)| *package)?;
            (only(&before) && only(&after)).then_some(other)
        };
        match same.or_else(elsewhere) {
            None => changes.push(PackageChange::Added { package: (*package).clone() }),
            Some(earlier) => {
                moved.extend(same.is_none().then_some(*name));
                changes.extend(change(new.format, earlier, package));
            }
        }
    }
    for (key @ (name, _), package) in &before {
        if !after.contains_key(key) && !moved.contains(name) {
            changes.push(PackageChange::Removed { package: (*package).clone() });
        }
    }
    changes.sort_by(|a, b| a.name().cmp(b.name()));
    changes
}

fn change(format: PackageFormat, old: &Package, new: &Package) -> Option<PackageChange> {
    let (old, new) = (old.clone(), new.clone());
    match compare_versions(format, &new.version, &old.version) {
        Ordering::Greater => Some(PackageChange::Upgraded { old, new }),
        Ordering::Less => Some(PackageChange::Downgraded { old, new }),
        Ordering::Equal if old.sha256.is_some() && new.sha256.is_some() && old.sha256 != new.sha256 => {
            Some(PackageChange::Rebuilt { old, new })
        }
        Ordering::Equal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, arch: &str) -> Package {
        let (name, version, arch) = (name.to_owned(), version.to_owned(), arch.to_owned());
        Package { source: name.clone(), name, version, arch, sha256: Some("0".repeat(64)) }
    }

    #[test]
    fn package_list_survives_encoding() {
        let mut packages = vec![package("b", "1:2-3", "amd64"), package("a", "1", "all")];
        packages[0].source = "src".to_owned();
        packages[1].sha256 = None;
        let list = PackageList::new(PackageFormat::Deb, packages);
        assert_eq!(list.packages[0].name, "a");
        assert_eq!(PackageList::decode(&list.encode()), Ok(list));
        for bad in ["", "!", "AAAA", "KLUv/QAAAQAA"] {
            assert!(PackageList::decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn diff_reports_each_kind_of_change() {
        let old = ["same 1 amd64", "up 1.9 amd64", "down 2 amd64", "gone 1 all", "arch 1 all", "built 1 all"];
        let new = ["same 1 amd64", "up 1.10 amd64", "down 1 amd64", "new 1 all", "arch 2 amd64", "built 1 all"];
        let list = |lines: [&str; 6]| {
            let packages = lines.map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                package(words[0], words[1], words[2])
            });
            PackageList::new(PackageFormat::Deb, packages.into())
        };
        let (old, mut new) = (list(old), list(new));
        new.packages.iter_mut().find(|package| package.name == "built").expect("the package is in the list").sha256 =
            Some("1".repeat(64));
        let words: Vec<String> = diff(&old, &new)
            .iter()
            .map(|change| {
                let value = serde_json::to_value(change).expect("a change serialises to JSON");
                format!("{} {}", change.name(), value["change"].as_str().unwrap_or_default())
            })
            .collect();
        assert_eq!(
            words,
            ["arch upgraded", "built rebuilt", "down downgraded", "gone removed", "new added", "up upgraded"]
        );
        assert_eq!(diff(&old, &old), []);
    }
}
