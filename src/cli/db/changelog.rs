//! What changelogs say between two versions of a package.
//!
//! Debian's packages bring their changelogs along, compressed, unless documentation was left out; of rpm's the compose
//! keeps the latest entries.

use std::cmp::Ordering;
use std::io::Read as _;

use anyhow::Result;

use super::super::described::Described;
use crate::compose::metadata::CHANGELOGS;
use crate::compose::packages::{Change, Format, Package, compare};

/// Longest changelog that is read, in bytes.
const LENGTH_MAX: u64 = 16 << 20;

/// The new entries of one package.
#[derive(Debug)]
pub struct Entries {
    /// The package.
    pub package: String,
    /// What they say; or why nothing is known.
    pub text: String,
}

/// The new entries of all packages that were upgraded.
///
/// # Errors
/// When the commit's files cannot be read.
pub fn entries(commit: &Described, changes: &[Change]) -> Result<Vec<Entries>> {
    let format = commit.packages()?.format;
    let mut found = Vec::new();
    for change in changes {
        if let Change::Upgraded { old, new } = change {
            let text = match read(commit, format, new)? {
                Some(text) => since(format, &text, &old.version),
                None => "(the commit has no changelog of it)".to_owned(),
            };
            found.push(Entries { package: new.name.clone(), text });
        }
    }
    Ok(found)
}

fn read(commit: &Described, format: Format, package: &Package) -> Result<Option<String>> {
    let documents = format!("/usr/share/doc/{}", package.name);
    let places = match format {
        Format::Deb => vec![
            format!("{documents}/changelog.Debian.gz"),
            format!("{documents}/changelog.Debian.{}.gz", package.arch),
            format!("{documents}/changelog.gz"),
        ],
        Format::Rpm => vec![format!("{CHANGELOGS}/{}", package.name)],
    };
    for place in places {
        let Some(bytes) = commit.read(&place)? else { continue };
        let mut text = Vec::new();
        if place.ends_with(".gz") {
            flate2::read::MultiGzDecoder::new(&bytes[..]).take(LENGTH_MAX).read_to_end(&mut text)?;
        } else {
            text = bytes;
        }
        return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
    }
    Ok(None)
}

/// The entries before that of the old version.
fn since(format: Format, text: &str, old: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let version = match format {
            // `bash (5.2.15-2) unstable; urgency=medium`
            Format::Deb => (!line.starts_with(' ')).then(|| line.split_once('(')?.1.split_once(')')).flatten(),
            // `* Mon Jan 01 2024 Name <mail> - 1.2-3`
            Format::Rpm => {
                line.strip_prefix("* ").and_then(|line| line.rsplit_once(' ')).map(|(rest, version)| (version, rest))
            }
        };
        if let Some((version, _)) = version
            && compare(format, version, old_for(format, version, old)) != Ordering::Greater
        {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept.trim().to_owned()
}

/// Changelogs of rpm leave the epoch out.
fn old_for<'a>(format: Format, version: &str, old: &'a str) -> &'a str {
    match (format, version.contains(':'), old.split_once(':')) {
        (Format::Rpm, false, Some((_, rest))) => rest,
        _ => old,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_where_the_old_version_begins() {
        let debian = "a (1.2-1) unstable; urgency=medium\n\n  * Two.\n\n -- N <m>  D\n\na (1.1-1) unstable; urgency=low\n\n  * One.\n";
        assert_eq!(
            since(Format::Deb, debian, "1.1-1"),
            "a (1.2-1) unstable; urgency=medium\n\n  * Two.\n\n -- N <m>  D"
        );
        let rpm = "* Tue Jan 02 2024 N <m> - 1.2-1\n- Two.\n\n* Mon Jan 01 2024 N <m> - 1.1-1\n- One.\n";
        assert_eq!(since(Format::Rpm, rpm, "3:1.1-1"), "* Tue Jan 02 2024 N <m> - 1.2-1\n- Two.");
        assert_eq!(since(Format::Rpm, rpm, "1.2-1"), "");
    }
}
