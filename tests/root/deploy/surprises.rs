//! What administrators and other programs do to a machine: files that cannot be removed, entries of other systems in the boot
//! menu, account files with odd bytes, a rollback that is meant to last.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::sandbox::{Sandbox, finish, run};

/// Deploys, finalises and blesses the newest commit on a machine that runs what boots next.
fn upgrade(machine: &Machine, os: &Os) -> String {
    let before = machine.deployments()[0].clone();
    machine.publish(os);
    machine.run_booted(&before, &["upgrade"]).success();
    machine.run_booted(&before, &["boot", "finalise"]).success();
    let after = machine.deployments()[0].clone();
    assert_ne!(after, before);
    machine.run_booted(&after, &["boot", "bless"]).success();
    after
}

fn deployed(sandbox: &Sandbox, loader: &str) -> Machine {
    let machine = Machine::new(sandbox, loader);
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test", "--karg", "root=LABEL=root"]).success();
    machine
}

fn problems(machine: &Machine) -> Vec<String> {
    let status = machine.status();
    let problems = status["problems"].as_array().expect("a list").clone();
    problems.iter().map(|problem| problem["kind"].as_str().expect("a word").to_owned()).collect()
}

#[test]
fn immutable_files_are_removed_with_their_deployment() {
    let sandbox = Sandbox::new("immutable");
    let machine = deployed(&sandbox, "systemd-boot");
    let first = machine.deployments()[0].clone();
    let etc = machine.etc("hosts");
    run("chattr", ["+i".as_ref(), etc.as_os_str()]).success();
    run("chattr", ["+a".as_ref(), machine.etc("prog").as_os_str()]).success();
    for version in ["2", "3", "4"] {
        upgrade(&machine, &Os::new(version));
    }
    assert!(!machine.deployments().contains(&first));
    assert!(!machine.deployment(&first).exists());
    assert_eq!(machine.status()["leftovers"], Value::Array(Vec::new()));
}

#[test]
fn leftovers_that_cannot_be_removed_stop_no_verb() {
    let sandbox = Sandbox::new("leftovers");
    let machine = deployed(&sandbox, "systemd-boot");
    upgrade(&machine, &Os::new("2"));
    // A mount in it, a file, a link, a name that is no text, a deployment without an origin.
    let stateroot = machine.sysroot.join("sapwood/deploy/main");
    let busy = stateroot.join(".old-0123456789ab.0/etc");
    fs::create_dir_all(&busy).expect("writable");
    mount(Some("tmpfs"), &busy, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs mounts");
    fs::write(stateroot.join(".new-0123456789ab.1"), "").expect("writable");
    std::os::unix::fs::symlink("/", stateroot.join(".old-0123456789ab.2")).expect("writable");
    fs::create_dir(stateroot.join("0123456789ab.3")).expect("writable");
    let verbs: &[&[&str]] = &[
        &["rollback"],
        &["rollback"],
        &["kargs", "--append", "a"],
        &["boot", "finalise"],
        &["cleanup"],
        &["sysroot", "write-menu"],
    ];
    for verb in verbs {
        let mut verb = verb.to_vec();
        verb.extend(["--running", "quiet"]);
        let said = machine.run(&verb);
        assert!(said.status.success(), "{verb:?}: {}", said.stderr);
    }
    upgrade(&machine, &Os::new("3"));
    let last = machine.deployments().last().expect("several").clone();
    let said = machine.run(&["undeploy", &last]);
    assert!(said.status.success() && said.stderr.contains(".old-0123456789ab.0"), "{}", said.stderr);
    let left = machine.status()["leftovers"].clone();
    let left: Vec<&str> =
        left.as_array().expect("a list").iter().map(|at| at["path"].as_str().expect("a path")).collect();
    assert!(
        left.len() == 2 && left[0].ends_with("/.old-0123456789ab.0") && left[1].ends_with("/0123456789ab.3"),
        "{left:?}"
    );
    // When the cause is gone, so is the notice.
    nix::mount::umount(&busy).expect("it is mounted");
    fs::remove_dir(stateroot.join("0123456789ab.3")).expect("empty");
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.status()["leftovers"], Value::Array(Vec::new()));
}

#[test]
fn failed_finalise_is_shown_until_the_update_is_in_the_menu() {
    let sandbox = Sandbox::new("finalise");
    let machine = deployed(&sandbox, "grub");
    let one = machine.deployments()[0].clone();
    machine.publish(&Os::new("2"));
    machine.run_booted(&one, &["upgrade"]).success();
    // A directory in the place of a file that is written anew.
    let entries = machine.sysroot.join("boot/grub/sapwood/entries-old.cfg");
    let _ = fs::remove_file(&entries);
    fs::create_dir_all(entries.join("x")).expect("writable");
    machine.run_booted(&one, &["boot", "finalise"]).any_failure();
    assert!(machine.status()["finalise_failure"].is_object());
    assert!(problems(&machine).contains(&"finalise-failed".to_owned()));
    fs::remove_dir_all(&entries).expect("writable");
    machine.run_booted(&one, &["upgrade", "--finalise-now"]).success();
    assert_eq!(machine.status()["finalise_failure"], Value::Null);
    assert_eq!(problems(&machine), [""; 0]);
}

#[test]
fn rollback_lasts_until_something_newer_or_the_administrator() {
    let sandbox = Sandbox::new("rollback");
    let machine = deployed(&sandbox, "systemd-boot");
    let one = machine.deployments()[0].clone();
    let two = upgrade(&machine, &Os::new("2"));
    machine.run_booted(&two, &["rollback"]).success();
    let timer = ["upgrade", "--unchanged-exit-77"];
    let said = machine.run_booted(&one, &timer);
    assert_eq!(said.status.code(), Some(77), "{}", said.stderr);
    assert!(said.stderr.contains("was left by a rollback"), "{}", said.stderr);
    machine.run_booted(&one, &["upgrade", "--check"]).failure(77);
    machine.run_booted(&one, &["upgrade"]).any_failure();
    assert_eq!(machine.status()["left"][0]["deployment"], two);
    machine.run_booted(&one, &["upgrade", "--again"]).success();
    // Dropped, and left once more; then something newer comes.
    machine.run_booted(&one, &["rollback", "--to", "booted"]).success();
    machine.run_booted(&one, &timer).failure(77);
    machine.publish(&Os::new("3"));
    machine.run_booted(&one, &timer).success();
    machine.run_booted(&one, &["boot", "finalise"]).success();
    assert_eq!(machine.versions()[0], "3");
    // Back to what was left is forward again.
    machine.run(&["rollback", "--to", &one]).success();
    let three = machine.status()["deployments"][1]["id"].as_str().expect("a name").to_owned();
    machine.run(&["rollback", "--to", &three]).success();
    let left = machine.status()["left"].to_string();
    assert!(!left.contains(&three), "{left}");
}

#[test]
fn other_entries_that_boot_next_are_named() {
    let sandbox = Sandbox::new("foreign");
    let machine = deployed(&sandbox, "systemd-boot");
    assert_eq!(problems(&machine), [""; 0]);
    machine.run(&["status", "--check"]).success();
    let loader = machine.sysroot.join("boot/loader");
    let other = loader.join("entries/old.conf");
    let entry = |text: &str| fs::write(&other, text).expect("writable");
    let is_named = |reason: &str| {
        assert_eq!(problems(&machine), ["boots-other"]);
        let check = machine.run(&["status", "--check"]);
        assert_eq!(check.status.code(), Some(3));
        let changed = machine.run(&["kargs", "--append-if-missing", "a"]);
        assert!(changed.status.success(), "{}", changed.stderr);
        for text in [machine.run(&["status"]).success(), check.text(), changed.stderr] {
            assert!(text.contains("old.conf") && text.contains(reason), "{text}, not {reason}");
        }
    };
    entry("title Old Debian\nsort-key debian\nversion 6.1\nlinux /v\n");
    is_named("its sort-key 'debian'");
    // Without a key, or with a later one, it comes after.
    for text in ["title Old\nlinux /v\n", "title Old\nsort-key zz\nlinux /v\n"] {
        entry(text);
        assert_eq!(problems(&machine), [""; 0], "{text}");
    }
    fs::write(loader.join("loader.conf"), "timeout 3\ndefault o*\n").expect("writable");
    is_named("default o*");
    entry("title Old Debian\nsort-key debian\nlinux /v\n");
    machine.run(&["sysroot", "write-menu", "--prefer"]).success();
    let written = fs::read_to_string(loader.join("loader.conf")).expect("written");
    assert_eq!(written, "timeout 3\ndefault sapwood-0123abcd-*\n");
    assert_eq!(problems(&machine), [""; 0]);
    let variables = machine.sysroot.join("sys/firmware/efi/efivars");
    fs::create_dir_all(&variables).expect("writable");
    let value: Vec<u8> =
        [7, 0, 0, 0].into_iter().chain("old.conf\0".encode_utf16().flat_map(u16::to_le_bytes)).collect();
    fs::write(variables.join("LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), value).expect("writable");
    is_named("chosen for one boot");
}

#[test]
fn grub_cfg_of_another_program_is_told_and_mended() {
    let sandbox = Sandbox::new("replaced");
    let machine = deployed(&sandbox, "grub");
    let one = machine.deployments()[0].clone();
    let config = machine.sysroot.join("boot/grub/grub.cfg");
    let replace = || fs::write(&config, "# made by grub-mkconfig\n").expect("writable");
    let is_ours = || menu::read(&machine.sysroot, "grub").first().map(|entry| entry.deployment.clone());
    machine.publish(&Os::new("2"));
    for (verb, is_mended) in [(&["status"][..], false), (&["kargs", "--append", "a"], true), (&["rollback"], true)] {
        replace();
        assert_eq!(problems(&machine), ["menu-replaced"]);
        let said = machine.run(verb);
        assert!(said.status.success(), "{verb:?}: {}", said.stderr);
        assert_eq!(is_ours().is_some(), is_mended, "{verb:?}");
    }
    replace();
    machine.run_booted(&one, &["boot", "finalise"]).success();
    assert!(is_ours().is_some(), "at shutdown");
    replace();
    machine.run_booted(&one, &["upgrade"]).success();
    machine.run_booted(&one, &["boot", "finalise"]).success();
    assert_eq!((problems(&machine), machine.versions()[0].as_str()), (Vec::new(), "2"));
    // Every entry starts without the password that protects editing.
    let entries = fs::read_to_string(config.with_file_name("sapwood/entries.cfg")).expect("written");
    let menu_entries = entries.lines().filter(|line| line.starts_with("menuentry "));
    assert!(
        menu_entries.count() >= 2
            && entries.lines().all(|line| !line.starts_with("menuentry ") || line.contains(" --unrestricted "))
    );
}

#[test]
fn kernel_paths_are_those_that_grub_sees_on_btrfs() {
    let sandbox = Sandbox::new("btrfs");
    let disk = sandbox.join("disk.image");
    fs::File::create(&disk).expect("writable").set_len(300 << 20).expect("writable");
    run("mkfs.btrfs", ["-q".as_ref(), disk.as_os_str()]).success();
    let top = sandbox.directory("top");
    let machine_directory = sandbox.directory("machine");
    let sysroot = sandbox.directory("machine/sysroot");
    let mounted = |options: &str, at: &Path| {
        run("mount", ["-o".as_ref(), options.as_ref(), disk.as_os_str(), at.as_os_str()]).success()
    };
    mounted("loop", &top);
    for volume in ["@rootfs", "@boot"] {
        run("btrfs", ["subvolume".as_ref(), "create".as_ref(), top.join(volume).as_os_str()]).success();
    }
    mounted("loop,subvol=@rootfs", &sysroot);
    fs::create_dir_all(sysroot.join("boot/grub")).expect("writable");
    let machine = Machine::at(machine_directory, "grub");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test", "--karg", "root=x"]).success();
    let read_by_grub = |entries: &Path| {
        run("sync", ["-f".as_ref(), top.as_os_str()]).success();
        let text = fs::read_to_string(entries).expect("written");
        let path = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("linux ")?.split(' ').next())
            .expect("a kernel")
            .to_owned();
        let mut command = Command::new("grub-fstest");
        command.arg(&disk).arg("cat").arg(format!("(loop0){path}"));
        (finish(command).success(), path)
    };
    let relative = run("grub-mkrelpath", [sysroot.join("boot/sapwood").as_os_str()]).success();
    let (kernel, path) = read_by_grub(&sysroot.join("boot/grub/sapwood/entries.cfg"));
    assert!(path.starts_with(relative.trim()), "{path} is not below {relative}");
    assert_eq!(kernel, "kernel 1");
    // A subvolume of its own at /boot: the menu is written anew, for its path.
    mounted("loop,subvol=@boot", &sysroot.join("boot"));
    fs::create_dir_all(sysroot.join("boot/grub")).expect("writable");
    machine.run(&["sysroot", "write-menu"]).success();
    let (kernel, path) = read_by_grub(&sysroot.join("boot/grub/sapwood/entries.cfg"));
    assert!(path.starts_with("/@boot/sapwood/"), "{path}");
    assert_eq!(kernel, "kernel 1");
    assert_eq!(problems(&machine), [""; 0]);
}

#[test]
fn account_files_keep_their_bytes_and_conflicts_stay_visible() {
    let sandbox = Sandbox::new("accounts");
    let machine = deployed(&sandbox, "systemd-boot");
    let long = format!("long:x:1002:1002:{}:/h:/bin/sh\n", "x".repeat(9000));
    let odd = [
        b"jose:x:1000:1000:Jos\xe9:/h:/bin/sh\n#\xff comment\n\n",
        long.as_bytes(),
        b"myapp:x:101:101::/:/bin/false\n+::::::",
    ]
    .concat();
    let passwd = machine.etc("passwd");
    fs::File::options().append(true).open(&passwd).and_then(|mut file| file.write_all(&odd)).expect("writable");
    let system = "root:x:0:0::/root:/bin/sh\nsvc:x:101:101::/:/bin/false\n";
    let two = Os::new("2").with("usr/etc/passwd", &format!("{system}you:x:1000:1000::/:/bin/sh\n"));
    upgrade(&machine, &two);
    let merged = fs::read(machine.etc("passwd")).expect("written");
    let has = |part: &[u8]| merged.windows(part.len()).any(|window| window == part);
    assert!(
        has(b":Jos\xe9:") && has(b"#\xff comment\n\n") && has(long.as_bytes()) && merged.ends_with(b"\n+::::::"),
        "{merged:?}"
    );
    // The system user got a free number, the other one is in conflict, which stays until it is settled.
    assert!(has(b"\nsvc:x:999:101::/:/bin/false\n") && !has(b"\nyou:"));
    let conflicts = || {
        let status: Value = serde_json::from_str(&machine.run(&["etc", "status", "--json"]).success()).expect("JSON");
        let paths = status["conflicts"].as_array().expect("a list").iter().map(|found| found["details"].to_string());
        paths.collect::<Vec<_>>()
    };
    let is_open = || {
        assert!(conflicts().len() == 1 && conflicts()[0].contains("'you'"), "{:?}", conflicts());
        assert!(machine.run(&["status"]).success().contains("/etc/passwd"));
        assert_eq!(problems(&machine), ["etc-conflict"]);
    };
    is_open();
    let mut file = fs::File::options().append(true).open(machine.etc("passwd")).expect("writable");
    file.write_all(b"\nme:x:1003:1003::/:/bin/sh\n").expect("writable");
    is_open();
    upgrade(&machine, &two.clone().with("usr/lib/v", "3"));
    is_open();
    upgrade(
        &machine,
        &two.clone().with("usr/etc/passwd", &format!("{system}you:x:1000:1000::/:/bin/sh\nnew:x:7:7::/:\n")),
    );
    is_open();
    machine.run(&["etc", "settle", "/etc/passwd"]).success();
    assert_eq!((conflicts(), problems(&machine)), (Vec::new(), Vec::new()));
    machine.run(&["etc", "settle", "passwd"]).any_failure();
    upgrade(&machine, &Os::new("5"));
    assert_eq!(conflicts(), [""; 0]);
    machine.run(&["etc", "diff", "nosuch"]).any_failure();
}

#[test]
fn ordinary_users_are_told_that_root_is_needed() {
    let sandbox = Sandbox::new("user");
    let machine = deployed(&sandbox, "systemd-boot");
    // A sysroot that only root can read.
    run("chmod", ["700".as_ref(), machine.sysroot.as_os_str()]).success();
    for verb in [&["status"][..], &["history"], &["upgrade", "--check"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(crate::common::programs::sapwood()).args(verb).arg("--sysroot").arg(&machine.sysroot);
        let said = finish(command);
        assert!(!said.status.success() && said.stderr.contains("root"), "{verb:?}: {}", said.stderr);
    }
}

#[test]
fn new_machine_gets_a_name_and_a_key_and_is_told_of_root() {
    let sandbox = Sandbox::new("new");
    let machine = Machine::new(&sandbox, "systemd-boot");
    machine.publish(&Os::new("1"));
    let key = sandbox.join("key.pub");
    fs::write(&key, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB me@here\n").expect("writable");
    let key = key.to_str().expect("UTF-8");
    machine.run(&["deploy", "os:test", "--hostname", "no name"]).any_failure();
    let said = machine.run(&["deploy", "os:test", "--hostname", "web1", "--root-ssh-key", key]);
    assert!(said.status.success() && said.stderr.contains("root="), "{}", said.stderr);
    assert_eq!(fs::read_to_string(machine.etc("hostname")).expect("written"), "web1\n");
    let ssh = machine.sysroot.join("sapwood/deploy/main/var/roothome/.ssh");
    let modes =
        run("stat", ["-c".as_ref(), "%a %U".as_ref(), ssh.as_os_str(), ssh.join("authorized_keys").as_os_str()]);
    assert_eq!(modes.success(), "700 root\n600 root");
    // It is given once more, and the name stays with the next version.
    machine.run(&["deploy", "os:test", "--root-ssh-key", key]).success();
    assert_eq!(fs::read_to_string(ssh.join("authorized_keys")).expect("written").lines().count(), 1);
    upgrade(&machine, &Os::new("2"));
    assert_eq!(fs::read_to_string(machine.etc("hostname")).expect("kept"), "web1\n");
    let running = machine.deployments()[0].clone();
    machine.run_booted(&running, &["deploy", "os:test", "--hostname", "web2"]).any_failure();
}

#[test]
fn dpkg_says_what_to_do_instead_on_a_deployed_machine() {
    let sandbox = Sandbox::new("dpkg");
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/debian/refuse-packages");
    let dpkg = || {
        let mut command = Command::new("dpkg");
        // It ends before anything is done: there is no such file.
        command.arg(format!("--pre-invoke={}", hook.display())).args(["-i", "/nonexistent.deb"]);
        finish(command).any_failure()
    };
    assert!(!dpkg().contains("sapwood"), "on another machine the hook says nothing");
    let deployed = sandbox.directory("sysroot");
    fs::create_dir(deployed.join("sapwood")).expect("writable");
    fs::write(deployed.join("sapwood/config.toml"), "").expect("writable");
    let script = fs::read_to_string(&hook).expect("readable");
    assert!(script.contains("/sysroot/sapwood/config.toml") && script.contains("-w /usr/lib"));
    // A machine that runs a deployment: /usr cannot be written, and /sysroot is there.
    let moved = sandbox.join("refuse-packages");
    fs::write(&moved, script.replace("/sysroot", deployed.to_str().expect("UTF-8"))).expect("writable");
    run("chmod", ["755".as_ref(), moved.as_os_str()]).success();
    mount(Some("/usr"), "/usr", None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/usr", None::<&str>, read_only, None::<&str>).expect("remounts");
    let mut command = Command::new("dpkg");
    command.arg(format!("--pre-invoke={}", moved.display())).args(["-i", "/nonexistent.deb"]);
    let said = finish(command).any_failure();
    assert!(said.contains("sapwood upgrade"), "{said}");
}
