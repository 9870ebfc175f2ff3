//! Checks that everything that a commit runs is below `/usr`, with links at the old places.

use super::super::staged::StagedTree;
use super::LayoutError;
use crate::model::NodeKind;

/// The directories outside of `/usr`, and whether every system has them.
const MERGED_DIRECTORIES: [(&str, bool); 7] = [
    ("bin", true),
    ("sbin", true),
    ("lib", true),
    ("lib32", false),
    ("lib64", false),
    ("libx32", false),
    ("libo32", false),
];

/// Checks the links and makes them relative.
pub(crate) fn check(staged: &mut StagedTree) -> Result<(), LayoutError> {
    for (name, required) in MERGED_DIRECTORIES {
        let found = match staged.node(format!("/{name}")).map(|node| &node.kind) {
            Some(NodeKind::Symlink(target)) if is_below_usr(target) => {
                staged.symlink(format!("/{name}"), format!("usr/{name}"))?;
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
    fn check_refuses_directories_outside_of_usr() {
        let mut staged = StagedTree::empty();
        for name in ["bin", "sbin", "lib", "lib64"] {
            staged.symlink(format!("/{name}"), format!("/usr/{name}")).expect("free");
        }
        check(&mut staged).expect("merged");
        assert_eq!(staged.link_target("/lib64"), Some(&b"usr/lib64"[..]));
        staged.remove("/lib64");
        check(&mut staged).expect("not every system has one");
        staged.remove("/lib");
        staged.ensure_directory("/lib", 0o755).expect("free");
        let message = check(&mut staged).expect_err("a directory").to_string();
        assert!(message.starts_with("/lib is a directory, not a link to usr/lib"), "{message}");
    }
}
