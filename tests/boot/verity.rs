//! fs-verity in a machine with Debian's kernel, since the kernel of the host may lack it.

use std::path::PathBuf;

use crate::common::sandbox::{Sandbox, run};
use crate::kernel::{hardware, wait_until_running};
use crate::machine::{Machine, Shell};
use crate::one_at_a_time;
use crate::system::{sparse, system};

/// Bytes of the disk of the repository.
const SIZE: u64 = 256 << 20;

/// Makes a disk whose file system supports fs-verity. The machine has it as `vdb`.
pub fn disk(at: PathBuf) -> PathBuf {
    sparse(&at, SIZE);
    run("mke2fs", ["-q", "-t", "ext4", "-O", "verity", "-b", "4096", &at.display().to_string()]).success();
    at
}

/// Checks in a machine with that disk that the kernel protects every pack and object, that data damaged on the disk cannot be
/// read, also by passthrough, and that everything else can.
pub fn check_verity(shell: &mut Shell, options: &str) {
    shell.ok("mkdir -p /var/v /var/m /var/tree && mount /dev/vdb /var/v");
    shell.ok("head -c 3000000 /dev/urandom > /var/tree/large && cp /usr/lib/systemd/system/*.service /var/tree");
    shell.ok("sapwood --repo /var/v/repo init && sapwood --repo /var/v/repo config fs-verity on");
    shell.ok("sapwood --repo /var/v/repo commit --ref tree /var/tree");
    let files = "find /var/v/repo/packs /var/v/repo/objects -type f";
    let attributes = shell.ok(&format!("lsattr $({files})"));
    assert!(attributes.lines().count() >= 2, "a pack and an object: {attributes}");
    for line in attributes.lines() {
        assert!(line.split_whitespace().next().is_some_and(|flags| flags.contains('V')), "{attributes}");
    }
    let (status, said) = shell.run(&format!("sh -c 'for file in $({files}); do (true >> $file) && exit; done; false'"));
    assert!(status != 0 && said.contains("Operation not permitted"), "one can be written: {said}");
    let mount = format!("sapwood --repo /var/v/repo mount -o verify=full{options} tree /var/m");
    shell.ok(&mount);
    shell.ok("diff -r /var/tree /var/m && sapwood umount /var/m");
    // The hundredth page of the large file, written on the disk itself.
    let place =
        "filefrag -v -b4096 $(find /var/v/repo/objects -type f) | grep -m1 '^ *0:' | tr -s ' .:' ' ' | cut -d' ' -f5";
    let first: u64 = shell.ok(place).parse().expect("a block");
    let damage = format!("dd if=/dev/zero of=/dev/vdb bs=4096 seek={} count=1 conv=notrunc,fsync", first + 99);
    shell.ok(&format!("sync; {damage} && echo 3 > /proc/sys/vm/drop_caches"));
    shell.ok(&mount);
    let (status, said) = shell.run("cat /var/m/large > /var/read");
    assert!(status != 0 && said.contains("Input/output error"), "{status}: {said}");
    // What was read before the damaged page is right, and so is every other file.
    shell.ok("cmp -n $(stat -c %s /var/read) /var/read /var/tree/large");
    shell.ok("diff -r -x large /var/tree /var/m && sapwood umount /var/m");
    let (status, said) = shell.run("sapwood --repo /var/v/repo fsck");
    assert!(status != 0 && said.contains("large"), "{status}: {said}");
    assert!(shell.ok("dmesg").contains("fs-verity (vdb"), "it was not the kernel that noticed");
    shell.ok("umount /var/v");
}

/// Boots a machine with that disk and runs the check.
#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn damaged_blocks_are_unreadable_with_fs_verity() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-verity");
    let root = system.disk(&sandbox.join("disk.img"));
    let mut hardware = hardware(system, &root, &format!("sapwood={}", system.deployment()));
    hardware.disks.push(disk(sandbox.join("verity.img")));
    let mut machine = Machine::start(&hardware, sandbox.path());
    let mut shell = machine.shell();
    wait_until_running(&mut shell);
    check_verity(&mut shell, "");
    shell.end("poweroff");
    assert!(machine.wait_until_off().success());
}
