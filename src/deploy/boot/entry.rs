//! One entry of the boot menu, independent of the boot loader, and the order of several entries.
//!
//! Each entry has a number, its order, that no other entry has; the entry with the highest number boots. To make another
//! deployment the default, an entry with a higher number is added. The present entries stay until it is durable, so that at any
//! moment there is an entry to boot.
//!
//! *Not here*: the file formats (`bls`, `grub`, `extlinux`). Everything in this file is pure.
//!
//! *Used by* the other modules of `boot`, and by `deploy::boot_menu`.

use crate::deploy::id::DeploymentId;
use crate::deploy::kargs::{DEPLOYMENT_KEY, Kargs};

/// How often an entry may still be tried, and how often it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct BootTries {
    /// The number of tries left; at 0 the loader prefers any other entry.
    pub left: u32,
    /// The number of tries made.
    pub done: u32,
}

/// The device tree that a kernel needs on boards without firmware tables.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceTree {
    /// One device tree blob.
    File(String),
    /// A directory of device tree blobs, from which the loader chooses.
    Directory(String),
}

/// What a boot entry starts: a kernel with its arguments, for one deployment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EntryTarget {
    /// The deployment that is booted.
    pub deployment: DeploymentId,
    /// The title in the menu.
    pub title: String,
    /// The kernel, as a path on the loader's partition.
    pub linux: String,
    /// The initramfs files, as paths on the loader's partition.
    pub initrd: Vec<String>,
    /// The device tree, as a path on the loader's partition.
    pub devicetree: Option<DeviceTree>,
    /// The kernel arguments, without the one that names the deployment.
    pub options: Kargs,
}

impl EntryTarget {
    /// Returns the command line of the kernel, with the argument that names the deployment.
    pub(crate) fn command_line(&self) -> String {
        format!("{} {DEPLOYMENT_KEY}={}", self.options, self.deployment).trim_start().to_owned()
    }

    /// Checks that the files of all loaders can hold the target so that [`parse`](super::bls::parse) and the parsers of the
    /// other loaders return it unchanged. A text with a line end would add lines to a menu.
    ///
    /// # Errors
    /// [`EntryError`] for the first part that they cannot hold.
    pub fn check(&self) -> Result<(), EntryError> {
        let refuse = |part, value: &str| Err(self.refusal(part, value));
        if self.title.is_empty() || self.title != title_of(&self.title) {
            return refuse("title", &self.title);
        }
        if !is_plain_path(&self.linux) {
            return refuse("kernel", &self.linux);
        }
        // extlinux separates several initramfs files by commas.
        if let Some(path) = self.initrd.iter().find(|path| !is_plain_path(path) || path.contains(',')) {
            return refuse("initramfs", path);
        }
        match &self.devicetree {
            Some(DeviceTree::File(path) | DeviceTree::Directory(path)) if !is_plain_path(path) => {
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

    /// Splits a command line into the deployment that it names and the other arguments. Returns `None` if it names no
    /// deployment.
    pub(super) fn split_command_line(line: &str) -> Option<(DeploymentId, Kargs)> {
        let mut options = Kargs::parse(line);
        let deployment = options.take(DEPLOYMENT_KEY)?.parse().ok()?;
        Some((deployment, options))
    }
}

/// An error: a part of an entry that the files of boot loaders cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the boot menu cannot hold the {part} of {deployment}: {value:?}")]
pub struct EntryError {
    /// The deployment that the entry starts.
    pub(crate) deployment: DeploymentId,
    /// The name of the part.
    pub part: &'static str,
    /// The value of the part.
    pub(crate) value: String,
}

/// Returns `text` as the title of an entry: its words, separated by one blank each. Control characters separate words, too.
#[must_use]
pub fn title_of(text: &str) -> String {
    let words = text.split(|character: char| character.is_whitespace() || character.is_control());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns whether every loader reads this path as it was written.
fn is_plain_path(path: &str) -> bool {
    !path.is_empty() && path.trim() == path && !path.contains(char::is_control)
}

/// An entry of the boot menu.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BootEntry {
    /// The number of the entry: the highest boots.
    pub order: u32,
    /// The tries that are left and made; `None` if the boots of the entry are not counted.
    pub tries: Option<BootTries>,
    /// What the entry starts.
    #[serde(flatten)]
    pub target: EntryTarget,
}

impl BootEntry {
    /// Returns whether the entry used up its tries, so that the loader prefers others.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }
}

/// An entry that is to be in the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedEntry {
    /// What the entry starts.
    pub(crate) target: EntryTarget,
    /// The number of tries of a new entry; `None` to not count its boots. An entry that is kept as it is keeps its tries.
    pub(crate) tries: Option<u32>,
}

/// Sorts entries as a loader does: the highest number first, exhausted entries last.
pub(crate) fn sort_as_loader(entries: &mut [BootEntry]) {
    entries.sort_by_key(|entry| (entry.is_exhausted(), std::cmp::Reverse(entry.order)));
}

/// Assigns numbers to the wanted entries, the first of which is to boot. Entries that are right as they are keep their numbers.
pub(crate) fn assign_orders(current: &[BootEntry], wanted: &[WantedEntry]) -> Vec<BootEntry> {
    let mut highest = current.iter().map(|entry| entry.order).max().unwrap_or(0);
    let mut last = 0;
    let mut arranged: Vec<BootEntry> = Vec::with_capacity(wanted.len());
    for (index, wanted) in wanted.iter().enumerate().rev() {
        let kept = current
            .iter()
            .filter(|entry| entry.target == wanted.target && entry.order > last)
            // The entry that is to boot next must not be exhausted, since the loader avoids such entries.
            .filter(|entry| index > 0 || !entry.is_exhausted())
            .max_by_key(|entry| entry.order);
        let entry = kept.cloned().unwrap_or_else(|| {
            highest += 1;
            let tries = wanted.tries.map(|left| BootTries { left, done: 0 });
            BootEntry { order: highest, tries, target: wanted.target.clone() }
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

    pub(crate) fn target(name: &str) -> EntryTarget {
        let deployment = DeploymentId::new("main".parse().expect("legal"), CommitId::of(name.as_bytes()), 0);
        EntryTarget {
            deployment,
            title: format!("Debian {name}"),
            linux: format!("/sapwood/0123abcd/{name}/vmlinuz"),
            initrd: vec![format!("/sapwood/0123abcd/{name}/initramfs.img")],
            devicetree: None,
            options: Kargs::parse("root=UUID=1 ro quiet"),
        }
    }

    pub(crate) fn entry(order: u32, name: &str, left: Option<u32>) -> BootEntry {
        BootEntry { order, tries: left.map(|left| BootTries { left, done: 0 }), target: target(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::examples::{entry, target};
    use super::*;

    #[test]
    fn first_entry_gets_highest_number_and_right_ones_stay() {
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
            assert_eq!(assign_orders(&entries(current), &wanted), entries(expected), "{current:?}");
        }
    }

    #[test]
    fn sort_puts_exhausted_entries_last() {
        let mut entries = [entry(1, "a", None), entry(3, "c", Some(0)), entry(2, "b", Some(1))];
        sort_as_loader(&mut entries);
        assert_eq!(entries.map(|entry| entry.order), [2, 1, 3]);
    }

    #[test]
    fn command_line_names_the_deployment() {
        let target = target("a");
        let line = target.command_line();
        assert!(line.ends_with(" ro quiet sapwood=main/ca978112ca1b.0"), "{line}");
        assert_eq!(EntryTarget::split_command_line(&line), Some((target.deployment, target.options)));
        assert_eq!(EntryTarget::split_command_line("root=x"), None);
    }
}
