//! Booting what is not there: the disk has a commit's names, its kernel and its initramfs, and contents come over HTTP as they
//! are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::link::{Link, Passed, Shape};
use crate::common::sandbox::{Sandbox, run};
use crate::common::web::Web;
use crate::kernel::{hardware, wait_until_running};
use crate::machine::{Machine, Shell};
use crate::one_at_a_time;
use crate::system::{Remote, System, Version, system};

/// As fast as it goes: bytes and requests are counted here, and the machine is slow enough.
const SHAPE: Shape = Shape { round_trip: Duration::ZERO, bits_per_second: 1_000_000_000 };

/// What a lazy boot fetches at most of what a full pull fetches, in percent, until everything has started.
const SHARE: u64 = 12;

/// How many times fewer requests a boot makes at least when what an earlier one read is there already. No two boots read the
/// same.
const PROFILED_GAIN: u64 = 6;

/// How long everything may take to come.
const FILL: Duration = Duration::from_secs(300);

/// How long after an outage reading may fail.
const RECOVERY: Duration = Duration::from_secs(20);

/// What no boot reads: a module for what the machine does not have.
const UNREAD: &str = "/usr/lib/modules/*/kernel/fs/xfs/xfs.ko*";

/// A machine that was deployed lazily, and the link that it gets its contents over.
struct LazyMachine {
    machine: Machine,
    link: Link,
    _web: Web,
    before: Passed,
}

impl LazyMachine {
    /// Deploys what is published at `published` on a disk in `place`, and boots it.
    fn start(system: &System, place: &Path, published: &Path, more: &str) -> Self {
        let web = Web::serve(published);
        let link = Link::to(web.address(), SHAPE);
        let remote = Remote {
            url: format!("http://{}/", link.address()),
            inside: format!("http://10.0.2.2:{}/", link.address().port()),
        };
        fs::create_dir_all(place).expect("the sandbox is writable");
        let deployment = system.deploy_lazily(place, &remote);
        let disk: PathBuf = place.join("disk.img");
        let arguments = format!("sapwood={deployment} sapwood.lazy=1 ip=dhcp {more}");
        let machine = Machine::start(&hardware(system, &disk, &arguments), place);
        let before = link.passed();
        eprintln!("lazy: deployed with {} bytes in {} requests", before.received, before.requests);
        Self { machine, link, _web: web, before }
    }

    /// Bytes and requests since it was started.
    fn passed(&self) -> (u64, u64) {
        let now = self.link.passed();
        (now.received - self.before.received, now.requests - self.before.requests)
    }

    /// Waits until all has started; says what that took.
    fn wait_until_running(&mut self, what: &str, of: u64) -> (Shell, u64, u64) {
        let mut shell = self.machine.shell();
        let seconds = wait_until_running(&mut shell);
        let (bytes, requests) = self.passed();
        let share = 100.0 * bytes as f64 / of as f64;
        eprintln!("{what}: running after {seconds} s; {bytes} bytes in {requests} requests, {share:.1} % of {of}");
        (shell, bytes, requests)
    }
}

/// Bytes of all packs.
fn pack_bytes(published: &Path) -> u64 {
    let said = run("du", ["-sb", &published.join("packs").display().to_string()]).success();
    said.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a number")
}

/// What is here works without the network, and what is missing says so and comes when it is back.
fn without_network(shell: &mut Shell, link: &Link) {
    link.cut();
    let (status, said) = shell.run(&format!("cat {UNREAD} > /dev/null"));
    assert!(status != 0 && said.contains("Input/output error"), "{status}: {said}");
    shell.ok("cat /usr/bin/systemctl > /dev/null && systemctl is-system-running");
    let log = shell.ok("cat /run/sapwood/mount.log");
    assert!(log.contains("what is here goes on working"), "{log}");
    link.mend();
    let begin = Instant::now();
    while shell.run(&format!("cat {UNREAD} > /dev/null")).0 != 0 {
        assert!(begin.elapsed() < RECOVERY, "{}", shell.ok("cat /run/sapwood/mount.log"));
        // Not `sleep` in the machine: it is not there.
        thread::sleep(Duration::from_secs(1));
    }
}

/// Everything comes, and then the network is not needed any more.
fn fill(shell: &mut Shell, link: &Link) {
    assert!(shell.ok("sapwood status").contains("needs a network"), "it is not filled yet");
    shell.ok("rm /etc/systemd/system/sapwood-fill.service && systemctl daemon-reload && systemctl start sapwood-fill");
    let begin = Instant::now();
    while shell.ok("sapwood status").contains("needs a network") {
        let log = "systemctl status sapwood-fill; journalctl -b -u sapwood-fill --no-pager";
        assert!(begin.elapsed() < FILL, "{}", shell.run(log).1);
        thread::sleep(Duration::from_secs(2));
    }
    link.cut();
    let (status, said) = shell.run("find /usr -xdev -type f -exec cat {} + > /dev/null");
    assert_eq!(status, 0, "{said}\n{}", shell.run("sapwood mounts /usr; cat /run/sapwood/mount.log").1);
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn a_machine_boots_what_it_fetches_on_the_way_and_fills_up_later() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-lazy");
    let published = system.published(Version::First);
    let all = pack_bytes(&published);
    let more = "sapwood.timeout=3 sapwood.record=/var/boot.profile";
    let mut lazy = LazyMachine::start(system, &sandbox.join("first"), &published, more);
    let (mut shell, bytes, requests) = lazy.wait_until_running("lazy", all);
    assert!(bytes * 100 <= all * SHARE, "{bytes} of {all} bytes were fetched until it ran");
    // What is read is written down every few seconds.
    thread::sleep(Duration::from_secs(8));
    let profile = shell.ok("cat /var/boot.profile");
    without_network(&mut shell, &lazy.link);
    fill(&mut shell, &lazy.link);
    shell.end("poweroff");
    assert!(lazy.machine.wait_until_off().success());

    // The publisher puts first what that boot read.
    let file = sandbox.join("boot.profile");
    fs::write(&file, profile + "\n").expect("writable");
    let profiled = system.publish_with_profile(&file, &sandbox.join("profiled"));
    let mut lazy = LazyMachine::start(system, &sandbox.join("second"), &profiled, "sapwood.timeout=3");
    let (shell, bytes_then, requests_then) = lazy.wait_until_running("with a profile", all);
    assert!(lazy.before.received < all * 2 / 3, "the deployment brought more than what was recorded");
    assert!(bytes_then < bytes && requests_then * PROFILED_GAIN < requests, "{requests_then} of {requests} requests");
    // Most of it never came, and it ends as it should.
    lazy.link.cut();
    shell.end("poweroff");
    assert!(lazy.machine.wait_until_off().success());
    assert!(lazy.machine.console().contains("reboot: Power down"), "{}", lazy.machine.console());
}
