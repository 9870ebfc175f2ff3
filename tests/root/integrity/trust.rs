//! Who is believed: keys, remotes, signatures, rotation, and each refusal with its own word.
//!
//! The publisher is the program itself; the hostile server is this test, which moves and changes files of the published
//! repository as whoever runs the server could.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::common::sandbox::{Repository, Run, Sandbox, finish};

/// A publisher's repository, its keys, the published directory, and a client.
struct Scene {
    sandbox: Sandbox,
    publisher: Repository,
    client: Repository,
}

impl Scene {
    fn new(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let (publisher, client) = (sandbox.repository("publisher"), sandbox.repository("client"));
        Self { sandbox, publisher, client }
    }

    fn as_user<A: AsRef<OsStr>>(&self, repository: &Repository, arguments: impl IntoIterator<Item = A>) -> Run {
        let mut command = repository.command(arguments);
        command.env("SAPWOOD_KEYS", self.sandbox.join("keys"));
        finish(command)
    }

    fn generate(&self, name: &str) -> String {
        self.as_user(&self.publisher, ["key", "generate", name]).success()
    }

    /// Commits a tree that differs from the one before.
    fn commit(&self, ref_name: &str, content: &str) -> String {
        let tree = self.sandbox.directory("tree");
        fs::write(tree.join("file"), content).expect("writable");
        self.publisher.commit(ref_name, &tree)
    }

    fn url(&self) -> String {
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

    fn pull(&self) -> Run {
        self.as_user(&self.client, ["pull", "os:main"])
    }
}

#[test]
fn keys_are_made_listed_and_exported_and_a_secret_is_never_overwritten() {
    let scene = Scene::new("trust-keys");
    let key = scene.generate("release");
    assert_eq!(key.len(), 64, "{key}");
    let secret = scene.sandbox.join("keys/release.key");
    assert_eq!(fs::metadata(&secret).expect("made").permissions().mode() & 0o777, 0o600);
    let listed = scene.as_user(&scene.publisher, ["key", "list"]).success();
    assert!(listed.lines().any(|line| line.starts_with("release") && line.contains(&key)), "{listed}");
    let exported = scene.as_user(&scene.publisher, ["key", "export", "release"]).success();
    assert_eq!(exported, format!("sapwood-public-key {key} release"));
    let before = fs::read(&secret).expect("readable");
    let refusal = scene.as_user(&scene.publisher, ["key", "generate", "release"]).failure(1);
    assert!(refusal.contains("already"), "{refusal}");
    assert_eq!(fs::read(&secret).expect("readable"), before);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("ours");
    scene.commit("main", "one");
    let refusal = scene.publish(&["--sign", "release"]).failure(1);
    assert!(refusal.contains("chmod 600"), "{refusal}");
}

#[test]
fn a_remote_needs_keys_or_a_word_that_none_are_wanted() {
    let scene = Scene::new("trust-remotes");
    let key = scene.generate("release");
    let refusal = scene.as_user(&scene.client, ["remote", "add", "os", "https://localhost/os"]).failure(1);
    assert!(refusal.contains("--key FILE") && refusal.contains("--insecure-unsigned"), "{refusal}");
    let file = scene.sandbox.join("keys/release.pub");
    let file = file.to_str().expect("UTF-8");
    scene.as_user(&scene.client, ["remote", "add", "os", "https://localhost/os", "--key", file]).success();
    let refusal = scene.as_user(&scene.client, ["remote", "add", "os", "https://x/", "--key", file]).failure(1);
    assert!(refusal.contains("already"), "{refusal}");
    let shown = scene.as_user(&scene.client, ["remote", "show", "os"]).success();
    assert!(shown.contains(&key) && shown.contains("https://localhost/os"), "{shown}");
    let listed = scene.as_user(&scene.client, ["remote", "list", "--json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["config"]["keys"][0], key.as_str());
    let secret = scene.sandbox.join("keys/release.key");
    let refusal = scene
        .as_user(&scene.client, ["remote", "add", "b", "https://x/", "--key", secret.to_str().expect("UTF-8")])
        .failure(1);
    assert!(refusal.contains("secret"), "{refusal}");
    scene.as_user(&scene.client, ["remote", "remove", "os"]).success();
    scene.as_user(&scene.client, ["remote", "show", "os"]).failure(1);
}

#[test]
fn what_a_trusted_key_signed_is_pulled_and_anything_else_refused_with_its_own_word() {
    let scene = Scene::new("trust-refusals");
    scene.generate("release");
    scene.generate("stranger");
    scene.commit("main", "one");
    scene.add_remote(&["release"]);

    scene.publish(&[]).success();
    let refusal = scene.pull().failure(1);
    assert!(refusal.contains("not signed"), "{refusal}");

    scene.publish(&["--sign", "stranger"]).success();
    let refusal = scene.pull().failure(1);
    assert!(refusal.contains("not trusted"), "{refusal}");
    assert!(scene.client.run(["refs"]).success().is_empty(), "nothing was named");

    scene.publish(&["--sign", "stranger", "--sign", "release"]).success();
    scene.pull().success();

    // A ref record of another ref in its place.
    let main = scene.published("refs/main");
    let good = fs::read(&main).expect("published");
    fs::write(scene.published("refs/other"), &good).expect("ours");
    let refusal = scene.as_user(&scene.client, ["pull", "os:other"]).failure(1);
    assert!(refusal.contains("for ref main, not for other"), "{refusal}");

    // A changed byte.
    let mut forged = good.clone();
    forged[80] ^= 1;
    fs::write(&main, &forged).expect("ours");
    scene.pull().any_failure();
    fs::write(&main, &good).expect("ours");

    // A newer state, then the old one again.
    scene.commit("main", "two");
    scene.publish(&["--sign", "release"]).success();
    scene.pull().success();
    fs::write(&main, &good).expect("ours");
    let refusal = scene.pull().failure(1);
    assert!(refusal.contains("older") && refusal.contains("--allow-older"), "{refusal}");
    scene.as_user(&scene.client, ["pull", "--allow-older", "os:main"]).success();
    scene.client.assert_clean();
}

#[test]
fn a_new_key_announced_by_the_old_one_is_followed_and_remembered() {
    let scene = Scene::new("trust-rotation");
    scene.generate("first");
    scene.commit("main", "one");
    scene.publish(&["--sign", "first"]).success();
    scene.add_remote(&["first"]);
    scene.pull().success();

    // Two changes of keys while the client was away.
    scene.as_user(&scene.publisher, ["key", "generate", "second", "--announced-by", "first"]).success();
    scene.commit("main", "two");
    scene.publish(&["--sign", "second"]).success();
    let third = scene.as_user(&scene.publisher, ["key", "generate", "third", "--announced-by", "second"]).success();
    scene.commit("main", "three");
    scene.publish(&["--sign", "third"]).success();
    scene.pull().success();
    let shown = scene.as_user(&scene.client, ["remote", "show", "os"]).success();
    assert!(shown.contains(&third), "the new key is trusted from now on:\n{shown}");

    // One that announces itself is nobody.
    scene.generate("intruder");
    let intruder = scene.sandbox.join("keys/intruder.announcement");
    fs::copy(scene.sandbox.join("keys/third.announcement"), intruder).expect("ours");
    scene.commit("main", "four");
    scene.publish(&["--sign", "intruder"]);
    let refusal = scene.pull().failure(1);
    assert!(refusal.contains("not trusted"), "{refusal}");
}
