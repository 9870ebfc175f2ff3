//! Finds out whether the boot loader starts what this sysroot's menu has first, and else why not: entries and settings of other
//! systems, and configuration that another program wrote.
//!
//! *Not here*: the rules of systemd-boot (`forecast`), and the entries of this sysroot (`menu`).
//!
//! *Invariants*: reads files and changes nothing. What cannot be read, such as variables of firmware that is not there, decides
//! nothing.
//!
//! *Used by* `deploy::status` and `cli`.

use std::fs;
use std::io;
use std::path::Path;

use super::bls;
use super::forecast::{ChoiceSource, LoaderChoices, LoaderEntry, NextEntry};
use super::loader::{BootLoader, LoaderKind};
use super::menu::{BootError, Menu, read_text};
use super::{extlinux, unified};

/// The vendor of the variables of systemd-boot.
const LOADER_VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The length of the attributes before the value of a variable.
const VARIABLE_ATTRIBUTES_BYTES: usize = 4;

/// A reason why the machine boots something else than the first entry of the menu.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct MenuProblem {
    pub(crate) kind: MenuProblemKind,
    /// What is wrong, in words.
    pub(crate) message: String,
    /// What can be done about it.
    pub(crate) remedy: String,
}

/// The kind of a [`MenuProblem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MenuProblemKind {
    /// Another entry is started.
    BootsOther,
    /// Another program wrote the configuration of the boot loader, which does not read the menu any more.
    MenuReplaced,
    /// A file that the administrator wrote chooses the entry in a way that is not understood.
    DefaultUnknown,
    /// The first entry names a kernel that is not there.
    KernelMissing,
}

/// Returns the reasons why the first entry of a menu is not what boots next; none for an empty menu.
///
/// # Errors
/// When the files of the boot loader cannot be read.
pub(crate) fn find(menu: &Menu, id: &str) -> Result<Vec<MenuProblem>, BootError> {
    let Some(first) = menu.entries().first() else { return Ok(Vec::new()) };
    let loader = menu.loader();
    let mut found = Vec::new();
    match loader.kind {
        LoaderKind::SystemdBoot => {
            let own = bls::file_name(id, first.order, None);
            found.extend(boots_other(loader, &own)?);
        }
        LoaderKind::Grub => found.extend(grub_problem(menu)?),
        LoaderKind::Extlinux => found.extend(extlinux_problem(loader, &extlinux::label(id, first.order))?),
        LoaderKind::None | LoaderKind::Auto => {}
    }
    let kernel =
        first.target.linux.strip_prefix(&loader.prefix).map(|path| loader.directory.join(path.trim_start_matches('/')));
    match kernel {
        Some(kernel) if kernel.is_file() => {}
        _ => found.push(MenuProblem {
            kind: MenuProblemKind::KernelMissing,
            message: format!("the boot loader does not find the kernel of the first entry, {}", first.target.linux),
            remedy: WRITE_MENU.to_owned(),
        }),
    }
    Ok(found)
}

/// The remedy that restores what this program wrote.
const WRITE_MENU: &str = "'sapwood sysroot write-menu' writes menu and kernels anew";

/// The remedy that has the boot loader prefer the entries of this sysroot.
const PREFER: &str = "'sapwood sysroot write-menu --prefer' has deployments boot first, by 'default' in loader.conf";

fn grub_problem(menu: &Menu) -> Result<Option<MenuProblem>, BootError> {
    let directory = menu.loader().grub_directory();
    if menu.is_replaced() {
        let config = directory.join("grub.cfg");
        return Ok(Some(MenuProblem {
            kind: MenuProblemKind::MenuReplaced,
            message: format!("{} does not read the menu: another program has written or removed it", config.display()),
            remedy: format!("{WRITE_MENU}; the next upgrade and shutdown do so, too"),
        }));
    }
    let custom = directory.join("custom.cfg");
    let text = read_text(&custom)?.unwrap_or_default();
    let sets_default = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("set ").unwrap_or(line).trim_start().starts_with("default=")
    };
    Ok(text.lines().any(sets_default).then(|| MenuProblem {
        kind: MenuProblemKind::DefaultUnknown,
        message: format!("{} sets the entry that boots", custom.display()),
        remedy: "remove its line 'default=' if the first deployment is to boot".to_owned(),
    }))
}

fn extlinux_problem(loader: &BootLoader, own: &str) -> Result<Option<MenuProblem>, BootError> {
    let path = loader.extlinux_directory().join(extlinux::CONFIG);
    let text = read_text(&path)?.unwrap_or_default();
    let mut defaults = text.lines().rev().filter_map(|line| {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        key.eq_ignore_ascii_case("default").then(|| value.trim().to_owned())
    });
    Ok(defaults.next().filter(|label| label != own).map(|label| MenuProblem {
        kind: MenuProblemKind::BootsOther,
        message: format!("'{label}' boots next: the last line DEFAULT of {} says so", path.display()),
        remedy: format!("remove that line, or {WRITE_MENU}"),
    }))
}

/// Returns the problem that systemd-boot starts another entry than `own`.
fn boots_other(loader: &BootLoader, own: &str) -> Result<Option<MenuProblem>, BootError> {
    let partitions = || std::iter::once(&loader.directory).chain(&loader.others);
    let mut entries = Vec::new();
    for partition in partitions() {
        entries.extend(type_one_entries(&partition.join("loader/entries"))?);
        entries.extend(unified_images(&partition.join("EFI/Linux"))?);
    }
    let mut choices = LoaderChoices {
        one_shot: read_variable(loader, "LoaderEntryOneShot"),
        variable: read_variable(loader, "LoaderEntryDefault"),
        last_started: read_variable(loader, "LoaderEntrySelected"),
        configuration: None,
    };
    choices.set_configuration(&read_text(&loader.configuration())?.unwrap_or_default());
    let Some(next) = choices.next_entry(&entries).filter(|next| next.entry.id != own) else { return Ok(None) };
    let (reason, remedy) = explain(&next, &choices, own);
    let name = next.entry.title.as_ref().map_or(String::new(), |title| format!("'{title}' "));
    Ok(Some(MenuProblem {
        kind: MenuProblemKind::BootsOther,
        message: format!("{name}({}) boots next, and not {own}: {reason}", next.entry.id),
        remedy,
    }))
}

/// Returns why systemd-boot starts the entry `next`, and what changes that.
fn explain(next: &NextEntry<'_>, choices: &LoaderChoices, own: &str) -> (String, String) {
    let shown = |value: &Option<String>| value.clone().unwrap_or_default();
    match next.chosen_by {
        Some(ChoiceSource::OneShot) => (
            format!("it was chosen for one boot (LoaderEntryOneShot is {})", shown(&choices.one_shot)),
            "'bootctl set-oneshot \"\"' takes that back".to_owned(),
        ),
        Some(ChoiceSource::Variable) => (
            format!("it was chosen in the firmware (LoaderEntryDefault is {})", shown(&choices.variable)),
            "'bootctl set-default \"\"' takes that back".to_owned(),
        ),
        Some(ChoiceSource::Configuration) => {
            (format!("loader.conf says 'default {}'", shown(&choices.configuration)), PREFER.to_owned())
        }
        None => {
            let key = next.entry.sort_key.as_ref().map_or_else(String::new, |key| format!("its sort-key '{key}'"));
            let what = if key.is_empty() { format!("its name, {},", next.entry.id) } else { key };
            (format!("{what} sorts before the keys of {own}"), format!("{PREFER}; or remove that entry"))
        }
    }
}

fn type_one_entries(directory: &Path) -> Result<Vec<LoaderEntry>, BootError> {
    let mut entries = Vec::new();
    for name in list(directory)? {
        // The loader skips hidden files.
        if name.starts_with('.') || !name.ends_with(".conf") {
            continue;
        }
        let text = read_text(&directory.join(&name))?.unwrap_or_default();
        entries.extend(LoaderEntry::parse(&name, &text));
    }
    Ok(entries)
}

fn unified_images(directory: &Path) -> Result<Vec<LoaderEntry>, BootError> {
    let mut entries = Vec::new();
    for name in list(directory)? {
        let path = directory.join(&name);
        let Ok(mut file) = fs::File::open(&path) else { continue };
        let text = unified::os_release(&mut file);
        let text = text.map_err(|source| BootError::Io { action: "read", path, source })?;
        entries.extend(text.and_then(|text| LoaderEntry::of_unified_image(&name, &text)));
    }
    Ok(entries)
}

fn list(directory: &Path) -> Result<Vec<String>, BootError> {
    let io_error = |source| BootError::Io { action: "list", path: directory.to_owned(), source };
    let listed = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(io_error)?,
    };
    let names = listed.map(|entry| Ok(entry.map_err(io_error)?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>, BootError>>()?;
    names.sort();
    Ok(names)
}

/// Reads a variable of systemd-boot; `None` if it is not set or cannot be read.
fn read_variable(loader: &BootLoader, name: &str) -> Option<String> {
    let bytes = fs::read(loader.efi_variables.join(format!("{name}-{LOADER_VENDOR}"))).ok()?;
    let units =
        bytes.get(VARIABLE_ATTRIBUTES_BYTES..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text = String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>());
    Some(text).filter(|text| !text.is_empty())
}
