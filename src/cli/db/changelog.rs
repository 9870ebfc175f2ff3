//! The entries of packages' changelogs between two versions, for `sapwood db diff --changelogs`.
//!
//! Debian's packages contain their changelogs, compressed, unless the documentation was left out. For rpm packages the compose
//! stores the latest entries in the commit.
//!
//! *Not here*: printing them, see `db::mod`.

use std::cmp::Ordering;
use std::io::Read as _;

use anyhow::Result;

use crate::compose::metadata::CHANGELOGS_DIRECTORY;
use crate::compose::packages::{Package, PackageChange, PackageFormat, compare_versions};
use crate::source::CommitReader;

/// The largest number of bytes of a changelog that are read, after decompression.
const CHANGELOG_MAX_BYTES: u64 = 16 << 20;

/// The new changelog entries of one package.
#[derive(Debug)]
pub(crate) struct ChangelogEntries {
    pub(crate) package: String,
    /// The text of the entries, or a sentence that says why there are none.
    pub(crate) text: String,
}

/// Returns the new changelog entries of all packages that were upgraded.
///
/// # Errors
/// When the commit's files cannot be read.
pub(crate) fn new_entries(
    commit: &CommitReader,
    format: PackageFormat,
    changes: &[PackageChange],
) -> Result<Vec<ChangelogEntries>> {
    let mut found = Vec::new();
    for change in changes {
        if let PackageChange::Upgraded { old, new } = change {
            let text = match read_changelog(commit, format, new)? {
                Some(text) => entries_since(format, &text, &old.version),
                None => "(the commit has no changelog of it)".to_owned(),
            };
            found.push(ChangelogEntries { package: new.name.clone(), text });
        }
    }
    Ok(found)
}

fn read_changelog(commit: &CommitReader, format: PackageFormat, package: &Package) -> Result<Option<String>> {
    let documents = format!("/usr/share/doc/{}", package.name);
    let paths = match format {
        PackageFormat::Deb => vec![
            format!("{documents}/changelog.Debian.gz"),
            format!("{documents}/changelog.Debian.{}.gz", package.arch),
            format!("{documents}/changelog.gz"),
        ],
        PackageFormat::Rpm => vec![format!("{CHANGELOGS_DIRECTORY}/{}", package.name)],
    };
    for path in paths {
        let Some(bytes) = commit.read_file(&path)? else { continue };
        let mut text = Vec::new();
        if path.ends_with(".gz") {
            flate2::read::MultiGzDecoder::new(&bytes[..]).take(CHANGELOG_MAX_BYTES).read_to_end(&mut text)?;
        } else {
            text = bytes;
        }
        return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
    }
    Ok(None)
}

/// Returns the entries that stand before that of the old version; the newest entry is first in a changelog.
fn entries_since(format: PackageFormat, text: &str, old: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let version = match format {
            // `bash (5.2.15-2) unstable; urgency=medium`
            PackageFormat::Deb => (!line.starts_with(' ')).then(|| line.split_once('(')?.1.split_once(')')).flatten(),
            // `* Mon Jan 01 2024 Name <mail> - 1.2-3`
            PackageFormat::Rpm => {
                line.strip_prefix("* ").and_then(|line| line.rsplit_once(' ')).map(|(rest, version)| (version, rest))
            }
        };
        if let Some((version, _)) = version
            && compare_versions(format, version, comparable_old_version(format, version, old)) != Ordering::Greater
        {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept.trim().to_owned()
}

/// Returns the old version as the changelog writes it: changelogs of rpm packages leave the epoch out.
fn comparable_old_version<'a>(format: PackageFormat, version: &str, old: &'a str) -> &'a str {
    match (format, version.contains(':'), old.split_once(':')) {
        (PackageFormat::Rpm, false, Some((_, rest))) => rest,
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
            entries_since(PackageFormat::Deb, debian, "1.1-1"),
            "a (1.2-1) unstable; urgency=medium\n\n  * Two.\n\n -- N <m>  D"
        );
        let rpm = "* Tue Jan 02 2024 N <m> - 1.2-1\n- Two.\n\n* Mon Jan 01 2024 N <m> - 1.1-1\n- One.\n";
        assert_eq!(entries_since(PackageFormat::Rpm, rpm, "3:1.1-1"), "* Tue Jan 02 2024 N <m> - 1.2-1\n- Two.");
        assert_eq!(entries_since(PackageFormat::Rpm, rpm, "1.2-1"), "");
    }
}
