//! Not a test but the figures by which a lazy mount is judged: a Debian root that was never pulled, over slow links.
//!
//! ```text
//! cargo test --release --test lazy figures -- --ignored --nocapture
//! ```
//!
//! `SAPWOOD_PUBLISHED` names a directory with what the publisher made of the root as the ref `main`, if there is one
//! already; `SAPWOOD_READ_ALL` also reads everything, and pulls it for comparison. Requests and bytes are what passed the
//! link. Beside each time stands how long the link alone takes for those bytes.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::common::link::{Link, Passed, Shape};
use crate::common::sandbox::{Repository, Sandbox};
use crate::common::trees;
use crate::common::web::Web;

/// A client at the end of a link, and what it has used of it.
struct Line {
    link: Link,
    shape: Shape,
    client: Repository,
    at: PathBuf,
    options: String,
}

impl Line {
    fn new(sandbox: &Sandbox, web: &Web, shape: Shape, name: &str, options: &str) -> Self {
        let link = Link::to(web.address(), shape);
        let (client, at) = (sandbox.repository(name), sandbox.directory(&format!("{name}-mounted")));
        Self { link, shape, client, at, options: options.to_owned() }
    }

    fn url(&self) -> String {
        format!("http://{}#main", self.link.address())
    }

    fn measure<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let (start, before) = (Instant::now(), self.link.passed());
        let done = work();
        self.report(what, start, before);
        done
    }

    fn report(&self, what: &str, start: Instant, before: Passed) {
        let (time, now) = (start.elapsed().as_secs_f64(), self.link.passed());
        let bytes = now.received - before.received;
        let floor = bytes as f64 * 8.0 / self.shape.bits_per_second as f64;
        let requests = now.requests - before.requests;
        println!("{what:42} {time:7.3} s {floor:7.3} s {requests:4} requests {:8.3} MB", bytes as f64 / 1e6);
    }

    fn mount(&self) {
        let options = format!("suid,dev,{}", self.options);
        let at = self.at.to_str().expect("UTF-8");
        self.client.run(["mount", "-o", &options, "--insecure-unsigned", &self.url(), at]).success();
    }

    fn unmount(self) {
        self.client.run(["umount", self.at.to_str().expect("UTF-8")]).success();
    }

    /// Runs a line of shell in which MOUNT is the mount.
    fn run(&self, what: &str, command: &str) {
        let command = command.replace("MOUNT", self.at.to_str().expect("UTF-8"));
        let output = self.measure(what, || Command::new("sh").args(["-c", &command]).output().expect("runs"));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn daemon_memory(&self) -> String {
        let text = self.client.run(["mounts", "--json"]).success();
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let own = all
            .as_array()
            .expect("a list")
            .iter()
            .find(|mount| mount["mountpoint"] == *self.at.to_str().expect("UTF-8"));
        let pid = own.expect("listed")["pid"].as_u64().expect("a process");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        println!("{}", serde_json::to_string(&own.expect("listed")["lazy"]).expect("JSON"));
        status
            .lines()
            .filter(|line| line.starts_with("VmHWM") || line.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

const PYTHON: &str = "chroot MOUNT /usr/bin/python3 -c 'import json,http.client,ssl,sqlite3,asyncio'";
const COMPILE: &str = "printf '#include <iostream>\n#include <map>\nint main() { std::map<int, int> m{{1, 2}}; std::cout << m[1]; }' > MOUNT/tmp/a.cc && chroot MOUNT /usr/bin/g++ -o /tmp/a /tmp/a.cc && MOUNT/tmp/a";

fn published(sandbox: &Sandbox) -> PathBuf {
    if let Some(published) = std::env::var_os("SAPWOOD_PUBLISHED") {
        return published.into();
    }
    let (published, publisher) = (sandbox.join("published"), sandbox.repository("publisher"));
    publisher.commit("main", &trees::debian_root());
    publisher.run(["publish", &format!("file://{}", published.display()), "main"]).success();
    published
}

#[test]
#[ignore = "takes minutes; prints figures"]
fn figures_of_a_debian_root_over_a_slow_link() {
    let sandbox = Sandbox::new("lazy-figures");
    let published = published(&sandbox);
    let web = Web::serve(&published);
    for (name, shape) in [("20 ms, 50 Mbit/s", Shape::HOME), ("100 ms, 1 Mbit/s", Shape::RADIO)] {
        println!("--- {name}: first ls");
        let line = Line::new(&sandbox, &web, shape, &format!("ls-{}", shape.bits_per_second), "");
        line.measure("mount and ls", || {
            line.mount();
            std::fs::read_dir(&line.at).expect("listable").for_each(drop);
        });
        if shape.bits_per_second == Shape::HOME.bits_per_second {
            line.run("find with stat of everything", "find MOUNT -printf '%s %m %T@' | wc -c");
        }
        line.unmount();
    }
    for options in ["", "profile=auto"] {
        println!("--- 20 ms, 50 Mbit/s, from nothing, options '{options}'");
        let line = Line::new(&sandbox, &web, Shape::HOME, &format!("python-{}", options.len()), options);
        line.measure("mount and python", || {
            line.measure("  mount", || line.mount());
            line.run("  python", PYTHON);
        });
        let tmp = line.at.join("tmp");
        nix::mount::mount(Some("tmpfs"), &tmp, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
            .expect("mounts");
        line.run("then g++", COMPILE);
        nix::mount::umount(&tmp).expect("unmounts");
        if std::env::var_os("SAPWOOD_READ_ALL").is_some() {
            line.run("read everything", "cd MOUNT && find . -xdev -type f -print0 | xargs -0 cat | wc -c");
            println!("{}", line.daemon_memory());
        }
        line.unmount();
    }
    if std::env::var_os("SAPWOOD_READ_ALL").is_some() {
        let line = Line::new(&sandbox, &web, Shape::HOME, "pull", "");
        line.measure("plain pull", || line.client.run(["pull", "--insecure-unsigned", &line.url()]).success());
    }
}
