//! Reads dpkg's database in a root: the installed packages and their files. The files are read directly, so that dpkg is
//! needed neither in the root nor on this machine.
//!
//! *Used by* `Apt`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::tool::{directory_in_root, io_error, is_plain_file, read_limited, read_lossy};
use super::super::{EngineError, FileOwners};
use crate::compose::packages::Package;

/// One paragraph of a control file: fields by name, continuation lines joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph(BTreeMap<String, String>);

impl Paragraph {
    /// Returns the value of a field.
    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }
}

/// Splits a control file into paragraphs.
#[must_use]
pub fn parse_paragraphs(text: &str) -> Vec<Paragraph> {
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

/// Returns the directory of the database, at its new or its old place.
fn database_directory(root: &Path) -> Result<PathBuf, EngineError> {
    for place in ["usr/lib/sysimage/dpkg", "var/lib/dpkg"] {
        match directory_in_root(root, place)? {
            Some(directory) if is_plain_file(&directory.join("status")) => return Ok(directory),
            _ => {}
        }
    }
    let path = root.join("var/lib/dpkg/status");
    Err(io_error("read", &path)(io::ErrorKind::NotFound.into()))
}

/// Returns the text of dpkg's database.
pub(crate) fn status(root: &Path) -> Result<String, EngineError> {
    read_lossy(&database_directory(root)?.join("status"))
}

/// Returns the packages that are installed. A package that is half installed is left out; installing then fails elsewhere.
pub(crate) fn installed(root: &Path) -> Result<Vec<Package>, EngineError> {
    Ok(parse_status(&status(root)?))
}

/// Returns the installed packages that the text of a status file lists.
#[must_use]
pub fn parse_status(status: &str) -> Vec<Package> {
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
    parse_paragraphs(status).iter().filter_map(package).collect()
}

/// Returns which package owns which path.
pub(crate) fn file_owners(root: &Path) -> Result<FileOwners, EngineError> {
    let directory = database_directory(root)?.join("info");
    let mut file_owners = FileOwners::default();
    let entries = fs::read_dir(&directory).map_err(io_error("list", &directory))?;
    for entry in entries {
        let path = entry.map_err(io_error("list", &directory))?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(".list").filter(|_| is_plain_file(&path)) else { continue };
        // `libc6:amd64.list` where several architectures may be installed.
        let name = name.split(':').next().unwrap_or(name).to_owned();
        let bytes = read_limited(&path)?;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| line.len() > 1 && *line != b"/.") {
            let owners = file_owners.owners.entry(line.to_vec()).or_default();
            owners.push(name.clone());
        }
    }
    file_owners.owners.values_mut().for_each(|owners| owners.sort());
    Ok(file_owners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_status_returns_only_installed_packages() {
        let text = "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nSource: src (2)\n\
            Description: x\n more: text\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: c\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\n";
        let found = parse_status(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].source.as_str(), found[1].source.as_str()), ("src", "c"));
        assert_eq!(parse_paragraphs(text)[0].get("Description"), Some("x\n more: text"));
    }
}
