//! Parses what the driver and rpm print. Pure.
//!
//! *Not here*: running the programs.
//!
//! *Invariants*: each field of a package of the driver is one word, and its name starts with no hyphen: no program takes it
//! for an option.
//!
//! *Used by* `Dnf` and `query`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::{EngineError, FileOwners};
use crate::compose::packages::Package;

/// The number of changelog entries that are kept of each package.
const CHANGELOG_ENTRIES_MAX: usize = 20;

/// Ends the changelog of one package in rpm's output; no changelog contains it.
pub(crate) const CHANGELOG_END: char = '\u{1}';

/// A package in the driver's answer.
#[derive(Debug, Deserialize)]
pub struct DriverPackage {
    name: String,
    version: String,
    arch: String,
    source: String,
    sha256: Option<String>,
    /// The size of its file in bytes.
    pub(crate) size: u64,
    /// The path of its file.
    pub(crate) file: String,
}

impl DriverPackage {
    /// Returns the package.
    #[must_use]
    pub fn package(&self) -> Package {
        let Self { name, version, arch, source, sha256, .. } = self;
        let [name, version, arch, source] = [name, version, arch, source].map(Clone::clone);
        Package { name, version, arch, source, sha256: sha256.clone() }
    }
}

/// Parses the output of the driver, which is one JSON value.
///
/// # Errors
/// The error that the driver reports, or [`EngineError::Output`].
pub fn parse_answer(text: &str) -> Result<Value, EngineError> {
    let answer: Value = serde_json::from_str(text).map_err(|_| EngineError::Output {
        program: "dnf",
        line: text.lines().next().unwrap_or_default().to_owned(),
    })?;
    let text = || answer["text"].as_str().unwrap_or_default().trim().to_owned();
    match answer["error"].as_str() {
        None => Ok(answer),
        Some("unknown") => {
            let names = answer["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Err(EngineError::UnknownPackages(names.map(str::to_owned).collect()))
        }
        Some("depsolve") => Err(EngineError::Unresolvable(text())),
        Some("lock") => Err(EngineError::Lock(text())),
        Some(_) => Err(EngineError::Sources(text())),
    }
}

/// Returns the packages of an answer to `resolve`.
///
/// # Errors
/// [`EngineError::Output`].
pub fn parse_packages(answer: &Value) -> Result<Vec<DriverPackage>, EngineError> {
    let bad = |line: String| EngineError::Output { program: "dnf", line };
    let packages: Vec<DriverPackage> =
        serde_json::from_value(answer["packages"].clone()).map_err(|error| bad(error.to_string()))?;
    match packages.iter().map(DriverPackage::package).find(|package| !package.is_plain()) {
        Some(package) => Err(bad(format!("{package:?}"))),
        None => Ok(packages),
    }
}

/// The query format for the installed packages.
pub(crate) const INSTALLED_FORMAT: &str =
    "%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\n";

/// Returns the packages that rpm lists in `INSTALLED_FORMAT`, without the public keys among them.
#[must_use]
pub fn parse_installed(text: &str) -> Vec<Package> {
    let package = |line: &str| {
        let mut fields = line.split('\t');
        let (name, version, arch, source) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        // `name-version-release.src.rpm`
        let source = source.rsplitn(3, '-').nth(2).unwrap_or(name);
        let owned = str::to_owned;
        (name != "gpg-pubkey").then(|| Package {
            name: owned(name),
            version: owned(version),
            arch: owned(arch),
            source: owned(source),
            sha256: None,
        })
    };
    text.lines().filter_map(package).collect()
}

/// The query format for the files of each package.
pub(crate) const OWNERS_FORMAT: &str = "[%{FILENAMES}\\t%{=NAME}\\n]";

/// Returns the query format for the latest changes of each package; [`CHANGELOG_END`] ends each.
pub(crate) fn changelog_format() -> String {
    format!("%{{NAME}}\\t[* %{{CHANGELOGTIME:day}} %{{CHANGELOGNAME}}\\n%{{CHANGELOGTEXT}}\\n\\n]{CHANGELOG_END}")
}

/// Returns the owners of paths, and changelogs, from rpm's output in `OWNERS_FORMAT` and `changelog_format`.
#[must_use]
pub fn parse_file_owners(files: &str, changelogs: &str) -> FileOwners {
    let mut owners: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for line in files.lines() {
        if let Some((path, name)) = line.rsplit_once('\t') {
            owners.entry(path.as_bytes().to_vec()).or_default().push(name.to_owned());
        }
    }
    owners.values_mut().for_each(|names| {
        names.sort();
        names.dedup();
    });
    let changelogs = changelogs.split(CHANGELOG_END).filter_map(|package| {
        let (name, text) = package.trim_start().split_once('\t')?;
        let entries: String = text.split_inclusive("\n\n").take(CHANGELOG_ENTRIES_MAX).collect();
        (!entries.trim().is_empty()).then(|| (name.to_owned(), format!("{}\n", entries.trim_end())))
    });
    FileOwners { owners, changelogs: changelogs.collect() }
}

/// Returns the latest of the times that rpm lists, in seconds since 1970.
#[must_use]
pub fn parse_newest_time(text: &str) -> i64 {
    text.lines().filter_map(|line| line.trim().parse().ok()).max().unwrap_or(0)
}
