//! What dnf's library and rpm print, as values. Pure.
//!
//! Not here: how they are asked. Invariant: a package that is returned has fields that are words, and a name that no program takes
//! for an option. Used by the engine and by `query`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::super::{EngineError, Ownership};
use crate::compose::packages::Package;

/// Changelog entries that are kept of each package.
const ENTRIES_MAX: usize = 20;

/// Ends a package in answers about changelogs; no changelog has it.
pub const END: char = '\u{1}';

/// A package as the driver tells of it.
#[derive(Debug, Deserialize)]
pub struct Told {
    name: String,
    version: String,
    arch: String,
    source: String,
    sha256: Option<String>,
    /// Bytes of its file.
    pub size: u64,
    /// The path of its file.
    pub file: String,
}

impl Told {
    /// Returns the package.
    #[must_use]
    pub fn package(&self) -> Package {
        let Self { name, version, arch, source, sha256, .. } = self;
        let [name, version, arch, source] = [name, version, arch, source].map(Clone::clone);
        Package { name, version, arch, source, sha256: sha256.clone() }
    }
}

/// Reads what the driver prints: one JSON value.
///
/// # Errors
/// The one that the driver tells of, or [`EngineError::Output`].
pub fn answer(text: &str) -> Result<Value, EngineError> {
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

/// Returns the packages of an answer.
///
/// # Errors
/// [`EngineError::Output`].
pub fn told(answer: &Value) -> Result<Vec<Told>, EngineError> {
    let bad = |line: String| EngineError::Output { program: "dnf", line };
    let told: Vec<Told> = serde_json::from_value(answer["packages"].clone()).map_err(|error| bad(error.to_string()))?;
    match told.iter().map(Told::package).find(|package| !package.is_plain()) {
        Some(package) => Err(bad(format!("{package:?}"))),
        None => Ok(told),
    }
}

/// What rpm is asked for each installed package.
pub const INSTALLED: &str = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\n";

/// Returns the packages that rpm lists as [`INSTALLED`] asks, keys left out.
#[must_use]
pub fn installed(text: &str) -> Vec<Package> {
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

/// What rpm is asked for each file of each package.
pub const OWNERS: &str = "[%{FILENAMES}\\t%{=NAME}\\n]";

/// Returns what each package asks rpm for to tell its latest changes: [`END`] ends each.
#[must_use]
pub fn changelog_format() -> String {
    format!("%{{NAME}}\\t[* %{{CHANGELOGTIME:day}} %{{CHANGELOGNAME}}\\n%{{CHANGELOGTEXT}}\\n\\n]{END}")
}

/// Returns who owns what, of rpm's answers to [`OWNERS`] and [`changelog_format`].
#[must_use]
pub fn ownership(files: &str, changelogs: &str) -> Ownership {
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
    let changelogs = changelogs.split(END).filter_map(|package| {
        let (name, text) = package.trim_start().split_once('\t')?;
        let entries: String = text.split_inclusive("\n\n").take(ENTRIES_MAX).collect();
        (!entries.trim().is_empty()).then(|| (name.to_owned(), format!("{}\n", entries.trim_end())))
    });
    Ownership { owners, changelogs: changelogs.collect() }
}

/// Returns the youngest of the times that rpm lists, in seconds since 1970.
#[must_use]
pub fn newest(text: &str) -> i64 {
    text.lines().filter_map(|line| line.trim().parse().ok()).max().unwrap_or(0)
}
