//! Rules over the source text that neither the compiler nor clippy checks: layers, import cycles, headers, where `unsafe` and
//! printing are allowed, file sizes.
//!
//! *Invariants*: the rules are functions from source text to findings. One test applies them to `src`; the others give each
//! rule a bad snippet, since a rule that cannot fail checks nothing.

mod dependencies;
mod documents;
mod ignored;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers from top to bottom. A module may use only modules on lower lines; modules on one line do not use each other.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["boot"],
    &["mount"],
    &["fuse"],
    &["vfs", "deploy"],
    &["source"],
    &["compose", "cache"],
    &["export"],
    &["remote"],
    &["trust"],
    &["store"],
    &["image"],
    &["model"],
    &["disk"],
    &["sys"],
    &["error"],
];

/// Most lines of a file before its tests: a longer one is not read in one sitting.
const FILE_LINES_MAX: usize = 600;

/// Most packages in the lock file, with those for tests. Each is code to trust and to wait for; raise this only together with
/// the reason in the commit's message.
const PACKAGES_MAX: usize = 360;

#[test]
fn the_source_tree_is_tidy() {
    let sources = Sources::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(
        sources.files.len() > 5,
        "found only {} files: is the test looking in the right place?",
        sources.files.len()
    );
    let findings = sources.check();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn dependencies_stay_few() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("it is committed");
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(packages > 20, "found only {packages} packages: has the lock file changed its format?");
    assert!(
        packages <= PACKAGES_MAX,
        "{packages} packages in Cargo.lock, over {PACKAGES_MAX}: is the new one worth it?"
    );
}

/// `tests/README.md` lists the files with tests by promise.
#[test]
fn test_files_and_their_list_agree() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = fs::read_to_string(package.join("tests/README.md")).expect("it is committed");
    let mut files = Vec::new();
    collect(package, Path::new("tests"), &mut files);
    let with_tests = files.iter().filter(|(_, text)| text.contains("#[test]"));
    let with_tests: BTreeSet<&str> = with_tests.filter_map(|(path, _)| path.strip_prefix("tests/")).collect();
    let listed: BTreeSet<&str> = list.split('`').filter(|word| word.ends_with(".rs")).collect();
    assert!(with_tests.len() > 50, "found only {} files: is the test looking in the right place?", with_tests.len());
    let missing: Vec<_> = with_tests.difference(&listed).collect();
    let gone: Vec<_> = listed.iter().filter(|path| !package.join("tests").join(path).exists()).collect();
    assert!(missing.is_empty() && gone.is_empty(), "tests/README.md lacks {missing:?} and lists {gone:?}");
}

/// A source file.
struct Source {
    path: String,
    /// `["store", "gc"]` for `src/store/gc.rs`; empty for the crate's root and for programs.
    module: Vec<String>,
    text: String,
    tokens: Vec<Token>,
}

struct Sources {
    files: Vec<Source>,
}

impl Sources {
    fn read(package: &Path) -> Self {
        let mut texts = Vec::new();
        for top in ["src", "mount-helpers"] {
            collect(package, Path::new(top), &mut texts);
        }
        Self::from_texts(texts)
    }

    fn from_texts(texts: Vec<(String, String)>) -> Self {
        let files: Vec<Source> = texts.into_iter().map(|(path, text)| Source::parse(path, text)).collect();
        // `#[cfg(test)] mod tests;` makes a whole file test code.
        let test_modules: BTreeSet<Vec<String>> =
            files.iter().flat_map(|file| test_modules(&file.module, &lex(&file.text))).collect();
        let is_test = |file: &Source| (1..=file.module.len()).any(|n| test_modules.contains(&file.module[..n]));
        Self { files: files.into_iter().filter(|file| !is_test(file)).collect() }
    }

    fn check(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for file in &self.files {
            findings.extend(check_text(file));
            findings.extend(check_tokens(file));
        }
        let imports = Imports::of(&self.files);
        findings.extend(imports.layer_findings());
        findings.extend(imports.cycle_findings());
        findings
    }
}

fn collect(package: &Path, relative: &Path, texts: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(package.join(relative)) else { return };
    let mut names: Vec<_> = entries.map(|entry| entry.expect("listed").file_name()).collect();
    names.sort();
    for name in names {
        let path = relative.join(name);
        if package.join(&path).is_dir() {
            collect(package, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(package.join(&path)).expect("source files are UTF-8");
            texts.push((path.to_str().expect("source paths are UTF-8").to_owned(), text));
        }
    }
}

impl Source {
    fn parse(path: String, text: String) -> Self {
        let tokens = without_tests(lex(&text));
        Self { module: module_of(&path), path, text, tokens }
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(&format!("src/{folder}/")) || self.path == format!("src/{folder}.rs")
    }
}

fn module_of(path: &str) -> Vec<String> {
    let Some(inner) = path.strip_prefix("src/") else { return Vec::new() };
    let inner = inner.strip_suffix(".rs").expect("only .rs files are collected");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

// ---------------------------------------------------------------------------------------------- rules on the text

fn check_text(file: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    if !file.text.trim_start().starts_with("//!") {
        findings.push(format!("{}: no `//!` header: what is here, what is not, which invariant, who calls", file.path));
    }
    let lines = file.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    if lines > FILE_LINES_MAX {
        findings.push(format!("{}: {lines} lines before its tests, over {FILE_LINES_MAX}", file.path));
    }
    for (number, line) in file.text.lines().enumerate() {
        // In two halves, so that this file does not break the rule.
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")] {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if line.split(|c| !is_word(c)).any(|word| word == mark) {
                findings.push(format!("{}:{}: {mark}: file an issue or do it", file.path, number + 1));
            }
        }
    }
    findings
}

// -------------------------------------------------------------------------------------------- rules on the tokens

fn check_tokens(file: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, token) in file.tokens.iter().enumerate() {
        let next = |n: usize| file.tokens.get(index + n).map_or("", |token| token.text.as_str());
        let at = format!("{}:{}", file.path, token.line);
        match token.text.as_str() {
            "unsafe" if !file.is_in("sys") => findings.push(format!("{at}: `unsafe` outside src/sys")),
            "print" | "println" | "eprint" | "eprintln" if next(1) == "!" && !file.is_in("cli") => {
                findings.push(format!("{at}: `{}!` outside src/cli: libraries return, the CLI prints", token.text));
            }
            "." if next(1) == "unwrap" && next(2) == "(" => {
                findings.push(format!("{at}: `unwrap`: return the error, or `expect` with the reason why it holds"));
            }
            _ => {}
        }
    }
    findings
}

// ------------------------------------------------------------------------------------- layers and cycles of imports

/// A path that a file uses, made absolute.
struct Import<'a> {
    file: &'a Source,
    line: usize,
    path: Vec<String>,
    /// Whether it is a `pub use`, which is no use by the module itself.
    reexport: bool,
}

struct Imports<'a> {
    modules: BTreeMap<&'a [String], &'a Source>,
    all: Vec<Import<'a>>,
}

impl<'a> Imports<'a> {
    fn of(files: &'a [Source]) -> Self {
        let modules: BTreeMap<&[String], &Source> = files.iter().map(|file| (file.module.as_slice(), file)).collect();
        let all = files.iter().flat_map(|file| imports_of(file, &modules)).collect();
        Self { modules, all }
    }

    fn layer_findings(&self) -> Vec<String> {
        let layer = |name: &str| LAYERS.iter().position(|line| line.contains(&name));
        let mut findings = BTreeSet::new();
        for import in &self.all {
            let at = format!("{}:{}", import.file.path, import.line);
            let (Some(from), Some(to)) = (import.file.module.first(), import.path.first()) else { continue };
            if from == to || !self.modules.contains_key(std::slice::from_ref(to)) {
                continue;
            }
            match (layer(from), layer(to)) {
                (Some(upper), Some(lower)) if upper < lower => {}
                (Some(_), Some(_)) => _ = findings.insert(format!("{at}: `{from}` may not use `{to}`: see the layers")),
                (None, _) => _ = findings.insert(format!("{at}: module `{from}` has no place in the layers")),
                (_, None) => _ = findings.insert(format!("{at}: module `{to}` has no place in the layers")),
            }
        }
        findings.into_iter().collect()
    }

    fn cycle_findings(&self) -> Vec<String> {
        let mut edges: BTreeMap<&[String], BTreeMap<&[String], String>> = BTreeMap::new();
        for import in self.all.iter().filter(|import| !import.reexport) {
            let target = self.defining_module(&import.path);
            let from = import.file.module.as_slice();
            // From outside, a module and its submodules are one: a folder's `mod.rs` may define what its files share, and they
            // what it re-exports. Between folders and between files of one folder a cycle counts.
            let is_inside = target.starts_with(from) || from.starts_with(target);
            if !is_inside {
                let why = format!("{}:{} names {}", import.file.path, import.line, import.path.join("::"));
                edges.entry(from).or_default().entry(target).or_insert(why);
            }
        }
        let mut findings = Vec::new();
        let mut done = BTreeSet::new();
        for &start in edges.keys() {
            find_cycle(&edges, start, &mut Vec::new(), &mut done, &mut findings);
        }
        findings
    }

    /// Returns the module whose file defines what `path` names: names that are re-exported by `pub use` are followed to their
    /// definition.
    fn defining_module(&self, path: &[String]) -> &'a [String] {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let (module, rest) = self.split(&path);
            let handed_on = self.all.iter().find(|import| {
                import.reexport
                    && import.file.module == module
                    && import.path.last() == rest.first()
                    && !rest.is_empty()
            });
            match handed_on {
                Some(import) => path = import.path.iter().chain(&rest[1..]).cloned().collect(),
                None => return module,
            }
        }
        self.split(&path).0
    }

    /// Returns the longest known module that `path` starts with, and the rest.
    fn split<'p>(&self, path: &'p [String]) -> (&'a [String], &'p [String]) {
        (0..=path.len())
            .rev()
            .find_map(|n| self.modules.get_key_value(&path[..n]).map(|(module, _)| (*module, &path[n..])))
            .unwrap_or((&[], path))
    }
}

fn find_cycle<'a>(
    edges: &BTreeMap<&'a [String], BTreeMap<&'a [String], String>>,
    at: &'a [String],
    trail: &mut Vec<(&'a [String], String)>,
    done: &mut BTreeSet<&'a [String]>,
    findings: &mut Vec<String>,
) {
    if let Some(first) = trail.iter().position(|(module, _)| *module == at) {
        let steps: Vec<&str> = trail[first..].iter().map(|(_, why)| why.as_str()).collect();
        findings.push(format!("import cycle:\n    {}", steps.join("\n    ")));
        return;
    }
    if !done.insert(at) {
        return;
    }
    for (next, why) in edges.get(at).into_iter().flatten() {
        trail.push((at, why.clone()));
        find_cycle(edges, next, trail, done, findings);
        trail.pop();
    }
}

/// Returns every path in `file` that starts with `crate`, `super`, `self`, the library's name or the name of a child module.
fn imports_of<'a>(file: &'a Source, modules: &BTreeMap<&[String], &Source>) -> Vec<Import<'a>> {
    let mut imports = Vec::new();
    let mut index = 0;
    while index < file.tokens.len() {
        let token = &file.tokens[index];
        let after_colons = index > 0 && file.tokens[index - 1].text == "::";
        let before_colons = file.tokens.get(index + 1).is_some_and(|next| next.text == "::");
        if after_colons || !before_colons {
            index += 1;
            continue;
        }
        let child: Vec<String> = file.module.iter().cloned().chain([token.text.clone()]).collect();
        let starts = match token.text.as_str() {
            "crate" | "super" | "self" => true,
            "sapwood" => file.module.is_empty(),
            _ => modules.contains_key(child.as_slice()) && !file.module.is_empty(),
        };
        if !starts {
            index += 1;
            continue;
        }
        let reexport = is_reexport(&file.tokens[..index]);
        let mut paths = Vec::new();
        let line = token.line;
        index = parse_path(&file.tokens, index, &[], &mut paths);
        for path in paths {
            imports.push(Import { file, line, path: absolute(&file.module, &path), reexport });
        }
    }
    imports
}

/// Returns whether the tokens before a path end in `pub use` or `pub(..) use`.
fn is_reexport(before: &[Token]) -> bool {
    let mut words = before.iter().rev().map(|token| token.text.as_str());
    if words.next() != Some("use") {
        return false;
    }
    matches!(words.next(), Some("pub" | ")"))
}

/// Reads one path, or a tree of them in braces, from `index`. Returns the index after it.
fn parse_path(tokens: &[Token], mut index: usize, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let mut path = prefix.to_vec();
    loop {
        if text(index) == "{" {
            index += 1;
            while !["}", ""].contains(&text(index)) {
                index = if text(index) == "," { index + 1 } else { parse_path(tokens, index, &path, paths) };
            }
            return index + 1;
        }
        if !tokens.get(index).is_some_and(Token::is_word) {
            // `*` or `<..>` after `::`: the path ends before it. The index always grows, so that this ends.
            paths.push(path);
            return index + 1;
        }
        path.push(text(index).to_owned());
        index += 1;
        if text(index) == "::" {
            index += 1;
            continue;
        }
        if text(index) == "as" {
            index += 2;
        }
        paths.push(path);
        return index;
    }
}

fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let mut base: Vec<String> = module.to_vec();
    let mut rest = path.iter().peekable();
    match path.first().map(String::as_str) {
        Some("crate" | "sapwood") => {
            base.clear();
            rest.next();
        }
        Some("self") => _ = rest.next(),
        _ => {}
    }
    while rest.next_if(|word| *word == "super").is_some() {
        base.pop();
    }
    base.extend(rest.filter(|word| *word != "self").cloned());
    base
}

// -------------------------------------------------------------------------------------------------- a small lexer

#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// Splits a text into words, `::` and single characters; comments, strings and character literals are left out.
fn lex(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let (mut tokens, mut index, mut line) = (Vec::new(), 0, 1);
    while index < bytes.len() {
        let rest = &bytes[index..];
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment_length(rest)
        } else if let Some(length) = raw_string_length(rest) {
            length
        } else if rest[0] == b'"' {
            quoted_length(rest, b'"')
        } else if rest[0] == b'\'' {
            character_length(rest)
        } else if is_word(rest[0]) {
            let length = rest.iter().position(|&b| !is_word(b)).unwrap_or(rest.len());
            // The `b` of `b"…"` is no word; it does not matter to any rule.
            tokens.push(Token { text: text[index..index + length].to_owned(), line });
            length
        } else {
            let length = if rest.starts_with(b"::") { 2 } else { 1 };
            if !rest[0].is_ascii_whitespace() {
                tokens.push(Token { text: text[index..index + length].to_owned(), line });
            }
            length
        };
        line += rest[..length].iter().filter(|&&b| b == b'\n').count();
        index += length;
    }
    tokens
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut index) = (0, 0);
    while index < rest.len() {
        if rest[index..].starts_with(b"/*") {
            (depth, index) = (depth + 1, index + 2);
        } else if rest[index..].starts_with(b"*/") {
            (depth, index) = (depth - 1, index + 2);
            if depth == 0 {
                return index;
            }
        } else {
            index += 1;
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8]) -> Option<usize> {
    let start = if rest.starts_with(b"br") { 2 } else { usize::from(rest.starts_with(b"r")) };
    let hashes = rest[start..].iter().take_while(|&&b| b == b'#').count();
    if start == 0 || rest.get(start + hashes) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = start + hashes + 1;
    let length = rest[body..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(rest.len(), |length| body + length + end.len()))
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut index = 1;
    while index < rest.len() && rest[index] != quote {
        index += if rest[index] == b'\\' { 2 } else { 1 };
    }
    (index + 1).min(rest.len())
}

/// Returns the length of `'x'` or `'\n'`; of `'a` only the quote is taken, and the lifetime's name becomes a word.
fn character_length(rest: &[u8]) -> usize {
    let one_character = 1 + rest[1..].iter().skip(1).take_while(|&&b| b & 0xC0 == 0x80).count() + 1;
    if rest.get(1) == Some(&b'\\') || rest.get(one_character) == Some(&b'\'') { quoted_length(rest, b'\'') } else { 1 }
}

const CFG_TEST: &[&str] = &["#", "[", "cfg", "(", "test", ")", "]"];

fn starts_cfg_test(tokens: &[Token]) -> bool {
    tokens.len() > CFG_TEST.len() && CFG_TEST.iter().zip(tokens).all(|(expected, token)| *expected == token.text)
}

/// Removes each item after `#[cfg(test)]`, to the `;` or the brace that closes it.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let (mut kept, mut index) = (Vec::new(), 0);
    while index < tokens.len() {
        if !starts_cfg_test(&tokens[index..]) {
            kept.push(tokens[index].clone());
            index += 1;
            continue;
        }
        index += CFG_TEST.len();
        let mut depth = 0usize;
        while index < tokens.len() {
            let text = tokens[index].text.as_str();
            index += 1;
            match text {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

/// Returns the modules that `#[cfg(test)] mod name;` declares in this file.
fn test_modules(module: &[String], tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for index in 0..tokens.len() {
        if starts_cfg_test(&tokens[index..]) {
            let item: Vec<&str> =
                tokens[index + CFG_TEST.len()..].iter().map(|token| token.text.as_str()).take(3).collect();
            if let ["mod", name, ";"] = item[..] {
                found.push(module.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
    }
    found
}

// ---------------------------------------------------------------------------------------- each rule is able to fail

fn findings_of(files: &[(&str, &str)]) -> Vec<String> {
    let texts = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    Sources::from_texts(texts).check()
}

#[test]
fn every_rule_reports_what_breaks_it() {
    let model = ("src/model/mod.rs", "//! m\nmod id;\npub use id::ObjectId;\n");
    let id = ("src/model/id.rs", "//! m\npub struct ObjectId;\n");
    let store = ("src/store/mod.rs", "//! s\npub mod gc;\n");
    let cases: &[(&str, &str, &str)] = &[
        ("src/store/gc.rs", "fn f() {}", "no `//!` header"),
        ("src/store/gc.rs", "//! g\nfn f() { unsafe { g() } }", "gc.rs:2: `unsafe` outside"),
        ("src/store/gc.rs", "//! g\nfn f() { println!(\"x\") }", "`println!` outside src/cli"),
        ("src/store/gc.rs", "//! g\nfn f() { eprint!(\"x\") }", "`eprint!` outside src/cli"),
        ("src/store/gc.rs", "//! g\nfn f() { x\n    .unwrap(); }", "gc.rs:3: `unwrap`"),
        ("src/store/gc.rs", concat!("//! g\n// TO", "DO: later\n"), "file an issue"),
        ("src/store/gc.rs", concat!("//! g FIX", "ME\n"), "file an issue"),
        ("src/model/node.rs", "//! m\nuse crate::store::Store;", "`model` may not use `store`"),
        ("src/model/node.rs", "//! m\nuse crate::{model::ObjectId, store::gc};", "`model` may not use `store`"),
        ("src/model/node.rs", "//! m\nuse super::super::store::gc;", "`model` may not use `store`"),
        ("src/model/node.rs", "//! m\nfn f() -> crate::store::gc::Plan { todo() }", "`model` may not use `store`"),
        ("src/vfs/mod.rs", "//! v\nuse crate::deploy::Plan;", "`vfs` may not use `deploy`"),
        ("src/helpers/mod.rs", "//! h\nuse crate::store::gc;", "`helpers` has no place"),
        ("src/store/gc.rs", "//! g\nuse crate::helpers::Thing;", "`helpers` has no place"),
        ("src/store/gc.rs", "//! g\nuse super::fsck::Fsck;", "import cycle"),
    ];
    for (path, text, expected) in cases {
        let mut files = vec![model, id, store, (*path, *text)];
        files.push(("src/store/fsck.rs", "//! f\nuse super::gc::Gc;\n"));
        files.push(("src/deploy/mod.rs", "//! d\n"));
        if *path != "src/helpers/mod.rs" {
            files.push(("src/helpers/mod.rs", "//! h\n"));
        }
        let findings = findings_of(&files);
        assert!(
            findings.iter().any(|finding| finding.contains(expected)),
            "{text:?} gave {findings:?}, not {expected:?}"
        );
    }
}

#[test]
fn file_over_the_limit_is_reported_without_counting_tests() {
    let long = format!("//! l\n{}", "fn f() {}\n".repeat(FILE_LINES_MAX));
    assert!(findings_of(&[("src/store/gc.rs", &long)])[0].contains("601 lines before its tests"));
    let tested = format!("//! l\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(FILE_LINES_MAX));
    assert_eq!(findings_of(&[("src/store/gc.rs", &tested)]), Vec::<String>::new());
}

#[test]
fn tidy_code_has_no_findings() {
    let findings = findings_of(&[
        ("src/lib.rs", "//! l\npub mod store;\npub mod model;\n"),
        ("src/model/mod.rs", "//! m\nmod id;\nmod name;\npub use id::{Id, IdError};\npub use name::Name;\n"),
        ("src/model/id.rs", "//! i\npub struct Id; // unsafe .unwrap() println!\npub struct IdError;\n"),
        ("src/model/name.rs", "//! n\nuse super::IdError;\npub struct Name(crate::model::Id);\n"),
        ("src/store/mod.rs", "//! s\npub mod gc;\nmod plan;\npub fn run() { plan::make(); gc::run() }\n"),
        ("src/store/gc.rs", "//! g \"unsafe\"\nuse crate::model::Id;\nconst S: &str = \"x.unwrap() unsafe\";\n"),
        (
            "src/store/plan.rs",
            "//! p\nfn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' }\nfn g() { r#\"unsafe \" \"#; }\n",
        ),
        ("src/store/tests.rs", "use crate::cli::Main; fn t() { x.unwrap(); }\n"),
        ("src/sys/mod.rs", "//! s\nfn f() { unsafe { g() } }\n"),
        (
            "src/cli/mod.rs",
            "//! c\nuse crate::store::gc;\nfn f() { println!(\"\") }\n#[cfg(test)]\nmod tests { fn t() { x.unwrap(); } }\n",
        ),
    ]);
    // `store/tests.rs` above is test code only if its parent declares it so: here none does, so it must be reported.
    assert_eq!(findings.len(), 3, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.starts_with("src/store/tests.rs")), "{findings:?}");
    let declared = findings_of(&[
        ("src/store/mod.rs", "//! s\n#[cfg(test)]\nmod tests;\n"),
        ("src/store/tests.rs", "fn t() { x.unwrap(); }\n"),
    ]);
    assert_eq!(declared, Vec::<String>::new());
}
