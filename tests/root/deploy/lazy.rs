//! Lazy deployments, whose contents are fetched as they are read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::programs;
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
fn lazy_upgrade_fetches_little_and_keeps_a_complete_deployment() {
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
        assert_eq!(fs::read_to_string(machine.etc("issue")).expect("it exists"), format!("Test OS {version}\n"));
        machine.run_booted(&top.deployment, &["boot", "bless"]).success();
    }
    // Version 1 is the only deployment that boots without a network.
    assert_eq!(machine.versions(), ["3", "2", "1"]);
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["3", "2", "1"]);
    let said = machine.run(&["undeploy", &one]).failure(1);
    assert!(said.contains("of which everything is here"), "{said}");
    let text = machine.run(&["status"]).success();
    assert!(text.contains("it needs a network"), "{text}");
    // Once the newest commit is complete, version 1 may be removed.
    machine.repository().run(["pull", "os:test"]).success();
    assert_eq!(machine.status()["deployments"][0]["incomplete"], Value::Null);
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["3", "2"]);
    machine.repository().assert_clean();
}

/// Adds a program of this machine to the system, with the libraries that `ldd` lists. Returns their paths.
fn install(os: &mut Os, program: &str) -> Vec<String> {
    let libraries = run("ldd", [program]).success();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]);
    let mut installed = Vec::new();
    for path in paths {
        let real = fs::canonicalize(path).expect("it exists");
        let place = real.to_str().expect("ASCII").trim_start_matches('/').to_owned();
        // `/lib/…` is a link to `/usr/lib`.
        let path = path.trim_start_matches('/');
        let path = if path.starts_with("usr/") { path.to_owned() } else { format!("usr/{path}") };
        if path != place && !path.starts_with("usr/lib64") {
            let target = real.file_name().expect("a file").to_str().expect("ASCII");
            assert_eq!(Path::new(&path).parent(), Path::new(&place).parent(), "a link to another directory");
            os.set(&path, &format!("-> {target}"));
        }
        os.copies.insert(place.clone(), real);
        installed.push(place);
    }
    os.set("lib", "-> usr/lib");
    os.set("lib64", "-> usr/lib64");
    os.set("usr/lib64/ld-linux-x86-64.so.2", "-> ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
    installed
}

#[test]
fn lazy_deploy_fetches_the_programs_needed_for_shutdown() {
    let sandbox = Sandbox::new("lazy-programs");
    let machine = Machine::new(&sandbox, "systemd-boot");
    let mut os = os("1");
    let programs =
        ["/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-shutdown", "/usr/bin/systemctl", "/usr/bin/umount"];
    let needed: BTreeSet<String> = programs.iter().flat_map(|program| install(&mut os, program)).collect();
    assert!(needed.len() > 20, "{needed:?}");
    let other = "usr/lib/x86_64-linux-gnu/libother.so.1";
    os.copies.insert(other.to_owned(), PathBuf::from(env!("CARGO_BIN_EXE_mount-sapwood")));
    machine.publish(&os);
    machine.run(&["deploy", "--lazy", "os:test"]).success();
    fs::remove_dir_all(machine.published()).expect("it exists");
    let read = |path: &str| {
        let copy = File::create(sandbox.join("copy")).expect("writable");
        let mut command = machine.repository().command(["cat", &format!("remotes/os/test:/{path}")]);
        command.stdout(copy).status().expect("starts").success()
    };
    for path in &needed {
        assert!(read(path), "{path} is not here");
        run("cmp", [sandbox.join("copy").as_os_str(), os.copies[path].as_os_str()]).success();
    }
    assert!(!read(other), "it was fetched as a whole");
}

/// Makes a root that lacks only `/usr`: with the program outside of it, and with what an initramfs has.
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
    let program = programs::sapwood();
    let program = program.to_str().expect("UTF-8");
    // A statically linked program has none, which ldd reports as a failure.
    let libraries = run("ldd", [program]).text();
    for file in libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]) {
        let to = if file == program { root.join("sapwood") } else { root.join(&file[1..]) };
        fs::create_dir_all(to.parent().expect("a file")).expect("writable");
        fs::copy(file, to).expect("readable");
    }
}

#[test]
fn lazy_usr_is_mounted_by_a_daemon_without_a_usr_of_its_own() {
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
    // The daemon needs certificates and name services to fetch, which are below /usr. Reading them there would be a request to
    // itself.
    let in_root = |words: &[&str]| {
        let mut command = Command::new("chroot");
        // The environment in an initramfs.
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
