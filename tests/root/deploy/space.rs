//! Boot partitions and disks that are too small.

use std::fs;

use nix::mount::{MsFlags, mount};

use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::sandbox::Sandbox;

/// Bytes of a kernel in these tests.
const KERNEL: usize = 400 << 10;

fn os(version: &str) -> Os {
    let mut os = Os::new(version);
    let path = format!("usr/lib/modules/6.1.0-{version}/vmlinuz");
    os.set(&path, &format!("kernel {version} {}", "x".repeat(KERNEL)));
    os
}

fn small(path: &std::path::Path, bytes: usize) {
    let options = format!("size={bytes}");
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("tmpfs mounts");
}

#[test]
fn boot_partition_for_two_kernels_suffices_for_all_upgrades() {
    for loader in ["systemd-boot", "grub", "extlinux"] {
        let sandbox = Sandbox::new(&format!("boot-{loader}"));
        let directory = sandbox.directory("machine");
        let boot = sandbox.directory("machine/sysroot/boot");
        small(&boot, 2 * KERNEL + (200 << 10));
        let machine = Machine::at(directory, loader);
        machine.publish(&os("1"));
        machine.run(&["deploy", "os:test"]).success();
        for version in ["2", "3", "4"] {
            machine.publish(&os(version));
            // Bless every deployment in the menu, so that the oldest one may leave it.
            for entry in menu::read(&machine.sysroot, loader) {
                machine.run_booted(&entry.deployment, &["boot", "bless"]).success();
            }
            let plan = machine.run(&["upgrade", "--dry-run"]).success();
            let leaves_first = plan.contains("left the menu, which happens first");
            assert_eq!(leaves_first, version != "2", "{loader} {version}: {plan}");
            machine.run(&["upgrade"]).success();
            assert_eq!(machine.versions().len(), 2, "{loader} {version}");
        }
        // A third kernel that has to stay does not fit: nothing is written, and the message suggests what to undeploy.
        machine.run(&["pin", "1"]).success();
        machine.publish(&os("5"));
        let said = machine.run(&["upgrade"]).failure(1);
        assert!(said.contains("has no room for the new kernel") && said.contains("sapwood undeploy main/"), "{said}");
        assert_eq!(machine.versions(), ["4", "3"], "{loader}");
        // A kernel that is already there takes no further room.
        machine.publish(
            &os("6")
                .kernel("4")
                .with("usr/lib/modules/6.1.0-4/vmlinuz", &os("4").files["usr/lib/modules/6.1.0-4/vmlinuz"]),
        );
        machine.run(&["upgrade"]).success();
        assert_eq!(machine.versions()[0], "6");
        assert_eq!(fs::read_dir(boot.join("sapwood/0123abcd")).expect("it exists").count(), 2, "{loader}");
    }
}

#[test]
fn too_small_disk_is_noticed_before_anything_is_staged() {
    let sandbox = Sandbox::new("disk");
    let directory = sandbox.directory("machine");
    small(&sandbox.directory("machine/sysroot"), 3 << 20);
    let machine = Machine::at(directory, "none");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let mut large = Os::new("2");
    large.set("usr/etc/large", &"y".repeat(3 << 20));
    machine.publish(&large);
    for arguments in [&["upgrade", "--dry-run"][..], &["upgrade"]] {
        let said = machine.run(arguments).failure(1);
        assert!(said.contains("are needed") && said.contains("are free"), "{said}");
        assert_eq!(machine.versions(), ["1"]);
    }
}

#[test]
fn unmounted_boot_partition_is_refused_and_a_new_one_filled() {
    let sandbox = Sandbox::new("unmounted");
    let machine = Machine::new(&sandbox, "systemd-boot");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    machine.publish(&Os::new("2"));
    machine.run(&["upgrade"]).success();
    let boot = machine.sysroot.join("boot");
    small(&boot, 1 << 20);
    for arguments in [&["status"][..], &["upgrade"], &["cleanup"], &["rollback"]] {
        let said = machine.run(arguments).failure(1);
        assert!(said.contains("is the boot partition mounted?"), "{said}");
    }
    assert_eq!(fs::read_dir(&boot).expect("it exists").count(), 0, "nothing was written beside it");
    // On a new boot partition the menu is made from the deployments.
    machine.run(&["sysroot", "write-menu"]).success();
    let entries = menu::read(&machine.sysroot, "systemd-boot");
    assert_eq!(entries.len(), 2);
    entries.iter().for_each(|entry| menu::assert_bootable(&machine.sysroot, entry, "after write-menu"));
    assert_eq!(machine.versions(), ["2", "1"]);
}
