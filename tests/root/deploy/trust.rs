//! Which commits are deployed: signed ones, and others only where a person expressly allows it.

use std::fs;

use serde_json::Value;

use crate::common::machine::{Machine, Os};
use crate::common::sandbox::Sandbox;

#[test]
fn only_signed_or_expressly_allowed_commits_are_deployed() {
    let sandbox = Sandbox::new("trust");
    let machine = Machine::new(&sandbox, "none");
    let one = machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    assert!(machine.status()["deployments"][0]["signed_by"]["signed"].is_string());
    // A local commit without a signature.
    let tree = machine.directory.join("tree");
    Os::new("mine").write(&tree);
    let id = machine.repository().commit("mine", &tree);
    let said = machine.run(&["deploy", "mine"]).failure(1);
    assert!(said.contains("no key that this machine trusts") && said.contains("--unsigned"), "{said}");
    machine.run(&["deploy", "mine", "--unsigned"]).success();
    assert_eq!(machine.status()["deployments"][0]["signed_by"], "local");
    assert_eq!(machine.status()["deployments"][0]["commit"], Value::from(id));
    // Its kernel arguments may be changed without the option; it follows no remote.
    machine.run(&["kargs", "--append", "debug"]).success();
    let said = machine.run(&["upgrade"]).failure(1);
    assert!(said.contains("follows no remote"), "{said}");
    // The signature of a pulled commit counts also when the commit is named by its id.
    machine.run(&["deploy", &one[..12]]).success();
    assert!(machine.status()["deployments"][0]["signed_by"]["signed"].is_string());
    machine.run(&["deploy", "https://host/repo#test"]).failure(1);
}

#[test]
fn distrusted_key_is_reported_and_its_commits_not_deployed() {
    let sandbox = Sandbox::new("distrust");
    let machine = Machine::new(&sandbox, "none");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let url = format!("file://{}", machine.published().display());
    let other = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    machine.repository().run(["remote", "add", "--replace", "os", &url, "--key", other]).success();
    let status = machine.run(&["status"]).success();
    assert!(status.contains("would not be deployed today"), "{status}");
    machine.run(&["kargs", "--append", "x"]).failure(1);
    machine.publish(&Os::new("2"));
    machine.run(&["upgrade"]).failure(1);
    assert_eq!(machine.versions(), ["1"]);
    // From a remote that was added with --insecure-unsigned, unsigned commits are deployed.
    machine.repository().run(["remote", "add", "--replace", "os", &url, "--insecure-unsigned"]).success();
    machine.run(&["upgrade"]).success();
    assert_eq!(machine.status()["deployments"][0]["signed_by"], "insecure-remote");
}

#[test]
fn a_damaged_kernel_never_reaches_the_boot_partition() {
    let sandbox = Sandbox::new("damage");
    let machine = Machine::new(&sandbox, "systemd-boot");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    machine.publish(&Os::new("2"));
    machine.run(&["upgrade", "--download-only"]).success();
    // Every pack gets one wrong byte in the middle of the new kernel.
    let packs = machine.repository().path().join("packs");
    for pack in fs::read_dir(packs).expect("it exists") {
        let path = pack.expect("listed").path();
        let mut bytes = fs::read(&path).expect("readable");
        let needle = b"initramfs 2 ";
        if let Some(place) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[place] ^= 1;
            fs::remove_file(&path).expect("owned by the test");
            fs::write(&path, bytes).expect("writable");
        }
    }
    let said = machine.run(&["upgrade"]).failure(1);
    assert!(said.contains("is damaged in the repository"), "{said}");
    let entries = crate::common::menu::read(&machine.sysroot, "systemd-boot");
    assert_eq!(entries.len(), 1);
    crate::common::menu::assert_bootable(&machine.sysroot, &entries[0], "after the damage");
}

#[test]
fn unbootable_commit_is_refused_before_anything_is_written() {
    let sandbox = Sandbox::new("unbootable");
    let machine = Machine::new(&sandbox, "none");
    let mut os = Os::new("1");
    os.remove("usr/lib/modules/6.1.0-1/initramfs.img");
    machine.publish(&os);
    let said = machine.run(&["deploy", "os:test"]).failure(1);
    assert!(said.contains("no initramfs"), "{said}");
    assert_eq!(fs::read_dir(machine.sysroot.join("sapwood/deploy")).expect("it exists").count(), 0);
    os.remove("usr/lib/modules/6.1.0-1/vmlinuz");
    machine.publish(&os);
    assert!(machine.run(&["deploy", "os:test"]).failure(1).contains("no kernel"));
}
