//! Power cuts during an upgrade of a machine: at every moment its loader finds a menu with an entry that boots, complete.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::operations::{Fixture, Operation};
use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::sandbox::Repository;

/// Returns the machine of a fixture. The repository that it pulls from is not on the disk that crashes.
fn machine(fixture: &Fixture) -> Machine {
    let directory = fixture.outside.join("machine");
    let publisher = Repository::at(directory.join("publisher"));
    Machine { directory, publisher, sysroot: fixture.disk.join("sysroot") }
}

fn prepare(fixture: &Fixture, loader: &str) {
    let directory = fixture.outside.join("machine");
    fs::create_dir_all(&directory).expect("writable");
    fs::create_dir_all(fixture.disk.join("sysroot")).expect("writable");
    symlink(fixture.disk.join("sysroot"), directory.join("sysroot")).expect("writable");
    Machine::at(directory, loader);
    let machine = machine(fixture);
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    fs::write(machine.etc("prog/prog.conf"), "a = one\n").expect("writable");
    machine.publish(&Os::new("2").with("usr/etc/prog/prog.conf", "b = two\n").with("usr/etc/new/file", "x\n"));
}

fn change(fixture: &Fixture) -> Command {
    machine(fixture).command(&["upgrade"])
}

fn check(fixture: &Fixture, loader: &str) -> bool {
    let machine = machine(fixture);
    let entries = menu::read(&machine.sysroot, loader);
    let context = format!("{loader} after a power cut");
    entries.iter().for_each(|entry| menu::assert_bootable(&machine.sysroot, entry, &context));
    let top = entries.first().unwrap_or_else(|| panic!("{context}: nothing boots"));
    let is_new = top.linux != *machine_kernel(&machine, "1", &entries);
    machine.repository().assert_clean();
    // The next upgrade works as if nothing had happened, and local changes are still there.
    machine.run(&["upgrade"]).success();
    assert_eq!(machine.versions()[0], "2", "{context}, and then updated");
    let merged = fs::read_to_string(machine.etc("prog/prog.conf")).expect("it is there");
    assert_eq!(merged, "a = one\n", "{context}: what was changed here is lost");
    is_new
}

/// Returns the kernel of a version, as the menu names it.
fn machine_kernel<'a>(machine: &Machine, version: &str, entries: &'a [menu::Entry]) -> &'a Path {
    let is_it =
        |entry: &&menu::Entry| fs::read_to_string(&entry.linux).is_ok_and(|text| text == format!("kernel {version}"));
    let found = entries.iter().find(is_it);
    &found.unwrap_or_else(|| panic!("the version before is gone from {}", machine.sysroot.display())).linux
}

pub const GRUB: Operation = Operation {
    name: "deploy-grub",
    prepare: |fixture| prepare(fixture, "grub"),
    change,
    check: |fixture| check(fixture, "grub"),
};

pub const SYSTEMD_BOOT: Operation = Operation {
    name: "deploy-systemd-boot",
    prepare: |fixture| prepare(fixture, "systemd-boot"),
    change,
    check: |fixture| check(fixture, "systemd-boot"),
};

pub const EXTLINUX: Operation = Operation {
    name: "deploy-extlinux",
    prepare: |fixture| prepare(fixture, "extlinux"),
    change,
    check: |fixture| check(fixture, "extlinux"),
};
