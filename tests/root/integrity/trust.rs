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

/// Two builders publish to one place, each with a key of its own; one of them changes it.
#[test]
fn builder_goes_on_when_another_one_changes_its_key() {
    let fixture = Fixture::new("trust-builders");
    for key in ["one", "two"] {
        fixture.generate(key);
    }
    fixture.commit("main", "by one");
    fixture.publish(&["--sign", "one"]).success();
    let url = fixture.url();
    let clients = [("both", &["one", "two"][..]), ("second", &["two"]), ("first", &["one"])].map(|(name, keys)| {
        let client = fixture.sandbox.repository(name);
        let keys = keys.iter().flat_map(|key| ["--key", key]);
        fixture.as_user(&client, ["remote", "add", "os", &url].into_iter().chain(keys)).success();
        client
    });
    let pull = |client: usize| fixture.as_user(&clients[client], ["pull", "os:main"]);
    let content = |client: usize| fixture.as_user(&clients[client], ["cat", "remotes/os/main:/file"]).success();
    for client in [0, 2] {
        pull(client).success();
    }

    // Each state is signed by both, and one of the keys is replaced.
    fixture.as_user(&fixture.publisher, ["key", "generate", "one-2", "--announced-by", "one"]).success();
    fixture.commit("main", "by both");
    fixture.publish(&["--sign", "two", "--sign", "one-2"]).success();
    for client in [0, 1, 2] {
        pull(client).success();
        assert_eq!(content(client), "by both", "client {client}");
    }
    // The other builder alone, which never heard of the change.
    fixture.commit("main", "by two");
    fixture.publish(&["--sign", "two"]).success();
    for client in [0, 1] {
        pull(client).success();
        assert_eq!(content(client), "by two", "client {client}");
    }
    let said = pull(2).failure(1);
    assert!(said.contains("not trusted"), "{said}");
    // Then the first again. No state of before is accepted.
    fixture.commit("main", "by one again");
    fixture.publish(&["--sign", "one-2"]).success();
    for client in [0, 2] {
        pull(client).success();
        assert_eq!(content(client), "by one again", "client {client}");
    }
    // The destination lost what the generation of its refs means, and so did the publisher.
    fs::remove_file(fixture.published("keys/generations")).expect("published");
    fs::remove_file(fixture.sandbox.join("keys/one-2.announcement")).expect("it was made");
    fixture.commit("main", "later");
    let said = fixture.publish(&["--sign", "one-2"]).failure(1);
    assert!(said.contains("generation 1") && said.contains("NAME.announcement"), "{said}");
}

#[test]
fn as_many_keys_have_to_sign_as_the_remote_requires() {
    let fixture = Fixture::new("trust-several");
    for key in ["a", "b", "c", "stranger"] {
        fixture.generate(key);
    }
    let keys = ["--key", "a", "--key", "b", "--key", "c"];
    let add = |more: &[&str]| {
        let url = fixture.url();
        let words = ["remote", "add", "--replace", "os", &url].into_iter().chain(keys).chain(more.iter().copied());
        fixture.as_user(&fixture.client, words)
    };
    let said = add(&["--signatures", "4"]).failure(1);
    assert!(said.contains("4 of the keys") && said.contains("only 3"), "{said}");
    add(&["--signatures", "2"]).success();
    let cases: [(&[&str], Option<&str>); 5] = [
        (&["a"], Some("1 of the trusted keys signed it, and 2 are required")),
        (&["a", "stranger"], Some("1 of the trusted keys signed it, and 2 are required")),
        (&["stranger"], Some("not trusted")),
        (&["b", "stranger", "a"], None),
        (&["c", "a", "b"], None),
    ];
    for (number, (signers, refusal)) in cases.into_iter().enumerate() {
        fixture.commit("main", &format!("state {number}"));
        let signers: Vec<&str> = signers.iter().flat_map(|key| ["--sign", key]).collect();
        fixture.publish(&signers).success();
        match refusal {
            None => drop(fixture.pull().success()),
            Some(expected) => {
                let said = fixture.pull().failure(1);
                assert!(said.contains(expected), "{said}");
            }
        }
    }
    // The ref's signatures suffice, and the commit has too few.
    let before = fs::read_dir(fixture.published("commits")).expect("published").count();
    let name = fixture.commit("main", "commit with one signature");
    fixture.publish(&["--sign", "a"]).success();
    let path = fixture.published("commits");
    let single = fs::read(path.join(&name)).expect("published");
    fixture.publish(&["--sign", "a", "--sign", "b"]).success();
    assert_eq!(fs::read_dir(&path).expect("published").count(), before + 1);
    assert_ne!(fs::read(path.join(&name)).expect("published"), single, "a signature was added");
    fs::write(path.join(&name), single).expect("owned by the test");
    let said = fixture.pull().failure(1);
    assert!(said.contains("is refused") && said.contains("2 are required"), "{said}");
    let said = fixture.as_user(&fixture.client, ["remote", "key", "remove", "os", "a"]).success();
    assert!(said.is_empty(), "{said}");
    let said = fixture.as_user(&fixture.client, ["remote", "key", "remove", "os", "b"]).failure(1);
    assert!(said.contains("2 of the keys"), "{said}");
}

#[test]
fn key_limited_to_refs_counts_for_no_others() {
    let fixture = Fixture::new("trust-limits");
    for key in ["release", "nightly"] {
        fixture.generate(key);
    }
    fixture.add_remote(&["release"]);
    let key = |words: &[&str]| fixture.as_user(&fixture.client, ["remote", "key"].iter().chain(words));
    key(&["add", "os", "nightly", "--refs", "testing/*", "--refs", "nightly"]).success();
    let listed = key(&["list", "os"]).success();
    assert!(listed.lines().nth(1).is_some_and(|line| line.ends_with(" for testing/* nightly")), "{listed}");
    let url = fixture.url();
    for name in ["main", "nightly", "testing/12"] {
        fixture.commit(name, name);
        fixture.as_user(&fixture.publisher, ["publish", "--sign", "nightly", &url, name]).success();
    }
    let pull = |name: &str| fixture.as_user(&fixture.client, ["pull", &format!("os:{name}")]);
    for name in ["nightly", "testing/12"] {
        pull(name).success();
    }
    let said = pull("main").failure(1);
    assert!(said.contains("trusted for other refs than main") && said.contains("--refs"), "{said}");
    // Its successor is trusted for the same refs.
    fixture.as_user(&fixture.publisher, ["key", "generate", "nightly-2", "--announced-by", "nightly"]).success();
    for name in ["main", "nightly"] {
        fixture.commit(name, "again");
        fixture.as_user(&fixture.publisher, ["publish", "--sign", "nightly-2", &url, name]).success();
    }
    pull("nightly").success();
    let said = pull("main").failure(1);
    assert!(said.contains("trusted for other refs than main"), "{said}");
    fixture.publish(&["--sign", "release"]).success();
    pull("main").success();
    // Without a limit it counts for all.
    key(&["add", "os", "nightly-2"]).success();
    fixture.commit("main", "by nightly");
    fixture.publish(&["--sign", "nightly-2"]).success();
    pull("main").success();
}

/// What a machine that was just installed is told replaces what others remember.
#[test]
fn state_below_what_was_named_is_refused_at_once() {
    let fixture = Fixture::new("trust-minimum");
    fixture.generate("release");
    for content in ["one", "two"] {
        fixture.commit("main", content);
    }
    fixture.publish(&["--sign", "release"]).success();
    let add = |least: &str| {
        let url = fixture.url();
        let words = ["remote", "add", "--replace", "os", &url, "--key", "release", "--at-least", least];
        fixture.as_user(&fixture.client, words)
    };
    add("main").failure(2);
    add("main=3").success();
    let said = fixture.pull().failure(1);
    assert!(said.contains("sequence 2 is below 3"), "{said}");
    add("main=2").success();
    fixture.pull().success();
}

/// A remote with a key of its own says that it is another repository.
#[test]
fn repository_with_the_identity_of_another_holds_nothing_back() {
    let fixture = Fixture::new("trust-impostor");
    for key in ["release", "impostor"] {
        fixture.generate(key);
    }
    fixture.commit("main", "one");
    fixture.publish(&["--sign", "release"]).success();
    fixture.add_remote(&["release"]);
    fixture.pull().success();
    let shown = fixture.as_user(&fixture.client, ["remote", "show", "--json", "os"]).success();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let identity = shown["identity"].as_str().expect("pulled").to_owned();
    let impostor = fixture.sandbox.repository("impostor");
    let tree = fixture.sandbox.directory("evil");
    for number in 0..4 {
        fs::write(tree.join("file"), format!("{number}")).expect("writable");
        impostor.commit("main", &tree);
    }
    let url = format!("file://{}", fixture.sandbox.join("elsewhere").display());
    let words = ["publish", "--sign", "impostor", "--identity", &identity, &url, "main"];
    fixture.as_user(&impostor, words).success();
    fixture.as_user(&fixture.client, ["remote", "add", "m", &url, "--key", "impostor"]).success();
    fixture.as_user(&fixture.client, ["pull", "m:main"]).success();
    fixture.commit("main", "two");
    fixture.publish(&["--sign", "release"]).success();
    fixture.pull().success();
}
