//! What is here is mounted whatever the remote answers, with a note.

use std::process::Command;
use std::sync::Arc;

use crate::common::facts::assert_same_tree;
use crate::common::odd::{Answer, Odd, PAGE, response};
use crate::common::sandbox::{Repository, Sandbox, finish};
use crate::common::trees;

/// A client that has pulled the newest of two states, both of which are published.
struct Scene {
    sandbox: Sandbox,
    client: Repository,
    server: Odd,
    /// The directories of the state before and after.
    before: std::path::PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        let tree = sandbox.join("tree");
        trees::medium(&tree, 40);
        let after = sandbox.directory("after");
        let publish = || {
            publisher.commit("main", &tree);
            publisher.run(["publish", &format!("file://{}", after.display()), "main"]).success();
        };
        publish();
        let before = sandbox.join("before");
        assert!(Command::new("cp").arg("-a").args([&after, &before]).status().expect("cp runs").success());
        std::fs::write(tree.join("another"), "another").expect("writable");
        publish();
        let server = Odd::serve(&after);
        let scene = Self { sandbox, client, server, before };
        scene.point_to(&scene.server.url());
        scene.client.run(["pull", "os:main"]).success();
        scene
    }

    fn point_to(&self, url: &str) {
        // It would be patient for so long.
        let patience = ["--patience", "3000", "--stall-timeout", "3000", "--connect-timeout", "3000"];
        let fixed = ["remote", "add", "--replace", "os", url, "--insecure-unsigned"];
        self.client.run(fixed.iter().chain(&patience)).success();
    }

    /// Mounts `os:main` by the program and by the helper of mount(8); both must show the newest state, with this note.
    #[track_caller]
    fn assert_mounts(&self, note: &str) {
        let at = self.sandbox.directory("mounted");
        let path = at.to_str().expect("UTF-8");
        let run = self.client.run(["mount", "-o", "suid,dev", "os:main", path]);
        assert!(run.status.success() && run.stderr.contains(note), "'{note}' is not in '{}'", run.stderr);
        assert!(run.stderr.contains("as it was seen last"), "{}", run.stderr);
        assert_same_tree(&self.sandbox.join("tree"), &at);
        self.client.umount(&at);
        let mut helper = Command::new(env!("CARGO_BIN_EXE_mount-sapwood"));
        helper.args(["os:main", path, "-o", &format!("repo={}", self.client.path().display())]);
        let run = finish(helper);
        assert!(run.status.success() && run.stderr.contains(note), "'{note}' is not in '{}'", run.stderr);
        assert_same_tree(&self.sandbox.join("tree"), &at);
        self.client.umount(&at);
    }
}

fn always(status: &'static str, body: &'static [u8]) -> Answer {
    Arc::new(move |_, _| response(status, "", body))
}

#[test]
fn what_was_seen_last_is_mounted_whatever_the_remote_answers() {
    let scene = Scene::new("answers-here");
    for (answer, note) in [
        (always("200 OK", PAGE), "a web page, 'Log in'"),
        (always("404 Not Found", b""), "has no ref 'main'"),
        (always("403 Forbidden", b""), "403 Forbidden"),
        (always("503 Service Unavailable", b""), "503 Service Unavailable"),
        (always("200 OK", b"garbage"), "not a signed record"),
    ] {
        scene.server.mend();
        scene.server.set("refs/", &answer, u32::MAX);
        scene.assert_mounts(note);
    }
    // An edge that is behind.
    let edge = Odd::serve(&scene.before);
    scene.point_to(&edge.url());
    scene.assert_mounts("older than");
    // Nobody says anything: a listener that never accepts.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    scene.point_to(&format!("http://{}", silent.local_addr().expect("bound")));
    scene.assert_mounts("no whole answer came in the time that there was for it");
}

#[test]
fn a_new_state_that_cannot_be_opened_does_not_take_the_place_of_the_last_one() {
    let scene = Scene::new("answers-new");
    let published = scene.sandbox.directory("next-published");
    // The publisher's next state, of which the image has not reached this server yet.
    let publisher = Command::new("cp").arg("-a").arg(scene.sandbox.join("after/.")).arg(&published).status();
    assert!(publisher.expect("cp runs").success());
    let grown = scene.sandbox.join("grown");
    assert!(
        Command::new("cp").arg("-a").args([&scene.sandbox.join("tree"), &grown]).status().expect("cp runs").success()
    );
    std::fs::write(grown.join("more"), "more").expect("writable");
    let publisher = Repository::at(scene.sandbox.join("publisher"));
    publisher.commit("main", &grown);
    publisher.run(["publish", &format!("file://{}", published.display()), "main"]).success();
    let server = Odd::serve(&published);
    server.set("images/", &always("404 Not Found", b""), u32::MAX);
    scene.point_to(&server.url());
    scene.assert_mounts("is not there");
    // Nothing was remembered that cannot be mounted without a network.
    drop(server);
    scene.assert_mounts("cannot connect");
}
