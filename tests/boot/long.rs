//! Boots that only `tests/run --long` does: GRUB, dracut, the newest kernel.

use std::fs;
use std::path::Path;

use crate::common::sandbox::Sandbox;
use crate::kernel::{hardware as by_kernel, wait_until_running};
use crate::lifecycle::{by_bios, hardware, run_lifecycle};
use crate::machine::Machine;
use crate::one_at_a_time;
use crate::system::{Loader, TREEFILE, source, system, tools};
use crate::verity;

fn run_lifecycle_with(loader: Loader) {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-grub");
    let place = sandbox.directory("disk");
    let first = system.deploy_with(&place, loader);
    let disk = place.join("disk.img");
    let machine = if loader == Loader::GrubBios { by_bios(&disk) } else { hardware(&sandbox, &disk) };
    run_lifecycle(system, &sandbox, &machine, &first);
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --long boots"]
fn grub_by_uefi_survives_upgrade_rollback_and_hanging_commit() {
    run_lifecycle_with(Loader::GrubEfi);
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --long boots"]
fn grub_by_bios_survives_upgrade_rollback_and_hanging_commit() {
    run_lifecycle_with(Loader::GrubBios);
}

/// Returns the treefile of the system, changed to dracut and the newest kernel of the backports.
fn with_dracut(tools: &Path) -> String {
    let listed = fs::read_dir(tools.join("newer/lib/modules")).expect("tests/boot/tools fetched it").next();
    let release = listed.expect("one").expect("listed").file_name().into_string().expect("UTF-8");
    let backports = fs::read_to_string(tools.join("sources/backports.list")).expect("tests/boot/tools wrote it");
    let signed = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let newer = backports.lines().next().expect("a source").replace("deb ", &format!("{signed} "));
    let sources = format!("apt-sources: |\n  {}\n  {newer}\n", newer.replace("-backports", ""));
    let mut text = fs::read_to_string(source(TREEFILE)).expect("owned by the test");
    for (from, to) in [
        ("initramfs: initramfs-tools", "initramfs: dracut"),
        ("linux-image-cloud-amd64 initramfs-tools busybox zstd", &format!("linux-image-{release} dracut zstd")),
        ("packages:\n", &format!("{sources}packages:\n")),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

#[test]
#[ignore = "composes another system and boots it: tests/run --long boots"]
fn dracut_and_newest_kernel_boot_with_and_without_passthrough() {
    let _one = one_at_a_time();
    let sandbox = Sandbox::new("boot-dracut");
    let system = system().variant(sandbox.directory("system"), &with_dracut(&tools()));
    for mode in ["cached", "passthrough"] {
        let disk = system.disk(&sandbox.join("disk.img"));
        let arguments = format!("sapwood={} sapwood.mode={mode}", system.deployment());
        let mut hardware = by_kernel(&system, &disk, &arguments);
        hardware.disks.push(verity::disk(sandbox.join("verity.img")));
        let mut machine = Machine::start(&hardware, sandbox.path());
        let mut shell = machine.shell();
        let seconds = wait_until_running(&mut shell);
        eprintln!("{}: running after {seconds} s; {}", shell.ok("uname -r"), shell.ok("sapwood mounts /usr"));
        assert!(shell.ok("sapwood mounts /usr").contains(mode));
        shell.ok("find /usr -xdev -type f -exec cat {} + > /dev/null");
        verity::check_verity(&mut shell, if mode == "passthrough" { ",passthrough" } else { "" });
        shell.end("poweroff");
        assert!(machine.wait_until_off().success());
        assert!(machine.console().contains("reboot: Power down"), "{}", machine.console());
    }
}
