//! Booting what is not there: the disk has a commit's names and its kernel, and contents come over HTTP as they are read.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::link::{Link, Passed, Shape};
use crate::common::sandbox::{Sandbox, run};
use crate::common::web::Web;
use crate::kernel::{hardware, wait_until_running};
use crate::machine::{Machine, Shell};
use crate::one_at_a_time;
use crate::system::{Remote, System, Version, system};

/// As fast as it goes: bytes and requests are counted here, and the machine is slow enough.
const SHAPE: Shape = Shape { round_trip: Duration::ZERO, bits_per_second: 1_000_000_000 };

/// What a lazy boot is to fetch at most of what a full pull fetches, in percent, until everything has started.
const SHARE: u64 = 30;

/// A machine whose disk was deployed lazily from behind `link`.
fn start(system: &System, sandbox: &Sandbox, link: &Link, more: &str) -> Machine {
    let remote = Remote {
        url: format!("http://{}/", link.address()),
        inside: format!("http://10.0.2.2:{}/", link.address().port()),
    };
    let place = sandbox.directory("disk");
    let deployment = system.deploy_lazily(&place, &remote);
    let disk: PathBuf = place.join("disk.img");
    let arguments = format!("sapwood={deployment} sapwood.lazy=1 ip=dhcp {more}");
    Machine::start(&hardware(system, &disk, &arguments), sandbox.path())
}

fn passed_since(link: &Link, before: Passed) -> (u64, u64) {
    let now = link.passed();
    (now.received - before.received, now.requests - before.requests)
}

/// What the tree takes.
fn tree_size(shell: &mut Shell) -> u64 {
    let text = shell.ok("sapwood mounts --json /usr");
    let mounts: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    eprintln!("{text}");
    mounts["bytes"].as_u64().unwrap_or_default()
}

#[test]
fn a_machine_boots_what_it_fetches_on_the_way_and_fills_up_later() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-lazy");
    let web = Web::serve(&system.published(Version::First));
    let link = Link::to(web.address(), SHAPE);
    let mut machine = start(system, &sandbox, &link, "sapwood.timeout=3 sapwood.record=/var/boot.profile");
    let before = link.passed();
    let mut shell = machine.shell();
    let seconds = wait_until_running(&mut shell);
    let (bytes, requests) = passed_since(&link, before);
    let size = tree_size(&mut shell);
    let packs = run("du", ["-sb", &system.published(Version::First).join("packs").display().to_string()]).success();
    let full: u64 = packs.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a number");
    eprintln!(
        "lazy: running after {seconds} s; {bytes} bytes in {requests} requests, of {full} in packs, a tree of {size}"
    );
    assert!(bytes * 100 < full * SHARE, "{bytes} of {full} bytes were fetched until it ran");

    // Without the network: what is here works, what is missing says so.
    link.cut();
    let (status, said) = shell.run("cat /usr/lib/x86_64-linux-gnu/perl-base/Tie/Hash.pm");
    assert_ne!(status, 0, "{said}");
    assert!(said.contains("Input/output error"), "{said}");
    shell.ok("md5sum /usr/bin/systemctl && systemctl is-system-running");
    let told = shell
        .ok("sapwood mounts /usr; journalctl -b -t sapwood-mount -o cat --no-pager | tail; cat /run/sapwood/mount.log");
    eprintln!("{told}");

    // With it, everything comes, and then it is not needed any more.
    link.mend();
    shell.ok("systemctl restart sapwood-fill");
    shell.ok("while systemctl is-active -q sapwood-fill; do sleep 1; done; ! systemctl is-failed -q sapwood-fill");
    link.cut();
    shell.ok("find /usr -xdev -type f -exec cat {} + > /dev/null");
    let status = shell.ok("sapwood status");
    assert!(!status.contains("needs a network"), "{status}");
    let profile = shell.ok("cat /var/boot.profile");
    shell.end("poweroff");
    assert!(machine.wait_until_off().success());

    // The publisher puts first what that boot read.
    let file = sandbox.join("boot.profile");
    fs::write(&file, profile + "\n").expect("writable");
    let published = system.publish_with_profile(&file, &sandbox.join("profiled"));
    let web = Web::serve(&published);
    let link = Link::to(web.address(), SHAPE);
    let sandbox = Sandbox::new("boot-lazy-profile");
    let mut machine = start(system, &sandbox, &link, "");
    let before = link.passed();
    let mut shell = machine.shell();
    let seconds = wait_until_running(&mut shell);
    let (bytes, requests) = passed_since(&link, before);
    eprintln!("with a profile: running after {seconds} s; {bytes} bytes in {requests} requests");
    shell.end("poweroff");
    assert!(machine.wait_until_off().success());
}
