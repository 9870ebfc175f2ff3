//! Renders and parses `extlinux.conf`, as SYSLINUX' extlinux and U-Boot's distro boot read it.
//!
//! The entries of a sysroot are a block between two marks; all other lines stay as they are. The block is at the end of the
//! file, since of several `DEFAULT` lines these loaders take the last. They do not count tries.
//!
//! *Not here*: reading and writing the file (`menu`). Everything in this file is pure.
//!
//! *Invariants*: parsing a rendered file returns the same entries, without their tries.
//!
//! *Used by* `menu`.

use std::fmt::Write as _;

use super::entry::{BootEntry, DeviceTree, EntryError, EntryTarget, title_of};

/// The name of the configuration file in its directory.
pub(crate) const CONFIG: &str = "extlinux.conf";

/// Returns the first line of the block.
fn begin_mark(id: &str) -> String {
    format!("# begin sapwood {id}: written by sapwood; changes between these lines are lost")
}

/// Returns the last line of the block.
fn end_mark(id: &str) -> String {
    format!("# end sapwood {id}")
}

/// Returns the label of an entry.
pub(super) fn label(id: &str, order: u32) -> String {
    format!("sapwood-{id}-{order:05}")
}

/// Returns the whole file: `before` with the block of the sysroot replaced. Tries are not written.
///
/// # Errors
/// [`EntryError`] when a line cannot hold part of an entry.
pub fn render(id: &str, before: &str, entries: &[BootEntry]) -> Result<String, EntryError> {
    entries.iter().try_for_each(|entry| entry.target.check())?;
    let mut text = without_block(id, before);
    let has_timeout = text.lines().any(|line| line.trim_start().to_ascii_uppercase().starts_with("TIMEOUT"));
    let written = write_block(&mut text, id, entries, if has_timeout { None } else { Some("TIMEOUT 30") });
    written.expect("a String takes everything");
    Ok(text)
}

fn write_block(text: &mut String, id: &str, entries: &[BootEntry], timeout: Option<&str>) -> std::fmt::Result {
    writeln!(text, "{}", begin_mark(id))?;
    if let Some(timeout) = timeout {
        // The unit of TIMEOUT is a tenth of a second.
        writeln!(text, "{timeout}")?;
    }
    if let Some(first) = entries.first() {
        writeln!(text, "DEFAULT {}", label(id, first.order))?;
    }
    for entry in entries {
        let target = &entry.target;
        writeln!(text, "LABEL {}", label(id, entry.order))?;
        writeln!(text, "    MENU LABEL {}", target.title)?;
        writeln!(text, "    LINUX {}", target.linux)?;
        if !target.initrd.is_empty() {
            writeln!(text, "    INITRD {}", target.initrd.join(","))?;
        }
        match &target.devicetree {
            Some(DeviceTree::File(path)) => writeln!(text, "    FDT {path}")?,
            Some(DeviceTree::Directory(path)) => writeln!(text, "    FDTDIR {path}")?,
            None => {}
        }
        writeln!(text, "    APPEND {}", target.command_line())?;
    }
    writeln!(text, "{}", end_mark(id))
}

/// Returns the file without the block of the sysroot. The line ends of the other lines are preserved.
fn without_block(id: &str, text: &str) -> String {
    let (begin, end) = (begin_mark(id), end_mark(id));
    let mut inside = false;
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        inside |= line.trim_end() == begin;
        if !inside {
            kept.push_str(line);
        }
        inside &= line.trim_end() != end;
    }
    if !kept.is_empty() && !kept.ends_with('\n') {
        kept.push('\n');
    }
    kept
}

/// Returns the entries of the sysroot's block; none if the block is incomplete.
#[must_use]
pub fn parse(id: &str, text: &str) -> Vec<BootEntry> {
    let (begin, end) = (begin_mark(id), end_mark(id));
    let mut lines = text.lines().map(str::trim_end).skip_while(|line| *line != begin).skip(1);
    let mut is_complete = false;
    let is_inside = |line: &&str| {
        is_complete = *line == end;
        !is_complete
    };
    let block: Vec<&str> = lines.by_ref().take_while(is_inside).collect();
    let labels = block.split(|line| line.starts_with("LABEL ")).skip(1);
    let orders = block.iter().filter_map(|line| line.strip_prefix("LABEL "));
    let entries = orders.zip(labels).filter_map(|(label, lines)| parse_entry(id, label, lines));
    if is_complete { entries.collect() } else { Vec::new() }
}

fn parse_entry(id: &str, label: &str, lines: &[&str]) -> Option<BootEntry> {
    let order = label.strip_prefix(&format!("sapwood-{id}-"))?.parse().ok()?;
    let value =
        |key: &str| lines.iter().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(' ')).map(str::trim);
    let (deployment, options) = EntryTarget::split_command_line(value("APPEND")?)?;
    let file = value("FDT").map(|path| DeviceTree::File(path.to_owned()));
    let target = EntryTarget {
        deployment,
        title: title_of(value("MENU LABEL")?),
        linux: value("LINUX")?.to_owned(),
        initrd: value("INITRD").map(|paths| paths.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        devicetree: file.or_else(|| value("FDTDIR").map(|path| DeviceTree::Directory(path.to_owned()))),
        options,
    };
    Some(BootEntry { order, tries: None, target: target.checked()? })
}

#[cfg(test)]
mod tests {
    use super::super::entry::examples::entry;
    use super::*;

    const ID: &str = "0123abcd";

    #[test]
    fn entries_round_trip_through_their_file() {
        let mut entries = vec![entry(7, "a", None), entry(3, "b", None), entry(1, "c", None)];
        entries[1].target.devicetree = Some(DeviceTree::File("/x.dtb".into()));
        entries[2].target.devicetree = Some(DeviceTree::Directory("/dtb".into()));
        entries[2].target.initrd.clear();
        let text = render(ID, "", &entries).expect("legal");
        assert_eq!(parse(ID, &text), entries, "{text}");
        assert_eq!(render(ID, &text, &entries), Ok(text));
    }

    #[test]
    fn render_keeps_other_lines_and_writes_the_last_default() {
        let before = "TIMEOUT 50\nDEFAULT other\nLABEL other\n  KERNEL /x\n";
        let text = render(ID, before, &[entry(1, "a", None)]).expect("legal");
        assert!(text.starts_with(before), "{text}");
        assert_eq!(text.matches("TIMEOUT").count(), 1);
        let defaults: Vec<&str> = text.lines().filter(|line| line.starts_with("DEFAULT")).collect();
        assert_eq!(defaults, ["DEFAULT other", "DEFAULT sapwood-0123abcd-00001"]);
        let again = render(ID, &text, &[entry(2, "b", None)]).expect("legal");
        assert!(again.starts_with(before));
        assert_eq!(parse(ID, &again), [entry(2, "b", None)]);
        assert_eq!(parse("fedcba98", &text), []);
    }

    #[test]
    fn render_keeps_line_ends_and_ignores_a_stray_end_mark() {
        let before = format!("{}\nTIMEOUT 50\r\r\nLABEL other\r\n", end_mark(ID));
        let text = render(ID, &before, &[entry(1, "a", None)]).expect("legal");
        assert!(text.starts_with(&before), "{text:?}");
        assert_eq!(render(ID, &text, &[entry(1, "a", None)]), Ok(text.clone()));
        let last = text.rfind('#').expect("the mark at the end");
        assert_eq!(parse(ID, &text[..last]), []);
    }

    #[test]
    fn parse_returns_no_entries_of_a_torn_block() {
        let text = render(ID, "", &[entry(7, "a", None)]).expect("legal");
        for length in 0..text.len() - 1 {
            assert_eq!(parse(ID, &text[..length]), [], "{length} bytes");
        }
    }
}
