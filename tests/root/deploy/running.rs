//! A machine that runs one of its deployments: staging, finalisation, counting of tries, health checks. The running kernel's
//! command line is given; everything else is as on a machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::common::machine::{Machine, Os};
use crate::common::menu;
use crate::common::sandbox::Sandbox;

fn name(commit: &str, serial: u32) -> String {
    format!("main/{}.{serial}", &commit[..12])
}

/// Makes a machine that runs version 1, with version 2 published.
fn running(sandbox: &Sandbox, loader: &str) -> (Machine, String, String) {
    let machine = Machine::new(sandbox, loader);
    let one = machine.publish(&Os::new("1"));
    machine.run(&["deploy", "os:test"]).success();
    let two = machine.publish(&Os::new("2").with("usr/etc/prog/prog.conf", "a = 1\nb = two\nc = 3\nd = 4\n"));
    let (one, two) = (name(&one, 0), name(&two, 0));
    machine.run_booted(&one, &["boot", "record"]).success();
    (machine, one, two)
}

fn roles(machine: &Machine, booted: &str, deployment: &str) -> Vec<String> {
    let status = machine.run_booted(booted, &["status", "--json"]).success();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let found = status["deployments"].as_array().expect("a list").iter().find(|found| found["id"] == deployment);
    let roles =
        found.unwrap_or_else(|| panic!("no {deployment} in {status}"))["roles"].as_array().expect("a list").clone();
    roles.iter().map(|role| role.as_str().expect("a word").to_owned()).collect()
}

fn events(machine: &Machine) -> Vec<String> {
    let log: Vec<Value> =
        serde_json::from_str(&machine.run(&["history", "--json", "-n", "99"]).success()).expect("JSON");
    log.iter().rev().map(|entry| entry["event"].as_str().expect("a word").to_owned()).collect()
}

#[test]
fn staged_update_is_finalised_with_the_etc_at_shutdown() {
    let sandbox = Sandbox::new("staged");
    let (machine, one, two) = running(&sandbox, "systemd-boot");
    let etc = machine.deployment(&one).join("etc");
    fs::write(etc.join("early"), "1\n").expect("writable");
    fs::write(etc.join("gone"), "1\n").expect("writable");
    let said = machine.run_booted(&one, &["upgrade"]);
    assert!(said.stderr.contains("staged"), "{}", said.stderr);
    assert_eq!(roles(&machine, &one, &two), ["staged"]);
    assert_eq!(menu::read(&machine.sysroot, "systemd-boot")[0].deployment, one, "nothing in the menu before shutdown");
    let staged = machine.deployment(&two).join("etc");
    assert!(staged.join("early").exists(), "merged when it was staged, so that conflicts show early");
    // Staging the same commit again changes nothing.
    assert_eq!(machine.run_booted(&one, &["upgrade", "--unchanged-exit-77"]).status.code(), Some(77));
    // /etc changes after staging.
    fs::write(etc.join("late"), "2\n").expect("writable");
    fs::write(etc.join("prog/prog.conf"), "a = 1\nb = 2\nc = 3\nd = mine\n").expect("writable");
    fs::remove_file(etc.join("gone")).expect("it exists");
    machine.run_booted(&one, &["boot", "finalise"]).success();
    assert!(staged.join("late").exists() && !staged.join("gone").exists());
    let text = fs::read_to_string(staged.join("prog/prog.conf")).expect("it exists");
    assert_eq!(text, "a = 1\nb = 2\nc = 3\nd = mine\n");
    let entries = menu::read(&machine.sysroot, "systemd-boot");
    assert_eq!((entries[0].deployment.as_str(), entries[0].left), (two.as_str(), Some(3)));
    assert_eq!(entries[1].deployment, one);
    assert_eq!(machine.status()["deployments"][0]["etc_conflicts"][0]["path"], "prog/prog.conf");
    machine.run_booted(&one, &["boot", "finalise"]).success();
    // It boots, is recorded once per boot, and blessed once the health checks pass.
    machine.run_booted(&two, &["boot", "record"]).success();
    machine.run_booted(&two, &["boot", "record"]).success();
    machine.run_booted(&two, &["boot", "health"]).success();
    machine.run_booted(&two, &["boot", "bless"]).success();
    assert_eq!(menu::read(&machine.sysroot, "systemd-boot")[0].left, None);
    assert_eq!(roles(&machine, &two, &two), ["booted", "default"]);
    assert_eq!(roles(&machine, &two, &one), ["rollback"]);
    let events = events(&machine);
    // The kernel's boot id is the same all the time here: to the history, the second deployment's boot is the same boot.
    assert_eq!(events, ["deployed", "booted", "staged", "deployed", "blessed"]);
}

#[test]
fn etc_decisions_on_a_staged_update_survive_finalisation() {
    let sandbox = Sandbox::new("decided");
    let (machine, one, two) = running(&sandbox, "systemd-boot");
    let etc = machine.deployment(&one).join("etc");
    fs::write(etc.join("prog/prog.conf"), "a = 1\nb = 2\nc = 3\nd = mine\n").expect("writable");
    fs::write(etc.join("unwanted"), "x\n").expect("writable");
    machine.run_booted(&one, &["upgrade"]).success();
    machine.run_booted(&one, &["etc", "merge", "--text", "prog/prog.conf", "--deployment", "staged"]).success();
    machine.run_booted(&one, &["etc", "reset", "unwanted", "--deployment", "staged"]).success();
    fs::write(etc.join("late"), "2\n").expect("writable");
    let staged = machine.deployment(&two).join("etc");
    for _ in 0..2 {
        machine.run_booted(&one, &["boot", "finalise"]).success();
        let text = fs::read_to_string(staged.join("prog/prog.conf")).expect("it exists");
        assert_eq!(text, "a = 1\nb = two\nc = 3\nd = mine\n");
        assert!(staged.join("late").exists() && !staged.join("unwanted").exists());
    }
    assert_eq!(machine.status()["deployments"][0]["etc_conflicts"], serde_json::json!([]));
}

#[test]
fn staged_update_survives_a_power_cut_and_can_be_dropped() {
    let sandbox = Sandbox::new("cut");
    let (machine, one, two) = running(&sandbox, "grub");
    machine.run_booted(&one, &["upgrade"]).success();
    // After a power cut nothing was finalised: the old deployment boots, and the update is still staged.
    assert_eq!(roles(&machine, &one, &two), ["staged"]);
    machine.run_booted(&one, &["upgrade", "--finalise-now"]).success();
    assert_eq!(menu::read(&machine.sysroot, "grub")[0].deployment, two);
    // A rollback to the running deployment.
    assert_eq!(machine.run_booted(&one, &["rollback"]).success(), one);
    let three = name(&machine.publish(&Os::new("3")), 0);
    machine.run_booted(&one, &["upgrade"]).success();
    let plan = machine.run_booted(&one, &["rollback", "--dry-run"]);
    assert!(plan.stderr.contains(&format!("{three} was staged and would be dropped")), "{}", plan.stderr);
    assert_eq!(roles(&machine, &one, &three), ["staged"]);
    machine.run_booted(&one, &["undeploy", "staged"]).success();
    assert!(!machine.deployments().contains(&three));
    machine.run_booted(&one, &["undeploy", "booted"]).failure(1);
}

#[test]
fn failed_finalisation_is_reported_at_the_next_boot() {
    let sandbox = Sandbox::new("failure");
    let (machine, one, two) = running(&sandbox, "systemd-boot");
    machine.run_booted(&one, &["upgrade"]).success();
    // The boot partition fails at shutdown: a directory is in the place of the kernel.
    let staged = fs::read_to_string(machine.deployment(&two).join("origin.toml")).expect("it exists");
    let digest =
        staged.lines().find_map(|line| line.strip_prefix("digest = ")).expect("a digest").trim_matches('"').to_owned();
    let kernel = machine.sysroot.join("boot/sapwood/0123abcd").join(digest);
    fs::create_dir_all(kernel.join("vmlinuz")).expect("writable");
    machine.run_booted(&one, &["boot", "finalise"]).failure(1);
    let entries = menu::read(&machine.sysroot, "systemd-boot");
    assert_eq!(entries.iter().map(|entry| entry.deployment.as_str()).collect::<Vec<_>>(), [one.as_str()]);
    let said = machine.run_booted(&one, &["boot", "record"]);
    assert!(said.stderr.contains("could not be finished") && said.stderr.contains("vmlinuz"), "{}", said.stderr);
    let status = machine.run(&["status"]).success();
    assert!(status.starts_with(&format!("the update to {two} could not be finished")), "{status}");
    fs::remove_dir(kernel.join("vmlinuz")).expect("it exists");
    machine.run_booted(&one, &["boot", "finalise"]).success();
    assert_eq!(menu::read(&machine.sysroot, "systemd-boot")[0].deployment, two);
    assert_eq!(machine.status()["finalise_failure"], Value::Null);
}

#[test]
fn failed_deployment_is_given_up_and_not_deployed_again() {
    let sandbox = Sandbox::new("hang");
    let (machine, one, two) = running(&sandbox, "systemd-boot");
    machine.run_booted(&one, &["upgrade", "--finalise-now"]).success();
    // The loader tries it three times, as systemd-boot does, and then takes the previous one.
    let entries = machine.sysroot.join("boot/loader/entries");
    for (from, to) in [("+3", "+2-1"), ("+2-1", "+1-2"), ("+1-2", "+0-3")] {
        let path = |tries: &str| entries.join(format!("sapwood-0123abcd-00002{tries}.conf"));
        fs::rename(path(from), path(to)).expect("it exists");
    }
    assert_eq!(menu::read(&machine.sysroot, "systemd-boot")[0].deployment, one);
    // The history has this boot id already; a real boot has a new one.
    let log = machine.sysroot.join("sapwood/history.jsonl");
    fs::write(&log, fs::read_to_string(&log).expect("it exists").replace("\"booted\"", "\"blessed\""))
        .expect("writable");
    machine.run_booted(&one, &["boot", "record"]).success();
    assert_eq!(roles(&machine, &one, &two), ["failed"]);
    let status = machine.run_booted(&one, &["status"]).success();
    assert!(status.contains("failed    it did not come up in 3 tries"), "{status}");
    // It is deployed again neither by the timer nor by a plain upgrade.
    assert_eq!(machine.run_booted(&one, &["upgrade", "--unchanged-exit-77"]).status.code(), Some(77));
    machine.run_booted(&one, &["cleanup", "--deployments-only"]).success();
    assert_eq!(machine.deployments(), [one.as_str()]);
    assert_eq!(machine.run_booted(&one, &["upgrade", "--unchanged-exit-77"]).status.code(), Some(77));
    let said = machine.run_booted(&one, &["upgrade"]).failure(1);
    assert!(said.contains("did not come up") && said.contains("--again"), "{said}");
    let status = machine.run_booted(&one, &["status"]).success();
    assert!(status.contains("is avoided since"), "{status}");
    machine.run_booted(&one, &["upgrade", "--again", "--finalise-now"]).success();
    assert_eq!(menu::read(&machine.sysroot, "systemd-boot")[0].left, Some(3));
}

#[test]
fn failed_required_check_rolls_back_only_during_the_trial() {
    let sandbox = Sandbox::new("health");
    for loader in ["systemd-boot", "grub"] {
        let (machine, one, two) = running(&sandbox, loader);
        let check = |deployment: &str, kind: &str, script: &str| {
            let path = machine.deployment(deployment).join("etc/sapwood/health.d").join(kind);
            fs::create_dir_all(path.parent().expect("inside")).expect("writable");
            fs::write(&path, script).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("owned by the test");
        };
        check(&one, "required.d/10-ok", "#!/bin/sh\nexit 0\n");
        check(&one, "wanted.d/10-bad", "#!/bin/sh\nexit 1\n");
        machine.run_booted(&one, &["upgrade", "--finalise-now"]).success();
        assert!(machine.deployment(&two).join("etc/sapwood/health.d/required.d/10-ok").exists(), "{loader}");
        // A failed wanted check is only reported.
        let said = machine.run_booted(&two, &["boot", "health", "--no-reboot"]);
        assert!(said.status.success() && said.stderr.contains("wanted check '10-bad' failed"), "{}", said.stderr);
        check(&two, "required.d/20-net", "#!/bin/sh\necho no route >&2\nexit 1\n");
        let said = machine.run_booted(&two, &["boot", "health", "--no-reboot"]).failure(1);
        assert!(said.contains(&format!("going back to {one}")), "{loader}: {said}");
        assert_eq!(menu::read(&machine.sysroot, loader)[0].deployment, one, "{loader}");
        let status = machine.run_booted(&one, &["status"]).success();
        assert!(status.contains("required check '20-net' failed (exit status: 1: no route)"), "{status}");
        assert!(events(&machine).ends_with(&["unhealthy".into(), "given-up".into(), "rolled-back".into()]));
        // The old deployment has no trial: a failed check is reported there, and nothing else happens.
        check(&one, "required.d/20-net", "#!/bin/sh\nexit 1\n");
        let said = machine.run_booted(&one, &["boot", "health", "--no-reboot"]).failure(1);
        assert!(said.contains("not going back: it came up well before"), "{said}");
        assert_eq!(menu::read(&machine.sysroot, loader)[0].deployment, one, "{loader}");
        crate::common::sandbox::remove_tree(&machine.directory);
    }
}
