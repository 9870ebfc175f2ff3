//! Renders and parses entries of the Boot Loader Specification, type 1: one small file for each entry.
//!
//! *Not here*: reading and writing the files (`menu`). Everything in this file is pure.
//!
//! *Invariants*: parsing a rendered entry returns the same entry.
//!
//! *Used by* `menu`.
//!
//! ```text
//! sapwood-0123abcd-00007+3.conf      `+LEFT-DONE` only while the entry is counted; the loader renames it at each try
//!
//! title Debian GNU/Linux 12 (12.8)
//! version 7
//! sort-key sapwood-0123abcd
//! options root=UUID=… ro sapwood=main/0123456789ab.0
//! linux /sapwood/0123abcd/DIGEST/vmlinuz
//! initrd /sapwood/0123abcd/DIGEST/initramfs.img
//! ```

use std::fmt::Write as _;

use super::entry::{BootEntry, BootTries, DeviceTree, EntryError, EntryTarget, title_of};

const SUFFIX: &str = ".conf";

/// Returns the prefix of the file names of all entries of the sysroot `id`.
fn prefix(id: &str) -> String {
    format!("sapwood-{id}-")
}

/// Returns the pattern for the names of all entries of the sysroot `id`.
pub(super) fn pattern(id: &str) -> String {
    format!("{}*", prefix(id))
}

/// Returns the file name of an entry.
#[must_use]
pub fn file_name(id: &str, order: u32, tries: Option<BootTries>) -> String {
    let tries = match tries {
        None => String::new(),
        Some(BootTries { left, done: 0 }) => format!("+{left}"),
        Some(BootTries { left, done }) => format!("+{left}-{done}"),
    };
    format!("{}{order:05}{tries}{SUFFIX}", prefix(id))
}

/// Parses a file name into the order and the tries of the entry. Returns `None` for files that are not entries of this sysroot.
pub(crate) fn parse_name(id: &str, name: &str) -> Option<(u32, Option<BootTries>)> {
    let rest = name.strip_prefix(&prefix(id))?.strip_suffix(SUFFIX)?;
    let (order, tries) = match rest.split_once('+') {
        None => (rest, None),
        Some((order, tries)) => {
            let (left, done) = tries.split_once('-').unwrap_or((tries, "0"));
            (order, Some(BootTries { left: left.parse().ok()?, done: done.parse().ok()? }))
        }
    };
    Some((order.parse().ok()?, tries))
}

/// Returns the text of an entry.
///
/// # Errors
/// [`EntryError`] when a line cannot hold part of it.
pub fn render(id: &str, entry: &BootEntry) -> Result<String, EntryError> {
    let target = &entry.target;
    target.check()?;
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let written = writeln!(text, "{key} {value}");
        written.expect("a String takes everything");
    };
    line("title", &target.title);
    line("version", &entry.order.to_string());
    line("sort-key", prefix(id).trim_end_matches('-'));
    line("options", &target.command_line());
    line("linux", &target.linux);
    target.initrd.iter().for_each(|initrd| line("initrd", initrd));
    match &target.devicetree {
        Some(DeviceTree::File(path)) => line("devicetree", path),
        // Not part of the specification: loaders skip keys that they do not know, and U-Boot knows this one.
        Some(DeviceTree::Directory(path)) => line("fdtdir", path),
        None => {}
    }
    Ok(text)
}

/// Parses the file `name` with this text. Returns `None` if it is not a complete entry of this sysroot.
#[must_use]
pub fn parse(id: &str, name: &str, text: &str) -> Option<BootEntry> {
    let (order, tries) = parse_name(id, name)?;
    let (mut title, mut linux, mut initrd, mut devicetree, mut options) = (None, None, Vec::new(), None, Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(char::is_whitespace)?;
        let value = value.trim().to_owned();
        match key {
            "title" => title = Some(title_of(&value)),
            "linux" => linux = Some(value),
            "initrd" => initrd.push(value),
            "devicetree" => devicetree = Some(DeviceTree::File(value)),
            "fdtdir" => devicetree = Some(DeviceTree::Directory(value)),
            "options" => options.push(value),
            _ => {}
        }
    }
    let (deployment, options) = EntryTarget::split_command_line(&options.join(" "))?;
    let target = EntryTarget { deployment, title: title?, linux: linux?, initrd, devicetree, options }.checked()?;
    Some(BootEntry { order, tries, target })
}

#[cfg(test)]
mod tests {
    use super::super::entry::examples::entry;
    use super::*;

    const ID: &str = "0123abcd";

    #[test]
    fn entry_round_trips_through_its_file() {
        let mut entries = vec![entry(7, "a", None), entry(70_000, "b", Some(3)), entry(1, "c", Some(0))];
        entries[1].target.devicetree = Some(DeviceTree::File("/x.dtb".into()));
        entries[2].target.devicetree = Some(DeviceTree::Directory("/dtb".into()));
        entries[2].target.initrd.clear();
        entries[2].tries = Some(BootTries { left: 0, done: 3 });
        for entry in entries {
            let name = file_name(ID, entry.order, entry.tries);
            assert_eq!(parse(ID, &name, &render(ID, &entry).expect("legal")), Some(entry), "{name}");
        }
    }

    #[test]
    fn parse_name_accepts_own_names_only() {
        let tries = |left, done| Some(BootTries { left, done });
        assert_eq!(file_name(ID, 7, tries(3, 0)), "sapwood-0123abcd-00007+3.conf");
        assert_eq!(parse_name(ID, "sapwood-0123abcd-00007+1-2.conf"), Some((7, tries(1, 2))));
        assert_eq!(parse_name(ID, "sapwood-0123abcd-00007.conf"), Some((7, None)));
        for other in [
            "debian.conf",
            "sapwood-fedcba98-00007.conf",
            "sapwood-0123abcd-00007.conf.tmp",
            ".tmp-1",
            "sapwood-0123abcd-x.conf",
        ] {
            assert_eq!(parse_name(ID, other), None, "{other}");
        }
    }

    #[test]
    fn parse_refuses_torn_files() {
        let complete = render(ID, &entry(7, "a", None)).expect("legal");
        let name = file_name(ID, 7, None);
        let end = complete.find("\nlinux").expect("rendered");
        for length in 0..end {
            assert_eq!(parse(ID, &name, &complete[..length]), None, "{length} bytes");
        }
    }
}
