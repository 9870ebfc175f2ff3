//! Compares the services of two commits: which units are added, removed or changed.
//!
//! *Not here*: restarting anything. Unit files are read from the images and the repository; nothing is written.
//!
//! *Used by* `plan`.

use std::collections::BTreeSet;

use super::commit_files::{self, FileContent, FileError};
use crate::image::{ChangeKind, Image, diff};
use crate::store::Store;

/// The directory where a commit has its systemd units.
const UNITS_DIRECTORY: &str = "/usr/lib/systemd/system";

/// The keys of a unit file whose values begin with a program that the service runs.
const PROGRAM_KEYS: [&str; 4] = ["ExecStart=", "ExecStartPre=", "ExecStartPost=", "ExecReload="];

/// The characters before a program that change how systemd runs it.
const EXEC_PREFIXES: [char; 6] = ['@', '-', ':', '+', '!', '|'];

/// The services that differ between two commits.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct ServiceChanges {
    /// Services that only the new commit has.
    pub(crate) added: Vec<String>,
    /// Services that only the old commit has.
    pub(crate) removed: Vec<String>,
    /// Services that both commits have, with a different unit file or program.
    pub(crate) changed: Vec<String>,
}

impl ServiceChanges {
    /// Compares the services of two images. A unit file whose content was not fetched is compared without its programs.
    pub(crate) fn between(old: &Image, new: &Image, store: &Store) -> Result<Self, FileError> {
        let mut changed = BTreeSet::new();
        diff(old, new, &mut |change| {
            if let ChangeKind::Modified(_) = change.kind {
                changed.insert(change.path.to_bytes());
            }
        })?;
        let services = |image: &Image| -> Result<Vec<_>, FileError> {
            let mut units = commit_files::list_files(image, UNITS_DIRECTORY)?;
            units.retain(|(name, _)| name.ends_with(".service"));
            Ok(units)
        };
        let (before, after) = (services(old)?, services(new)?);
        let has = |units: &[(String, _)], wanted: &str| units.iter().any(|(name, _)| name == wanted);
        let mut result = Self::default();
        for (name, ino) in &after {
            if !has(&before, name) {
                result.added.push(name.clone());
                continue;
            }
            let is_changed = changed.contains(format!("{UNITS_DIRECTORY}/{name}").as_bytes());
            let has_changed_program = || -> Result<bool, FileError> {
                let FileContent::Bytes(text) = commit_files::read_inode(new, store, *ino)? else { return Ok(false) };
                let programs = started_programs(&String::from_utf8_lossy(&text));
                Ok(programs.iter().any(|program| changed.contains(without_usrmerge_link(program).as_bytes())))
            };
            if is_changed || has_changed_program()? {
                result.changed.push(name.clone());
            }
        }
        result.removed = before.iter().map(|(name, _)| name.clone()).filter(|name| !has(&after, name)).collect();
        Ok(result)
    }
}

/// Returns the programs that a unit starts.
fn started_programs(unit: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| PROGRAM_KEYS.iter().find_map(|key| line.trim().strip_prefix(key)));
    let words = lines.filter_map(|line| line.trim_start_matches(EXEC_PREFIXES).split_whitespace().next());
    words.map(str::to_owned).collect()
}

/// Returns the path of a program below `/usr`: `/bin`, `/sbin` and `/lib` are symbolic links into `/usr`.
fn without_usrmerge_link(program: &str) -> String {
    let is_old = ["/bin/", "/sbin/", "/lib/"].iter().any(|place| program.starts_with(place));
    if is_old { format!("/usr{program}") } else { program.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn started_programs_skips_prefixes() {
        let unit = "[Service]\nExecStart=-@/sbin/sshd sshd -D\n ExecStartPre=/usr/bin/test -x\nExecStop=/bin/kill\n";
        let found: Vec<String> = started_programs(unit).iter().map(|program| without_usrmerge_link(program)).collect();
        assert_eq!(found, ["/usr/sbin/sshd", "/usr/bin/test"]);
    }
}
