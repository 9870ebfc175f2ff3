//! Deployments that are fetched as they are read.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use super::menu;
use crate::common::machine::{Machine, Os};
use crate::common::sandbox::{Sandbox, finish, is_mounted, run};
use crate::common::web::Web;

fn os(version: &str) -> Os {
    let mut os = Os::new(version);
    for number in 0..40 {
        os.set(&format!("usr/share/data/{number}"), &format!("{version} {number} ").repeat(5000));
    }
    os
}

#[test]
fn a_lazy_update_boots_with_little_and_the_whole_one_before_stays() {
    let sandbox = Sandbox::new("lazy-deploy");
    let machine = Machine::new(&sandbox, "systemd-boot");
    machine.publish(&os("1"));
    machine.run(&["deploy", "os:test"]).success();
    let one = machine.deployments()[0].clone();
    machine.run_booted(&one, &["boot", "bless"]).success();
    for version in ["2", "3"] {
        machine.publish(&os(version));
        let plan: Value =
            serde_json::from_str(&machine.run(&["upgrade", "--lazy", "--dry-run", "--json"]).success()).expect("JSON");
        let objects = plan["fetch"]["objects"].as_u64().expect("a number");
        assert!(objects < 12, "{plan}");
        machine.run(&["upgrade", "--lazy"]).success();
        let status = machine.status();
        let found = &status["deployments"][0];
        let incomplete = &found["incomplete"]["objects"];
        assert!(incomplete["objects_here"].as_u64() < incomplete["objects"].as_u64(), "{found}");
        let top = &menu::read(&machine.sysroot, "systemd-boot")[0];
        menu::assert_bootable(&machine.sysroot, top, "lazy");
        assert_eq!(fs::read_to_string(machine.etc("issue")).expect("there"), format!("Test OS {version}\n"));
        machine.run_booted(&top.deployment, &["boot", "bless"]).success();
    }
    // Version 1 is the only one that boots without a network.
    assert_eq!(machine.versions(), ["3", "2", "1"]);
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["3", "2", "1"]);
    let said = machine.run(&["undeploy", &one]).failure(1);
    assert!(said.contains("of which everything is here"), "{said}");
    let text = machine.run(&["status"]).success();
    assert!(text.contains("it needs a network"), "{text}");
    // Fetched as a whole, it may go.
    machine.repository().run(["pull", "os:test"]).success();
    assert_eq!(machine.status()["deployments"][0]["incomplete"], Value::Null);
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["3", "2"]);
    machine.repository().assert_clean();
}

/// A root in which nothing but `/usr` is missing: with the program, outside of it, and with what an initramfs brings along.
fn root_without_usr(root: &Path, repository: &Path) {
    for name in ["usr", "dev", "proc", "run", "etc/ssl", "repository"] {
        fs::create_dir_all(root.join(name)).expect("writable");
    }
    let bind = |from: &Path, name: &str| {
        mount(Some(from), &root.join(name), None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("mounts");
    };
    bind(Path::new("/dev"), "dev");
    bind(Path::new("/proc"), "proc");
    bind(repository, "repository");
    mount(Some("run"), &root.join("run"), Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounts");
    let program = env!("CARGO_BIN_EXE_sapwood");
    let libraries = run("ldd", [program]).success();
    for file in libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]) {
        let to = if file == program { root.join("sapwood") } else { root.join(&file[1..]) };
        fs::create_dir_all(to.parent().expect("a file")).expect("writable");
        fs::copy(file, to).expect("readable");
    }
}

#[test]
fn a_lazy_deployment_is_served_on_the_usr_of_those_who_serve_it() {
    let sandbox = Sandbox::new("lazy-usr");
    let machine = Machine::new(&sandbox, "systemd-boot");
    machine.publish(&os("1"));
    let web = Web::serve(&machine.published());
    let words = ["remote", "add", "--replace", "os", &web.url(), "--key", &machine.key("pub")];
    machine.repository().run(words).success();
    machine.run(&["deploy", "--lazy", "os:test"]).success();
    let name = machine.deployments()[0].clone();
    let (_, commit) = name.trim_end_matches(".0").split_once('/').expect("a stateroot and a commit");
    let root = sandbox.directory("root");
    root_without_usr(&root, machine.repository().path());
    // Whoever fetches needs certificates and name services, which are below /usr. To look for them there would be to ask itself.
    let in_root = |words: &[&str]| {
        let mut command = Command::new("chroot");
        // What an initramfs has of variables.
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(&root)
            .args(["/sapwood", "--repo", "/repository"])
            .args(words);
        finish(command).success()
    };
    in_root(&["mount", "-o", "fetch-timeout=20", &format!("{commit}:/usr"), "/usr"]);
    assert!(is_mounted(&root.join("usr")));
    assert_eq!(fs::read_to_string(root.join("usr/share/data/7")).expect("fetched"), "1 7 ".repeat(5000));
    in_root(&["umount", "/usr"]);
}
