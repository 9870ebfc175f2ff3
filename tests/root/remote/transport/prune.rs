//! Pruning a bucket: killed at each request, two at once, one that died with the lease; the result is read over HTTP.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::bucket::Bucket;
use super::fixture::{Fixture, run_with};
use crate::common::link::{Link, Shape};
use crate::common::sandbox::{finish, run};
use crate::common::trees;
use crate::common::web::Web;

const URL: &str = "s3://systems/debian/12";
const PRUNE: [&str; 11] =
    ["publish", "--prune", "--keep-last", "1", "--lease", "2", "--pack-size", "1000000", "--grace", "0", URL];

/// A bucket with four states. Most of the packs of the older ones is unused.
struct Published {
    fixture: Fixture,
    bucket: Bucket,
    root: PathBuf,
}

impl Published {
    fn new(name: &str) -> Self {
        let fixture = Fixture::new(name);
        let root = fixture.sandbox.directory("buckets");
        let bucket = Bucket::serve(&root);
        fixture.add_remote(URL, &[]);
        let published = Self { fixture, bucket, root };
        (0..4).for_each(|seed| published.publish(seed));
        published
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        Bucket::variables(self.bucket.address())
    }

    fn publish(&self, seed: u64) {
        for number in 0..30 {
            let name = if number < 8 { format!("kept-{seed}") } else { "changed".to_owned() };
            let path = self.fixture.tree.join(format!("{number:02}/{name}"));
            std::fs::write(path, trees::noise(seed * 100 + number, 30_000)).expect("writable");
        }
        self.fixture.publisher.commit("main", &self.fixture.tree);
        let arguments = ["publish", "--pack-size", "1000000", "--lease", "2", URL, "main"];
        run_with(&self.fixture.publisher, &self.variables(), &arguments).success();
    }

    fn prune(&self, variables: &[(&'static str, String)]) -> Command {
        let mut command = self.fixture.publisher.command(PRUNE);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Checks that a new client can pull everything from a web server in front of the bucket.
    #[track_caller]
    fn assert_whole(&self) {
        let web = Web::serve(&self.root.join("systems/debian/12"));
        let client = self.fixture.sandbox.repository("reader");
        client.run(["remote", "add", "os", &web.url(), "--insecure-unsigned"]).success();
        client.run(["pull", "os:main"]).success();
        client.assert_clean();
        self.fixture.assert_mounted_is_same(&client);
        std::fs::remove_dir_all(client.path()).expect("owned by the test");
    }

    /// Restores the bucket as it was when it was saved as `name`.
    fn restore(&self, name: &str) {
        self.copy(self.fixture.sandbox.join(name), self.root.clone());
    }

    fn save(&self, name: &str) {
        self.copy(self.root.clone(), self.fixture.sandbox.directory(name));
    }

    fn copy(&self, from: PathBuf, to: PathBuf) {
        let mut from = from.into_os_string();
        from.push("/");
        // Compare contents, since a ref that was rewritten in the same second has the same length.
        run("rsync", [OsStr::new("-ac"), "--delete".as_ref(), &from, to.as_os_str()]).success();
    }

    fn keys(&self) -> Vec<String> {
        let mut keys = self.bucket.keys();
        keys.retain(|key| key.starts_with("debian/") && !key.contains("superseded"));
        keys
    }
}

#[test]
fn bucket_prune_killed_at_each_request_loses_nothing() {
    let published = Published::new("transport-prune-killed");
    let link = Link::to(
        published.bucket.address(),
        Shape { round_trip: Duration::from_millis(10), bits_per_second: 1_000_000_000 },
    );
    let linked = Bucket::variables(link.address());
    let before = published.keys();
    published.save("before");
    finish(published.prune(&published.variables())).success();
    let after = published.keys();
    let count = |keys: &[String], kind: &str| keys.iter().filter(|key| key.contains(kind)).count();
    assert_eq!((count(&before, "commits/"), count(&after, "commits/")), (4, 1));
    assert!(count(&after, "packs/") < count(&before, "packs/"));
    published.assert_whole();
    let mut kills = 0;
    for request in 1.. {
        published.restore("before");
        let passed = link.traffic().requests;
        let mut child = published.prune(&linked).spawn().expect("it can be started");
        while link.traffic().requests < passed + request && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        // SIGKILL, to this child only; it may have ended.
        let _ = child.kill();
        let ended = child.wait().expect("a child").success();
        published.assert_whole();
        // The next prune completes it, if necessary after the lease of the dead one has expired.
        if ended || request % 8 == 0 {
            finish(published.prune(&published.variables())).success();
            assert_eq!(published.keys(), after);
            published.assert_whole();
        }
        if ended {
            break;
        }
        kills += 1;
        assert!(request < 300, "it never ends");
    }
    assert!(kills >= 20, "killed only {kills} times");
}

#[test]
fn concurrent_prunes_and_publishers_of_a_bucket_take_turns() {
    let published = Published::new("transport-prune-turns");
    for seed in 10..13 {
        // A live process may hold the lease for longer than the others expect; no command does harm even so.
        let prunes = [0, 1].map(|_| published.prune(&published.variables()).spawn().expect("it can be started"));
        for number in 0..30 {
            let path = published.fixture.tree.join(format!("{number:02}/changed"));
            std::fs::write(path, trees::noise(seed * 100 + number, 30_000)).expect("writable");
        }
        let commit = published.fixture.publisher.commit("main", &published.fixture.tree);
        let arguments = ["publish", "--pack-size", "1000000", URL, "main"];
        let mut attempts = 0;
        loop {
            let attempt = run_with(&published.fixture.publisher, &published.variables(), &arguments);
            if attempt.status.success() {
                break;
            }
            // Without a grace period a prune removes files that were sent and are not yet in a ref.
            let said = attempt.any_failure();
            assert!(said.contains("was removed by a prune") && said.contains("run the same command again"), "{said}");
            attempts += 1;
            assert!(attempts < 10, "no attempt succeeds");
        }
        for mut prune in prunes {
            prune.wait().expect("a child");
        }
        assert!(published.keys().iter().any(|key| *key == format!("debian/12/commits/{commit}")));
        published.assert_whole();
    }
    finish(published.prune(&published.variables())).success();
    published.assert_whole();
    assert!(!published.keys().iter().any(|key| key.ends_with("naming.lease")), "the lease is still held");
}
