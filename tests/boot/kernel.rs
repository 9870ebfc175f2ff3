//! Boots without a boot loader: QEMU loads the kernel and the initramfs of the deployment.

use std::fs;
use std::path::Path;

use crate::common::sandbox::{Sandbox, run};
use crate::disk::Loop;
use crate::machine::{Hardware, Machine, Shell};
use crate::one_at_a_time;
use crate::system::{REF, System, system};

/// Prints the metadata and the digests of everything in `/usr`, sorted by name.
const USR_DIGEST_SCRIPT: &str = "cd usr && { find . -xdev -printf '%p %y %m %U %G %n %l %T@ ' \\( ! -type f -printf '\\n' -o -printf '%s\\n' \\) && \
                    find . -xdev -type f -exec sha256sum {} +; } | LC_ALL=C sort";

/// Returns a machine that boots this disk with these kernel arguments.
pub fn hardware(system: &System, disk: &Path, arguments: &str) -> Hardware {
    let (kernel, initramfs) = system.kernel();
    let arguments = format!("root=LABEL=root rw console=ttyS0 {arguments}");
    Hardware {
        disks: vec![disk.to_owned()],
        kernel: Some((kernel, initramfs, arguments)),
        network: true,
        no_reboot: true,
        ..Hardware::default()
    }
}

/// Waits until systemd has started everything. Returns the uptime of the guest in seconds.
#[track_caller]
pub fn wait_until_running(shell: &mut Shell) -> f64 {
    let (_, state) = shell.run("systemctl is-system-running --wait");
    let uptime = shell.ok("cat /proc/uptime");
    assert_eq!(state, "running", "{}", shell.run("systemctl --failed --no-pager; journalctl -b -p 4 --no-pager").1);
    uptime.split_whitespace().next().and_then(|first| first.parse().ok()).expect("seconds")
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn a_machine_boots_from_a_deployment_and_reboots_cleanly() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-kernel");
    let disk = system.disk(&sandbox.join("disk.img"));
    let arguments = format!("sapwood={}", system.deployment());
    let mut machine = Machine::start(&hardware(system, &disk, &arguments), sandbox.path());
    let mut shell = machine.shell();
    let seconds = wait_until_running(&mut shell);
    eprintln!("running after {seconds} s; {}", shell.ok("systemd-analyze; dmesg | grep sapwood"));
    let inside =
        shell.ok(&format!("cd / && {{ {USR_DIGEST_SCRIPT}; }} > /tmp/usr && wc -l < /tmp/usr && sha256sum < /tmp/usr"));
    let mounted = system.publisher.mount(REF, &sandbox.join("usr"), &[]);
    let script = format!(
        "cd {} && {{ {USR_DIGEST_SCRIPT}; }} > {out} && wc -l < {out} && sha256sum < {out}",
        mounted.path().display(),
        out = sandbox.join("sums").display()
    );
    assert_eq!(inside, run("sh", ["-c", &script]).success(), "/usr is not the commit's");
    shell.end("reboot");
    assert!(machine.wait_until_off().success());
    let console = machine.console();
    for trouble in ["I/O error", "Input/output error", "Transport endpoint", "Oops:", "Call Trace", "blocked for more"]
    {
        assert!(!console.contains(trouble), "{trouble}:\n{console}");
    }
    assert!(console.contains("reboot: Restarting system"), "{console}");
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn boot_time_is_printed_beside_that_of_plain_ext4() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-time");
    let ours = system.disk(&sandbox.join("disk.img"));
    let plain = sandbox.join("plain.img");
    run("cp", ["--sparse=always".as_ref(), system.plain_disk().as_os_str(), plain.as_os_str()]).success();
    let time = |disk: &Path, arguments: &str| {
        let mut machine = Machine::start(&hardware(system, disk, arguments), sandbox.path());
        let mut shell = machine.shell();
        let seconds = wait_until_running(&mut shell);
        shell.end("poweroff");
        machine.wait_until_off();
        assert!(machine.console().contains("reboot: Power down"), "{}", machine.console());
        seconds
    };
    let sapwood = format!("sapwood={}", system.deployment());
    // The first boot of each, which writes files that later ones find.
    let (ours, plain) = (time(&ours, &sapwood), time(&plain, ""));
    eprintln!("running after {ours:.1} s, on plain ext4 after {plain:.1} s: {:.2} times as long", ours / plain);
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn damaged_image_ends_the_boot_with_a_message() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-damaged");
    let disk = system.disk(&sandbox.join("disk.img"));
    {
        let root = Loop::new(&disk);
        let at = sandbox.directory("root");
        run("mount", [root.device().as_os_str(), at.as_os_str()]).success();
        let images = fs::read_dir(at.join("sapwood/repo/images")).expect("listable");
        for image in images.map(|image| image.expect("listed").path()) {
            let mut bytes = fs::read(&image).expect("readable");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&image, bytes).expect("writable");
        }
        run("umount", [at.as_os_str()]).success();
    }
    let arguments = format!("sapwood={}", system.deployment());
    let mut machine = Machine::start(&hardware(system, &disk, &arguments), sandbox.path());
    let line = machine.wait_for("sapwood: cannot boot");
    assert!(line.contains(&system.deployment()) && line.contains("is damaged: block"), "{line}");
    machine.wait_for("built-in shell");
    // Without a console operator the machine reboots, and the loader counts the try.
    machine.cut_power();
    let arguments = format!("{arguments} panic=1");
    let mut machine = Machine::start(&hardware(system, &disk, &arguments), sandbox.path());
    machine.wait_for("sapwood: cannot boot");
    assert!(machine.wait_until_off().success());
}
