//! Everything a commit runs is below `/usr`, and the old places are links to it.

use super::super::draft::Draft;
use super::LayoutError;
use crate::model::NodeKind;

/// The directories of old, and whether every system has them.
const MERGED: [(&str, bool); 7] = [
    ("bin", true),
    ("sbin", true),
    ("lib", true),
    ("lib32", false),
    ("lib64", false),
    ("libx32", false),
    ("libo32", false),
];

/// Checks the links and makes them relative.
///
/// # Errors
/// [`LayoutError::NotMerged`].
pub fn check(draft: &mut Draft) -> Result<(), LayoutError> {
    for (name, required) in MERGED {
        let found = match draft.node(format!("/{name}")).map(|node| &node.kind) {
            Some(NodeKind::Symlink(target)) if is_below_usr(target) => {
                draft.symlink(format!("/{name}"), format!("usr/{name}"))?;
                continue;
            }
            None if !required => continue,
            None => "missing",
            Some(NodeKind::Directory) => "a directory",
            Some(_) => "something else",
        };
        return Err(LayoutError::NotMerged { name: name.to_owned(), found });
    }
    Ok(())
}

fn is_below_usr(target: &[u8]) -> bool {
    target.strip_prefix(b"/").unwrap_or(target).starts_with(b"usr/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_old_must_be_links() {
        let mut draft = Draft::empty();
        for name in ["bin", "sbin", "lib", "lib64"] {
            draft.symlink(format!("/{name}"), format!("/usr/{name}")).expect("free");
        }
        check(&mut draft).expect("merged");
        assert_eq!(draft.link_target("/lib64"), Some(&b"usr/lib64"[..]));
        draft.remove("/lib64");
        check(&mut draft).expect("not every system has one");
        draft.remove("/lib");
        draft.directory("/lib", 0o755).expect("free");
        let message = check(&mut draft).expect_err("a directory").to_string();
        assert!(message.starts_with("/lib is a directory, not a link to usr/lib"), "{message}");
    }
}
