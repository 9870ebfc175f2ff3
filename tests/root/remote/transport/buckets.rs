//! Publishing to an S3 bucket and reading from it: credentials from the environment, two publishers at once, a link that
//! breaks.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use super::bucket::{Bucket, Conditions, KEY, SECRET};
use super::scene::{Scene, run_with, write};
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
    let scene = Scene::new("transport-bucket");
    let bucket = Bucket::serve(&scene.sandbox.directory("buckets"));
    let variables = Bucket::variables(bucket.address());
    scene.add_remote(URL, &[]);
    publish(&scene.publisher, &variables, &["--dry-run"]).success();
    assert_eq!(bucket.keys(), [""; 0]);
    publish(&scene.publisher, &variables, &[]).success();
    let keys = bucket.keys();
    assert!(keys.iter().any(|key| key == "debian/12/refs/main"), "{keys:#?}");
    assert!(keys.iter().all(|key| key.starts_with("debian/12/") || key.starts_with('.')), "{keys:#?}");
    pull(&scene.client, &variables).success();
    scene.assert_client_has_all();

    // A lazy mount: the daemon has the environment of whoever mounts.
    let lazy = scene.sandbox.repository("lazy");
    lazy.run(["remote", "add", "os", URL, "--insecure-unsigned"]).success();
    let at = scene.sandbox.directory("lazily");
    run_with(&lazy, &variables, &["mount", "-o", "suid,dev", "os:main", at.to_str().expect("UTF-8")]).success();
    crate::common::facts::assert_same_tree(&scene.tree, &at);

    // An update sends what is new, and the same again sends nothing.
    scene.grow("another");
    let second = publish(&scene.publisher, &variables, &[]).success();
    let sent = |report: &str| -> u64 {
        let report: serde_json::Value = serde_json::from_str(report).expect("JSON");
        report["traffic"]["sent"].as_u64().expect("a number")
    };
    assert!(sent(&second) < 100_000, "{second}");
    assert_eq!(sent(&publish(&scene.publisher, &variables, &[]).success()), 0);
    pull(&scene.client, &variables).success();
    scene.assert_client_has_all();

    // The same by a profile of the AWS tools.
    let credentials = format!("[builder]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n");
    let config = format!("[profile builder]\nregion = eu-central-1\nendpoint_url = http://{}\n", bucket.address());
    write(scene.sandbox.path(), "home/.aws/credentials", &credentials);
    write(scene.sandbox.path(), "home/.aws/config", &config);
    let home = scene.sandbox.join("home").display().to_string();
    let profile = [("HOME", home), ("AWS_PROFILE", "builder".to_owned())];
    let fresh = scene.sandbox.repository("fresh");
    fresh.run(["remote", "add", "os", URL, "--insecure-unsigned"]).success();
    pull(&fresh, &profile).success();
}

#[test]
fn what_a_bucket_refuses_is_said() {
    let scene = Scene::new("transport-refused");
    let bucket = Bucket::serve(&scene.sandbox.directory("buckets"));
    let variables = Bucket::variables(bucket.address());
    let with = |name: &'static str, value: &str| {
        let others = variables.iter().filter(|(other, _)| *other != name).cloned();
        others.chain([(name, value.to_owned())]).collect::<Vec<_>>()
    };
    let without =
        |names: &[&str]| variables.iter().filter(|(name, _)| !names.contains(name)).cloned().collect::<Vec<_>>();
    // As of a machine in no cloud: nobody answers where such machines get credentials.
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
        let said = run_with(&scene.publisher, &variables, &arguments).failure(1);
        assert!(said.contains(word), "'{word}' is not in '{said}'");
        assert!(said.lines().all(|line| line.len() < 400), "a long story: {said}");
        let arguments = ["pull", "--insecure-unsigned", &format!("{url}#main")];
        let said = run_with(&scene.client, &variables, &arguments).failure(1);
        assert!(said.contains(word), "'{word}' is not in '{said}'");
    }
    assert_eq!(bucket.keys(), [""; 0]);
    scene.client.assert_clean();
}

#[test]
fn a_bucket_that_ignores_conditions_is_refused_before_anything_is_sent() {
    let scene = Scene::new("transport-conditions");
    for (name, conditions, word) in
        [("none", Conditions::Ignored, "If-None-Match"), ("some", Conditions::OnlyAbsence, "If-Match")]
    {
        let bucket = Bucket::with(&scene.sandbox.directory(name), conditions);
        let variables = Bucket::variables(bucket.address());
        for arguments in [&["publish", URL, "main"][..], &["publish", "--prune", URL]] {
            let said = run_with(&scene.publisher, &variables, arguments).failure(1);
            assert!(said.contains("does not honour conditional writes") && said.contains(word), "{said}");
        }
        let keys = bucket.keys();
        assert!(keys.iter().all(|key| key.ends_with("naming.probe") || key.starts_with('.')), "{keys:#?}");
    }
}

#[test]
fn of_two_publishers_one_wins_and_the_other_hears_of_it() {
    let scene = Scene::new("transport-race");
    let bucket = Bucket::serve(&scene.sandbox.directory("buckets"));
    let variables = Bucket::variables(bucket.address());
    scene.add_remote(URL, &[]);
    // Once for a ref that is not there yet, once for one that is.
    for round in ["new", "old"] {
        // A copy of the repository goes on in its own way.
        let other = scene.sandbox.join(&format!("other-{round}"));
        run("cp", [OsStr::new("-a"), scene.publisher.path().as_os_str(), other.as_os_str()]).success();
        let other = Repository::at(other);
        let theirs = scene.tree.join(format!("theirs-{round}"));
        std::fs::write(&theirs, round).expect("writable");
        other.commit("main", &scene.tree);
        std::fs::remove_file(&theirs).expect("just written");
        let ours = scene.grow(&format!("ours-{round}"));

        // While one is about to name its commit, the other is through.
        bucket.hold("PUT", "/naming.lease");
        let mut command = other.command(["publish", URL, "main"]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it can be started");
        bucket.wait_until_held();
        publish(&scene.publisher, &variables, &[]).success();
        bucket.release();
        let output = child.wait_with_output().expect("a child");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("published by somebody else meanwhile"), "{round}: {said}");
        assert!(said.contains("run the same command again"), "{round}: {said}");
        assert_eq!(pull(&scene.client, &variables).success(), ours, "{round}");
        // The loser's commit does not follow on what is there now.
        let said = publish(&other, &variables, &[]).failure(1);
        assert!(said.contains("no ancestor") && said.contains("--force"), "{round}: {said}");
    }
    scene.assert_client_has_all();
}

#[test]
fn a_publish_whose_link_breaks_goes_on_where_it_was() {
    let scene = Scene::new("transport-cut");
    let bucket = Bucket::serve(&scene.sandbox.directory("buckets"));
    let link = Link::to(bucket.address(), FAST);
    let (direct, linked) = (Bucket::variables(bucket.address()), Bucket::variables(link.address()));
    scene.add_remote(URL, &["--patience", "0"]);
    scene.publisher.run(["remote", "add", "os", URL, "--insecure-unsigned", "--patience", "0"]).success();
    let to = |url| ["publish", "--pack-size", "100000", url, "main"];
    // How much there is to send, by sending it elsewhere.
    let before = link.passed();
    run_with(&scene.publisher, &linked, &to("s3://systems/whole")).success();
    let whole = link.passed().sent - before.sent;
    let (begin, mut attempts) = (link.passed().sent, 0);
    loop {
        link.cut_after_sent(whole / 10);
        let attempt = run_with(&scene.publisher, &linked, &to("os"));
        link.mend();
        if attempt.status.success() {
            break;
        }
        let said = attempt.any_failure();
        assert!(said.contains("cannot publish to os: cannot write packs/"), "{said}");
        // Nothing is named before all of it is there.
        let said = pull(&scene.client, &direct).failure(1);
        assert!(said.contains("has no ref 'main'"), "{said}");
        attempts += 1;
        assert!(attempts < 30, "it gets nowhere");
    }
    let sent = link.passed().sent - begin;
    assert!(attempts >= 9 && sent < whole * 2, "{attempts} attempts, {sent} bytes for {whole}");
    pull(&scene.client, &direct).success();
    scene.assert_client_has_all();
}

#[test]
fn a_publisher_killed_at_each_request_leaves_a_state_that_is_whole() {
    let scene = Scene::new("transport-killed");
    let bucket = Bucket::serve(&scene.sandbox.directory("buckets"));
    let direct = Bucket::variables(bucket.address());
    let link = Link::to(bucket.address(), Shape { round_trip: Duration::from_millis(10), ..FAST });
    let linked = Bucket::variables(link.address());
    scene.add_remote(URL, &[]);
    publish(&scene.publisher, &direct, &[]).success();
    let old = pull(&scene.client, &direct).success();
    for number in 0..40 {
        let path = scene.tree.join(format!("{number:02}/changed"));
        std::fs::write(path, crate::common::trees::noise(number, 40_000)).expect("writable");
    }
    let new = scene.publisher.commit("main", &scene.tree);
    let sent = link.passed().sent;
    let mut kills = 0;
    for request in 1.. {
        let before = link.passed().requests;
        // One that dies while it gives names keeps others waiting for as long as the lease says.
        let mut command = scene.publisher.command(["publish", "--lease", "2", "--pack-size", "500000", URL, "main"]);
        command.envs(linked.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be started");
        while link.passed().requests < before + request && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        // SIGKILL, to this child only; it may have ended.
        let _ = child.kill();
        let ended = child.wait().expect("a child").success();
        let found = pull(&scene.client, &direct).success();
        assert!(found == old || found == new, "neither the old state nor the new one");
        if ended {
            assert_eq!(found, new);
            break;
        }
        kills += 1;
        assert!(request < 100, "it never ends");
    }
    // Lists, looks, three or four packs, the image, the locator, the delta, the commit, the placement, the ref.
    assert!(kills >= 10, "killed only {kills} times");
    let sent = link.passed().sent - sent;
    assert!(sent < 2 * 1_600_000 + kills * 20_000, "{sent} bytes for 1.6 MB");
    scene.assert_client_has_all();
}
