//! Boots of lazy deployments: the disk has the names, the kernel and the initramfs of a commit, and contents come over HTTP
//! when they are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::link::{Link, Shape, Traffic};
use crate::common::sandbox::{Sandbox, run};
use crate::common::web::Web;
use crate::kernel::{hardware, wait_until_running};
use crate::machine::{Machine, Shell};
use crate::one_at_a_time;
use crate::system::{Remote, System, Version, system};

/// A link without a limit that matters: bytes and requests are counted, and the emulated machine is slow enough.
const FAST_LINK: Shape = Shape { round_trip: Duration::ZERO, bits_per_second: 1_000_000_000 };

/// Most that a lazy boot may fetch until everything has started, in percent of a full pull.
const LAZY_BOOT_PERCENT_MAX: u64 = 12;

/// Least factor by which a boot sends fewer requests when the contents that an earlier boot read are prefetched. No two boots
/// read exactly the same.
const PROFILED_REQUESTS_FACTOR: u64 = 6;

/// Longest time that filling the deployment may take.
const FILL_TIMEOUT: Duration = Duration::from_secs(300);

/// Longest time after an outage during which a read may still fail.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(20);

/// A file that no boot reads: the module of a file system that the machine does not have.
const UNREAD_MODULE: &str = "/usr/lib/modules/*/kernel/fs/xfs/xfs.ko*";

/// A machine with a lazy deployment, and the link through which it fetches contents.
struct LazyMachine {
    machine: Machine,
    link: Link,
    _web: Web,
    before: Traffic,
}

impl LazyMachine {
    /// Deploys what is published at `published` on a disk in `place`, and boots it.
    fn start(system: &System, place: &Path, published: &Path, more: &str) -> Self {
        let web = Web::serve(published);
        let link = Link::to(web.address(), FAST_LINK);
        let remote = Remote {
            url: format!("http://{}/", link.address()),
            inside: format!("http://10.0.2.2:{}/", link.address().port()),
        };
        fs::create_dir_all(place).expect("the sandbox is writable");
        let deployment = system.deploy_lazily(place, &remote);
        let disk: PathBuf = place.join("disk.img");
        let arguments = format!("sapwood={deployment} sapwood.lazy=1 ip=dhcp {more}");
        let machine = Machine::start(&hardware(system, &disk, &arguments), place);
        let before = link.traffic();
        eprintln!("lazy: deployed with {} bytes in {} requests", before.received, before.requests);
        Self { machine, link, _web: web, before }
    }

    /// Returns bytes and requests since the machine was started.
    fn traffic(&self) -> (u64, u64) {
        let now = self.link.traffic();
        (now.received - self.before.received, now.requests - self.before.requests)
    }

    /// Waits until systemd has started everything. Returns the shell, and the bytes and requests until then.
    fn wait_until_running(&mut self, what: &str, of: u64) -> (Shell, u64, u64) {
        let mut shell = self.machine.shell();
        let seconds = wait_until_running(&mut shell);
        let (bytes, requests) = self.traffic();
        let share = 100.0 * bytes as f64 / of as f64;
        eprintln!("{what}: running after {seconds} s; {bytes} bytes in {requests} requests, {share:.1} % of {of}");
        (shell, bytes, requests)
    }
}

/// Returns the bytes of all published packs.
fn pack_bytes(published: &Path) -> u64 {
    let said = run("du", ["-sb", &published.join("packs").display().to_string()]).success();
    said.split_whitespace().next().and_then(|size| size.parse().ok()).expect("a number")
}

/// Checks that local contents work without the network, that a missing file fails with a log line, and that it can be read
/// again once the network is back.
fn without_network(shell: &mut Shell, link: &Link) {
    link.cut();
    let (status, said) = shell.run(&format!("cat {UNREAD_MODULE} > /dev/null"));
    assert!(status != 0 && said.contains("Input/output error"), "{status}: {said}");
    shell.ok("cat /usr/bin/systemctl > /dev/null && systemctl is-system-running");
    let log = shell.ok("cat /run/sapwood/mount.log");
    assert!(log.contains("stored contents remain readable"), "{log}");
    link.restore();
    let begin = Instant::now();
    while shell.run(&format!("cat {UNREAD_MODULE} > /dev/null")).0 != 0 {
        assert!(begin.elapsed() < RECOVERY_TIMEOUT, "{}", shell.ok("cat /run/sapwood/mount.log"));
        // Not `sleep` in the machine: that program was not fetched.
        thread::sleep(Duration::from_secs(1));
    }
}

/// Fills the deployment and checks that it then needs no network.
fn fill(shell: &mut Shell, link: &Link) {
    assert!(shell.ok("sapwood status").contains("needs a network"), "it is already filled");
    shell.ok("rm /etc/systemd/system/sapwood-fill.service && systemctl daemon-reload && systemctl start sapwood-fill");
    let begin = Instant::now();
    while shell.ok("sapwood status").contains("needs a network") {
        let log = "systemctl status sapwood-fill; journalctl -b -u sapwood-fill --no-pager";
        assert!(begin.elapsed() < FILL_TIMEOUT, "{}", shell.run(log).1);
        thread::sleep(Duration::from_secs(2));
    }
    link.cut();
    let (status, said) = shell.run("find /usr -xdev -type f -exec cat {} + > /dev/null");
    assert_eq!(status, 0, "{said}\n{}", shell.run("sapwood mounts /usr; cat /run/sapwood/mount.log").1);
}

#[test]
#[ignore = "builds and composes a system and boots it: tests/run --boot"]
fn lazy_deployment_boots_over_the_network_and_fills_up_later() {
    let _one = one_at_a_time();
    let system = system();
    let sandbox = Sandbox::new("boot-lazy");
    let published = system.published(Version::First);
    let all = pack_bytes(&published);
    let more = "sapwood.timeout=3 sapwood.record=/var/boot.profile";
    let mut lazy = LazyMachine::start(system, &sandbox.join("first"), &published, more);
    let (mut shell, bytes, requests) = lazy.wait_until_running("lazy", all);
    assert!(bytes * 100 <= all * LAZY_BOOT_PERCENT_MAX, "{bytes} of {all} bytes were fetched until it ran");
    // The profile is written every few seconds.
    thread::sleep(Duration::from_secs(8));
    let profile = shell.ok("cat /var/boot.profile");
    without_network(&mut shell, &lazy.link);
    fill(&mut shell, &lazy.link);
    shell.end("poweroff");
    assert!(lazy.machine.wait_until_off().success());

    // The publisher packs what that boot read in the recorded order.
    let file = sandbox.join("boot.profile");
    fs::write(&file, profile + "\n").expect("writable");
    let profiled = system.publish_with_profile(&file, &sandbox.join("profiled"));
    let mut lazy = LazyMachine::start(system, &sandbox.join("second"), &profiled, "sapwood.timeout=3");
    let (shell, bytes_then, requests_then) = lazy.wait_until_running("with a profile", all);
    assert!(lazy.before.received < all * 2 / 3, "the deployment fetched more than the recorded profile");
    assert!(
        bytes_then < bytes && requests_then * PROFILED_REQUESTS_FACTOR < requests,
        "{requests_then} of {requests} requests"
    );
    // The shutdown works although most of the commit was never fetched and the network is down.
    lazy.link.cut();
    shell.end("poweroff");
    assert!(lazy.machine.wait_until_off().success());
    assert!(lazy.machine.console().contains("reboot: Power down"), "{}", lazy.machine.console());
}
