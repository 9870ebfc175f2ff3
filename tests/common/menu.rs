//! Reads boot menus as their loaders do, by code that shares nothing with the program.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::sandbox::run;

/// An entry as the loader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The deployment that its command line names.
    pub deployment: String,
    /// Path of its kernel on this machine.
    pub linux: PathBuf,
    /// Path of its initramfs on this machine.
    pub initrd: PathBuf,
    /// The complete command line.
    pub options: String,
    /// Number of tries left, where they are counted.
    pub left: Option<u32>,
}

/// Returns the entries, the one that boots first. As a loader does, it skips entries that are incomplete.
pub fn read(sysroot: &Path, loader: &str) -> Vec<Entry> {
    let boot = sysroot.join("boot");
    match loader {
        "grub" => grub(&boot),
        "extlinux" => extlinux(&boot),
        "systemd-boot" | "none" => bls(&boot),
        other => panic!("no reader of the menu of {other}"),
    }
}

fn entry(boot: &Path, prefix: &str, linux: &str, initrd: &str, options: &str, left: Option<u32>) -> Option<Entry> {
    let deployment = options.split(' ').find_map(|word| word.strip_prefix("sapwood="))?.to_owned();
    let place = |path: &str| boot.join(path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/'));
    let (linux, initrd) = (place(linux), place(initrd));
    Some(Entry { deployment, linux, initrd, options: options.to_owned(), left })
}

/// Reads entries by the rules of the Boot Loader Specification: bad ones last, then by sort-key, then by version, the highest
/// first.
fn bls(boot: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    let Ok(listed) = fs::read_dir(boot.join("loader/entries")) else { return Vec::new() };
    for file in listed.flatten() {
        let name = file.file_name().into_string().expect("ASCII");
        let Some(stem) = name.strip_suffix(".conf") else { continue };
        let left =
            stem.split_once('+').map(|(_, tries)| tries.split('-').next().expect("a part").parse().expect("a number"));
        let text = fs::read_to_string(file.path()).expect("readable");
        let value = |key: &str| {
            text.lines().find_map(|line| line.split_once(' ').filter(|(k, _)| *k == key).map(|(_, v)| v.to_owned()))
        };
        let (Some(linux), Some(options)) = (value("linux"), value("options")) else { continue };
        let version: u64 = value("version").and_then(|version| version.parse().ok()).unwrap_or(0);
        let initrd = value("initrd").unwrap_or_default();
        if let Some(entry) = entry(boot, "/", &linux, &initrd, &options, left) {
            found.push((left == Some(0), std::cmp::Reverse(version), entry));
        }
    }
    found.sort_by_key(|(is_bad, version, _)| (*is_bad, *version));
    found.into_iter().map(|(_, _, entry)| entry).collect()
}

/// Reads entries as GRUB does: the configuration sources Sapwood's entries, or the earlier ones if those are incomplete.
fn grub(boot: &Path) -> Vec<Entry> {
    let directory = boot.join("grub");
    let Ok(config) = fs::read_to_string(directory.join("grub.cfg")) else { return Vec::new() };
    if !config.contains("sapwood/entries.cfg") {
        return Vec::new();
    }
    check_script(&directory.join("grub.cfg"));
    let read = |name: &str| fs::read_to_string(directory.join("sapwood").join(name)).unwrap_or_default();
    let complete = |text: &String| text.trim_end().ends_with("set sapwood_complete=1");
    let Some((name, text)) =
        ["entries.cfg", "entries-old.cfg"].map(|name| (name, read(name))).into_iter().find(|(_, text)| complete(text))
    else {
        return Vec::new();
    };
    check_script(&directory.join("sapwood").join(name));
    let counters = run("grub-editenv", [directory.join("sapwood/grubenv"), "list".into()]).success();
    let mut found = Vec::new();
    for block in text.split("menuentry ").skip(1) {
        let order: u32 = block.split("--id sapwood-0123abcd-").nth(1).expect("an id")[..5].parse().expect("a number");
        let line =
            |word: &str| block.lines().find_map(|line| line.trim().strip_prefix(word)).unwrap_or_default().to_owned();
        let linux = line("linux ");
        let (path, options) = linux.split_once(' ').expect("arguments");
        let left =
            counters.lines().find_map(|line| line.strip_prefix(&format!("sapwood_tries_{order}="))?.parse().ok());
        found.extend(entry(boot, "/boot", path, &line("initrd "), options, left));
    }
    found.sort_by_key(|entry| entry.left == Some(0));
    found
}

fn check_script(path: &Path) {
    run("grub-script-check", [path]).success();
}

/// Reads entries by the label that the last DEFAULT names, then in order.
fn extlinux(boot: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(boot.join("extlinux/extlinux.conf")).unwrap_or_default();
    let default = text.lines().rev().find_map(|line| line.strip_prefix("DEFAULT ")).unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for block in text.split("\nLABEL ").skip(1) {
        let label = block.lines().next().expect("a label");
        let line = |word: &str| block.lines().find_map(|line| line.trim().strip_prefix(word)).unwrap_or_default();
        if let Some(entry) = entry(boot, "/boot", line("LINUX "), line("INITRD "), line("APPEND "), None) {
            found.push((label != default, entry));
        }
    }
    found.sort_by_key(|(is_other, _)| *is_other);
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// Fails unless everything that this entry starts is complete: kernel, initramfs, and deployment.
#[track_caller]
pub fn assert_bootable(sysroot: &Path, entry: &Entry, context: &str) {
    let linux = fs::read_to_string(&entry.linux)
        .unwrap_or_else(|error| panic!("{context}: {}: {error}", entry.linux.display()));
    let version = linux.strip_prefix("kernel ").unwrap_or_else(|| panic!("{context}: a torn kernel: {linux:?}"));
    let initrd = fs::read_to_string(&entry.initrd)
        .unwrap_or_else(|error| panic!("{context}: {}: {error}", entry.initrd.display()));
    assert_eq!(initrd, format!("initramfs {version} ").repeat(400), "{context}: a torn initramfs");
    let directory = sysroot.join("sapwood/deploy").join(&entry.deployment);
    let origin = fs::read_to_string(directory.join("origin.toml"))
        .unwrap_or_else(|error| panic!("{context}: {entry:?}: {error}"));
    let commit = origin.lines().find_map(|line| line.strip_prefix("commit = ")).expect("a commit").trim_matches('"');
    let record = sysroot.join("sapwood/repo/commits").join(commit);
    assert!(record.is_file(), "{context}: {entry:?}: its commit is gone");
    for path in ["etc/hosts", "etc/passwd", "etc/prog/prog.conf", "root/usr", "root/sysroot"] {
        assert!(directory.join(path).exists(), "{context}: {entry:?} has no {path}");
    }
    assert!(sysroot.join("sapwood/deploy/main/var/lib/prog/state").is_file(), "{context}: no /var");
}
