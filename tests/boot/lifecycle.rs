//! The life of a machine with UEFI, systemd-boot and a disk: upgrades over HTTP, a rollback, a commit that does not boot.

use std::path::Path;

use serde_json::Value;

use crate::common::sandbox::{Sandbox, run};
use crate::common::web::Web;
use crate::kernel::wait_until_running;
use crate::machine::{Hardware, Machine, Shell};
use crate::one_at_a_time;
use crate::system::{System, Version, system};

/// Number of times that the loader tries a new deployment.
const BOOT_TRIES: usize = 3;

/// Returns a machine with this disk and a network, started by UEFI.
pub fn hardware(sandbox: &Sandbox, disk: &Path) -> Hardware {
    let variables = sandbox.join("variables.fd");
    run("cp", ["/usr/share/OVMF/OVMF_VARS_4M.fd".as_ref(), variables.as_os_str()]).success();
    Hardware { firmware: Some(variables), ..by_bios(disk) }
}

/// Returns a machine with this disk and a network, started by a BIOS.
pub fn by_bios(disk: &Path) -> Hardware {
    Hardware { disks: vec![disk.to_owned()], network: true, ..Hardware::default() }
}

/// Adds the remote `os`, a server on the host, to the machine.
pub fn add_remote(system: &System, shell: &mut Shell, web: &Web) {
    let url = format!("http://10.0.2.2:{}/", web.address().port());
    shell.ok(&format!(
        "sapwood --repo /sysroot/sapwood/repo remote add --replace os {url} --key {}",
        system.key_digits()
    ));
}

fn status(shell: &mut Shell) -> Value {
    serde_json::from_str(&shell.ok("sapwood status --json")).expect("JSON")
}

/// Returns the deployment with this role.
#[track_caller]
fn with_role<'a>(status: &'a Value, role: &str) -> &'a Value {
    let all = status["deployments"].as_array().expect("a list");
    let has = |found: &&Value| found["roles"].as_array().expect("a list").iter().any(|has| has == role);
    all.iter().find(has).unwrap_or_else(|| panic!("nothing is {role}: {status}"))
}

/// Reboots. Returns the shell of the next boot when everything has started.
#[track_caller]
fn reboot(machine: &mut Machine, shell: Shell) -> Shell {
    shell.end("reboot");
    let mut shell = machine.shell();
    wait_until_running(&mut shell);
    shell
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn systemd_boot_survives_upgrade_rollback_and_hanging_commit() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-story");
    let disk = system.disk(&sandbox.join("disk.img"));
    run_lifecycle(system, &sandbox, &hardware(&sandbox, &disk), &system.deployment());
}

/// Upgrades, rolls back and survives a hanging commit on a machine on which `first` was deployed.
pub fn run_lifecycle(system: &System, sandbox: &Sandbox, hardware: &Hardware, first: &str) {
    let mut machine = Machine::start(hardware, sandbox.path());
    let mut shell = machine.shell();
    wait_until_running(&mut shell);
    assert_eq!(with_role(&status(&mut shell), "booted")["id"], first);

    // /etc and /var are edited; an upgrade is fetched and staged, and finalised at shutdown.
    shell.ok(
        "echo mine >> /etc/issue.net; echo mine > /etc/own; echo mine > /var/lib/own; ! touch /usr/own; ! touch /own",
    );
    let web = Web::serve(&system.published(Version::Next));
    add_remote(system, &mut shell, &web);
    eprintln!("{}", shell.ok("sapwood upgrade 2>&1"));
    let staged = with_role(&status(&mut shell), "staged")["id"].as_str().expect("a name").to_owned();
    shell = reboot(&mut machine, shell);
    let now = status(&mut shell);
    assert_eq!(with_role(&now, "booted")["id"], staged.as_str(), "{now}");
    assert_eq!(with_role(&now, "rollback")["id"], first, "{now}");
    assert_eq!(shell.ok("cat /usr/share/version /etc/version"), "next\nnext", "what the defaults gained");
    assert_eq!(shell.ok("tail -qn1 /etc/issue.net /etc/own /var/lib/own"), "mine\nmine\nmine");
    shell.ok("systemctl is-active sapwood-health sapwood-bless sapwood-booted");
    assert_eq!(
        with_role(&status(&mut shell), "booted")["tries"],
        Value::Null,
        "tries are no longer counted after a successful boot"
    );
    // GRUB's counters are in its environment block.
    let entries = shell.ok("[ -e /boot/grub ] || ls /boot/loader/entries");
    assert!(!entries.contains('+'), "{entries}");

    // After a rollback, an edit of /etc stays in the deployment in which it was made.
    shell.ok("echo later > /etc/own");
    shell.ok("sapwood rollback");
    shell = reboot(&mut machine, shell);
    assert_eq!(with_role(&status(&mut shell), "booted")["id"], first);
    assert_eq!(shell.ok("cat /etc/own; ls /usr/share/version 2> /dev/null || true"), "mine");

    // The next commit hangs: the power is cut at each try, and after the last one the loader starts the good deployment.
    let web = Web::serve(&system.published(Version::Hanging));
    add_remote(system, &mut shell, &web);
    shell.ok("sapwood upgrade");
    let hanging = with_role(&status(&mut shell), "staged")["id"].as_str().expect("a name").to_owned();
    shell.end("reboot");
    for _ in 0..BOOT_TRIES {
        machine.wait_for("this one hangs");
        machine.cut_power();
        machine = Machine::start(hardware, sandbox.path());
    }
    shell = machine.shell();
    wait_until_running(&mut shell);
    let now = status(&mut shell);
    assert_eq!(with_role(&now, "booted")["id"], first, "{now}");
    assert_eq!(with_role(&now, "failed")["id"], hanging.as_str(), "{now}");
    let told = shell.ok("sapwood status");
    assert!(told.contains("it did not come up in 3 tries"), "{told}");
    let (code, said) = shell.run("sapwood upgrade --unchanged-exit-77");
    assert_eq!(code, 77, "it is not deployed again by itself: {said}\n{told}");
    shell.end("poweroff");
    assert!(machine.wait_until_off().success());
    assert!(machine.console().contains("reboot: Power down"), "{}", machine.console());
}
