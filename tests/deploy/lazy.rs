//! Deployments that are fetched as they are read.

use std::fs;

use serde_json::Value;

use super::menu;
use crate::common::machine::{Machine, Os};
use crate::common::sandbox::Sandbox;

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
