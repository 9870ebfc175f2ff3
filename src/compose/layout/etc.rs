//! Moves `/etc` to `/usr/etc`: the defaults that a deployment merges with the machine's own `/etc`.

use super::super::staged::{StagedTree, join, lossy_text};
use super::LayoutError;

const ETC: &str = "/etc";
const DEFAULTS: &str = "/usr/etc";

/// Moves the entries of `/etc`. Entries that packages put into `/usr/etc` themselves stay there.
///
/// # Errors
/// [`LayoutError::BothEtc`] if both have the same name.
pub(crate) fn move_to_usr(staged: &mut StagedTree) -> Result<(), LayoutError> {
    if staged.is_directory(DEFAULTS) {
        for name in staged.list(ETC) {
            let (from, to) = (join(ETC.as_bytes(), name.as_bytes()), join(DEFAULTS.as_bytes(), name.as_bytes()));
            if staged.find(&to).is_some() {
                return Err(LayoutError::BothEtc(lossy_text(&from), lossy_text(&to)));
            }
            staged.rename(&from, &to)?;
        }
    } else {
        staged.rename(ETC, DEFAULTS)?;
    }
    staged.ensure_directory(DEFAULTS, 0o755)?;
    staged.ensure_directory(ETC, 0o755)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etc_moves_below_usr_and_stays_as_empty_directory() {
        let mut staged = StagedTree::empty();
        staged.write("/etc/hosts", *b"x", 0o644).expect("free");
        move_to_usr(&mut staged).expect("edits");
        assert!(
            staged.find("/usr/etc/hosts").is_some() && staged.list("/etc").is_empty() && staged.is_directory("/etc")
        );
        staged.write("/etc/motd", *b"x", 0o644).expect("free");
        move_to_usr(&mut staged).expect("edits");
        assert!(staged.find("/usr/etc/motd").is_some());
        staged.write("/etc/hosts", *b"y", 0o644).expect("free");
        assert!(matches!(move_to_usr(&mut staged), Err(LayoutError::BothEtc(..))));
    }
}
