//! Parses what apt's programs print. Pure.
//!
//! *Not here*: running the programs.
//!
//! *Invariants*: each field of a returned package is one word, the name starts with no hyphen (no program takes it for an
//! option), and the file name leads into no other directory.
//!
//! *Used by* `resolve` and `sources`.

use std::collections::BTreeSet;

use super::super::{EngineError, ResolvedPackage};
use crate::compose::packages::Package;

/// Parses the output of `apt-get --print-uris install`. Lines that name no file are skipped.
///
/// # Errors
/// [`EngineError::Output`] with the first line that is not understood.
pub fn parse_print_uris(text: &str) -> Result<Vec<ResolvedPackage>, EngineError> {
    let lines = text.lines().filter(|line| line.starts_with('\''));
    lines
        .map(|line| {
            parse_print_uri(line).ok_or_else(|| EngineError::Output { program: "apt-get", line: line.to_owned() })
        })
        .collect()
}

/// Parses one line: `'URI' NAME_VERSION_ARCH.deb SIZE SHA256:…`.
fn parse_print_uri(line: &str) -> Option<ResolvedPackage> {
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
    (package.is_plain() && !file.contains('/')).then(|| ResolvedPackage { package, file: file.to_owned(), size })
}

/// Returns the names and versions that `apt-cache madison` prints.
#[must_use]
pub fn parse_madison(text: &str) -> BTreeSet<(String, String)> {
    let fields = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(fields).collect()
}

/// Returns source stanzas from the output of `apt-get indextargets`, which has one line of tab-separated fields per index:
/// those of `distribution`, and of `release` if one is given.
#[must_use]
pub fn source_stanzas(text: &str, distribution: &str, release: Option<&str>) -> BTreeSet<String> {
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

/// Returns the packages that provide a virtual one, of the output of `apt-cache showpkg`.
#[must_use]
pub(crate) fn parse_providers(text: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with("Reverse Provides:")).skip(1);
    let names: BTreeSet<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_uris_lines_become_packages() {
        let line = "'http://host/pool/main/s/shadow/passwd_4.13%2bdfsg1-1_amd64.deb' passwd_1%3a4.13+dfsg1-1_amd64.deb 972 SHA256:ab";
        let all = parse_print_uris(&format!("Reading package lists...\n{line}\n")).expect("legal");
        let [found] = &all[..] else { panic!("one package: {all:?}") };
        let package = &found.package;
        assert_eq!(
            (package.name.as_str(), package.version.as_str(), package.arch.as_str()),
            ("passwd", "1:4.13+dfsg1-1", "amd64")
        );
        assert_eq!((found.size, package.sha256.as_deref()), (972, Some("ab")));
        for wrong in ["'http://x' y", "'x' ../a_1_all.deb 1 SHA256:ab", "'x' -o_1_all.deb 1 SHA256:ab"] {
            assert!(parse_print_uris(wrong).is_err(), "{wrong}");
        }
    }
}
