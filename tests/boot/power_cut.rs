//! A machine boots after a power cut at any moment of an upgrade and of the shutdown that finishes it.
//!
//! The machine is paused while its disk is copied: the copy is what a power cut would leave. The tools of mtools and the rules
//! of the Boot Loader Specification read each copy as a firmware and a loader would, and what they would start is booted in
//! namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::menu;
use crate::common::sandbox::{Sandbox, remove_tree, run};
use crate::common::web::Web;
use crate::disk::{Loop, copy_boot};
use crate::kernel::wait_until_running;
use crate::lifecycle::{add_remote, hardware};
use crate::machine::Machine;
use crate::namespace::{Boot, Booted};
use crate::one_at_a_time;
use crate::system::{Version, system};

/// Number of copies that are booted.
const CUTS: usize = 10;

/// Time between two copies of the disk.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(100);

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn machine_boots_after_a_power_cut_at_any_moment_of_an_upgrade() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-cut");
    // The machine writes to a small overlay file, which is quick to copy.
    let base = system.disk(&sandbox.join("disk.img"));
    let disk = sandbox.join("disk.qcow2");
    let words = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(str::to_owned);
    run("qemu-img", words.into_iter().chain([base.display().to_string(), disk.display().to_string()])).success();
    let mut machine = Machine::start(&hardware(&sandbox, &disk), sandbox.path());
    let mut shell = machine.shell();
    wait_until_running(&mut shell);
    let web = Web::serve(&system.published(Version::Next));
    add_remote(system, &mut shell, &web);
    shell.send("sapwood upgrade && echo staged > /dev/console && systemctl reboot; exit\n");
    let mut copies: Vec<PathBuf> = Vec::new();
    let mut next = |machine: &mut Machine, until: &str| {
        while !machine.has_said(until) {
            let copy = sandbox.join(&format!("cut-{}.qcow2", copies.len()));
            machine.while_paused(|| run("cp", [&disk, &copy]).success());
            copies.push(copy);
            std::thread::sleep(SNAPSHOT_INTERVAL);
        }
        copies.len()
    };
    let staged = next(&mut machine, "staged");
    let all = next(&mut machine, "reboot: Restarting system");
    machine.cut_power();
    drop((machine, shell));
    assert!(all >= CUTS && staged < all, "{all} copies, {staged} of them before the shutdown");
    // Half of the cuts are during the upgrade and half during the shutdown; the last copy of each is always chosen.
    let chosen = |from: usize, to: usize| (1..=CUTS / 2).map(move |part| from + (to - from) * part / (CUTS / 2) - 1);
    let mut booted = Vec::new();
    for number in chosen(0, staged).chain(chosen(staged, all)) {
        booted.push(boot_copy(&sandbox, &copies[number], number));
    }
    eprintln!("{all} copies, {staged} while upgrading; booted {booted:?}");
    assert_eq!(booted.len(), CUTS);
    assert_eq!(booted[0], system.deployment());
    assert_ne!(booted[CUTS - 1], system.deployment(), "the last copy was made after the update was finalised");
}

/// Boots what a loader finds on a copy of the disk. Returns the deployment.
fn boot_copy(sandbox: &Sandbox, copy: &Path, number: usize) -> String {
    let raw = sandbox.join("cut.img");
    run("qemu-img", ["convert", "-O", "raw", &copy.display().to_string(), &raw.display().to_string()]).success();
    let sysroot = sandbox.directory("cut-sysroot");
    copy_boot(&raw, &sysroot.join("boot"));
    let entries = menu::read(&sysroot, "systemd-boot");
    let first = entries.first().unwrap_or_else(|| panic!("cut {number}: nothing to boot"));
    let root = Loop::new(&raw);
    let (boot, deployment) = (sysroot.join("boot"), first.deployment.as_str());
    let booted =
        Booted::start(system(), sandbox, &Boot { root: &root, boot: &boot, deployment, arguments: "", key: None });
    booted.wait_until_running();
    let modules = "/usr/lib/modules/*";
    for (file, name) in [(&first.linux, "vmlinuz"), (&first.initrd, "initramfs.img")] {
        let there = run("sha256sum", [file]).success();
        let expected = booted.ok(&format!("sha256sum {modules}/{name}"));
        assert_eq!(there.split(' ').next(), expected.split(' ').next(), "cut {number}: {name} is torn");
    }
    booted.end("poweroff");
    drop(root);
    let deployment = first.deployment.clone();
    remove_tree(&sysroot);
    fs::remove_file(&raw).expect("owned by the test");
    deployment
}
