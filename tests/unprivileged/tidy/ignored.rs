//! Checks that every ignored test is run by some command: a long test that nothing runs proves nothing.
//!
//! *Not here*: whether that command was run, see `target/long.tsv`. *Invariants*: `tests/run` runs the boots with
//! `--include-ignored`, and the part `boots` of `tests/long` runs those of `tests/boot/long.rs`; every other ignored test is
//! called by its name. *Used by* `tidy`.

use std::fs;
use std::path::Path;

/// Files that call ignored tests.
const CALLERS: [&str; 2] = ["tests/long", "benches/many-commits"];

#[test]
fn every_ignored_test_is_called_by_a_command() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(package.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let callers: String = CALLERS.iter().map(|path| read(path)).collect();
    let run = read("tests/run");
    assert!(run.contains("--test boot -- --include-ignored") && callers.contains("--test boot -- --ignored"));
    let mut files = Vec::new();
    super::collect(package, Path::new("tests"), &mut files);
    super::collect(package, Path::new("src"), &mut files);
    let elsewhere = files.iter().filter(|(path, _)| !path.starts_with("tests/boot/"));
    let names: Vec<&str> = elsewhere.flat_map(|(_, text)| ignored(text)).collect();
    assert!(names.len() > 5, "found only {names:?}: is the test looking in the right place?");
    let uncalled = uncalled(&names, &callers);
    assert!(uncalled.is_empty(), "neither of {CALLERS:?} calls {uncalled:?}");
}

/// Returns the names of the ignored tests of a file.
fn ignored(text: &str) -> Vec<&str> {
    let attribute = concat!("#[", "ignore");
    let after = text.split(attribute).skip(1);
    after.filter_map(|rest| rest.split_once("\nfn ")?.1.split('(').next()).collect()
}

/// Returns the names that no caller has as the last part of a path.
fn uncalled<'a>(names: &[&'a str], callers: &str) -> Vec<&'a str> {
    let is_called = |name: &str| {
        callers
            .split(|letter: char| letter.is_whitespace() || letter == ';')
            .any(|word| word.rsplit("::").next() == Some(name))
    };
    names.iter().copied().filter(|name| !is_called(name)).collect()
}

#[test]
fn ignored_test_without_a_command_is_reported() {
    let text = concat!(
        "#[test]\n#[",
        "ignore = \"long\"]\nfn forgotten_one() {}\n#[test]\n#[",
        "ignore]\nfn called(x: u8) {}\n"
    );
    assert_eq!(ignored(text), ["forgotten_one", "called"]);
    assert_eq!(
        uncalled(&ignored(text), "long() { ignored root a::b::called; }\nignored root a::forgotten_one_more\n"),
        ["forgotten_one"]
    );
}
