//! What boots next, by the rules of `bootctl` and of GRUB's own tools, on generated menus with entries of other systems.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use sapwood::deploy::boot::forecast::{LoaderChoices, LoaderEntry};
use sapwood::deploy::boot::version;

use crate::common::random::Random;
use crate::common::sandbox::{Sandbox, finish, run};

/// The number of generated menus.
const MENUS: u64 = 80;

/// Returns the ids of the entries in the order of `bootctl`, and that of the default.
fn bootctl(boot: &Path) -> (Vec<String>, Option<String>) {
    let mut command = Command::new("bootctl");
    command.env("SYSTEMD_RELAX_ESP_CHECKS", "1").arg("--esp-path").arg(boot).args(["--no-pager", "list"]);
    let text = finish(command).success();
    let (mut ids, mut default, mut is_default) = (Vec::new(), None, false);
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix("title:") {
            is_default = title.contains("(default)");
        }
        if let Some(id) = line.strip_prefix("id:") {
            ids.push(id.trim().to_owned());
            if is_default {
                default = ids.last().cloned();
            }
        }
    }
    (ids, default)
}

/// Returns the name and the text of a random entry.
fn random_entry(random: &mut Random) -> (String, String) {
    let words = [
        "a",
        "arch",
        "debian",
        "sapwood-0123abcd-00002",
        "sapwood-0123abcd-00010",
        "z",
        "fedora-6.10",
        "fedora-6.9",
        "B",
    ];
    let tries = ["", "", "", "+3", "+0-3", "+2-1", "+x", "+1"];
    let name = format!("{}{}.conf", random.choose(&words), random.choose(&tries));
    let mut text = format!("title {}\nlinux /vmlinuz\n", random.choose(&words));
    let mut add = |key: &str, values: &[&str]| {
        let value = *random.choose(values);
        if !value.is_empty() {
            text.push_str(&format!("{key} {value}\n"));
        }
    };
    add("sort-key", &["", "debian", "sapwood-0123abcd", "fedora", "Z"]);
    add("machine-id", &["", "", "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"]);
    add("version", &["", "1", "2", "10", "6.10~rc7", "6.10", "6.1.0-9", "6.1.0-10", "6.1.0a"]);
    (name, text)
}

#[test]
fn order_and_default_of_generated_menus_are_those_of_bootctl() {
    let sandbox = Sandbox::new("menus");
    let boot = sandbox.directory("boot");
    mount(Some("tmpfs"), &boot, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs mounts");
    let directory = boot.join("loader/entries");
    fs::write(boot.join("vmlinuz"), "x").expect("writable");
    let mut random = Random::new(1);
    let mut chosen = 0;
    for number in 0..MENUS {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("writable");
        let mut entries: Vec<LoaderEntry> = Vec::new();
        for _ in 0..1 + random.below(7) {
            let (name, text) = random_entry(&mut random);
            let entry = LoaderEntry::parse(&name, &text).expect("an entry");
            // bootctl, too, does not distinguish entries that differ in their tries only.
            if entries.iter().all(|other| other.id != entry.id) {
                fs::write(directory.join(&name), &text).expect("writable");
                entries.push(entry);
            }
        }
        let settings = [
            "timeout 3\n",
            "",
            "default sapwood-*\n",
            "default FEDORA-6.1?.conf\n",
            "default [ad]*.conf\n",
            "default @saved\n",
            "default nothing*\ndefault z.conf\n",
        ];
        let settings = *random.choose(&settings);
        fs::write(boot.join("loader/loader.conf"), settings).expect("writable");
        let mut choices = LoaderChoices::default();
        choices.set_configuration(settings);
        let (ids, default) = bootctl(&boot);
        let mut sorted = entries.clone();
        sorted.sort_by(LoaderEntry::compare);
        let own: Vec<&str> = sorted.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(own, ids, "menu {number}: {entries:#?}");
        let next = choices.next_entry(&entries).expect("there are entries");
        assert_eq!(Some(&next.entry.id), default.as_ref(), "menu {number}: {settings} {ids:?}");
        chosen += u32::from(next.chosen_by.is_some());
    }
    assert!(chosen >= 15, "only {chosen} menus had a setting that chooses");
}

#[test]
fn versions_compare_as_systemd_and_dpkg_compare_them() {
    let versions = [
        "1",
        "1.0",
        "6.10",
        "6.10~rc7",
        "6.9.12",
        "6.1.0-9-amd64",
        "6.1.0-10-amd64",
        "6.1.0-10-cloud-amd64",
        "123.a-1",
        "6.1.0_x",
        "007",
        "6.1^2",
    ];
    let sign = |ordering: std::cmp::Ordering| ["<", "==", ">"][(ordering as i8 + 1) as usize];
    for (index, a) in versions.iter().enumerate() {
        for b in &versions[index..] {
            let said = run("systemd-analyze", ["compare-versions", a, b]).text();
            let expected = said.split(' ').nth(1).unwrap_or_else(|| panic!("{said}"));
            assert_eq!(sign(version::compare(a, b)), expected, "{a} {b}");
        }
    }
    // Of kernels, as Debian's packages are compared, in whose versions a candidate has a tilde.
    let kernels = [
        "6.9.12-amd64",
        "6.10-amd64",
        "6.10-rc7-amd64",
        "6.10-rc10-amd64",
        "6.10.1-amd64",
        "6.1.0-9-amd64",
        "6.1.0-10-amd64",
    ];
    for (index, a) in kernels.iter().enumerate() {
        for b in &kernels[index + 1..] {
            let package = |release: &str| release.replace("-rc", "~rc");
            let is_less = run("dpkg", ["--compare-versions", &package(a), "lt", &package(b)]).status.success();
            assert_eq!(version::compare_kernels(a, b).is_lt(), is_less, "{a} {b}");
        }
    }
}
