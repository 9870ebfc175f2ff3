//! The lock file: exact packages, so that the same root can be composed again later or elsewhere.
//!
//! It is JSON, sorted, one package a line, so that two of them can be compared by eye:
//!
//! ```json
//! {
//!   "sapwood-lock": 1,
//!   "format": "deb",
//!   "packages": [
//!     {"name": "bash", "version": "5.2.15-2+b7", "arch": "amd64", "sha256": "…"}
//!   ]
//! }
//! ```
//!
//! Lock files of rpm-ostree (`manifest-lock.ARCH.json`: `{"packages": {"NAME": {"evra": "…"}}}`) are read, too. They may name more
//! packages than are needed.
//!
//! *Used by* `pipeline` and `cli/compose`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::engine::{LockedPackages, Resolution};
use super::packages::{Package, PackageFormat};

/// Why a text is not a lock file, or a lock does not match a resolution.
#[derive(Debug, thiserror::Error)]
pub enum LockFileError {
    /// The text is not a lock file.
    #[error("not a lock file")]
    Parse(#[from] serde_json::Error),
    /// A package of a lock file of rpm-ostree has no usable version.
    #[error("'{0}' has no 'evra' of the form EPOCH:VERSION-RELEASE.ARCH")]
    Evra(String),
    /// The file was written by a newer program.
    #[error("version {0} of lock files is newer than this program; upgrade sapwood")]
    Version(u32),
    /// The lock is for packages of another format.
    #[error("it locks {found} packages, and these are {expected} packages")]
    Format {
        /// The format in the lock.
        found: String,
        /// The format that the engine installs.
        expected: &'static str,
    },
    /// The resolution differs from the lock.
    #[error("{}", describe_differences(.changed, .unneeded))]
    Different {
        /// Packages with another content than in the lock, or not in it.
        changed: Vec<String>,
        /// Packages of the lock that nothing asks for.
        unneeded: Vec<String>,
    },
}

fn describe_differences(changed: &[String], unneeded: &[String]) -> String {
    let mut parts = Vec::new();
    if !changed.is_empty() {
        parts.push(format!("these are not what it names: {}", changed.join(", ")));
    }
    if !unneeded.is_empty() {
        parts.push(format!("it names what the treefile does not need: {}", unneeded.join(", ")));
    }
    format!("{}; write a new one with --write-lock", parts.join("; "))
}

/// The content of a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockFile {
    /// The format of the packages.
    pub(crate) format: PackageFormat,
    /// The exact packages, sorted.
    pub(crate) packages: Vec<Package>,
    /// Whether each package has to be needed. It need not in a lock file of rpm-ostree.
    pub(crate) is_exact: bool,
}

/// A lock file of rpm-ostree.
#[derive(Deserialize)]
struct RpmOstreeLock {
    packages: BTreeMap<String, RpmOstreePackage>,
}

/// A package of a lock file of rpm-ostree.
#[derive(Deserialize)]
struct RpmOstreePackage {
    evra: Option<String>,
    /// The checksum, with `sha256:` before it.
    digest: Option<String>,
}

impl RpmOstreePackage {
    fn package(self, name: String) -> Result<Package, LockFileError> {
        let evra = self.evra.as_deref().and_then(|evra| evra.rsplit_once('.'));
        let Some((version, arch)) = evra.filter(|(version, _)| version.contains('-')) else {
            return Err(LockFileError::Evra(name));
        };
        Ok(Package {
            source: name.clone(),
            name,
            version: version.strip_prefix("0:").unwrap_or(version).to_owned(),
            arch: arch.to_owned(),
            sha256: self.digest.and_then(|digest| digest.strip_prefix("sha256:").map(str::to_owned)),
        })
    }
}

#[derive(Deserialize)]
struct RawLock {
    #[serde(rename = "sapwood-lock")]
    version: u32,
    format: String,
    packages: Vec<RawPackage>,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    version: String,
    arch: String,
    sha256: Option<String>,
}

impl LockFile {
    /// Returns the lock that pins exactly this resolution.
    pub(crate) fn from_resolution(resolution: &Resolution) -> Self {
        let mut packages = resolution.list();
        packages.sort();
        Self { format: resolution.format, packages, is_exact: true }
    }

    /// Parses the text of a lock file.
    ///
    /// # Errors
    /// [`LockFileError`].
    pub fn parse(text: &str) -> Result<Self, LockFileError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let raw: RawLock = if value.get("sapwood-lock").is_none() && value["packages"].is_object() {
            let RpmOstreeLock { packages } = serde_json::from_value(value)?;
            let packages = packages.into_iter().map(|(name, package)| package.package(name));
            return Ok(Self {
                format: PackageFormat::Rpm,
                packages: packages.collect::<Result<_, _>>()?,
                is_exact: false,
            });
        } else {
            serde_json::from_value(value)?
        };
        if raw.version != 1 {
            return Err(LockFileError::Version(raw.version));
        }
        let format = match raw.format.as_str() {
            "deb" => PackageFormat::Deb,
            "rpm" => PackageFormat::Rpm,
            _ => return Err(LockFileError::Format { found: raw.format, expected: "deb or rpm" }),
        };
        let package = |raw: RawPackage| Package {
            source: raw.name.clone(),
            name: raw.name,
            version: raw.version,
            arch: raw.arch,
            sha256: raw.sha256,
        };
        Ok(Self { format, packages: raw.packages.into_iter().map(package).collect(), is_exact: true })
    }

    /// Returns the text of the file.
    #[must_use]
    pub fn render(&self) -> String {
        let line = |package: &Package| {
            let mut fields =
                BTreeMap::from([("name", &package.name), ("version", &package.version), ("arch", &package.arch)]);
            fields.extend(package.sha256.as_ref().map(|digest| ("sha256", digest)));
            format!("    {}", serde_json::json!(fields))
        };
        let lines: Vec<String> = self.packages.iter().map(line).collect();
        format!(
            "{{\n  \"sapwood-lock\": 1,\n  \"format\": \"{}\",\n  \"packages\": [\n{}\n  ]\n}}\n",
            self.format.word(),
            lines.join(",\n")
        )
    }

    /// Returns the packages for an engine that installs packages of `format`, by name and by `ARCHITECTURE VERSION`.
    ///
    /// # Errors
    /// [`LockFileError::Format`] if the lock is for another format.
    pub(crate) fn locked_packages(&self, format: PackageFormat) -> Result<LockedPackages, LockFileError> {
        if self.format != format {
            return Err(LockFileError::Format { found: self.format.word().to_owned(), expected: format.word() });
        }
        let key = |package: &Package| (package.name.clone(), format!("{} {}", package.arch, package.version));
        Ok(self.packages.iter().map(|package| (key(package), package.clone())).collect())
    }

    /// Checks that a resolution has exactly the packages of this lock.
    ///
    /// # Errors
    /// [`LockFileError::Different`] names the packages that differ.
    pub(crate) fn check(&self, resolution: &Resolution) -> Result<(), LockFileError> {
        let key = |package: &Package| (package.name.clone(), package.version.clone(), package.arch.clone());
        let mut locked: BTreeMap<_, _> = self.packages.iter().map(|package| (key(package), package)).collect();
        let mut changed = Vec::new();
        for resolved in &resolution.packages {
            let package = &resolved.package;
            let shown = format!("{} {}", package.name, package.version);
            match locked.remove(&key(package)) {
                Some(expected) if expected.sha256.is_some() && expected.sha256 != package.sha256 => {
                    changed.push(format!("{shown} (another checksum)"));
                }
                Some(_) => {}
                None => changed.push(shown),
            }
        }
        let unneeded = locked.values().filter(|_| self.is_exact);
        let unneeded: Vec<String> = unneeded.map(|package| package.name.clone()).collect();
        if changed.is_empty() && unneeded.is_empty() {
            Ok(())
        } else {
            Err(LockFileError::Different { changed, unneeded })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::ResolvedPackage;
    use super::*;

    fn resolution(packages: &[(&str, &str, &str)]) -> Resolution {
        let resolved = |(name, version, digest): &(&str, &str, &str)| ResolvedPackage {
            package: Package {
                name: (*name).to_owned(),
                version: (*version).to_owned(),
                arch: "amd64".to_owned(),
                source: (*name).to_owned(),
                sha256: Some((*digest).to_owned()),
            },
            file: String::new(),
            size: 0,
        };
        Resolution { format: PackageFormat::Deb, packages: packages.iter().map(resolved).collect() }
    }

    #[test]
    fn lock_survives_its_file_and_matches_its_resolution() {
        let first = resolution(&[("b", "1:2-3", "aa"), ("a", "1", "bb")]);
        let lock = LockFile::from_resolution(&first);
        let again = LockFile::parse(&lock.render()).expect("own text");
        assert_eq!(again, lock);
        again.check(&first).expect("the same");
        assert_eq!(again.locked_packages(PackageFormat::Deb).expect("deb").len(), 2);
        assert!(again.locked_packages(PackageFormat::Rpm).is_err());
        for (other, words) in [
            (resolution(&[("b", "1:2-3", "aa")]), "does not need: a"),
            (resolution(&[("b", "1:2-3", "cc"), ("a", "1", "bb")]), "b 1:2-3 (another checksum)"),
            (resolution(&[("b", "1:2-4", "aa"), ("a", "1", "bb")]), "b 1:2-4"),
        ] {
            let message = lock.check(&other).expect_err("different").to_string();
            assert!(message.contains(words), "{message}");
        }
        assert!(LockFile::parse("{}").is_err());
        assert!(matches!(LockFile::parse(&lock.render().replace(": 1,", ": 2,")), Err(LockFileError::Version(2))));
    }

    #[test]
    fn lock_files_of_rpm_ostree_are_read() {
        let text = r#"{"metadata": {"generated": "x"}, "packages": {
            "bash": {"evra": "0:5.2-3.fc40.x86_64", "digest": "sha256:aa"},
            "vim": {"evra": "2:9.1-1.fc40.noarch", "metadata": {"sourcerpm": "vim"}}}}"#;
        let lock = LockFile::parse(text).expect("valid");
        let found: Vec<_> =
            lock.packages.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.arch.as_str())).collect();
        assert_eq!(found, [("bash", "5.2-3.fc40", "x86_64"), ("vim", "2:9.1-1.fc40", "noarch")]);
        assert_eq!(lock.packages[0].sha256.as_deref(), Some("aa"));
        lock.check(&Resolution { format: PackageFormat::Rpm, packages: Vec::new() }).expect("more than is needed");
        let message = LockFile::parse(r#"{"packages": {"a": {"evr": "1-1"}}}"#).expect_err("no evra").to_string();
        assert_eq!(message, "'a' has no 'evra' of the form EPOCH:VERSION-RELEASE.ARCH");
    }
}
