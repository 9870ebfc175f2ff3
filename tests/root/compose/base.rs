//! Composes on top of another commit: the outcome is the one of installing all packages at once. And composes from the cache alone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::fixture::{Composer, SharedCommit, example, minimal};
use super::rpm::DemoRepository;
use crate::common::sandbox::{Repository, Sandbox, finish_within, run};

/// Fails unless rsync finds no difference between two commits. Times of directories are those of the last entry made in them, and
/// the bill of materials names the ref.
#[track_caller]
fn assert_same(repository: &Repository, sandbox: &Sandbox, one: &str, other: &str) {
    let target = |name: &str| sandbox.join(&format!("export-{}", name.replace('/', "-")));
    for name in [one, other] {
        repository.run(["export".as_ref(), name.as_ref(), target(name).as_os_str()]).success();
    }
    let directory = |name: &str| format!("{}/", target(name).display());
    let bill = "--exclude=/usr/share/sapwood/sbom.spdx.json";
    let options = ["-nic", "-aHAX", "--delete", "--omit-dir-times", bill];
    let differences = run("rsync", [&options[..], &[&directory(one), &directory(other)]].concat()).success();
    assert_eq!(differences, "", "differences of {one} and {other}");
}

fn show(repository: &Repository, name: &str) -> Value {
    serde_json::from_str(&repository.run(["show", "--json", name]).success()).expect("JSON")
}

#[test]
fn rpm_packages_on_a_base_are_as_installed_at_once() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-base-rpm");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let compose = |name: &str, options: &[&str], keys: &str| {
        let file = sandbox.join(&format!("{name}.yaml"));
        demo.treefile(&file, "");
        let common =
            "engine: dnf\ndistribution: demo\nrepos: [demo]\nrecommends: false\nselinux: false\ninitramfs: none\n";
        fs::write(&file, format!("{common}ref: demo/{name}\n{keys}")).expect("writable");
        composer.compose(&[options, &[&file.to_string_lossy()]].concat())
    };
    let base = compose("small", &[], "packages: [demo-base]\n");
    compose("whole", &[], "packages: [demo-base, demo-app]\n");
    let top = compose("top", &[], "base: demo/small\npackages: [demo-app]\n");
    assert_same(&composer.repository, &sandbox, "demo/whole", "demo/top");
    let first = show(&composer.repository, "demo/top");
    assert!(first.to_string().contains(&format!("\"compose.base\":\"{base}\"")), "{first}");
    // The base's name is not what counts, and what its ref names later is another input.
    let again = compose("top", &["--force"], &format!("base: {base}\npackages: [demo-app]\n"));
    assert_eq!(show(&composer.repository, &again)["image"], first["image"]);
    assert_ne!(again, top);
    assert_eq!(compose("top", &[], "base: demo/small\npackages: [demo-app]\n"), again);
    compose("small", &[], "packages: [demo-base, demo-lib]\n");
    assert_ne!(compose("top", &[], "base: demo/small\npackages: [demo-app]\n"), again);
    composer.repository.assert_clean();
}

#[test]
fn deb_packages_on_a_base_are_as_installed_at_once() {
    let SharedCommit { composer, name, .. } = minimal();
    let sandbox = Sandbox::new("compose-base-deb");
    let (cache, work) = (composer.cache.to_string_lossy(), sandbox.join("work").to_string_lossy().into_owned());
    let compose = |ref_name: &str, keys: &str| {
        let file = sandbox.join("treefile.yaml");
        let common =
            "distribution: debian\nreleasever: bookworm\nrecommends: false\ncontainer: true\npackages: [cron]\n";
        fs::write(&file, format!("{common}ref: {ref_name}\n{keys}")).expect("writable");
        let words = ["compose", "--cachedir", &cache, "--workdir", &work, &file.to_string_lossy()];
        finish_within(composer.repository.command(words), Duration::from_secs(1500)).success();
    };
    compose("t/whole", "");
    compose("t/top", &format!("base: {name}\n"));
    assert_same(&composer.repository, &sandbox, "t/whole", "t/top");
}

#[test]
fn a_base_without_packages_is_refused() {
    let sandbox = Sandbox::new("compose-base-refused");
    let composer = Composer::new(&sandbox.join("c"));
    let root = sandbox.directory("root");
    fs::write(root.join("file"), "x").expect("writable");
    composer.repository.run(["commit".as_ref(), "--ref".as_ref(), "plain".as_ref(), root.as_os_str()]).success();
    let refused = |keys: &str| {
        let file: &Path = &sandbox.join("t.yaml");
        fs::write(file, format!("ref: a/b\ndistribution: debian\npackages: [nano]\n{keys}")).expect("writable");
        composer.run(&["--dry-run", &file.to_string_lossy()]).failure(1)
    };
    assert!(refused("base: plain\n").contains("lists no packages"));
    assert!(refused("base: none\n").contains("there is no ref or commit 'none'"));
    assert!(refused("base: plain\nvariant: minbase\n").contains("'variant': with 'base'"));
    composer.assert_no_leftovers();
}

/// Returns the command as one that has no network.
fn without_network(command: &Command) -> Command {
    let mut offline = Command::new("unshare");
    offline.arg("--net").arg(command.get_program()).args(command.get_args());
    command.get_envs().for_each(|(name, value)| {
        match value {
            Some(value) => offline.env(name, value),
            None => offline.env_remove(name),
        };
    });
    offline
}

#[test]
fn offline_composes_use_the_cache_and_say_what_it_lacks() {
    let demo = DemoRepository::shared();
    let sandbox = Sandbox::new("compose-offline");
    let composer = Composer { cache: sandbox.join("cache"), ..Composer::new(&sandbox.join("c")) };
    let file = sandbox.join("demo-main.yaml");
    demo.treefile(&file, "ref: demo/main\n");
    let path = file.to_string_lossy().into_owned();
    let offline = |composer: &Composer, arguments: &[&str]| {
        let command = composer.command(&[&["--offline"], arguments].concat());
        finish_within(without_network(&command), Duration::from_secs(600))
    };
    assert!(offline(&composer, &[&path]).failure(1).contains("no cache for 'demo'"));
    let id = composer.compose(&[&path]);
    let again = offline(&composer, &["--force", &path]).success();
    let image = |id: &str| show(&composer.repository, id)["image"].clone();
    assert_eq!(image(again.lines().last().expect("an id")), image(&id));
    let SharedCommit { composer: debian, .. } = minimal();
    let (lock, example) = (minimal().lock(), example("debian-minimal.yaml"));
    let arguments = ["--dry-run", "--lock", &lock.to_string_lossy(), &example.to_string_lossy()];
    assert!(offline(debian, &arguments).success().contains("nothing changed"));
    let empty = Composer { cache: sandbox.join("empty"), ..Composer::new(&sandbox.join("e")) };
    assert!(offline(&empty, &arguments).failure(1).contains("the cache does not have the package lists"));
}
