//! Renders and parses GRUB's files: a static `grub.cfg` that is written once, and a file of entries that it sources.
//!
//! Debian's GRUB cannot read entries of the Boot Loader Specification, and running grub-mkconfig at each update is how
//! updates fail. So `grub.cfg` never changes. It sources `sapwood/entries.cfg`, which is replaced as a whole and whose last
//! line sets a variable that says that the file is complete. If the file is torn, because the power failed on a filesystem
//! without a journal, `grub.cfg` sources the copy of the previous entries.
//!
//! Boot counting: `sapwood_tries_N` in `sapwood/grubenv` is how often entry N may still be tried. An entry decrements its
//! variable when it is started, and at 0 it is no longer the default. GRUB can write the variable on plain partitions only, not
//! through LVM, RAID or btrfs: there it prints a message and boots without counting.
//!
//! *Not here*: reading and writing the files (`menu`), and the format of `grubenv` (`grubenv`). Everything here is pure.
//!
//! *Used by* `menu`.

use std::fmt::Write as _;

use super::entry::{BootEntry, BootTries, DeviceTree, EntryError, EntryTarget, title_of};
use super::grubenv::GrubEnv;
use crate::deploy::kargs::Kargs;

/// The first words of every file that Sapwood writes for GRUB.
const FILE_MARK: &str = "# Made by sapwood";

/// The name of the static configuration in GRUB's directory; the other files are relative to the same directory.
pub(crate) const CONFIG: &str = "grub.cfg";

/// The name under which a configuration that existed before is kept.
pub(crate) const CONFIG_BEFORE: &str = "grub.cfg.before-sapwood";

/// The file of entries.
pub(crate) const ENTRIES: &str = "sapwood/entries.cfg";

/// The copy of the previous file of entries.
pub(crate) const ENTRIES_OLD: &str = "sapwood/entries-old.cfg";

/// The file of the variables that count tries.
pub(crate) const ENVIRONMENT: &str = "sapwood/grubenv";

/// The first words of the part of a generated configuration that reads the entries.
const HOOK_MARK: &str = "# Deployments of sapwood";

/// Returns whether a configuration is the static one, of any version.
pub(crate) fn is_static_config(config: &str) -> bool {
    config.starts_with(FILE_MARK)
}

/// Returns whether GRUB reads the entries with this configuration: it is the static one, or grub-mkconfig made it with the hook.
pub(crate) fn reads_entries(config: &str) -> bool {
    is_static_config(config) || config.lines().any(|line| line.starts_with(HOOK_MARK))
}

/// Returns the static `grub.cfg`.
pub(crate) fn static_config() -> String {
    format!(
        "{FILE_MARK}. This file does not change: deployments are in {ENTRIES}, which it reads.
# What is to be added or changed here belongs into custom.cfg, which is read last.
set timeout=3
{}if [ -f \"$prefix/{CONFIG_BEFORE}\" ]; then
    menuentry 'The menu from before Sapwood' --id sapwood-before {{ configfile \"$prefix/{CONFIG_BEFORE}\" }}
fi
if [ -f \"$prefix/custom.cfg\" ]; then source \"$prefix/custom.cfg\"; fi
",
        source_entries()
    )
}

/// Returns the part that the hook in `/etc/grub.d` (`mount-helpers/grub/99_sapwood`) adds to a configuration that grub-mkconfig
/// makes.
#[cfg(test)]
pub(super) fn hook_config() -> String {
    format!("{HOOK_MARK}, of which the first boots: they are in {ENTRIES}.\n{}", source_entries())
}

/// Returns the lines that read the entries, or the previous ones if the file is torn.
fn source_entries() -> String {
    format!(
        "load_env --file \"$prefix/{ENVIRONMENT}\"
set sapwood_complete=0
if [ -f \"$prefix/{ENTRIES}\" ]; then source \"$prefix/{ENTRIES}\"; fi
if [ \"$sapwood_complete\" != 1 ]; then
    if [ -f \"$prefix/{ENTRIES_OLD}\" ]; then source \"$prefix/{ENTRIES_OLD}\"; fi
fi
"
    )
}

/// The prefix of the names of the variables that count tries.
const COUNTER_PREFIX: &str = "sapwood_tries_";

/// Returns the variable that holds the tries left of the entry `order`.
#[must_use]
pub fn tries_variable(order: u32) -> String {
    format!("{COUNTER_PREFIX}{order}")
}

/// Returns the order of the entry whose tries a variable holds; `None` for other variables.
pub(crate) fn order_of_variable(name: &str) -> Option<u32> {
    name.strip_prefix(COUNTER_PREFIX)?.parse().ok()
}

/// The highest number of tries of one entry, made and left together: each is a branch of the entry's script.
const TRIES_MAX: u32 = 99;

/// Returns the file of entries, of which the first is to boot.
///
/// # Errors
/// [`EntryError`] when the file cannot hold part of an entry.
pub fn render(id: &str, entries: &[BootEntry]) -> Result<String, EntryError> {
    entries.iter().try_for_each(check)?;
    let mut text = format!(
        "{FILE_MARK} for sysroot {id}: replaced as a whole whenever deployments change.\nset sapwood_default=\n"
    );
    let written = entries.iter().try_for_each(|entry| write_menu_entry(&mut text, id, entry));
    written.expect("a String takes everything");
    let first = entries.first().map(|entry| entry_id(id, entry.order)).unwrap_or_default();
    let tail = format!(
        "if [ -z \"$sapwood_default\" ]; then set sapwood_default={first}; fi\nset default=\"$sapwood_default\"\nset sapwood_complete=1\n"
    );
    Ok(text + &tail)
}

fn check(entry: &BootEntry) -> Result<(), EntryError> {
    entry.target.check()?;
    match initial_tries(entry) {
        0..=TRIES_MAX => Ok(()),
        more => Err(entry.target.refusal("number of tries", &more.to_string())),
    }
}

/// Returns the number of tries that an entry began with.
fn initial_tries(entry: &BootEntry) -> u32 {
    entry.tries.map_or(0, |tries| tries.left.saturating_add(tries.done))
}

fn entry_id(id: &str, order: u32) -> String {
    format!("sapwood-{id}-{order:05}")
}

fn write_menu_entry(text: &mut String, id: &str, entry: &BootEntry) -> std::fmt::Result {
    let (counter, own) = (tries_variable(entry.order), entry_id(id, entry.order));
    let good = format!("-z \"$sapwood_default\" -a \"${counter}\" != 0");
    writeln!(text, "if [ {good} ]; then set sapwood_default={own}; fi")?;
    // With a password set, GRUB asks for it before it starts an entry that is not `--unrestricted`, also the default.
    writeln!(text, "menuentry {} --unrestricted --id {own} {{", quote(&entry.target.title))?;
    // Tries already made have a branch, too: `parse` reads the initial number of tries from the first branch.
    let all = initial_tries(entry);
    for left in (1..=all).rev() {
        let word = if left == all { "if" } else { "elif" };
        writeln!(text, "    {word} [ \"${counter}\" = {left} ]; then set {counter}={}", left - 1)?;
    }
    if all > 0 {
        writeln!(text, "    fi")?;
        writeln!(text, "    if [ -n \"${counter}\" ]; then save_env --file \"$prefix/{ENVIRONMENT}\" {counter}; fi")?;
    }
    let line = Kargs::parse(&entry.target.command_line());
    let arguments: Vec<String> = line.iter().map(|argument| quote(&argument.replace('"', ""))).collect();
    writeln!(text, "    linux {} {}", quote(&entry.target.linux), arguments.join(" "))?;
    if !entry.target.initrd.is_empty() {
        let paths: Vec<String> = entry.target.initrd.iter().map(|path| quote(path)).collect();
        writeln!(text, "    initrd {}", paths.join(" "))?;
    }
    match &entry.target.devicetree {
        Some(DeviceTree::File(path)) => writeln!(text, "    devicetree {}", quote(path))?,
        // GRUB cannot choose a blob from a directory; boards that need it boot with U-Boot.
        Some(DeviceTree::Directory(path)) => writeln!(text, "    # fdtdir {}", quote(path))?,
        None => {}
    }
    writeln!(text, "}}")
}

/// Quotes a word for GRUB's scripting language, if it needs quotes.
fn quote(word: &str) -> String {
    let is_plain =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'=' | b':' | b',' | b'+' | b'-' | b'@');
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Parses a file of entries. Returns `None` if it is incomplete or belongs to another sysroot. `counters` has the tries that
/// are left.
#[must_use]
pub fn parse(id: &str, text: &str, counters: &GrubEnv) -> Option<Vec<BootEntry>> {
    let is_complete =
        text.starts_with(&format!("{FILE_MARK} for sysroot {id}:")) && text.ends_with("set sapwood_complete=1\n");
    if !is_complete {
        return None;
    }
    let (mut entries, mut partial) = (Vec::new(), None);
    for line in text.lines() {
        let words = split_words(line.trim());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match (&words[..], &mut partial) {
            // The first form is that of earlier versions.
            (["menuentry", title, "--id", own, "{"] | ["menuentry", title, "--unrestricted", "--id", own, "{"], _) => {
                partial = Some(PartialEntry::new(id, title, own)?);
            }
            (["linux", path, arguments @ ..], Some(entry)) => {
                entry.linux = Some((*path).to_owned());
                let quoted = arguments.iter().map(|word| {
                    if word.contains(char::is_whitespace) { format!("\"{word}\"") } else { (*word).to_owned() }
                });
                entry.line = quoted.collect::<Vec<_>>().join(" ");
            }
            (["initrd", paths @ ..], Some(entry)) => entry.initrd = paths.iter().map(|&path| path.to_owned()).collect(),
            (["devicetree", path], Some(entry)) => entry.devicetree = Some(DeviceTree::File((*path).to_owned())),
            (["#", "fdtdir", path], Some(entry)) => entry.devicetree = Some(DeviceTree::Directory((*path).to_owned())),
            (["if", "[", _, "=", left, ..], Some(entry)) if entry.initial_tries.is_none() => {
                entry.initial_tries = left.parse().ok().filter(|tries| *tries <= TRIES_MAX);
            }
            (["}"], Some(_)) => entries.extend(partial.take().and_then(|entry| entry.finish(counters))),
            _ => {}
        }
    }
    Some(entries)
}

/// An entry of which not all lines are parsed yet.
struct PartialEntry {
    order: u32,
    title: String,
    linux: Option<String>,
    line: String,
    initrd: Vec<String>,
    devicetree: Option<DeviceTree>,
    /// The number of tries that the entry began with.
    initial_tries: Option<u32>,
}

impl PartialEntry {
    fn new(id: &str, title: &str, own: &str) -> Option<Self> {
        let order = own.strip_prefix(&format!("sapwood-{id}-"))?.parse().ok()?;
        let (title, initrd) = (title_of(title), Vec::new());
        Some(Self { order, title, linux: None, line: String::new(), initrd, devicetree: None, initial_tries: None })
    }

    fn finish(self, counters: &GrubEnv) -> Option<BootEntry> {
        let (deployment, options) = EntryTarget::split_command_line(&self.line)?;
        let left: Option<u32> = counters.get(&tries_variable(self.order)).and_then(|left| left.parse().ok());
        let tries = left
            .map(|left| left.min(TRIES_MAX))
            .map(|left| BootTries { left, done: self.initial_tries.unwrap_or(left).saturating_sub(left) });
        let target = EntryTarget {
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

/// Splits a line of GRUB's scripting language into words, as far as [`quote`] uses its syntax.
fn split_words(line: &str) -> Vec<String> {
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
            counters.set(&tries_variable(entry.order), entry.tries.map(|tries| tries.left.to_string()));
        }
        counters
    }

    #[test]
    fn entries_round_trip_through_their_file() {
        let mut entries = vec![entry(7, "a", Some(3)), entry(3, "b", None), entry(1, "c", Some(0))];
        entries[0].target.title = "It's {a} \"test\" $1; #2".into();
        entries[0].target.options = Kargs::parse("root=UUID=1 a=\"x y\" b='z' $c;d");
        entries[1].target.devicetree = Some(DeviceTree::File("/x y.dtb".into()));
        entries[2].target.devicetree = Some(DeviceTree::Directory("/dtb".into()));
        let text = render(ID, &entries).expect("legal");
        assert_eq!(parse(ID, &text, &counted(&entries)), Some(entries.clone()), "{text}");
        let earlier = text.replace(" --unrestricted", "");
        assert_eq!(parse(ID, &earlier, &counted(&entries)), Some(entries.clone()), "the form of earlier versions");
        let mut later = entries.clone();
        later[0].tries = Some(BootTries { left: 1, done: 2 });
        assert_eq!(parse(ID, &text, &counted(&later)), Some(later.clone()));
        let again = render(ID, &later).expect("legal");
        assert_eq!(parse(ID, &again, &counted(&later)), Some(later.clone()), "tries made are preserved");
        later[0].tries = Some(BootTries { left: u32::MAX, done: 1 });
        assert_eq!(render(ID, &later).expect_err("too many branches").part, "number of tries");
        assert_eq!(parse(ID, &render(ID, &[]).expect("nothing"), &GrubEnv::default()), Some(Vec::new()));
    }

    #[test]
    fn parse_refuses_torn_files_and_other_sysroots() {
        let text = render(ID, &[entry(7, "a", None)]).expect("legal");
        for length in 0..text.len() {
            assert_eq!(parse(ID, &text[..length], &GrubEnv::default()), None, "{length} bytes");
        }
        assert_eq!(parse("fedcba98", &text, &GrubEnv::default()), None);
    }

    #[test]
    fn static_configuration_is_recognised() {
        assert!(is_static_config(&static_config()));
        assert!(!is_static_config("# DO NOT EDIT THIS FILE\n"));
        assert!(reads_entries(&format!("# DO NOT EDIT THIS FILE\n{}", hook_config())));
        let hook = include_str!("../../../mount-helpers/grub/99_sapwood");
        assert!(hook.contains(&format!("cat << 'EOF'\n{}EOF\n", hook_config())), "{hook}");
        assert!(!reads_entries("# DO NOT EDIT THIS FILE\n"));
    }
}
