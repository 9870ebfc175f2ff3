//! `/etc` becomes `/usr/etc`: the defaults that a deployment merges with the machine's own `/etc`.

use super::super::draft::{Draft, join, words};
use super::LayoutError;

const ETC: &str = "/etc";
const DEFAULTS: &str = "/usr/etc";

/// Moves it. What packages put into `/usr/etc` themselves stays there.
///
/// # Errors
/// [`LayoutError::BothEtc`] when both have the same name.
pub fn move_to_usr(draft: &mut Draft) -> Result<(), LayoutError> {
    if draft.is_directory(DEFAULTS) {
        for name in draft.list(ETC) {
            let (from, to) = (join(ETC.as_bytes(), name.as_bytes()), join(DEFAULTS.as_bytes(), name.as_bytes()));
            if draft.find(&to).is_some() {
                return Err(LayoutError::BothEtc(words(&from), words(&to)));
            }
            draft.rename(&from, &to)?;
        }
    } else {
        draft.rename(ETC, DEFAULTS)?;
    }
    draft.directory(DEFAULTS, 0o755)?;
    draft.directory(ETC, 0o755)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_below_usr_and_etc_is_a_mount_point() {
        let mut draft = Draft::empty();
        draft.write("/etc/hosts", *b"x", 0o644).expect("free");
        move_to_usr(&mut draft).expect("edits");
        assert!(draft.find("/usr/etc/hosts").is_some() && draft.list("/etc").is_empty() && draft.is_directory("/etc"));
        draft.write("/etc/motd", *b"x", 0o644).expect("free");
        move_to_usr(&mut draft).expect("edits");
        assert!(draft.find("/usr/etc/motd").is_some());
        draft.write("/etc/hosts", *b"y", 0o644).expect("free");
        assert!(matches!(move_to_usr(&mut draft), Err(LayoutError::BothEtc(..))));
    }
}
