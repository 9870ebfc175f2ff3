//! One language over the whole source: no retired words, one name for one type, short chains of imports within a folder.
//!
//! *Not here*: spelling (`tests/run`), and what the words mean (`docs/glossary.md`). *Invariant*: a rule takes texts and returns
//! findings, so that it can be tried on planted faults. *Used by* `tidy`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Source, Sources, collect, lex};

/// Words that are in no name and in no comment any more: metaphors, and persons for processes. What is called by them today
/// is in `docs/renames.md`.
const RETIRED: &[&str] = &[
    "bury",
    "buried",
    "crew",
    "desk",
    "haul",
    "he",
    "him",
    "his",
    "janitor",
    "pilot",
    "pilots",
    "seat",
    "seats",
    "she",
    "shelf",
    "stillborn",
    "voucher",
    "vouchers",
    "whoever",
    "whom",
    "wish",
    "wishes",
];

/// Words that are in no comment: they hide which process or user is meant. `nobody` is also the name of a user.
const VAGUE: &[&str] = &["everybody", "nobody", "somebody"];

/// Type names that stand for another thing in each file: the arguments and actions of verbs.
const COMMON: &[&str] = &["Action", "Args", "State"];

/// Other type names with more than one definition.
const COLLISIONS_MAX: usize = 10;

/// Longest chain of files of one folder that import one another.
const CHAIN_MAX: usize = 8;

/// Folders with longer chains, which are to become shorter and never longer.
const LONGER_CHAINS: &[(&str, usize)] = &[("cache", 11), ("deploy", 11), ("image", 11), ("remote", 16), ("store", 12)];

/// Longest name of a test, in letters.
const TEST_NAME_MAX: usize = 60;

#[test]
fn source_uses_no_retired_words() {
    let findings: Vec<String> = texts().iter().flat_map(|(path, text)| retired(path, text)).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn test_names_are_short() {
    let findings: Vec<String> = texts().iter().flat_map(|(path, text)| long_test_names(path, text)).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn type_names_have_one_definition() {
    let sources = Sources::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    let collisions = collisions(&sources.files);
    collisions.iter().for_each(|collision| eprintln!("{collision}"));
    assert!(collisions.len() <= COLLISIONS_MAX, "{} names:\n{}", collisions.len(), collisions.join("\n"));
}

#[test]
fn import_chains_in_a_folder_are_short() {
    let sources = Sources::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    let chains = longest_chains(&sources.files);
    assert!(chains.len() > 10, "found only {} folders", chains.len());
    chains.iter().for_each(|(folder, chain)| eprintln!("{:2} {folder}: {}", chain.len(), chain.join(" > ")));
    let most =
        |folder: &str| LONGER_CHAINS.iter().find(|(name, _)| *name == folder).map_or(CHAIN_MAX, |(_, most)| *most);
    let long: Vec<_> = chains.iter().filter(|(folder, chain)| chain.len() > most(folder)).collect();
    assert!(long.is_empty(), "longer than they may be: {long:?}");
}

/// The sources and the tests, by their path in the package; not this file, which has to name the words.
fn texts() -> Vec<(String, String)> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for top in ["src", "mount-helpers", "tests", "benches", "fuzz"] {
        collect(package, Path::new(top), &mut texts);
    }
    texts.retain(|(path, _)| path != "tests/unprivileged/tidy/words.rs" && !path.starts_with("fuzz/target/"));
    assert!(texts.len() > 400, "found only {} files", texts.len());
    texts
}

/// Retired words in names and comments. Strings are left alone: `nobody` is a user, and packages are called anything.
fn retired(path: &str, text: &str) -> Vec<String> {
    let mut findings = BTreeSet::new();
    for token in lex(text).iter().filter(|token| token.is_word()) {
        findings.extend(words(&token.text).filter(|word| is_retired(word)).map(|word| (token.line, word)));
    }
    for (number, line) in text.lines().enumerate() {
        let Some(comment) = line.split_once("//").filter(|(code, _)| code.matches('"').count() % 2 == 0) else {
            continue;
        };
        let without_code: String = comment.1.split('`').step_by(2).collect();
        let found = without_code.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_lowercase);
        let found = found.filter(|word| is_retired(word) || VAGUE.contains(&word.as_str()));
        findings.extend(found.map(|word| (number + 1, word)));
    }
    findings.into_iter().map(|(line, word)| format!("{path}:{line}: '{word}' is retired: docs/renames.md")).collect()
}

fn is_retired(word: &str) -> bool {
    RETIRED.contains(&word)
}

/// The words of a name in either spelling: `read_ahead` and `ReadAhead` are "read" and "ahead".
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_ascii_uppercase() && !words.last().is_some_and(|w| w.is_empty() || is_upper(w)) {
            words.push(String::new());
        }
        if letter != '_'
            && let Some(last) = words.last_mut()
        {
            last.push(letter);
        }
    }
    words.into_iter().map(|word| word.to_lowercase())
}

fn is_upper(word: &str) -> bool {
    word.chars().all(|letter| letter.is_ascii_uppercase())
}

fn long_test_names(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut is_test = false;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        is_test |= line == "#[test]";
        if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()).filter(|_| is_test) {
            is_test = false;
            if name.len() > TEST_NAME_MAX {
                findings.push(format!("{path}:{}: {name} has {} letters", number + 1, name.len()));
            }
        }
    }
    findings
}

/// Types that are defined in more than one file, with their files.
fn collisions(files: &[Source]) -> Vec<String> {
    let mut defined: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files {
        for pair in file.tokens.windows(2) {
            if ["struct", "enum", "trait", "union"].contains(&pair[0].text.as_str()) && pair[1].is_word() {
                defined.entry(&pair[1].text).or_default().insert(&file.path);
            }
        }
    }
    let several = defined.into_iter().filter(|(name, paths)| paths.len() > 1 && !COMMON.contains(name));
    several.map(|(name, paths)| format!("{name}: {}", paths.into_iter().collect::<Vec<_>>().join(", "))).collect()
}

/// The longest chain of imports between the files of each folder of `src`. Without circles, which another rule refuses.
fn longest_chains(files: &[Source]) -> BTreeMap<&str, Vec<String>> {
    let imports = super::Imports::of(files);
    let mut edges: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for import in imports.all.iter().filter(|import| !import.reexport) {
        let (from, to) = (import.file.module.as_slice(), imports.defining_module(&import.path));
        let is_inside = to.starts_with(from) || from.starts_with(to);
        if !is_inside && from.first() == to.first() {
            edges.entry(from).or_default().insert(to);
        }
    }
    let mut chains: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut known = BTreeMap::new();
    for file in files.iter().filter(|file| !file.module.is_empty()) {
        let chain = chain_from(&file.module, &edges, &mut known);
        let longest = chains.entry(&file.module[0]).or_default();
        if chain.len() > longest.len() {
            *longest = chain;
        }
    }
    chains
}

fn chain_from<'a>(
    module: &'a [String],
    edges: &BTreeMap<&'a [String], BTreeSet<&'a [String]>>,
    known: &mut BTreeMap<&'a [String], Vec<String>>,
) -> Vec<String> {
    if let Some(chain) = known.get(module) {
        return chain.clone();
    }
    // Ends a circle, should there be one.
    known.insert(module, Vec::new());
    let further = edges.get(module).into_iter().flatten();
    let longest = further.map(|next| chain_from(next, edges, known)).max_by_key(Vec::len).unwrap_or_default();
    let chain: Vec<String> = std::iter::once(module[1..].join("::")).chain(longest).collect();
    known.insert(module, chain.clone());
    chain
}

#[test]
fn each_rule_about_words_reports_what_breaks_it() {
    let found = |text: &str| retired("a.rs", text).len();
    assert_eq!(found("//! Nobody waits.\nstruct CrewTable;\nfn bury_it() {}\nlet x = 1; // his turn\n"), 4);
    assert_eq!(found("//! `nobody` is a user.\nlet user = \"nobody\"; // a user\nfn hearing(whole: he_art) {}\n"), 1);
    assert_eq!(found("//! The theme of this.\nfn wished() {}\n"), 0);
    let name = "a".repeat(TEST_NAME_MAX + 1);
    assert_eq!(long_test_names("a.rs", &format!("#[test]\n#[ignore]\nfn {name}() {{}}\nfn {name}() {{}}\n")).len(), 1);
    let file = |path: &str, text: &str| Source::parse(path.to_owned(), text.to_owned());
    let two = [file("src/a/x.rs", "struct Place;"), file("src/b/y.rs", "enum Place {}\nstruct Args;")];
    assert_eq!(collisions(&two), ["Place: src/a/x.rs, src/b/y.rs"]);
    let chain = [
        file("src/a/mod.rs", "mod x;"),
        file("src/a/x.rs", "use super::y::Y;"),
        file("src/a/y.rs", "use crate::a::z::Z; use crate::b::B;"),
        file("src/a/z.rs", ""),
        file("src/b/mod.rs", ""),
    ];
    assert_eq!(longest_chains(&chain)["a"], ["x", "y", "z"]);
}
