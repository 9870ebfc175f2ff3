//! One line of the boot menu, whatever loader shows it, and the order in which several stand. Pure.
//!
//! Each entry has a number of its own that no other ever had at the same time; the highest boots. To make another
//! deployment the default, an entry with a higher number is added: the entries that were there stay until that is
//! durable, so at any moment there is one to boot.

use crate::deploy::id::DeploymentId;
use crate::deploy::kargs::{DEPLOYMENT_KEY, Kargs};

/// How often an entry may still be tried, and how often it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tries {
    /// Tries left; at 0 the loader prefers any other entry.
    pub left: u32,
    /// Tries made.
    pub done: u32,
}

/// What a kernel for boards without firmware tables needs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceTree {
    /// One blob.
    File(String),
    /// A directory of them, from which the loader chooses.
    Directory(String),
}

/// What an entry starts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Target {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// What people see.
    pub title: String,
    /// The kernel, as a path on the loader's partition.
    pub linux: String,
    /// The initramfs, likewise.
    pub initrd: Vec<String>,
    /// The device tree, likewise.
    pub devicetree: Option<DeviceTree>,
    /// Kernel arguments, without the one that names the deployment.
    pub options: Kargs,
}

impl Target {
    /// The whole command line of the kernel.
    #[must_use]
    pub fn command_line(&self) -> String {
        format!("{} {DEPLOYMENT_KEY}={}", self.options, self.deployment).trim_start().to_owned()
    }

    /// Checks that the files of all loaders can hold the target so that [`parse`](super::bls::parse) and its siblings read it
    /// back unchanged. A text with a line end would add lines of its own to a menu.
    ///
    /// # Errors
    /// [`EntryError`] for the first part that they cannot hold.
    pub fn check(&self) -> Result<(), EntryError> {
        let refuse = |part, value: &str| Err(self.refusal(part, value));
        if self.title.is_empty() || self.title != title_of(&self.title) {
            return refuse("title", &self.title);
        }
        if !is_path(&self.linux) {
            return refuse("kernel", &self.linux);
        }
        // extlinux separates several by commas.
        if let Some(path) = self.initrd.iter().find(|path| !is_path(path) || path.contains(',')) {
            return refuse("initramfs", path);
        }
        match &self.devicetree {
            Some(DeviceTree::File(path) | DeviceTree::Directory(path)) if !is_path(path) => {
                return refuse("device tree", path);
            }
            _ => {}
        }
        if self.options.contains_key(DEPLOYMENT_KEY) {
            return refuse("kernel arguments", &self.options.to_string());
        }
        Ok(())
    }

    /// Returns the error for a part that a menu cannot hold.
    pub(super) fn refusal(&self, part: &'static str, value: &str) -> EntryError {
        EntryError { deployment: self.deployment.clone(), part, value: value.to_owned() }
    }

    /// Returns the target if [`Self::check`] accepts it.
    pub(super) fn checked(self) -> Option<Self> {
        self.check().is_ok().then_some(self)
    }

    /// The reverse of [`Self::command_line`]; `None` when it names no deployment.
    pub(super) fn split_command_line(line: &str) -> Option<(DeploymentId, Kargs)> {
        let mut options = Kargs::parse(line);
        let deployment = options.take(DEPLOYMENT_KEY)?.parse().ok()?;
        Some((deployment, options))
    }
}

/// A part of an entry that the files of boot loaders cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the boot menu cannot hold the {part} of {deployment}: {value:?}")]
pub struct EntryError {
    /// The deployment that the entry starts.
    pub deployment: DeploymentId,
    /// The name of the part.
    pub part: &'static str,
    /// Its value.
    pub value: String,
}

/// Returns `text` as the title of an entry: its words with one blank between them. Control characters separate words.
#[must_use]
pub fn title_of(text: &str) -> String {
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether every loader reads a path back as it was written.
fn is_path(path: &str) -> bool {
    !path.is_empty() && path.trim() == path && !path.contains(char::is_control)
}

/// An entry of the boot menu.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BootEntry {
    /// Its number: the highest boots.
    pub order: u32,
    /// How often it may be tried; `None` for an entry that is trusted.
    pub tries: Option<Tries>,
    /// What it starts.
    #[serde(flatten)]
    pub target: Target,
}

impl BootEntry {
    /// Whether it used up its tries, so that the loader prefers others.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }
}

/// An entry that is to be in the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedEntry {
    /// What it starts.
    pub target: Target,
    /// How often a new entry may be tried; `None` for one that is trusted. An entry that stays keeps what it has.
    pub tries: Option<u32>,
}

/// Sorts entries as a loader does: by number, the exhausted ones last.
pub fn sort(entries: &mut [BootEntry]) {
    entries.sort_by_key(|entry| (entry.is_exhausted(), std::cmp::Reverse(entry.order)));
}

/// Gives numbers to the wanted entries, the first of which is to boot. What is right as it is keeps its number.
#[must_use]
pub fn arrange(current: &[BootEntry], wanted: &[WantedEntry]) -> Vec<BootEntry> {
    let mut free = current.iter().map(|entry| entry.order).max().unwrap_or(0);
    let mut last = 0;
    let mut arranged: Vec<BootEntry> = Vec::with_capacity(wanted.len());
    for (place, wanted) in wanted.iter().enumerate().rev() {
        let kept = current
            .iter()
            .filter(|entry| entry.target == wanted.target && entry.order > last)
            // One that is to boot next must not be one that the loader avoids.
            .filter(|entry| place > 0 || !entry.is_exhausted())
            .max_by_key(|entry| entry.order);
        let entry = kept.cloned().unwrap_or_else(|| {
            free += 1;
            let tries = wanted.tries.map(|left| Tries { left, done: 0 });
            BootEntry { order: free, tries, target: wanted.target.clone() }
        });
        last = entry.order;
        arranged.push(entry);
    }
    arranged.reverse();
    arranged
}

#[cfg(test)]
pub(super) mod examples {
    use super::*;
    use crate::model::CommitId;

    pub fn target(name: &str) -> Target {
        let deployment = DeploymentId::new("main".parse().expect("legal"), CommitId::of(name.as_bytes()), 0);
        Target {
            deployment,
            title: format!("Debian {name}"),
            linux: format!("/sapwood/0123abcd/{name}/vmlinuz"),
            initrd: vec![format!("/sapwood/0123abcd/{name}/initramfs.img")],
            devicetree: None,
            options: Kargs::parse("root=UUID=1 ro quiet"),
        }
    }

    pub fn entry(order: u32, name: &str, left: Option<u32>) -> BootEntry {
        BootEntry { order, tries: left.map(|left| Tries { left, done: 0 }), target: target(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{entry, target};
    use super::*;

    #[test]
    fn the_first_gets_the_highest_number_and_what_is_right_stays() {
        type Entries = &'static [(u32, &'static str, Option<u32>)];
        let table: &[(Entries, &[&str], Entries)] = &[
            (&[], &["a"], &[(1, "a", Some(3))]),
            (&[(1, "a", None)], &["b", "a"], &[(2, "b", Some(3)), (1, "a", None)]),
            (&[(2, "b", None), (1, "a", None)], &["a", "b"], &[(3, "a", Some(3)), (2, "b", None)]),
            (&[(2, "b", None), (1, "a", None)], &["b"], &[(2, "b", None)]),
            (&[(7, "b", None), (3, "a", None)], &["c", "b", "a"], &[(8, "c", Some(3)), (7, "b", None), (3, "a", None)]),
            // a killed rollback left two entries of one deployment
            (&[(8, "a", None), (7, "b", None), (6, "a", None)], &["a", "b"], &[(8, "a", None), (7, "b", None)]),
            // an exhausted entry may stay below, but is renewed to boot next
            (&[(2, "b", Some(0)), (1, "a", None)], &["a", "b"], &[(3, "a", Some(3)), (2, "b", Some(0))]),
            (&[(2, "b", Some(0)), (1, "a", None)], &["b", "a"], &[(3, "b", Some(3)), (1, "a", None)]),
            // a counted entry keeps its count
            (&[(2, "b", Some(2)), (1, "a", None)], &["b", "a"], &[(2, "b", Some(2)), (1, "a", None)]),
        ];
        let entries = |list: Entries| -> Vec<BootEntry> { list.iter().map(|(o, n, t)| entry(*o, n, *t)).collect() };
        for (current, wanted, expected) in table {
            let wanted: Vec<WantedEntry> =
                wanted.iter().map(|name| WantedEntry { target: target(name), tries: Some(3) }).collect();
            assert_eq!(arrange(&entries(current), &wanted), entries(expected), "{current:?}");
        }
    }

    #[test]
    fn exhausted_entries_come_last() {
        let mut entries = [entry(1, "a", None), entry(3, "c", Some(0)), entry(2, "b", Some(1))];
        sort(&mut entries);
        assert_eq!(entries.map(|entry| entry.order), [2, 1, 3]);
    }

    #[test]
    fn the_command_line_names_the_deployment() {
        let target = target("a");
        let line = target.command_line();
        assert!(line.ends_with(" ro quiet sapwood=main/ca978112ca1b.0"), "{line}");
        assert_eq!(Target::split_command_line(&line), Some((target.deployment, target.options)));
        assert_eq!(Target::split_command_line("root=x"), None);
    }
}
