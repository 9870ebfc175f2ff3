//! What apt's programs print, as values. Pure.
//!
//! Not here: which program is asked what. Invariant: a package that is returned has fields that are words, a name that no program
//! takes for an option, and a file name that leads into no other directory. Used by `resolve` and `sources`.

use std::collections::BTreeSet;

use super::super::{EngineError, Resolved};
use crate::compose::packages::Package;

/// Reads what `apt-get --print-uris install` prints. Lines that name no file are left out.
///
/// # Errors
/// [`EngineError::Output`] with the first line that is not understood.
pub fn resolved(text: &str) -> Result<Vec<Resolved>, EngineError> {
    let lines = text.lines().filter(|line| line.starts_with('\''));
    lines
        .map(|line| one(line).ok_or_else(|| EngineError::Output { program: "apt-get", line: line.to_owned() }))
        .collect()
}

/// Reads a line: `'URI' NAME_VERSION_ARCH.deb SIZE SHA256:…`.
fn one(line: &str) -> Option<Resolved> {
    let rest = line.strip_prefix('\'')?.split_once("' ")?.1;
    let mut fields = rest.split_whitespace();
    let (file, size, digest) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
    let mut parts = file.strip_suffix(".deb")?.splitn(3, '_');
    let (name, version, arch) = (parts.next()?, parts.next()?, parts.next()?);
    let name = name.to_owned();
    let package = Package {
        source: name.clone(),
        name,
        version: version.replace("%3a", ":"),
        arch: arch.to_owned(),
        sha256: Some(digest.strip_prefix("SHA256:")?.to_owned()),
    };
    (package.is_plain() && !file.contains('/')).then(|| Resolved { package, file: file.to_owned(), size })
}

/// Returns the names and versions that `apt-cache madison` prints.
#[must_use]
pub fn available(text: &str) -> BTreeSet<(String, String)> {
    let fields = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(fields).collect()
}

/// Returns the stanzas of sources for what `apt-get indextargets` prints, a line of tab-separated fields each: those of
/// `distribution`, and of `release` if one is given.
#[must_use]
pub fn stanzas(text: &str, distribution: &str, release: Option<&str>) -> BTreeSet<String> {
    let mut stanzas = BTreeSet::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [site, suite, component, origin, codename, keys] = fields[..] else { continue };
        let fits = release
            .is_none_or(|release| suite == release || suite.starts_with(&format!("{release}-")) || codename == release);
        if !origin.eq_ignore_ascii_case(distribution) || !fits {
            continue;
        }
        let keys = if keys.is_empty() || keys.contains("$(") { String::new() } else { format!("Signed-By: {keys}\n") };
        stanzas.insert(format!("Types: deb\nURIs: {site}\nSuites: {suite}\nComponents: {component}\n{keys}"));
    }
    stanzas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_apt_become_packages() {
        let line = "'http://host/pool/main/s/shadow/passwd_4.13%2bdfsg1-1_amd64.deb' passwd_1%3a4.13+dfsg1-1_amd64.deb 972 SHA256:ab";
        let all = resolved(&format!("Reading package lists...\n{line}\n")).expect("legal");
        let [found] = &all[..] else { panic!("one package: {all:?}") };
        let package = &found.package;
        assert_eq!(
            (package.name.as_str(), package.version.as_str(), package.arch.as_str()),
            ("passwd", "1:4.13+dfsg1-1", "amd64")
        );
        assert_eq!((found.size, package.sha256.as_deref()), (972, Some("ab")));
        for wrong in ["'http://x' y", "'x' ../a_1_all.deb 1 SHA256:ab", "'x' -o_1_all.deb 1 SHA256:ab"] {
            assert!(resolved(wrong).is_err(), "{wrong}");
        }
    }
}
