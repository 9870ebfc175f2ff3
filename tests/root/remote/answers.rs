//! A mount shows the last known commit whatever the remote answers, and prints a note.

use std::process::Command;
use std::sync::Arc;

use crate::common::facts::assert_same_tree;
use crate::common::sandbox::{Repository, Sandbox, finish};
use crate::common::scripted_server::{Answer, PAGE, ScriptedServer, response};
use crate::common::trees;

/// A client that has pulled the newer of two published states.
struct Fixture {
    sandbox: Sandbox,
    client: Repository,
    server: ScriptedServer,
    /// Directory of the older state.
    before: std::path::PathBuf,
}

impl Fixture {
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
        let server = ScriptedServer::serve(&after);
        let fixture = Self { sandbox, client, server, before };
        fixture.point_to(&fixture.server.url());
        fixture.client.run(["pull", "os:main"]).success();
        fixture
    }

    fn point_to(&self, url: &str) {
        // Long timeouts, which a mount of local contents must not wait for.
        let patience = ["--patience", "3000", "--stall-timeout", "3000", "--connect-timeout", "3000"];
        let fixed = ["remote", "add", "--replace", "os", url, "--insecure-unsigned"];
        self.client.run(fixed.iter().chain(&patience)).success();
    }

    /// Mounts `os:main` by the program and by the helper of mount(8); both must show the newest state, and print this note.
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
fn last_known_commit_is_mounted_whatever_the_remote_answers() {
    let fixture = Fixture::new("answers-here");
    for (answer, note) in [
        (always("200 OK", PAGE), "a web page, 'Log in'"),
        (always("404 Not Found", b""), "has no ref 'main'"),
        (always("403 Forbidden", b""), "403 Forbidden"),
        (always("503 Service Unavailable", b""), "503 Service Unavailable"),
        (always("200 OK", b"garbage"), "not a signed record"),
    ] {
        fixture.server.restore();
        fixture.server.set("refs/", &answer, u32::MAX);
        fixture.assert_mounts(note);
    }
    // A stale cache.
    let edge = ScriptedServer::serve(&fixture.before);
    fixture.point_to(&edge.url());
    fixture.assert_mounts("older than");
    // A server that never answers: a listener that never accepts.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    fixture.point_to(&format!("http://{}", silent.local_addr().expect("bound")));
    fixture.assert_mounts("no complete answer arrived in time");
}

#[test]
fn unopenable_new_commit_does_not_replace_the_last_known() {
    let fixture = Fixture::new("answers-new");
    let published = fixture.sandbox.directory("next-published");
    // The publisher's next state, whose image has not reached this server yet.
    let publisher = Command::new("cp").arg("-a").arg(fixture.sandbox.join("after/.")).arg(&published).status();
    assert!(publisher.expect("cp runs").success());
    let grown = fixture.sandbox.join("grown");
    assert!(
        Command::new("cp").arg("-a").args([&fixture.sandbox.join("tree"), &grown]).status().expect("cp runs").success()
    );
    std::fs::write(grown.join("more"), "more").expect("writable");
    let publisher = Repository::at(fixture.sandbox.join("publisher"));
    publisher.commit("main", &grown);
    publisher.run(["publish", &format!("file://{}", published.display()), "main"]).success();
    let server = ScriptedServer::serve(&published);
    server.set("images/", &always("404 Not Found", b""), u32::MAX);
    fixture.point_to(&server.url());
    fixture.assert_mounts("is not there");
    // A commit that cannot be mounted offline was not remembered.
    drop(server);
    fixture.assert_mounts("cannot connect");
}
