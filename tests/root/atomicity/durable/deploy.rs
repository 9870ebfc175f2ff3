//! A machine that loses its power while it is updated: at every moment its loader finds a menu in which something boots, whole.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::work::{Scene, Work};
use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::sandbox::Repository;

/// The machine of a scene: what it follows is not on the disk that crashes.
fn machine(scene: &Scene) -> Machine {
    let directory = scene.outside.join("machine");
    let publisher = Repository::at(directory.join("publisher"));
    Machine { directory, publisher, sysroot: scene.disk.join("sysroot") }
}

fn prepare(scene: &Scene, loader: &str) {
    let directory = scene.outside.join("machine");
    fs::create_dir_all(&directory).expect("writable");
    fs::create_dir_all(scene.disk.join("sysroot")).expect("writable");
    symlink(scene.disk.join("sysroot"), directory.join("sysroot")).expect("writable");
    Machine::at(directory, loader);
    let machine = machine(scene);
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    fs::write(machine.etc("prog/prog.conf"), "a = one\n").expect("writable");
    machine.publish(&Os::new("2").with("usr/etc/prog/prog.conf", "b = two\n").with("usr/etc/new/file", "x\n"));
}

fn change(scene: &Scene) -> Command {
    machine(scene).command(&["upgrade"])
}

fn look(scene: &Scene, loader: &str) -> bool {
    let machine = machine(scene);
    let entries = menu::read(&machine.sysroot, loader);
    let context = format!("{loader} after a power cut");
    entries.iter().for_each(|entry| menu::assert_bootable(&machine.sysroot, entry, &context));
    let top = entries.first().unwrap_or_else(|| panic!("{context}: nothing boots"));
    let is_new = top.linux != *machine_kernel(&machine, "1", &entries);
    machine.repository().assert_clean();
    // Whoever updates goes on as if nothing had happened, and what was changed here is still so.
    machine.run(&["upgrade"]).success();
    assert_eq!(machine.versions()[0], "2", "{context}, and then updated");
    let merged = fs::read_to_string(machine.etc("prog/prog.conf")).expect("it is there");
    assert_eq!(merged, "a = one\n", "{context}: what was changed here is lost");
    is_new
}

/// The kernel of the version, as the menu shows it.
fn machine_kernel<'a>(machine: &Machine, version: &str, entries: &'a [menu::Entry]) -> &'a Path {
    let is_it =
        |entry: &&menu::Entry| fs::read_to_string(&entry.linux).is_ok_and(|text| text == format!("kernel {version}"));
    let found = entries.iter().find(is_it);
    &found.unwrap_or_else(|| panic!("the version before is gone from {}", machine.sysroot.display())).linux
}

pub const GRUB: Work =
    Work { name: "deploy-grub", prepare: |scene| prepare(scene, "grub"), change, look: |scene| look(scene, "grub") };

pub const SYSTEMD_BOOT: Work = Work {
    name: "deploy-systemd-boot",
    prepare: |scene| prepare(scene, "systemd-boot"),
    change,
    look: |scene| look(scene, "systemd-boot"),
};

pub const EXTLINUX: Work = Work {
    name: "deploy-extlinux",
    prepare: |scene| prepare(scene, "extlinux"),
    change,
    look: |scene| look(scene, "extlinux"),
};
