//! The databases of dpkg and rpm move below `/usr`, since they describe what is there and change with it; links stay at
//! their old places, so that `dpkg -l` and `rpm -qa` work on a running machine.
//!
//! What differs between two runs in dpkg's is put in order: paragraphs of the status by package name.

use super::super::draft::Draft;
use super::LayoutError;
use crate::model::NodeKind;

/// Where dpkg's database is in a commit.
pub const DPKG: &str = "/usr/lib/sysimage/dpkg";

/// Where rpm's is.
pub const RPM: &str = "/usr/lib/sysimage/rpm";

/// Old place, new place, and what the link at the old place says.
const MOVES: [(&str, &str, &str); 2] =
    [("/var/lib/dpkg", DPKG, "../../usr/lib/sysimage/dpkg"), ("/var/lib/rpm", RPM, "../../usr/lib/sysimage/rpm")];

/// Moves the databases that are there.
///
/// # Errors
/// [`LayoutError::Draft`], also when there is one at the old and the new place.
pub fn relocate(draft: &mut Draft) -> Result<(), LayoutError> {
    for (old, new, link) in MOVES {
        if draft.is_directory(old) && !draft.list(old).is_empty() {
            draft.rename(old, new)?;
        }
        if draft.is_directory(new) {
            draft.symlink(old, link)?;
        } else if draft.node(old).is_some_and(|node| node.kind == NodeKind::Directory) {
            draft.remove(old);
        }
    }
    sort_status(draft)
}

fn sort_status(draft: &mut Draft) -> Result<(), LayoutError> {
    let path = format!("{DPKG}/status");
    let Some(text) = draft.text(&path)? else { return Ok(()) };
    let mut paragraphs: Vec<&str> = text.split("\n\n").map(|text| text.trim_matches('\n')).collect();
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
    };
    paragraphs.sort_by_cached_key(|paragraph| (field(paragraph, "Package: "), field(paragraph, "Architecture: ")));
    let sorted: String = paragraphs.iter().flat_map(|paragraph| [paragraph, "\n\n"]).collect();
    if sorted != text {
        draft.write(&path, sorted.into_bytes(), 0o644)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_below_usr_with_links_from_before() {
        let mut draft = Draft::empty();
        let status = "Package: b\nStatus: x\n\nPackage: a\nArchitecture: z\n\n\nPackage: a\nArchitecture: b\n";
        draft.write("/var/lib/dpkg/status", status.as_bytes(), 0o644).expect("free");
        draft.write("/usr/lib/sysimage/rpm/rpmdb.sqlite", *b"x", 0o644).expect("free");
        draft.directory("/var/lib/rpm", 0o755).expect("free");
        relocate(&mut draft).expect("edits");
        assert_eq!(draft.link_target("/var/lib/dpkg"), Some(&b"../../usr/lib/sysimage/dpkg"[..]));
        assert_eq!(draft.link_target("/var/lib/rpm"), Some(&b"../../usr/lib/sysimage/rpm"[..]));
        let sorted = "Package: a\nArchitecture: b\n\nPackage: a\nArchitecture: z\n\nPackage: b\nStatus: x\n\n";
        assert_eq!(draft.text("/usr/lib/sysimage/dpkg/status").expect("a file").as_deref(), Some(sorted));
    }

    #[test]
    fn a_root_without_databases_gets_no_links() {
        let mut draft = Draft::empty();
        draft.directory("/var/lib/dpkg", 0o755).expect("free");
        relocate(&mut draft).expect("edits");
        assert!(draft.find("/var/lib/dpkg").is_none() && draft.find("/var/lib/rpm").is_none());
    }
}
