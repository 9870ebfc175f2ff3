//! What a change of commits does to services: which units come, go, or are different. Pure, but for reading unit files.

use std::collections::BTreeSet;

use super::files::{self, FileError, Found};
use crate::image::{ChangeKind, Image, diff};
use crate::store::Store;

/// Where a commit has its units.
const UNITS: &str = "/usr/lib/systemd/system";

/// What of a unit's file names a program that the service is.
const PROGRAM_KEYS: [&str; 4] = ["ExecStart=", "ExecStartPre=", "ExecStartPost=", "ExecReload="];

/// Characters before a program that change how it is run.
const PREFIXES: [char; 6] = ['@', '-', ':', '+', '!', '|'];

/// The services that a change touches.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct ServiceChanges {
    /// Only in the new commit.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, with another unit file or another program.
    pub changed: Vec<String>,
}

impl ServiceChanges {
    /// Compares two images.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn between(old: &Image, new: &Image, store: &Store) -> Result<Self, FileError> {
        let mut changed = BTreeSet::new();
        diff(old, new, &mut |change| {
            if let ChangeKind::Modified(_) = change.kind {
                changed.insert(change.path.to_bytes());
            }
        })?;
        let services = |image: &Image| -> Result<Vec<_>, FileError> {
            let mut units = files::list(image, UNITS)?;
            units.retain(|(name, _)| name.ends_with(".service"));
            Ok(units)
        };
        let (before, after) = (services(old)?, services(new)?);
        let has = |units: &[(String, _)], wanted: &str| units.iter().any(|(name, _)| name == wanted);
        let mut found = Self::default();
        for (name, ino) in &after {
            if !has(&before, name) {
                found.added.push(name.clone());
                continue;
            }
            let is_changed = changed.contains(format!("{UNITS}/{name}").as_bytes());
            let runs_other = || -> Result<bool, FileError> {
                let Found::Bytes(text) = files::read_inode(new, store, *ino)? else { return Ok(false) };
                let programs = programs(&String::from_utf8_lossy(&text));
                Ok(programs.iter().any(|program| changed.contains(real(program).as_bytes())))
            };
            if is_changed || runs_other()? {
                found.changed.push(name.clone());
            }
        }
        found.removed = before.iter().map(|(name, _)| name.clone()).filter(|name| !has(&after, name)).collect();
        Ok(found)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// The programs that a unit starts.
fn programs(unit: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| PROGRAM_KEYS.iter().find_map(|key| line.trim().strip_prefix(key)));
    let words = lines.filter_map(|line| line.trim_start_matches(PREFIXES).split_whitespace().next());
    words.map(str::to_owned).collect()
}

/// Where a program is: the old places are links into `/usr`.
fn real(program: &str) -> String {
    let is_old = ["/bin/", "/sbin/", "/lib/"].iter().any(|place| program.starts_with(place));
    if is_old { format!("/usr{program}") } else { program.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_behind_their_prefixes() {
        let unit = "[Service]\nExecStart=-@/sbin/sshd sshd -D\n ExecStartPre=/usr/bin/test -x\nExecStop=/bin/kill\n";
        let found: Vec<String> = programs(unit).iter().map(|program| real(program)).collect();
        assert_eq!(found, ["/usr/sbin/sshd", "/usr/bin/test"]);
    }
}
