//! Moves the databases of dpkg and rpm below `/usr`: they describe what is there and change with it. Links stay at the old
//! places, so that `dpkg -l` and `rpm -qa` work on a running machine.
//!
//! dpkg's status file differs between two runs in the order of its paragraphs; they are sorted by package name.

use super::super::staged::StagedTree;
use super::LayoutError;
use crate::model::NodeKind;

/// The directory of dpkg's database in a commit.
pub(crate) const DPKG_DIRECTORY: &str = "/usr/lib/sysimage/dpkg";

/// The directory of dpkg's database in a root that runs.
pub(super) const INSTALLED_DPKG_DIRECTORY: &str = "/var/lib/dpkg";

/// The directory of rpm's database in a commit.
pub(crate) const RPM_DIRECTORY: &str = "/usr/lib/sysimage/rpm";

/// Old path, new path, and the target of the link at the old path.
const MOVES: [(&str, &str, &str); 2] = [
    (INSTALLED_DPKG_DIRECTORY, DPKG_DIRECTORY, "../../usr/lib/sysimage/dpkg"),
    ("/var/lib/rpm", RPM_DIRECTORY, "../../usr/lib/sysimage/rpm"),
];

/// Moves the databases that exist.
///
/// # Errors
/// [`LayoutError::Edit`], also if a database exists at both the old and the new path.
pub(crate) fn relocate(staged: &mut StagedTree) -> Result<(), LayoutError> {
    for (old, new, link) in MOVES {
        if staged.is_directory(old) && !staged.list(old).is_empty() {
            staged.rename(old, new)?;
        }
        if staged.is_directory(new) {
            staged.symlink(old, link)?;
        } else if staged.node(old).is_some_and(|node| node.kind == NodeKind::Directory) {
            staged.remove(old);
        }
    }
    sort_status(staged, DPKG_DIRECTORY)
}

/// Sorts the paragraphs of dpkg's status in the database `directory`.
pub(super) fn sort_status(staged: &mut StagedTree, directory: &str) -> Result<(), LayoutError> {
    let path = format!("{directory}/status");
    let Some(text) = staged.read_text(&path)? else { return Ok(()) };
    let mut paragraphs: Vec<&str> = text.split("\n\n").map(|text| text.trim_matches('\n')).collect();
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    paragraphs.sort_by_cached_key(|paragraph| (field(paragraph, "Package: "), field(paragraph, "Architecture: ")));
    let sorted: String = paragraphs.iter().flat_map(|paragraph| [paragraph, "\n\n"]).collect();
    if sorted != text {
        staged.write(&path, sorted.into_bytes(), 0o644)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_move_below_usr_and_leave_links() {
        let mut staged = StagedTree::empty();
        let status = "Package: b\nStatus: x\n\nPackage: a\nArchitecture: z\n\n\nPackage: a\nArchitecture: b\n";
        staged.write("/var/lib/dpkg/status", status.as_bytes(), 0o644).expect("free");
        staged.write("/usr/lib/sysimage/rpm/rpmdb.sqlite", *b"x", 0o644).expect("free");
        staged.ensure_directory("/var/lib/rpm", 0o755).expect("free");
        relocate(&mut staged).expect("edits");
        assert_eq!(staged.link_target("/var/lib/dpkg"), Some(&b"../../usr/lib/sysimage/dpkg"[..]));
        assert_eq!(staged.link_target("/var/lib/rpm"), Some(&b"../../usr/lib/sysimage/rpm"[..]));
        let sorted = "Package: a\nArchitecture: b\n\nPackage: a\nArchitecture: z\n\nPackage: b\nStatus: x\n\n";
        assert_eq!(staged.read_text("/usr/lib/sysimage/dpkg/status").expect("a file").as_deref(), Some(sorted));
    }

    #[test]
    fn root_without_databases_gets_no_links() {
        let mut staged = StagedTree::empty();
        staged.ensure_directory("/var/lib/dpkg", 0o755).expect("free");
        relocate(&mut staged).expect("edits");
        assert!(staged.find("/var/lib/dpkg").is_none() && staged.find("/var/lib/rpm").is_none());
    }
}
