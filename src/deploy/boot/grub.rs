//! GRUB: a static `grub.cfg` of our own that is written once, and a file of entries that it reads. Pure.
//!
//! Debian's GRUB cannot read entries of the Boot Loader Specification, and running grub-mkconfig at each update is how
//! updates fail. So `grub.cfg` never changes; it sources `sapwood/entries.cfg`, which is replaced as a whole and ends
//! by saying that it is complete. If it is not, since the power went on a filesystem without a journal, the copy that was
//! made before is taken.
//!
//! Boot counting: `sapwood_tries_N` in `sapwood/grubenv` is how often entry N may still be tried. An entry counts itself
//! down when it is started, and at 0 it is no longer the default. GRUB can write that on plain partitions only, not
//! through LVM, RAID or btrfs: there it says so and boots uncounted.

use std::fmt::Write as _;

use super::entry::{BootEntry, DeviceTree, EntryError, Target, Tries, title_of};
use super::grubenv::GrubEnv;
use crate::deploy::kargs::Kargs;

/// The first line of every file that is ours.
const MARK: &str = "# Made by sapwood";

/// The static configuration, beside which everything else lies.
pub const CONFIG: &str = "grub.cfg";

/// What a configuration that was there before is kept as.
pub const CONFIG_BEFORE: &str = "grub.cfg.before-sapwood";

/// The entries.
pub const ENTRIES: &str = "sapwood/entries.cfg";

/// The entries before those.
pub const ENTRIES_OLD: &str = "sapwood/entries-old.cfg";

/// The counters.
pub const ENVIRONMENT: &str = "sapwood/grubenv";

/// Whether a configuration is the static one, of whatever version.
#[must_use]
pub fn is_ours(config: &str) -> bool {
    config.starts_with(MARK)
}

/// The static `grub.cfg`.
#[must_use]
pub fn static_config() -> String {
    format!(
        "{MARK}. This file does not change: deployments are in {ENTRIES}, which it reads.
# What is to be added or changed here belongs into custom.cfg, which is read last.
set timeout=3
load_env --file \"$prefix/{ENVIRONMENT}\"
set sapwood_complete=0
if [ -f \"$prefix/{ENTRIES}\" ]; then source \"$prefix/{ENTRIES}\"; fi
if [ \"$sapwood_complete\" != 1 ]; then
    if [ -f \"$prefix/{ENTRIES_OLD}\" ]; then source \"$prefix/{ENTRIES_OLD}\"; fi
fi
if [ -f \"$prefix/{CONFIG_BEFORE}\" ]; then
    menuentry 'The menu from before Sapwood' --id sapwood-before {{ configfile \"$prefix/{CONFIG_BEFORE}\" }}
fi
if [ -f \"$prefix/custom.cfg\" ]; then source \"$prefix/custom.cfg\"; fi
"
    )
}

const COUNTER: &str = "sapwood_tries_";

/// The variable that counts down the entry `order`.
#[must_use]
pub fn counter(order: u32) -> String {
    format!("{COUNTER}{order}")
}

/// The entry that a variable counts down, if it does.
#[must_use]
pub fn counted_order(name: &str) -> Option<u32> {
    name.strip_prefix(COUNTER)?.parse().ok()
}

/// Most tries of one entry, those made and those left: each is a branch of its script.
const TRIES_MAX: u32 = 99;

/// Returns the file of entries, of which the first is to boot.
///
/// # Errors
/// [`EntryError`] when the file cannot hold part of an entry.
pub fn render(id: &str, entries: &[BootEntry]) -> Result<String, EntryError> {
    entries.iter().try_for_each(check)?;
    let mut text =
        format!("{MARK} for sysroot {id}: replaced as a whole whenever deployments change.\nset sapwood_default=\n");
    let written = entries.iter().try_for_each(|entry| menu_entry(&mut text, id, entry));
    written.expect("a String takes everything");
    let first = entries.first().map(|entry| entry_id(id, entry.order)).unwrap_or_default();
    let tail = format!(
        "if [ -z \"$sapwood_default\" ]; then set sapwood_default={first}; fi\nset default=\"$sapwood_default\"\nset sapwood_complete=1\n"
    );
    Ok(text + &tail)
}

fn check(entry: &BootEntry) -> Result<(), EntryError> {
    entry.target.check()?;
    match all_tries(entry) {
        0..=TRIES_MAX => Ok(()),
        more => Err(entry.target.refusal("number of tries", &more.to_string())),
    }
}

/// Returns how many tries an entry began with.
fn all_tries(entry: &BootEntry) -> u32 {
    entry.tries.map_or(0, |tries| tries.left.saturating_add(tries.done))
}

fn entry_id(id: &str, order: u32) -> String {
    format!("sapwood-{id}-{order:05}")
}

fn menu_entry(text: &mut String, id: &str, entry: &BootEntry) -> std::fmt::Result {
    let (counter, own) = (counter(entry.order), entry_id(id, entry.order));
    let good = format!("-z \"$sapwood_default\" -a \"${counter}\" != 0");
    writeln!(text, "if [ {good} ]; then set sapwood_default={own}; fi")?;
    writeln!(text, "menuentry {} --id {own} {{", quoted(&entry.target.title))?;
    // Those made have a branch too, since from the first the number of tries made is read back.
    let all = all_tries(entry);
    for left in (1..=all).rev() {
        let word = if left == all { "if" } else { "elif" };
        writeln!(text, "    {word} [ \"${counter}\" = {left} ]; then set {counter}={}", left - 1)?;
    }
    if all > 0 {
        writeln!(text, "    fi")?;
        writeln!(text, "    if [ -n \"${counter}\" ]; then save_env --file \"$prefix/{ENVIRONMENT}\" {counter}; fi")?;
    }
    let line = Kargs::parse(&entry.target.command_line());
    let arguments: Vec<String> = line.iter().map(|argument| quoted(&argument.replace('"', ""))).collect();
    writeln!(text, "    linux {} {}", quoted(&entry.target.linux), arguments.join(" "))?;
    if !entry.target.initrd.is_empty() {
        let paths: Vec<String> = entry.target.initrd.iter().map(|path| quoted(path)).collect();
        writeln!(text, "    initrd {}", paths.join(" "))?;
    }
    match &entry.target.devicetree {
        Some(DeviceTree::File(path)) => writeln!(text, "    devicetree {}", quoted(path))?,
        // GRUB cannot choose one; whoever needs that boots with U-Boot.
        Some(DeviceTree::Directory(path)) => writeln!(text, "    # fdtdir {}", quoted(path))?,
        None => {}
    }
    writeln!(text, "}}")
}

/// A word of GRUB's language.
fn quoted(word: &str) -> String {
    let is_plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'=' | b':' | b',' | b'+' | b'-' | b'@');
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Reads a file of entries; `None` when it is not complete or of another sysroot. `counters` says what was counted since.
#[must_use]
pub fn parse(id: &str, text: &str, counters: &GrubEnv) -> Option<Vec<BootEntry>> {
    let is_whole = text.starts_with(&format!("{MARK} for sysroot {id}:")) && text.ends_with("set sapwood_complete=1\n");
    if !is_whole {
        return None;
    }
    let (mut entries, mut open) = (Vec::new(), None);
    for line in text.lines() {
        let words = words(line.trim());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match (&words[..], &mut open) {
            (["menuentry", title, "--id", own, "{"], _) => open = Some(Draft::new(id, title, own)?),
            (["linux", path, arguments @ ..], Some(draft)) => {
                draft.linux = Some((*path).to_owned());
                let quoted = arguments.iter().map(|word| {
                    if word.contains(char::is_whitespace) { format!("\"{word}\"") } else { (*word).to_owned() }
                });
                draft.line = quoted.collect::<Vec<_>>().join(" ");
            }
            (["initrd", paths @ ..], Some(draft)) => draft.initrd = paths.iter().map(|&path| path.to_owned()).collect(),
            (["devicetree", path], Some(draft)) => draft.devicetree = Some(DeviceTree::File((*path).to_owned())),
            (["#", "fdtdir", path], Some(draft)) => draft.devicetree = Some(DeviceTree::Directory((*path).to_owned())),
            (["if", "[", _, "=", left, ..], Some(draft)) if draft.first.is_none() => {
                draft.first = left.parse().ok().filter(|first| *first <= TRIES_MAX);
            }
            (["}"], Some(_)) => entries.extend(open.take().and_then(|draft| draft.finish(counters))),
            _ => {}
        }
    }
    Some(entries)
}

/// An entry while it is read.
struct Draft {
    order: u32,
    title: String,
    linux: Option<String>,
    line: String,
    initrd: Vec<String>,
    devicetree: Option<DeviceTree>,
    /// How many tries it began with.
    first: Option<u32>,
}

impl Draft {
    fn new(id: &str, title: &str, own: &str) -> Option<Self> {
        let order = own.strip_prefix(&format!("sapwood-{id}-"))?.parse().ok()?;
        let (title, initrd) = (title_of(title), Vec::new());
        Some(Self { order, title, linux: None, line: String::new(), initrd, devicetree: None, first: None })
    }

    fn finish(self, counters: &GrubEnv) -> Option<BootEntry> {
        let (deployment, options) = Target::split_command_line(&self.line)?;
        let left: Option<u32> = counters.get(&counter(self.order)).and_then(|left| left.parse().ok());
        let tries = left
            .map(|left| left.min(TRIES_MAX))
            .map(|left| Tries { left, done: self.first.unwrap_or(left).saturating_sub(left) });
        let target = Target {
            deployment,
            title: self.title,
            linux: self.linux?,
            initrd: self.initrd,
            devicetree: self.devicetree,
            options,
        };
        Some(BootEntry { order: self.order, tries, target: target.checked()? })
    }
}

/// The words of a line of GRUB's language, as far as [`quoted`] uses it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut current, mut is_word, mut quoted) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => {
                quoted = !quoted;
                is_word = true;
            }
            '\\' if !quoted => current.extend(characters.next()),
            ' ' if !quoted => {
                if std::mem::take(&mut is_word) {
                    words.push(std::mem::take(&mut current));
                }
            }
            other => {
                current.push(other);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(current);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::entry::examples::entry;
    use super::*;

    const ID: &str = "0123abcd";

    fn counted(entries: &[BootEntry]) -> GrubEnv {
        let mut counters = GrubEnv::default();
        for entry in entries {
            counters.set(&counter(entry.order), entry.tries.map(|tries| tries.left.to_string()));
        }
        counters
    }

    #[test]
    fn entries_survive_their_file() {
        let mut entries = vec![entry(7, "a", Some(3)), entry(3, "b", None), entry(1, "c", Some(0))];
        entries[0].target.title = "It's {a} \"test\" $1; #2".into();
        entries[0].target.options = Kargs::parse("root=UUID=1 a=\"x y\" b='z' $c;d");
        entries[1].target.devicetree = Some(DeviceTree::File("/x y.dtb".into()));
        entries[2].target.devicetree = Some(DeviceTree::Directory("/dtb".into()));
        let text = render(ID, &entries).expect("legal");
        assert_eq!(parse(ID, &text, &counted(&entries)), Some(entries.clone()), "{text}");
        let mut later = entries.clone();
        later[0].tries = Some(Tries { left: 1, done: 2 });
        assert_eq!(parse(ID, &text, &counted(&later)), Some(later.clone()));
        let again = render(ID, &later).expect("legal");
        assert_eq!(parse(ID, &again, &counted(&later)), Some(later.clone()), "tries made stay made");
        later[0].tries = Some(Tries { left: u32::MAX, done: 1 });
        assert_eq!(render(ID, &later).expect_err("too many branches").part, "number of tries");
        assert_eq!(parse(ID, &render(ID, &[]).expect("nothing"), &GrubEnv::default()), Some(Vec::new()));
    }

    #[test]
    fn a_torn_file_and_that_of_another_sysroot_are_refused() {
        let text = render(ID, &[entry(7, "a", None)]).expect("legal");
        for length in 0..text.len() {
            assert_eq!(parse(ID, &text[..length], &GrubEnv::default()), None, "{length} bytes");
        }
        assert_eq!(parse("fedcba98", &text, &GrubEnv::default()), None);
    }

    #[test]
    fn the_static_configuration_is_known_as_ours() {
        assert!(is_ours(&static_config()));
        assert!(!is_ours("# DO NOT EDIT THIS FILE\n"));
    }
}
