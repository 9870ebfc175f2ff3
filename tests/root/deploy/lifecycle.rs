//! The life of a host: first deployment, local edits, upgrades with conflicts, rollback, pinning, cleanup.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::machine::{Machine, Os};
use crate::common::sandbox::Sandbox;

/// Returns the output of `status` with everything replaced that differs from run to run.
fn status(machine: &Machine, ids: &[(&str, &str)]) -> String {
    let mut text = machine.run(&["status"]).success();
    for (id, name) in ids {
        text = text.replace(&id[..12], name);
    }
    let times = text.lines().map(|line| {
        let end = line.find(" UTC").map_or(line.len(), |end| end - 19);
        let key = line.find("signed by ").map_or(end, |start| start + "signed by".len());
        line[..end.min(key)].trim_end().to_owned()
    });
    times.collect::<Vec<_>>().join("\n")
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::write(path, before + text).expect("writable");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn host_goes_through_conflicts_rollback_pinning_and_cleanup() {
    let sandbox = Sandbox::new("life");
    let machine = Machine::new(&sandbox, "systemd-boot");
    let one = deploy_first(&machine);
    edit_locally(&machine);
    let two = upgrade_with_conflicts(&machine, &one);
    merge_conflict(&machine);
    change_arguments(&machine, &two);
    upgrade_twice_and_go_back(&machine);
    clean_up(&machine);

    // The history has all of these events.
    let log: Vec<Value> =
        serde_json::from_str(&machine.run(&["history", "--json", "-n", "100"]).success()).expect("JSON");
    let count = |event: &str| log.iter().filter(|entry| entry["event"] == event).count();
    assert_eq!((count("deployed"), count("rolled-back"), count("removed")), (5, 2, 3));
}

fn var(machine: &Machine) -> PathBuf {
    machine.sysroot.join("sapwood/deploy/main/var")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o7777
}

/// Makes the first deployment: /etc has the defaults, /var is that of the commit.
fn deploy_first(machine: &Machine) -> String {
    let one = machine.publish(&Os::new("1"));
    let name = machine.run(&["deploy", "os:test", "--karg", "root=LABEL=root"]).success();
    assert_eq!(name, format!("main/{}.0", &one[..12]));
    assert_eq!(read(&var(machine).join("lib/prog/state")), "first\n");
    assert_eq!(read(&machine.etc("issue")), "Test OS 1\n");
    assert_eq!(fs::read_link(machine.deployment(&name).join("root/home")).expect("a link"), Path::new("var/home"));
    assert_eq!(mode(&var(machine).join("roothome")), 0o700);
    assert_eq!(mode(&machine.deployment(&name).join("root/tmp")), 0o1777);
    assert_eq!(
        status(machine, &[(&one, "ONE")]),
        ["  0 main/ONE.0  (boots next)", "    version   1, Test OS,", "    from      os:test, signed by",].join("\n")
    );
    one
}

/// Edits files as an administrator.
fn edit_locally(machine: &Machine) {
    append(&machine.etc("hosts"), "10.0.0.1 server\n");
    append(&machine.etc("passwd"), "me:x:1000:1000::/home/me:/bin/sh\n");
    fs::write(machine.etc("prog/prog.conf"), "a = one\nb = 2\nc = 3\nd = 4\n").expect("writable");
    fs::set_permissions(machine.etc("issue"), fs::Permissions::from_mode(0o600)).expect("owned by the test");
    fs::remove_file(machine.etc("localtime")).expect("it exists");
    fs::write(var(machine).join("lib/prog/state"), "mine\n").expect("writable");
}

/// Upgrades: both sides changed prog.conf, a service gets a user, the local time zone changes.
fn upgrade_with_conflicts(machine: &Machine, one: &str) -> String {
    let mut os = Os::new("2").with("usr/etc/prog/prog.conf", "a = 1\nb = 2\nc = 3\nd = four\n");
    os.set("usr/etc/passwd", "root:x:0:0::/root:/bin/sh\nprog:x:101:101::/:/usr/sbin/nologin\n");
    os.set("usr/etc/localtime", "-> ../usr/share/zoneinfo/GMT");
    os.set("usr/bin/prog", "program 2");
    os.set("usr/lib/sapwood/kargs.d/10-quiet.toml", "kargs = ['loglevel=3']\n");
    let two = machine.publish(&os);
    let plan: Value = serde_json::from_str(&machine.run(&["upgrade", "--dry-run", "--json"]).success()).expect("JSON");
    assert_eq!(plan["services"]["changed"], serde_json::json!(["prog.service"]));
    assert_eq!(plan["commit"], Value::from(two.clone()));
    assert_eq!(machine.versions(), ["1"], "a dry run changes nothing");
    machine.run(&["upgrade"]).success();
    assert_eq!(read(&machine.etc("hosts")), "127.0.0.1 localhost\n10.0.0.1 server\n");
    assert_eq!(read(&machine.etc("issue")), "Test OS 2\n");
    assert_eq!(mode(&machine.etc("issue")), 0o600, "a local chmod does not freeze a file");
    let users = read(&machine.etc("passwd"));
    assert!(users.contains("me:x:1000:") && users.contains("prog:x:101:"), "{users}");
    assert_eq!(read(&machine.etc("prog/prog.conf")), "a = one\nb = 2\nc = 3\nd = 4\n", "what is here wins");
    assert!(fs::symlink_metadata(machine.etc("localtime")).is_err(), "what is deleted stays deleted");
    assert_eq!(read(&var(machine).join("lib/prog/state")), "mine\n", "/var is never touched");
    let ids = [(one, "ONE"), (two.as_str(), "TWO")];
    assert_eq!(
        status(machine, &ids),
        [
            "  0 main/TWO.0  (boots next)",
            "    version   2, Test OS,",
            "    from      os:test, signed by",
            "    on trial  3 tries left, 0 made",
            "    /etc      C /etc/prog/prog.conf (content): changed here and in the defaults; what is here stays",
            "  1 main/ONE.0  (rollback)",
            "    version   1, Test OS,",
            "    from      os:test, signed by",
        ]
        .join("\n")
    );
    assert_eq!(machine.run(&["kargs"]).success(), "root=LABEL=root loglevel=3", "a suggestion followed its commit");
    two
}

/// Merges the lines of a conflict, and undoes that.
fn merge_conflict(machine: &Machine) {
    machine.run(&["etc", "merge", "--text", "prog/prog.conf"]).success();
    assert_eq!(read(&machine.etc("prog/prog.conf")), "a = one\nb = 2\nc = 3\nd = four\n");
    assert_eq!(machine.status()["deployments"][0]["etc_conflicts"], serde_json::json!([]));
    machine.run(&["etc", "undo"]).success();
    assert_eq!(read(&machine.etc("prog/prog.conf")), "a = one\nb = 2\nc = 3\nd = 4\n");
    let shown = machine.run(&["etc", "show", "/etc/prog/prog.conf"]).success();
    assert!(shown.contains("what is here stays") && shown.contains("undo at"), "{shown}");
}

/// Changes kernel arguments: that makes a new deployment of the same commit, whose conflict is still open.
fn change_arguments(machine: &Machine, two: &str) {
    machine.run(&["kargs", "--append", "debug", "--delete", "loglevel"]).success();
    assert_eq!(machine.run(&["kargs"]).success(), "root=LABEL=root debug");
    assert_eq!(machine.deployments()[0], format!("main/{}.1", &two[..12]));
    assert_eq!(machine.status()["deployments"][0]["etc_conflicts"].as_array().map(Vec::len), Some(1));
    machine.run(&["etc", "merge", "--text", "prog/prog.conf"]).success();
    assert_eq!(read(&machine.etc("prog/prog.conf")), "a = one\nb = 2\nc = 3\nd = four\n", "the old default was kept");
}

/// Upgrades twice and rolls back. Pinned deployments stay, and so does one that is known to boot.
fn upgrade_twice_and_go_back(machine: &Machine) {
    machine.run(&["pin", "2"]).success();
    let three = machine.publish(&Os::new("3"));
    machine.run(&["upgrade"]).success();
    let four = machine.publish(&Os::new("4"));
    machine.run(&["upgrade"]).success();
    assert_eq!(machine.versions(), ["4", "3", "1"]);
    assert_eq!(machine.run(&["kargs"]).success(), "root=LABEL=root debug quiet");
    assert_eq!(machine.run(&["upgrade", "--unchanged-exit-77"]).status.code(), Some(77));
    assert_eq!(machine.run(&["upgrade", "--check"]).status.code(), Some(77));

    // A rollback, and a rollback of it.
    let back = machine.run(&["rollback"]).success();
    assert_eq!(back, format!("main/{}.0", &three[..12]));
    assert_eq!(machine.versions(), ["3", "4", "1"]);
    assert_eq!(machine.run(&["rollback"]).success(), format!("main/{}.0", &four[..12]));
    assert_eq!(machine.versions(), ["4", "3", "1"]);
}

/// Checks that cleanup keeps the next deployment, the one to roll back to, and the pinned ones.
fn clean_up(machine: &Machine) {
    let said = machine.run(&["cleanup"]).success();
    assert!(said.contains("(pinned)") && said.contains("from the repository"), "{said}");
    assert_eq!(machine.versions(), ["4", "3", "1"]);
    machine.run(&["undeploy", "2"]).failure(1);
    machine.run(&["pin", "--unpin", "2"]).success();
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["4", "3", "1"], "the only one that came up so far stays");
    machine.run(&["undeploy", "2"]).success();
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.versions(), ["4", "3"]);
    let kernels = fs::read_dir(machine.sysroot.join("boot/sapwood/0123abcd")).expect("it exists").count();
    assert_eq!(kernels, 2, "kernels of deployments that are gone are gone");
    let commits = fs::read_dir(machine.repository().path().join("commits")).expect("it exists").count();
    assert_eq!(commits, 2, "and so are their commits");
    machine.repository().assert_clean();
    machine.repository().run(["gc"]).success();
    machine.repository().assert_clean();
    machine.run(&["etc", "diff"]).success();
}

#[test]
fn existing_deployment_is_not_made_again() {
    let sandbox = Sandbox::new("again");
    let machine = Machine::new(&sandbox, "none");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let said = machine.run(&["deploy", "os:test"]);
    assert!(said.status.success() && said.stderr.contains("nothing to do"), "{}", said.stderr);
    assert_eq!(machine.deployments().len(), 1);
    machine.run(&["deploy", "os:test", "--karg", "x"]).success();
    assert_eq!(machine.deployments().len(), 2);
}

#[test]
fn stateroots_are_upgraded_and_rolled_back_separately() {
    let sandbox = Sandbox::new("stateroots");
    let machine = Machine::new(&sandbox, "none");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    machine.run(&["deploy", "os:test", "--stateroot", "other"]).success();
    fs::write(machine.sysroot.join("sapwood/deploy/other/var/mine"), "x").expect("writable");
    for version in ["2", "3", "4"] {
        machine.publish(&Os::new(version));
        machine.run(&["upgrade", "--stateroot", "main"]).success();
    }
    let names = machine.deployments();
    assert_eq!(machine.versions(), ["4", "3", "1"]);
    assert!(names[2].starts_with("other/"), "{names:?}");
    machine.run(&["cleanup"]).success();
    assert_eq!(machine.deployments(), names);
    // A rollback stays within one stateroot.
    let back = machine.run(&["rollback"]).success();
    assert!(back.starts_with("main/"), "{back}");
}

#[test]
fn switch_follows_another_ref() {
    let sandbox = Sandbox::new("switch");
    let machine = Machine::new(&sandbox, "none");
    machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let tree = machine.directory.join("tree");
    Os::new("next").write(&tree);
    let arguments = ["commit", "--ref", "next", "--version", "next"].map(std::ffi::OsString::from);
    machine.publisher.run(arguments.into_iter().chain([tree.into()])).success();
    let url = format!("file://{}", machine.published().display());
    let mut publish = machine.publisher.command(["publish", "--sign", "release", &url, "next"]);
    publish.env("SAPWOOD_KEYS", machine.directory.join("keys"));
    crate::common::sandbox::finish(publish).success();
    machine.run(&["switch", "os:next"]).success();
    assert_eq!(machine.versions(), ["next", "1"]);
    assert_eq!(machine.status()["deployments"][0]["upstream"], "os:next");
    assert_eq!(machine.run(&["upgrade", "--unchanged-exit-77"]).status.code(), Some(77));
}
