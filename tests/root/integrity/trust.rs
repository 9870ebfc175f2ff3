//! Keys, remotes, signatures and key rotation, and the message of each refusal.
//!
//! The publisher is the program; the test acts as the hostile server, which moves and changes published files.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::common::sandbox::{Repository, Run, Sandbox, finish, run};

/// A publisher's repository, its keys, the published directory, and a client.
pub(super) struct Fixture {
    pub(super) sandbox: Sandbox,
    pub(super) publisher: Repository,
    pub(super) client: Repository,
}

impl Fixture {
    pub(super) fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        Self { sandbox, publisher, client }
    }

    pub(super) fn as_user<A: AsRef<OsStr>>(
        &self,
        repository: &Repository,
        arguments: impl IntoIterator<Item = A>,
    ) -> Run {
        let mut command = repository.command(arguments);
        command.env("SAPWOOD_KEYS", self.sandbox.join("keys"));
        finish(command)
    }

    pub(super) fn generate(&self, name: &str) -> String {
        self.as_user(&self.publisher, ["key", "generate", name]).success()
    }

    /// Commits a tree that differs from the one before.
    pub(super) fn commit(&self, ref_name: &str, content: &str) -> String {
        let tree = self.sandbox.directory("tree");
        fs::write(tree.join("file"), content).expect("writable");
        self.publisher.commit(ref_name, &tree)
    }

    pub(super) fn url(&self) -> String {
        format!("file://{}", self.sandbox.join("published").display())
    }

    fn published(&self, path: &str) -> PathBuf {
        self.sandbox.join("published").join(path)
    }

    fn publish(&self, arguments: &[&str]) -> Run {
        let url = self.url();
        self.as_user(&self.publisher, ["publish"].into_iter().chain(arguments.iter().copied()).chain([&*url, "main"]))
    }

    fn add_remote(&self, keys: &[&str]) {
        let url = self.url();
        let keys = keys.iter().flat_map(|key| ["--key", key]);
        let arguments = ["remote", "add", "--replace", "os", &url].into_iter().chain(keys);
        self.as_user(&self.client, arguments).success();
    }

    pub(super) fn pull(&self) -> Run {
        self.as_user(&self.client, ["pull", "os:main"])
    }
}

#[test]
fn keys_are_managed_and_a_secret_is_never_overwritten() {
    let fixture = Fixture::new("trust-keys");
    let key = fixture.generate("release");
    assert_eq!(key.len(), 64, "{key}");
    let secret = fixture.sandbox.join("keys/release.key");
    assert_eq!(fs::metadata(&secret).expect("made").permissions().mode() & 0o777, 0o600);
    let listed = fixture.as_user(&fixture.publisher, ["key", "list"]).success();
    assert!(listed.lines().any(|line| line.starts_with("release") && line.contains(&key)), "{listed}");
    let exported = fixture.as_user(&fixture.publisher, ["key", "export", "release"]).success();
    assert_eq!(exported, format!("sapwood-public-key {key} release"));
    let before = fs::read(&secret).expect("readable");
    let refusal = fixture.as_user(&fixture.publisher, ["key", "generate", "release"]).failure(1);
    assert!(refusal.contains("already"), "{refusal}");
    assert_eq!(fs::read(&secret).expect("readable"), before);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("owned by the test");
    fixture.commit("main", "one");
    let refusal = fixture.publish(&["--sign", "release"]).failure(1);
    assert!(refusal.contains("chmod 600"), "{refusal}");
}

#[test]
fn remote_add_requires_keys_or_insecure_unsigned() {
    let fixture = Fixture::new("trust-remotes");
    let key = fixture.generate("release");
    let refusal = fixture.as_user(&fixture.client, ["remote", "add", "os", "https://localhost/os"]).failure(1);
    assert!(refusal.contains("--key FILE") && refusal.contains("--insecure-unsigned"), "{refusal}");
    let file = fixture.sandbox.join("keys/release.pub");
    let file = file.to_str().expect("UTF-8");
    fixture.as_user(&fixture.client, ["remote", "add", "os", "https://localhost/os", "--key", file]).success();
    let refusal = fixture.as_user(&fixture.client, ["remote", "add", "os", "https://x/", "--key", file]).failure(1);
    assert!(refusal.contains("already"), "{refusal}");
    let shown = fixture.as_user(&fixture.client, ["remote", "show", "os"]).success();
    assert!(shown.contains(&key) && shown.contains("https://localhost/os"), "{shown}");
    let listed = fixture.as_user(&fixture.client, ["remote", "list", "--json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["config"]["keys"][0], key.as_str());
    let secret = fixture.sandbox.join("keys/release.key");
    let refusal = fixture
        .as_user(&fixture.client, ["remote", "add", "b", "https://x/", "--key", secret.to_str().expect("UTF-8")])
        .failure(1);
    assert!(refusal.contains("secret"), "{refusal}");
    fixture.as_user(&fixture.client, ["remote", "remove", "os"]).success();
    fixture.as_user(&fixture.client, ["remote", "show", "os"]).failure(1);
}

#[test]
fn only_commits_signed_by_a_trusted_key_are_pulled() {
    let fixture = Fixture::new("trust-refusals");
    fixture.generate("release");
    fixture.generate("stranger");
    fixture.commit("main", "one");
    fixture.add_remote(&["release"]);

    fixture.publish(&[]).success();
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("not signed"), "{refusal}");

    fixture.publish(&["--sign", "stranger"]).success();
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("not trusted"), "{refusal}");
    assert!(fixture.client.run(["refs"]).success().is_empty(), "nothing was named");

    fixture.publish(&["--sign", "stranger", "--sign", "release"]).success();
    fixture.pull().success();

    // The record of another ref in its place.
    let main = fixture.published("refs/main");
    let good = fs::read(&main).expect("published");
    fs::write(fixture.published("refs/other"), &good).expect("owned by the test");
    let refusal = fixture.as_user(&fixture.client, ["pull", "os:other"]).failure(1);
    assert!(refusal.contains("for ref main, not for other"), "{refusal}");

    // A changed byte.
    let mut forged = good.clone();
    forged[80] ^= 1;
    fs::write(&main, &forged).expect("owned by the test");
    fixture.pull().any_failure();
    fs::write(&main, &good).expect("owned by the test");

    // A newer state, then the old one again.
    fixture.commit("main", "two");
    fixture.publish(&["--sign", "release"]).success();
    fixture.pull().success();
    fs::write(&main, &good).expect("owned by the test");
    let refusal = fixture.pull().failure(1);
    assert!(refusal.contains("older") && refusal.contains("--allow-older"), "{refusal}");
    fixture.as_user(&fixture.client, ["pull", "--allow-older", "os:main"]).success();
    fixture.client.assert_clean();
}

#[test]
fn successors_of_a_trusted_key_are_followed_in_one_step() {
    let fixture = Fixture::new("trust-rotation");
    let first = fixture.generate("first");
    fixture.commit("main", "one");
    fixture.publish(&["--sign", "first"]).success();
    fixture.add_remote(&["first"]);
    fixture.pull().success();
    fixture
        .as_user(
            &fixture.client,
            ["remote", "add", "pinned", &fixture.url(), "--key", "first", "--learn-keys", "never"],
        )
        .success();

    // Three changes of keys while the client was away. The second key never published.
    let announce = |new: &str, old: &str| {
        fixture.as_user(&fixture.publisher, ["key", "generate", new, "--announced-by", old]).success()
    };
    announce("second", "first");
    announce("third", "second");
    let fourth = announce("fourth", "third");
    fixture.commit("main", "two");
    fixture.publish(&["--sign", "fourth"]).success();
    let pulled = fixture.pull();
    assert!(pulled.stderr.contains("generation 3"), "it is said:\n{}", pulled.stderr);
    pulled.success();
    let keys = |remote: &str| fixture.as_user(&fixture.client, ["remote", "key", "list", remote]).success();
    assert_eq!(keys("os"), fourth);
    let shown = fixture.as_user(&fixture.client, ["remote", "show", "os"]).success();
    assert!(shown.contains(&fourth) && shown.contains("generation 3"), "{shown}");

    // A client that learns no keys is told the command.
    let pull_pinned = || fixture.as_user(&fixture.client, ["pull", "pinned:main"]);
    let said = pull_pinned().failure(1);
    assert!(said.contains("not trusted") && said.contains("remote key add"), "{said}");
    fixture.as_user(&fixture.client, ["remote", "key", "add", "pinned", &fourth]).success();
    pull_pinned().success();
    // The list is the user's; keys that came before one in it do not count.
    assert_eq!(keys("pinned"), format!("{first}\n{fourth}"));
    fixture.as_user(&fixture.client, ["remote", "key", "remove", "pinned", "first"]).success();
    let said = fixture.as_user(&fixture.client, ["remote", "key", "remove", "pinned", &fourth]).failure(1);
    assert!(said.contains("the only one"), "{said}");

    // The publisher is told that a key was replaced.
    let said = fixture.publish(&["--sign", "first"]).failure(1);
    assert!(said.contains("signs no more"), "{said}");
    // A machine that has only the newest key, and one that is set up with it.
    fs::remove_file(fixture.sandbox.join("keys/fourth.announcement")).expect("it was made");
    fixture.commit("main", "three");
    fixture.publish(&["--sign", "fourth"]).success();
    fixture.pull().success();
    let new = fixture.sandbox.repository("new");
    fixture.as_user(&new, ["remote", "add", "os", &fixture.url(), "--key", "fourth"]).success();
    fixture.as_user(&new, ["pull", "os:main"]).success();
}

/// The thief of a replaced key has the publisher's program and a server of the same URL.
#[test]
fn replaced_key_can_neither_sign_nor_announce_nor_lock_out() {
    let fixture = Fixture::new("trust-thief");
    fixture.generate("first");
    fixture.commit("main", "one");
    fixture.publish(&["--sign", "first"]).success();
    let copy = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|name| fixture.sandbox.join(name));
        let _ = fs::remove_dir_all(&to);
        run("cp", ["-a".as_ref(), from.as_os_str(), to.as_os_str()]).success();
    };
    copy("published", "before");
    copy("publisher", "thief");
    let thief = Repository::at(fixture.sandbox.join("thief"));
    fixture.add_remote(&["first"]);
    fixture.pull().success();
    // A machine that sees the thief's states before it hears of the change.
    let deceived = fixture.sandbox.repository("deceived");
    let url = fixture.url();
    fixture.as_user(&deceived, ["remote", "add", "os", &url, "--key", "first"]).success();
    let pull_deceived = || fixture.as_user(&deceived, ["pull", "os:main"]);

    fixture.as_user(&fixture.publisher, ["key", "generate", "second", "--announced-by", "first"]).success();
    fixture.commit("main", "two");
    fixture.publish(&["--sign", "second"]).success();
    fixture.pull().success();
    copy("published", "after");

    // The thief is far ahead, and announces a further key.
    copy("before", "published");
    let tree = fixture.sandbox.directory("evil");
    for number in 0..5 {
        fs::write(tree.join("file"), format!("evil {number}")).expect("writable");
        thief.commit("main", &tree);
    }
    let publish = |key: &str| fixture.as_user(&thief, ["publish", "--sign", key, &url, "main"]);
    publish("first").success();
    let said = fixture.pull().failure(1);
    assert!(said.contains("replaced in generation 1"), "{said}");
    pull_deceived().success();
    fixture.as_user(&thief, ["key", "generate", "evil", "--announced-by", "first"]).success();
    fs::write(tree.join("file"), "evil at last").expect("writable");
    thief.commit("main", &tree);
    publish("evil").success();
    let said = fixture.pull().failure(1);
    assert!(said.contains("not trusted"), "{said}");
    // Nor under a new name with the old key.
    fixture.as_user(&fixture.client, ["remote", "add", "again", &url, "--key", "first"]).success();
    fixture.as_user(&fixture.client, ["pull", "again:main"]).failure(1);

    // The honest publisher has a smaller sequence, and is followed by both.
    copy("after", "published");
    fixture.pull().success();
    pull_deceived().success();
    for client in [&fixture.client, &deceived] {
        assert_eq!(fixture.as_user(client, ["cat", "remotes/os/main:/file"]).success(), "two");
    }
}
