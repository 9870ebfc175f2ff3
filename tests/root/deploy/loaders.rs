//! Boot menus read by the loaders themselves: `bootctl`, GRUB running in a process, a real FAT file system, and a disk as GRUB
//! sees it, without replaying the journal.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::pty::{Winsize, openpty};
use serde_json::Value;

use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::sandbox::{Sandbox, finish, is_mounted, run};

fn bootctl(boot: &Path) -> Vec<Value> {
    let mut command = Command::new("bootctl");
    command.env("SYSTEMD_RELAX_ESP_CHECKS", "1").arg("--esp-path").arg(boot).args(["--json=short", "list"]);
    let text = finish(command).success();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn bootctl_text(boot: &Path) -> String {
    let mut command = Command::new("bootctl");
    command.env("SYSTEMD_RELAX_ESP_CHECKS", "1").arg("--esp-path").arg(boot).arg("list");
    finish(command).success()
}

#[test]
fn bootctl_reads_the_entries_and_takes_the_same_default() {
    let sandbox = Sandbox::new("bootctl");
    let directory = sandbox.directory("machine");
    let boot = sandbox.directory("machine/sysroot/boot");
    mount(Some("tmpfs"), &boot, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs mounts");
    let machine = Machine::at(directory, "systemd-boot");
    // Another system, whose entries have no sort key.
    fs::create_dir_all(boot.join("loader/entries")).expect("writable");
    fs::write(boot.join("loader/entries/other.conf"), "title Other\nlinux /other/vmlinuz\n").expect("writable");
    fs::create_dir_all(boot.join("other")).expect("writable");
    fs::write(boot.join("other/vmlinuz"), "x").expect("writable");
    for version in ["1", "2"] {
        machine.publish(&Os::new(version).with("usr/lib/os-release", "PRETTY_NAME='Test \"OS\" ä'\n"));
        machine.run(&["deploy", "os:test"]).success();
    }
    for rolled_back in [false, true] {
        let entries = bootctl(&boot);
        let own: Vec<&Value> = entries.iter().filter(|entry| entry["title"] != "Other").collect();
        assert_eq!(entries.len(), 3, "{entries:?}");
        let status = machine.status();
        for (entry, deployment) in own.iter().zip(status["deployments"].as_array().expect("a list")) {
            let id = deployment["id"].as_str().expect("a name");
            assert!(entry["options"].as_str().expect("options").ends_with(&format!("sapwood={id}")), "{entry} {id}");
            assert!(entry["title"].as_str().expect("a title").starts_with("Test \"OS\" ä ("), "{entry}");
            for path in [&entry["linux"], &entry["initrd"][0]] {
                let path = path.as_str().expect("a path").trim_start_matches('/');
                assert!(boot.join(path).is_file(), "{path}");
            }
            let left = deployment["tries"]["left"].as_u64();
            assert_eq!(entry["triesLeft"].as_u64(), left, "{entry}");
        }
        let text = bootctl_text(&boot);
        let default = text.lines().find(|line| line.contains("(default)")).expect("there is one");
        let name = machine.deployments()[0].clone();
        assert!(default.contains(&name), "{rolled_back}: {default}, not {name}");
        machine.run(&["rollback"]).success();
    }
}

/// Runs a command on a terminal that is wide enough for long lines, and returns all that it wrote until it closed the terminal.
///
/// Not through `script`, which on a busy machine stops 10 ms after its child and loses output that is still on its way.
fn on_terminal(mut command: Command) -> String {
    let size = Winsize { ws_row: 50, ws_col: 1000, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).expect("a terminal");
    let end = || terminal.slave.try_clone().expect("a descriptor");
    let mut child =
        command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("starts (tests/install installs it)");
    drop((command, terminal.slave));
    let mut text = Vec::new();
    // Ends with EIO when the other end is closed.
    let _ = fs::File::from(terminal.master).read_to_end(&mut text);
    child.wait().expect("a child");
    String::from_utf8_lossy(&text).replace('\r', "\n")
}

/// Runs GRUB in a process from an ext2 disk. Returns its default entry and the kernel command line that it would start.
fn grub(disk: &Path) -> (String, String) {
    let map = disk.with_extension("map");
    fs::write(&map, format!("(hd0) {}\n", disk.display())).expect("writable");
    let mut command = Command::new("timeout");
    command.args(["60", "grub-emu", "-r", "hd0", "-d", "/boot/grub", "-m"]).arg(&map).env("TERM", "linux");
    let text = on_terminal(command);
    let value = |key: &str| {
        let place = text.find(key).unwrap_or_else(|| panic!("GRUB did not say {key}: {text}"));
        text[place + key.len()..].lines().next().unwrap_or_default().trim().to_owned()
    };
    (value("DEFAULT="), value("LINUX="))
}

fn grub_disk(sandbox: &Sandbox, machine: &Machine) -> std::path::PathBuf {
    // A GRUB that runs in a process has no `linux` command; this one prints what it was to start.
    let custom = "function linux { echo \"LINUX=$*\"; exit; }\necho \"DEFAULT=$default\"\nset timeout=0\n";
    fs::write(machine.sysroot.join("boot/grub/custom.cfg"), custom).expect("writable");
    let tree = sandbox.join("disk-tree");
    crate::common::sandbox::remove_tree(&tree);
    fs::create_dir_all(&tree).expect("writable");
    run("cp", ["-a".as_ref(), machine.sysroot.join("boot").as_os_str(), tree.as_os_str()]).success();
    let disk = sandbox.join("disk.image");
    let _ = fs::remove_file(&disk);
    run("mke2fs", ["-q", "-t", "ext2", "-d", tree.to_str().expect("UTF-8"), disk.to_str().expect("UTF-8"), "32M"])
        .success();
    disk
}

#[test]
fn grub_counts_tries_and_falls_back() {
    let sandbox = Sandbox::new("grub");
    let machine = Machine::new(&sandbox, "grub");
    let one = machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test", "--karg", "dyndbg=\"file a.c +p; file b.c +p\""]).success();
    let (default, linux) = grub(&grub_disk(&sandbox, &machine));
    assert_eq!(default, "sapwood-0123abcd-00001");
    assert!(
        linux.ends_with(&format!("quiet dyndbg=file a.c +p; file b.c +p sapwood=main/{}.0", &one[..12])),
        "{linux}"
    );
    machine.publish(&Os::new("2"));
    machine.run(&["upgrade"]).success();
    let disk = grub_disk(&sandbox, &machine);
    let mut tried = Vec::new();
    for _ in 0..5 {
        let (default, linux) = grub(&disk);
        assert!(linux.contains("/boot/sapwood/0123abcd/") && linux.contains("vmlinuz"), "{linux}");
        tried.push(default.trim_start_matches("sapwood-0123abcd-").to_owned());
    }
    assert_eq!(tried, ["00002", "00002", "00002", "00001", "00001"]);
    // The program reads what GRUB wrote: the second deployment has no tries left.
    let block = run("debugfs", ["-R", "cat /boot/grub/sapwood/grubenv", disk.to_str().expect("UTF-8")]).stdout;
    fs::write(machine.sysroot.join("boot/grub/sapwood/grubenv"), block).expect("writable");
    let status = machine.status();
    assert_eq!(status["deployments"][0]["version"], "1", "{status}");
    assert_eq!(status["deployments"][1]["tries"], serde_json::json!({ "left": 0, "done": 3 }));
    // Once it is blessed, its boots are not counted.
    machine.run(&["rollback", "--to", "1"]).success();
    let two = machine.deployments()[0].clone();
    machine.run_booted(&two, &["boot", "bless"]).success();
    let disk = grub_disk(&sandbox, &machine);
    for _ in 0..5 {
        assert_eq!(grub(&disk).0, "sapwood-0123abcd-00003");
    }
}

#[test]
fn earlier_grub_configuration_is_kept_and_offered() {
    let sandbox = Sandbox::new("grub-before");
    let machine = Machine::new(&sandbox, "grub");
    let config = machine.sysroot.join("boot/grub/grub.cfg");
    fs::create_dir_all(config.parent().expect("inside")).expect("writable");
    fs::write(&config, "# generated\nmenuentry 'Debian' { echo hello }\n").expect("writable");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    assert_eq!(menu::read(&machine.sysroot, "grub").len(), 1);
    let kept = fs::read_to_string(config.with_file_name("grub.cfg.before-sapwood")).expect("kept");
    assert!(kept.contains("menuentry 'Debian'"));
    assert!(fs::read_to_string(&config).expect("it exists").contains("grub.cfg.before-sapwood"));
    let before = fs::read(&config).expect("it exists");
    machine.publish(&Os::new("2"));
    machine.run(&["upgrade"]).success();
    assert_eq!(fs::read(&config).expect("it exists"), before, "the configuration is static");
}

#[test]
fn menu_of_grub_mkconfig_with_the_hook_boots_deployments() {
    let sandbox = Sandbox::new("grub-hook");
    let machine = Machine::new(&sandbox, "grub");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/grub/99_sapwood");
    let run_hook = || run(hook.to_str().expect("UTF-8"), [""; 0]).success();
    assert_eq!(run_hook(), "", "nothing is deployed at /boot");
    mount(Some(&machine.sysroot.join("boot")), "/boot", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .expect("a bind mount");
    // As grub-mkconfig puts it together: a default and entries, the hooks, custom.cfg.
    let made = format!(
        "# DO NOT EDIT THIS FILE\nset default=\"0\"\nmenuentry 'Debian' {{ linux /vmlinuz-old }}\n{}\nsource $prefix/custom.cfg\n",
        run_hook()
    );
    let config = machine.sysroot.join("boot/grub/grub.cfg");
    fs::write(&config, &made).expect("writable");
    assert_eq!(machine.status()["problems"], serde_json::json!([]));
    let (default, linux) = grub(&grub_disk(&sandbox, &machine));
    assert_eq!(default, "sapwood-0123abcd-00001");
    assert!(linux.contains("sapwood=main/"), "{linux}");
    machine.publish(&Os::new("2"));
    machine.run(&["upgrade"]).success();
    assert_eq!(fs::read_to_string(&config).expect("it exists"), made, "an upgrade leaves it alone");
    assert_eq!(grub(&grub_disk(&sandbox, &machine)).0, "sapwood-0123abcd-00002");
}

#[test]
fn deploy_and_rollback_work_on_a_fat_boot_partition() {
    let sandbox = Sandbox::new("fat");
    let directory = sandbox.directory("machine");
    let boot = sandbox.directory("machine/sysroot/boot");
    let image = sandbox.join("esp.image");
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("writable");
    run("mkfs.vfat", ["-F32".as_ref(), image.as_os_str()]).success();
    // In the foreground, so that its end can be awaited: only then everything is in the image.
    let fusefat = Command::new("fusefat").args(["-f", "-s", "-o", "rw+"]).arg(&image).arg(&boot).spawn();
    let mut fusefat = fusefat.expect("tests/install installs it");
    while !is_mounted(&boot) {
        assert!(fusefat.try_wait().expect("a child").is_none(), "fusefat ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    let machine = Machine::at(directory, "systemd-boot");
    for version in ["1", "2", "3"] {
        machine.publish(&Os::new(version));
        machine.run(&["deploy", "os:test"]).success();
        let top = machine.deployments()[0].clone();
        machine.run_booted(&top, &["boot", "bless"]).success();
    }
    machine.run(&["rollback"]).success();
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["2", "3"]);
    let entries = menu::read(&machine.sysroot, "systemd-boot");
    entries.iter().for_each(|entry| menu::assert_bootable(&machine.sysroot, entry, "on FAT"));
    run("umount", [&boot]).success();
    fusefat.wait().expect("a child");
    // The partition as a firmware reads it.
    let image = image.to_str().expect("UTF-8");
    run("fsck.vfat", ["-n", image]).success();
    let listed = run("mdir", ["-b", "-i", image, "::/loader/entries"]).success();
    let names: Vec<&str> = listed.lines().map(|line| line.rsplit('/').next().unwrap_or(line)).collect();
    assert_eq!(names.len(), 2, "{listed}");
    for name in names {
        let text = run("mtype", ["-i", image, &format!("::/loader/entries/{name}")]).success();
        let linux = text.lines().find_map(|line| line.strip_prefix("linux ")).expect("a kernel");
        let kernel = run("mtype", ["-i", image, &format!("::{linux}")]).success();
        assert!(kernel.starts_with("kernel "), "{kernel}");
    }
}

#[test]
fn grub_finds_everything_without_replaying_the_journal() {
    let sandbox = Sandbox::new("journal");
    let directory = sandbox.directory("machine");
    // Mounted as /boot of the sysroot, ext4 with its journal.
    let boot = sandbox.directory("machine/sysroot/boot");
    let mounted = sandbox.loop_mount("boot", "ext4", 64 << 20);
    mount(Some(&mounted), &boot, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
    let machine = Machine::at(directory, "grub");
    for version in ["1", "2", "3"] {
        machine.publish(&Os::new(version));
        machine.run(&["deploy", "os:test"]).success();
    }
    // A power cut: the disk is read as it is, without replaying its journal.
    let disk = sandbox.join("boot.image");
    let disk = disk.to_str().expect("UTF-8");
    let features = run("dumpe2fs", ["-h", disk]).success();
    assert!(features.contains("needs_recovery"), "the filesystem is in use:\n{features}");
    let cat = |path: &str| run("debugfs", ["-R", &format!("cat {path}"), disk]).success();
    let entries = fs::read_to_string(boot.join("grub/sapwood/entries.cfg")).expect("it exists");
    assert_eq!(cat("/grub/sapwood/entries.cfg"), entries.trim_end_matches('\n'));
    for entry in menu::read(&machine.sysroot, "grub") {
        let path = format!("/{}", entry.linux.strip_prefix(&boot).expect("inside").display());
        assert!(cat(&path).starts_with("kernel "), "{path}");
    }
}
