//! Packages as values: what a commit says of those it was made of, and how two such lists differ.
//!
//! A commit carries its list in its record, so that no content has to be fetched to ask for it. In the record it is
//! text, one line a package, compressed, in base64:
//!
//! ```text
//! sapwood-packages 1 deb
//! NAME <tab> VERSION <tab> ARCHITECTURE <tab> SOURCE <tab> SHA-256 of the package file <newline>
//! ```
//!
//! A field that is not known is empty; so is the source when it has the package's name. Lines are sorted.

pub mod base64;
mod version;

use std::cmp::Ordering;
use std::collections::BTreeMap;

pub use version::compare;

/// The key of a commit's facts that holds the list.
pub const KEY: &str = "compose.packages";

const HEADER: &str = "sapwood-packages 1 ";

/// How hard the list is compressed: it is small, read often and kept for ever.
const LEVEL: i32 = 19;

/// Longest list that is read, in bytes: some 100,000 packages.
const SIZE_MAX: usize = 32 << 20;

/// How versions are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As dpkg does.
    Deb,
    /// As rpm does.
    Rpm,
}

impl Format {
    /// As in package names.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with epoch and release as far as they are there.
    pub version: String,
    /// Its architecture.
    pub arch: String,
    /// The source package it was built from.
    pub source: String,
    /// SHA-256 of the package file, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<String>,
}

impl Package {
    /// Whether each field is one word, so that a list of packages holds it as it is, and the name no option of a program.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let is_word = |text: &String| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        let Self { name, version, arch, source, sha256 } = self;
        [name, version, arch, source].into_iter().chain(sha256).all(is_word) && !name.starts_with('-')
    }
}

/// The packages of a commit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PackageList {
    /// Their kind.
    pub format: Format,
    /// Sorted.
    pub packages: Vec<Package>,
}

/// Why a commit's list cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the list of packages in the commit is damaged ({0})")]
pub struct ListError(&'static str);

impl PackageList {
    /// A sorted list.
    #[must_use]
    pub fn new(format: Format, mut packages: Vec<Package>) -> Self {
        packages.sort();
        packages.dedup();
        Self { format, packages }
    }

    /// As it stands in a commit.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("{HEADER}{}\n", self.format.word());
        for package in &self.packages {
            let source = if package.source == package.name { "" } else { &package.source };
            let sha256 = package.sha256.as_deref().unwrap_or_default();
            text.push_str(&[&package.name, &package.version, &package.arch, source, sha256].join("\t"));
            text.push('\n');
        }
        let packed = zstd::bulk::compress(text.as_bytes(), LEVEL).unwrap_or_default();
        base64::encode(&packed)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn decode(text: &str) -> Result<Self, ListError> {
        let packed = base64::decode(text).ok_or(ListError("no base64"))?;
        let bytes = zstd::bulk::decompress(&packed, SIZE_MAX).map_err(|_| ListError("no zstd frame"))?;
        let text = String::from_utf8(bytes).map_err(|_| ListError("no UTF-8"))?;
        let (header, lines) = text.split_once('\n').ok_or(ListError("no header"))?;
        let format = match header.strip_prefix(HEADER) {
            Some("deb") => Format::Deb,
            Some("rpm") => Format::Rpm,
            _ => return Err(ListError("an unknown header")),
        };
        let packages = lines
            .split_terminator('\n')
            .map(|line| parse(line).ok_or(ListError("a bad line")))
            .collect::<Result<_, _>>()?;
        Ok(Self { format, packages })
    }

    fn by_name(&self) -> BTreeMap<(&str, &str), &Package> {
        // The newest wins where several are installed at once, as kernels may be.
        let mut names = BTreeMap::new();
        for package in &self.packages {
            let slot = names.entry((package.name.as_str(), package.arch.as_str())).or_insert(package);
            if compare(self.format, &package.version, &slot.version) == Ordering::Greater {
                *slot = package;
            }
        }
        names
    }
}

fn parse(line: &str) -> Option<Package> {
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

/// What became of one package.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added {
        /// The package.
        package: Package,
    },
    /// It is gone.
    Removed {
        /// The package.
        package: Package,
    },
    /// It has a newer version.
    Upgraded {
        /// Before.
        old: Package,
        /// After.
        new: Package,
    },
    /// It has an older version.
    Downgraded {
        /// Before.
        old: Package,
        /// After.
        new: Package,
    },
    /// The same version with another content.
    Rebuilt {
        /// Before.
        old: Package,
        /// After.
        new: Package,
    },
}

impl Change {
    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Added { package } | Self::Removed { package } => &package.name,
            Self::Upgraded { new, .. } | Self::Downgraded { new, .. } | Self::Rebuilt { new, .. } => &new.name,
        }
    }
}

/// What differs, by name. A package whose architecture changed to or from `all` or `noarch` is the same package.
#[must_use]
pub fn diff(old: &PackageList, new: &PackageList) -> Vec<Change> {
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
            None => changes.push(Change::Added { package: (*package).clone() }),
            Some(earlier) => {
                moved.extend(same.is_none().then_some(*name));
                changes.extend(change(new.format, earlier, package));
            }
        }
    }
    for (key @ (name, _), package) in &before {
        if !after.contains_key(key) && !moved.contains(name) {
            changes.push(Change::Removed { package: (*package).clone() });
        }
    }
    changes.sort_by(|a, b| a.name().cmp(b.name()));
    changes
}

fn change(format: Format, old: &Package, new: &Package) -> Option<Change> {
    let (old, new) = (old.clone(), new.clone());
    match compare(format, &new.version, &old.version) {
        Ordering::Greater => Some(Change::Upgraded { old, new }),
        Ordering::Less => Some(Change::Downgraded { old, new }),
        Ordering::Equal if old.sha256.is_some() && new.sha256.is_some() && old.sha256 != new.sha256 => {
            Some(Change::Rebuilt { old, new })
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
    fn a_list_survives_the_commit() {
        let mut packages = vec![package("b", "1:2-3", "amd64"), package("a", "1", "all")];
        packages[0].source = "src".to_owned();
        packages[1].sha256 = None;
        let list = PackageList::new(Format::Deb, packages);
        assert_eq!(list.packages[0].name, "a");
        assert_eq!(PackageList::decode(&list.encode()), Ok(list));
        for bad in ["", "!", "AAAA", "KLUv/QAAAQAA"] {
            assert!(PackageList::decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_kind_of_change_has_its_name() {
        let old = ["same 1 amd64", "up 1.9 amd64", "down 2 amd64", "gone 1 all", "arch 1 all", "built 1 all"];
        let new = ["same 1 amd64", "up 1.10 amd64", "down 1 amd64", "new 1 all", "arch 2 amd64", "built 1 all"];
        let list = |lines: [&str; 6]| {
            let packages = lines.map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                package(words[0], words[1], words[2])
            });
            PackageList::new(Format::Deb, packages.into())
        };
        let (old, mut new) = (list(old), list(new));
        new.packages.iter_mut().find(|package| package.name == "built").expect("there").sha256 = Some("1".repeat(64));
        let words: Vec<String> = diff(&old, &new)
            .iter()
            .map(|change| {
                let value = serde_json::to_value(change).expect("plain");
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
