//! What dpkg's database says: which packages there are and which files are theirs. Read as files, so that no dpkg is
//! needed, neither in the root nor here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::tool::{io_error, read_lossy};
use super::super::{EngineError, Ownership};
use crate::compose::packages::Package;

/// One paragraph of a control file: fields by name, continued lines joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph(BTreeMap<String, String>);

impl Paragraph {
    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }
}

/// The paragraphs of a control file.
#[must_use]
pub fn paragraphs(text: &str) -> Vec<Paragraph> {
    let mut found = Vec::new();
    let mut current = Paragraph::default();
    let mut last = String::new();
    for line in text.lines().chain([""]) {
        if line.is_empty() {
            if !current.0.is_empty() {
                found.push(std::mem::take(&mut current));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = current.0.get_mut(&last) {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            last = name.to_owned();
            current.0.insert(last.clone(), value.trim().to_owned());
        }
    }
    found
}

/// The database of a root, at its old or its new place.
fn database(root: &Path) -> PathBuf {
    let new = root.join("usr/lib/sysimage/dpkg");
    if new.join("status").is_file() { new } else { root.join("var/lib/dpkg") }
}

/// The packages that are installed. One that is half installed is an error of the engine, seen elsewhere.
///
/// # Errors
/// [`EngineError::Io`].
pub fn installed(root: &Path) -> Result<Vec<Package>, EngineError> {
    let text = read_lossy(&database(root).join("status"))?;
    Ok(packages(&text))
}

/// The installed packages that the text of a status file lists.
#[must_use]
pub fn packages(status: &str) -> Vec<Package> {
    let package = |paragraph: &Paragraph| {
        let status = paragraph.get("Status")?;
        let (name, version) = (paragraph.get("Package")?, paragraph.get("Version")?);
        // `Source: name (version)` where the version differs.
        let source = paragraph.get("Source").and_then(|text| text.split_whitespace().next()).unwrap_or(name);
        status.ends_with(" installed").then(|| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: paragraph.get("Architecture").unwrap_or_default().to_owned(),
            source: source.to_owned(),
            sha256: None,
        })
    };
    paragraphs(status).iter().filter_map(package).collect()
}

/// Which package owns which path.
///
/// # Errors
/// [`EngineError::Io`].
pub fn ownership(root: &Path) -> Result<Ownership, EngineError> {
    let directory = database(root).join("info");
    let mut ownership = Ownership::default();
    let entries = fs::read_dir(&directory).map_err(io_error("list", &directory))?;
    for entry in entries {
        let path = entry.map_err(io_error("list", &directory))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(".list") else { continue };
        // `libc6:amd64.list` where several architectures may be installed.
        let name = name.split(':').next().unwrap_or(name).to_owned();
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.len() > 1 && *line != b"/.") {
            let owners = ownership.owners.entry(line.to_vec()).or_default();
            owners.push(name.clone());
        }
    }
    ownership.owners.values_mut().for_each(|owners| owners.sort());
    Ok(ownership)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_lists_what_is_installed() {
        let text = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nSource: src (2)\n\
            Description: x\n more: text\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: c\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n";
        let found = packages(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].source.as_str(), found[1].source.as_str()), ("src", "c"));
        assert_eq!(paragraphs(text)[0].get("Description"), Some("x\n more: text"));
    }
}
