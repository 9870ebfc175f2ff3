//! Publishing to an S3 bucket and reading from it: credentials from the environment, concurrent publishers, a link that breaks.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use super::bucket::{Bucket, Conditions, KEY, SECRET};
use super::fixture::{Fixture, run_with, write};
use crate::common::link::{Link, Shape};
use crate::common::sandbox::{Repository, Run, run};

const FAST: Shape = Shape { round_trip: Duration::from_millis(1), bits_per_second: 1_000_000_000 };
const URL: &str = "s3://systems/debian/12";

fn publish(repository: &Repository, variables: &[(&str, String)], more: &[&str]) -> Run {
    let arguments: Vec<&str> = ["publish", "--json"].iter().chain(more).copied().chain([URL, "main"]).collect();
    run_with(repository, variables, &arguments)
}

fn pull(repository: &Repository, variables: &[(&str, String)]) -> Run {
    run_with(repository, variables, &["pull", "os:main"])
}

#[test]
fn a_bucket_is_published_to_pulled_from_and_mounted() {
    let fixture = Fixture::new("transport-bucket");
    let bucket = Bucket::serve(&fixture.sandbox.directory("buckets"));
    let variables = Bucket::variables(bucket.address());
    fixture.add_remote(URL, &[]);
    publish(&fixture.publisher, &variables, &["--dry-run"]).success();
    assert_eq!(bucket.keys(), [""; 0]);
    publish(&fixture.publisher, &variables, &[]).success();
    let keys = bucket.keys();
    assert!(keys.iter().any(|key| key == "debian/12/refs/main"), "{keys:#?}");
    assert!(keys.iter().all(|key| key.starts_with("debian/12/") || key.starts_with('.')), "{keys:#?}");
    pull(&fixture.client, &variables).success();
    fixture.assert_client_has_all();

    // A lazy mount: its daemon has the environment of the mount command.
    let lazy = fixture.sandbox.repository("lazy");
    lazy.run(["remote", "add", "os", URL, "--insecure-unsigned"]).success();
    let at = fixture.sandbox.directory("lazily");
    run_with(&lazy, &variables, &["mount", "-o", "suid,dev", "os:main", at.to_str().expect("UTF-8")]).success();
    crate::common::facts::assert_same_tree(&fixture.tree, &at);

    // An update sends only new contents, and the same publish again sends nothing.
    fixture.grow("another");
    let second = publish(&fixture.publisher, &variables, &[]).success();
    let sent = |report: &str| -> u64 {
        let report: serde_json::Value = serde_json::from_str(report).expect("JSON");
        report["traffic"]["sent"].as_u64().expect("a number")
    };
    assert!(sent(&second) < 100_000, "{second}");
    assert_eq!(sent(&publish(&fixture.publisher, &variables, &[]).success()), 0);
    pull(&fixture.client, &variables).success();
    fixture.assert_client_has_all();

    // The same with credentials from a profile of the AWS tools.
    let credentials = format!("[builder]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    let config = format!("[profile builder]\nregion = eu-central-1\nendpoint_url = http://{}\n", bucket.address());
    write(fixture.sandbox.path(), "home/.aws/credentials", &credentials);
    write(fixture.sandbox.path(), "home/.aws/config", &config);
    let home = fixture.sandbox.join("home").display().to_string();
    let profile = [("HOME", home), ("AWS_PROFILE", "builder".to_owned())];
    let fresh = fixture.sandbox.repository("fresh");
    fresh.run(["remote", "add", "os", URL, "--insecure-unsigned"]).success();
    pull(&fresh, &profile).success();
}

#[test]
fn refusals_of_a_bucket_are_reported() {
    let fixture = Fixture::new("transport-refused");
    let bucket = Bucket::serve(&fixture.sandbox.directory("buckets"));
    let variables = Bucket::variables(bucket.address());
    let with = |name: &'static str, value: &str| {
        let others = variables.iter().filter(|(other, _)| *other != name).cloned();
        others.chain([(name, value.to_owned())]).collect::<Vec<_>>()
    };
    let without =
        |names: &[&str]| variables.iter().filter(|(name, _)| !names.contains(name)).cloned().collect::<Vec<_>>();
    // A machine outside of any cloud: the address from which cloud machines get credentials does not answer.
    let mut nothing = without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    nothing.push(("AWS_METADATA_ENDPOINT", "http://169.254.170.2".to_owned()));
    let cases = [
        (URL, with("AWS_SECRET_ACCESS_KEY", "wrong"), "403 Forbidden (SignatureDoesNotMatch"),
        (URL, with("AWS_ACCESS_KEY_ID", "nobody"), "403 Forbidden ("),
        (URL, without(&["AWS_SECRET_ACCESS_KEY"]), "SecretAccessKey"),
        (URL, nothing, "there are no credentials"),
        ("s3://elsewhere/debian", variables.clone(), "404 Not Found (NoSuchBucket"),
        (URL, with("AWS_ENDPOINT_URL", "no URL"), "AWS_ENDPOINT_URL should be a URL"),
    ];
    for (url, variables, word) in cases {
        let arguments = ["publish", url, "main"];
        let said = run_with(&fixture.publisher, &variables, &arguments).failure(1);
        assert!(said.contains(word), "'{word}' is not in '{said}'");
        assert!(said.lines().all(|line| line.len() < 400), "a long story: {said}");
        let arguments = ["pull", "--insecure-unsigned", &format!("{url}#main")];
        let said = run_with(&fixture.client, &variables, &arguments).failure(1);
        assert!(said.contains(word), "'{word}' is not in '{said}'");
    }
    assert_eq!(bucket.keys(), [""; 0]);
    fixture.client.assert_clean();
}

#[test]
fn bucket_without_conditional_writes_is_refused_before_sending() {
    let fixture = Fixture::new("transport-conditions");
    for (name, conditions, word) in
        [("none", Conditions::Ignored, "If-None-Match"), ("some", Conditions::OnlyAbsence, "If-Match")]
    {
        let bucket = Bucket::with(&fixture.sandbox.directory(name), conditions);
        let variables = Bucket::variables(bucket.address());
        for arguments in [&["publish", URL, "main"][..], &["publish", "--prune", URL]] {
            let said = run_with(&fixture.publisher, &variables, arguments).failure(1);
            assert!(said.contains("does not honour conditional writes") && said.contains(word), "{said}");
        }
        let keys = bucket.keys();
        assert!(keys.iter().all(|key| key.ends_with("naming.probe") || key.starts_with('.')), "{keys:#?}");
    }
}

#[test]
fn second_of_two_concurrent_publishers_is_refused() {
    let fixture = Fixture::new("transport-race");
    let bucket = Bucket::serve(&fixture.sandbox.directory("buckets"));
    let variables = Bucket::variables(bucket.address());
    fixture.add_remote(URL, &[]);
    // Once for a new ref, once for an existing one.
    for round in ["new", "old"] {
        // A copy of the repository gets a commit of its own.
        let other = fixture.sandbox.join(&format!("other-{round}"));
        run("cp", [OsStr::new("-a"), fixture.publisher.path().as_os_str(), other.as_os_str()]).success();
        let other = Repository::at(other);
        let theirs = fixture.tree.join(format!("theirs-{round}"));
        std::fs::write(&theirs, round).expect("writable");
        other.commit("main", &fixture.tree);
        std::fs::remove_file(&theirs).expect("just written");
        let ours = fixture.grow(&format!("ours-{round}"));

        // While one publisher is about to set its ref, the other one finishes.
        bucket.hold("PUT", "/naming.lease");
        let mut command = other.command(["publish", URL, "main"]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it can be started");
        bucket.wait_until_held();
        publish(&fixture.publisher, &variables, &[]).success();
        bucket.release();
        let output = child.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("published by somebody else meanwhile"), "{round}: {said}");
        assert!(said.contains("run the same command again"), "{round}: {said}");
        assert_eq!(pull(&fixture.client, &variables).success(), ours, "{round}");
        // The commit of the refused publisher is no successor of the published one.
        let said = publish(&other, &variables, &[]).failure(1);
        assert!(said.contains("no ancestor") && said.contains("--force"), "{round}: {said}");
    }
    fixture.assert_client_has_all();
}

#[test]
fn publish_resumes_after_a_broken_link() {
    let fixture = Fixture::new("transport-cut");
    let bucket = Bucket::serve(&fixture.sandbox.directory("buckets"));
    let link = Link::to(bucket.address(), FAST);
    let (direct, linked) = (Bucket::variables(bucket.address()), Bucket::variables(link.address()));
    fixture.add_remote(URL, &["--patience", "0"]);
    fixture.publisher.run(["remote", "add", "os", URL, "--insecure-unsigned", "--patience", "0"]).success();
    let to = |url| ["publish", "--pack-size", "100000", url, "main"];
    // Sending it elsewhere tells how much there is to send.
    let before = link.traffic();
    run_with(&fixture.publisher, &linked, &to("s3://systems/whole")).success();
    let whole = link.traffic().sent - before.sent;
    let (begin, mut attempts) = (link.traffic().sent, 0);
    loop {
        link.cut_after_sent(whole / 10);
        let attempt = run_with(&fixture.publisher, &linked, &to("os"));
        link.restore();
        if attempt.status.success() {
            break;
        }
        let said = attempt.any_failure();
        assert!(said.contains("cannot publish to os: cannot write packs/"), "{said}");
        // No ref is set before everything is there.
        let said = pull(&fixture.client, &direct).failure(1);
        assert!(said.contains("has no ref 'main'"), "{said}");
        attempts += 1;
        assert!(attempts < 30, "it gets nowhere");
    }
    let sent = link.traffic().sent - begin;
    assert!(attempts >= 9 && sent < whole * 2, "{attempts} attempts, {sent} bytes for {whole}");
    pull(&fixture.client, &direct).success();
    fixture.assert_client_has_all();
}

#[test]
fn publish_killed_at_each_request_leaves_a_complete_state() {
    let fixture = Fixture::new("transport-killed");
    let bucket = Bucket::serve(&fixture.sandbox.directory("buckets"));
    let direct = Bucket::variables(bucket.address());
    let link = Link::to(bucket.address(), Shape { round_trip: Duration::from_millis(10), ..FAST });
    let linked = Bucket::variables(link.address());
    fixture.add_remote(URL, &[]);
    publish(&fixture.publisher, &direct, &[]).success();
    let old = pull(&fixture.client, &direct).success();
    for number in 0..40 {
        let path = fixture.tree.join(format!("{number:02}/changed"));
        std::fs::write(path, crate::common::trees::noise(number, 40_000)).expect("writable");
    }
    let new = fixture.publisher.commit("main", &fixture.tree);
    let sent = link.traffic().sent;
    let mut kills = 0;
    for request in 1.. {
        let before = link.traffic().requests;
        // A publisher that dies while it sets refs blocks others for the time of its lease.
        let mut command = fixture.publisher.command(["publish", "--lease", "2", "--pack-size", "500000", URL, "main"]);
        command.envs(linked.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        while link.traffic().requests < before + request && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        // SIGKILL, to this child only; it may have ended.
        let _ = child.kill();
        let ended = child.wait().expect("a child").success();
        let found = pull(&fixture.client, &direct).success();
        assert!(found == old || found == new, "neither the old state nor the new one");
        if ended {
            assert_eq!(found, new);
            break;
        }
        kills += 1;
        assert!(request < 100, "it never ends");
    }
    // Requests: lists and lookups, three or four packs, the image, the locator, the delta, the commit, the placement, the ref.
    assert!(kills >= 10, "killed only {kills} times");
    let sent = link.traffic().sent - sent;
    assert!(sent < 2 * 1_600_000 + kills * 20_000, "{sent} bytes for 1.6 MB");
    fixture.assert_client_has_all();
}
