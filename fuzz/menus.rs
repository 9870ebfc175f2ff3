//! Boot menus: texts that are read, and entries that are made of bytes, written and read again.
//!
//! *Invariants*: a menu that is read and written is the same menu; no entry adds a line to it, whatever its texts hold.

use sapwood::deploy::boot::{
    BootEntry, BootTries, DeviceTree, EntryError, EntryTarget, GrubEnv, bls, extlinux, grub, title_of,
};
use sapwood::deploy::kargs::Kargs;

use super::{ID, SEPARATOR, text};

/// Reads a file of the boot menu, whose name is the first line.
pub fn entry(bytes: &[u8]) {
    let text = text(bytes);
    let (name, text) = text.split_once('\n').unwrap_or((&text, ""));
    if let Some(entry) = bls::parse(ID, name, text) {
        let name = bls::file_name(ID, entry.order, entry.tries);
        let again = bls::render(ID, &entry).expect("what was read can be written");
        assert_eq!(bls::parse(ID, &name, &again), Some(entry));
    }
}

/// Reads GRUB's environment block.
pub fn grubenv(bytes: &[u8]) {
    if let Ok(env) = GrubEnv::parse(bytes)
        && let Ok(block) = env.render()
    {
        assert_eq!(GrubEnv::parse(&block), Ok(env));
    }
}

/// Reads `extlinux.conf`.
pub fn extlinux(bytes: &[u8]) {
    let text = text(bytes);
    let entries = extlinux::parse(ID, &text);
    let again = extlinux::render(ID, &text, &entries).expect("what was read can be written");
    assert_eq!(extlinux::parse(ID, &again), entries);
    assert_eq!(extlinux::render(ID, &again, &entries), Ok(again), "a menu that is written twice is the same");
}

/// Reads GRUB's file of entries, and the block with its counters.
pub fn grub(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == SEPARATOR);
    let menu = text(parts.next().unwrap_or_default());
    let counters = GrubEnv::parse(parts.next().unwrap_or_default()).unwrap_or_default();
    let Some(entries) = grub::parse(ID, &menu, &counters) else { return };
    let again = grub::render(ID, &entries).expect("what was read can be written");
    assert_eq!(grub::parse(ID, &again, &counters), Some(entries));
}

/// Makes any entry: four bytes of its number, tries left and done, then title, kernel, device tree, arguments, what others
/// wrote into the menu, and any number of initramfs.
pub fn made(bytes: &[u8]) {
    let Some((numbers, rest)) = bytes.split_at_checked(6) else { return };
    let mut texts = rest.split(|byte| *byte == SEPARATOR).map(|bytes| text(bytes).into_owned());
    let mut next = || texts.next().unwrap_or_default();
    let (title, linux, devicetree, options, before) = (next(), next(), next(), next(), next());
    let tries = (numbers[4] != 0).then(|| BootTries { left: numbers[4].into(), done: numbers[5].into() });
    let target = EntryTarget {
        deployment: "main/0123456789ab.0".parse().expect("legal"),
        title,
        linux,
        initrd: texts.collect(),
        devicetree: match devicetree.strip_prefix('@') {
            Some(directory) => Some(DeviceTree::Directory(directory.to_owned())),
            None => (!devicetree.is_empty()).then_some(DeviceTree::File(devicetree)),
        },
        options: options.split('\n').map(str::to_owned).collect(),
    };
    let order = u32::from_le_bytes([numbers[0], numbers[1], numbers[2], numbers[3]]);
    round_trip(&BootEntry { order, tries, target }, &before);
}

/// Writes an entry for each loader and reads it again, as it is and with the title that is made for it.
///
/// # Panics
/// When a loader's file does not hold the entry, or more than it.
pub fn round_trip(entry: &BootEntry, before: &str) {
    let mut legal = entry.clone();
    legal.target.title = title_of(&format!("{} [x]", entry.target.title));
    assert!(legal.target.check().err().is_none_or(|error| error.part != "title"), "{legal:?}");
    for entry in [entry, &legal] {
        assert_eq!(Kargs::parse(&entry.target.options.to_string()), entry.target.options);
        in_bls(entry);
        in_extlinux(entry, before);
        in_grub(entry);
    }
}

/// Checks that a text is refused exactly if the target is illegal, and has no other lines than those of an entry of this shape.
fn checked(text: Result<String, EntryError>, entry: &BootEntry, lines: usize) -> Option<String> {
    assert_eq!(text.as_ref().err(), entry.target.check().as_ref().err());
    let text = text.ok()?;
    assert_eq!(text.lines().count(), lines, "{text}");
    assert!(!text.contains(|character: char| character.is_control() && character != '\n'), "{text:?}");
    Some(text)
}

/// Returns an entry of the same shape whose texts are plain.
fn plain(entry: &BootEntry) -> BootEntry {
    let mut plain = entry.clone();
    let target = &mut plain.target;
    (target.title, target.linux, target.options) = ("x".to_owned(), "/x".to_owned(), Kargs::default());
    target.initrd.iter_mut().for_each(|path| "/x".clone_into(path));
    if let Some(DeviceTree::File(path) | DeviceTree::Directory(path)) = &mut target.devicetree {
        "/x".clone_into(path);
    }
    plain
}

fn in_bls(entry: &BootEntry) {
    let lines = bls::render(ID, &plain(entry)).expect("legal").lines().count();
    if let Some(text) = checked(bls::render(ID, entry), entry, lines) {
        let name = bls::file_name(ID, entry.order, entry.tries);
        assert_eq!(bls::parse(ID, &name, &text).as_ref(), Some(entry));
    }
}

fn in_extlinux(entry: &BootEntry, before: &str) {
    // extlinux does not count tries.
    let one = BootEntry { tries: None, ..entry.clone() };
    let all = [one.clone(), BootEntry { order: one.order ^ 1, ..plain(&one) }];
    let lines = extlinux::render(ID, "", &[plain(&one), plain(&one)]).expect("legal").lines().count();
    if checked(extlinux::render(ID, "", &all), &one, lines).is_some() {
        let text = extlinux::render(ID, before, &all).expect("legal as before");
        assert_eq!(extlinux::parse(ID, &text), all);
        assert_eq!(extlinux::render(ID, &text, &all), Ok(text));
    }
}

fn in_grub(entry: &BootEntry) {
    let all = [entry.clone(), BootEntry { order: entry.order ^ 1, tries: None, ..plain(entry) }];
    let mut counters = GrubEnv::default();
    counters.set(&grub::tries_variable(entry.order), entry.tries.map(|tries| tries.left.to_string()));
    let Ok(same) = grub::render(ID, &[plain(entry), all[1].clone()]) else {
        assert!(grub::render(ID, &all).is_err(), "more tries than it has branches for");
        return;
    };
    if let Some(text) = checked(grub::render(ID, &all), entry, same.lines().count()) {
        assert_eq!(grub::parse(ID, &text, &counters).as_deref(), Some(&all[..]), "{text}");
    }
}
