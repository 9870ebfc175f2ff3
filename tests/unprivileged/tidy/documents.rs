//! Checks the documentation: links and anchors, the table of contents of `docs/`, figures that also stand elsewhere, and every
//! `sapwood` command in an example.
//!
//! *Not here*: spelling (`tests/run`), and links to other hosts, which need a network. *Invariants*: a rule takes texts and
//! returns findings, so that it can be tried on planted faults. *Used by* `tidy`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::error::ErrorKind;

/// The documents outside of `docs/`.
const DOCUMENTS: [&str; 5] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "tests/README.md"];

/// The table of contents of `docs/`.
const SUMMARY: &str = "docs/SUMMARY.md";

/// Most lines of the README, which is read in five minutes. Everything else has a page in `docs/`.
const README_LINES_MAX: usize = 180;

#[test]
fn documents_are_correct() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = Documents::read(package);
    assert!(documents.texts.len() > 20, "found only {:?}", documents.texts.keys());
    let exists = |path: &str| package.join(path).exists();
    let (mut findings, commands) = documents.check(&exists);
    let manifest = fs::read_to_string(package.join("Cargo.toml")).expect("it is committed");
    findings.extend(documents.check_rust_version(&manifest));
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    eprintln!("{} commands are understood, {} lines use more of a shell", commands.understood, commands.left_out);
    assert!(commands.understood > 50, "only {} commands: are the examples gone?", commands.understood);
    assert!(commands.left_out * 10 < commands.understood, "{} lines are not checked", commands.left_out);
}

/// Texts by their path in the package.
struct Documents {
    texts: BTreeMap<String, String>,
}

/// Counts of the commands in examples.
#[derive(Debug, Default, PartialEq, Eq)]
struct Commands {
    /// Commands that the program's own parser has checked.
    understood: usize,
    /// Lines that only a shell can split into words.
    left_out: usize,
}

impl Documents {
    fn read(package: &Path) -> Self {
        let mut paths: Vec<String> = DOCUMENTS.iter().map(|path| (*path).to_owned()).collect();
        pages(package, "docs", &mut paths);
        let read = |path: String| {
            let text = fs::read_to_string(package.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            (path, text)
        };
        Self { texts: paths.into_iter().map(read).collect() }
    }

    /// Applies all rules but that about `Cargo.toml`. `exists` says whether a path of the package exists.
    fn check(&self, exists: &dyn Fn(&str) -> bool) -> (Vec<String>, Commands) {
        let (mut findings, mut commands) = (Vec::new(), Commands::default());
        for (path, text) in &self.texts {
            let page = Page::parse(text);
            findings.extend(self.check_links(path, &page, exists));
            for (line, words) in page.commands() {
                match words {
                    None => commands.left_out += 1,
                    Some(words) => {
                        commands.understood += 1;
                        findings
                            .extend(refusal(&words).map(|why| format!("{path}:{line}: {}: {why}", words.join(" "))));
                    }
                }
            }
        }
        findings.extend(self.check_contents());
        findings.extend(self.check_length());
        (findings, commands)
    }

    fn check_links(&self, path: &str, page: &Page, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
        let mut findings = Vec::new();
        for (line, link) in &page.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { Some(path.to_owned()) } else { beside(path, file) };
            let Some(target) = target.filter(|target| exists(target)) else {
                findings.push(format!("{path}:{line}: {link} leads nowhere"));
                continue;
            };
            let Some(anchor) = anchor else { continue };
            let has_anchor = self.texts.get(&target).is_some_and(|text| Page::parse(text).anchors.contains(anchor));
            if !has_anchor {
                findings.push(format!("{path}:{line}: {target} has no heading '#{anchor}'"));
            }
        }
        findings
    }

    /// Compares the table of contents with the pages.
    fn check_contents(&self) -> Vec<String> {
        let Some(summary) = self.texts.get(SUMMARY) else { return vec![format!("there is no {SUMMARY}")] };
        let is_page = |path: &&String| path.starts_with("docs/") && *path != SUMMARY;
        let pages: BTreeSet<&str> = self.texts.keys().filter(is_page).map(String::as_str).collect();
        let (mut findings, mut listed) = (Vec::new(), BTreeSet::new());
        for (line, link) in Page::parse(summary).links {
            let target = beside(SUMMARY, &link).unwrap_or(link);
            if !pages.contains(target.as_str()) {
                findings.push(format!("{SUMMARY}:{line}: {target} is no page of docs/"));
            }
            if !listed.insert(target.clone()) {
                findings.push(format!("{SUMMARY}:{line}: {target} is listed twice"));
            }
        }
        let missing = pages.iter().filter(|page| !listed.contains(**page));
        findings.extend(missing.map(|page| format!("{SUMMARY} does not list {page}")));
        findings
    }

    fn check_length(&self) -> Option<String> {
        let lines = self.texts.get("README.md")?.lines().count();
        (lines > README_LINES_MAX)
            .then(|| format!("README.md: {lines} lines, over {README_LINES_MAX}: move some to docs/"))
    }

    /// Compares the versions of Rust in the README with `rust-version` of `manifest`.
    fn check_rust_version(&self, manifest: &str) -> Vec<String> {
        let key = |line: &str| Some(line.strip_prefix("rust-version = \"")?.trim_end_matches('"').to_owned());
        let Some(needed) = manifest.lines().find_map(key) else {
            return vec!["Cargo.toml: no rust-version".to_owned()];
        };
        let readme = self.texts.get("README.md").map_or("", String::as_str);
        let versions: Vec<String> = rust_versions(readme);
        if versions.is_empty() {
            return vec!["README.md: says nothing of the version of Rust".to_owned()];
        }
        let wrong = versions.iter().filter(|version| **version != needed);
        wrong.map(|version| format!("README.md: Rust {version}, where Cargo.toml says {needed}")).collect()
    }
}

/// Adds all pages below `directory`.
fn pages(package: &Path, directory: &str, paths: &mut Vec<String>) {
    let entries = fs::read_dir(package.join(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    for entry in entries {
        let name = entry.expect("listed").file_name().into_string().expect("names are UTF-8");
        let path = format!("{directory}/{name}");
        if package.join(&path).is_dir() {
            pages(package, &path, paths);
        } else if name.ends_with(".md") {
            paths.push(path);
        }
    }
}

/// Returns the path that a link in `page` means; none if it leads out of the package.
fn beside(page: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => _ = parts.pop()?,
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Returns the numbers with a point after the word "Rust".
fn rust_versions(text: &str) -> Vec<String> {
    let number = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let version = rest[..end].trim_end_matches('.');
        version.contains('.').then(|| version.to_owned())
    };
    text.split("Rust ").skip(1).filter_map(number).collect()
}

// ------------------------------------------------------------------------------------------------------------ a page

/// The parts of a Markdown page that the rules check.
#[derive(Debug, Default)]
struct Page {
    /// Headings as links name them.
    anchors: BTreeSet<String>,
    /// Targets of links, with their lines.
    links: Vec<(usize, String)>,
    /// Lines of fenced blocks, with their numbers. Between blocks there is an empty one.
    code: Vec<(usize, String)>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut is_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
                page.code.push((number, String::new()));
            } else if is_code {
                page.code.push((number, line.to_owned()));
            } else {
                page.links.extend(links(line).map(|link| (number, link)));
                page.add_heading(line);
            }
        }
        page
    }

    fn add_heading(&mut self, line: &str) {
        let marks = line.bytes().take_while(|byte| *byte == b'#').count();
        let Some(heading) =
            line.get(marks..).and_then(|rest| rest.strip_prefix(' ')).filter(|_| (1..=6).contains(&marks))
        else {
            return;
        };
        let anchor = anchor(heading);
        // The second and later of equal headings are numbered.
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let free = [anchor.clone()].into_iter().chain(numbered).find(|anchor| !self.anchors.contains(anchor));
        self.anchors.extend(free);
    }

    /// Returns the commands in fenced blocks, as words; none for a line that needs a shell.
    fn commands(&self) -> Vec<(usize, Option<Vec<String>>)> {
        let mut found = Vec::new();
        let mut lines = self.code.iter();
        while let Some((number, line)) = lines.next() {
            let line = line.trim_start();
            let line = line.strip_prefix("$ ").unwrap_or(line);
            if !line.starts_with("sapwood ") {
                continue;
            }
            let mut command = line.trim_end().to_owned();
            while let Some(before) = command.strip_suffix('\\').map(str::to_owned) {
                let next = lines.next().map_or("", |(_, line)| line.trim());
                command = before + next;
            }
            found.push((*number, words(&command)));
        }
        found
    }
}

/// Returns the targets of the links in a line; text in backquotes is no link.
fn links(line: &str) -> impl Iterator<Item = String> {
    let plain: String = line.split('`').step_by(2).collect();
    let targets: Vec<String> = plain
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.split(' ').next()?.to_owned()))
        .collect();
    targets.into_iter()
}

/// Returns a heading as links name it: small letters, hyphens for blanks, no punctuation; of a link in it, the text.
fn anchor(heading: &str) -> String {
    let mut text = String::new();
    for (number, part) in heading.split("](").enumerate() {
        text.push_str(if number == 0 { part } else { part.split_once(')').map_or(part, |(_, rest)| rest) });
    }
    let letter = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        c => c.is_alphanumeric().then_some(c),
    };
    text.trim().to_lowercase().chars().filter_map(letter).collect()
}

// --------------------------------------------------------------------------------------------------------- a command

/// Splits a line into words as a shell does, without its comment, redirections, and what it is piped to. Returns none if it has
/// lists of commands, substitutions or unbalanced quotes.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' => words.extend(word.take()),
            '#' if word.is_none() => break,
            '\'' => word.get_or_insert_default().push_str(&quoted(&mut characters, '\'')?),
            '"' => word.get_or_insert_default().push_str(&quoted(&mut characters, '"')?),
            '\\' => word.get_or_insert_default().push(characters.next()?),
            '|' | '&' if characters.peek() == Some(&character) => return None,
            ';' | '`' | '(' => return None,
            // Another command follows, or the target of the output.
            '|' | '&' => break,
            '<' | '>' => {
                // In `2>` the number is no word.
                word = word.filter(|word| !word.bytes().all(|byte| byte.is_ascii_digit()));
                break;
            }
            character => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    Some(words)
}

/// Returns the text before the closing quote.
fn quoted(characters: &mut impl Iterator<Item = char>, quote: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match characters.next()? {
            end if end == quote => return Some(text),
            '`' if quote == '"' => return None,
            character => text.push(character),
        }
    }
}

/// Returns why the program would refuse these words, if it would.
fn refusal(words: &[String]) -> Option<String> {
    match sapwood::cli::command().try_get_matches_from(words) {
        Ok(_) => None,
        Err(error) if [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion].contains(&error.kind()) => None,
        Err(error) => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

// ---------------------------------------------------------------------------------------- each rule is able to fail

const CORRECT: [(&str, &str); 4] = [
    (
        "README.md",
        "# Name\nRust 1.92 or later, [how](docs/a.md#a-page), [code](src/lib.rs)\n```\n$ sapwood init # here\n```\n",
    ),
    ("docs/SUMMARY.md", "# Summary\n- [A](a.md)\n- [B](deep/b.md)\n"),
    ("docs/a.md", "# A `page`\n`[no](link)` [up](../README.md#name) [here](#twice-1)\n## Twice\n## Twice\n"),
    ("docs/deep/b.md", "[a](../a.md) [out](https://example.org/x#y)\n```sh\nsapwood ls \\\n  -l a:/b | wc -l\n```\n"),
];

const MANIFEST: &str = "[package]\nrust-version = \"1.92\"\n";

/// Returns the findings of the correct documents with one of them replaced, or one more.
fn findings_with(path: &str, text: &str) -> (Vec<String>, Commands) {
    let mut texts: BTreeMap<String, String> =
        CORRECT.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    texts.insert(path.to_owned(), text.to_owned());
    let documents = Documents { texts };
    let exists = |path: &str| path == "src/lib.rs" || documents.texts.contains_key(path);
    let (mut findings, commands) = documents.check(&exists);
    findings.extend(documents.check_rust_version(MANIFEST));
    (findings, commands)
}

#[test]
fn correct_documents_have_no_findings() {
    let (path, text) = CORRECT[0];
    assert_eq!(findings_with(path, text), (Vec::new(), Commands { understood: 2, left_out: 0 }));
}

#[test]
fn each_rule_about_documents_reports_a_violation() {
    let long = format!("Rust 1.92\n{}", "line\n".repeat(README_LINES_MAX));
    let cases: &[(&str, &str, &str)] = &[
        ("docs/a.md", "# A page\n[gone](gone.md)\n", "docs/a.md:2: gone.md leads nowhere"),
        ("docs/a.md", "# A page\n[out](../../etc/passwd)\n", "leads nowhere"),
        ("docs/a.md", "# A page\n[b](deep/b.md#none)\n", "docs/deep/b.md has no heading '#none'"),
        ("docs/a.md", "# A page\n[here](#there)\n", "docs/a.md has no heading '#there'"),
        ("docs/a.md", "# A page\n[code](../src/lib.rs#L1)\n", "src/lib.rs has no heading '#L1'"),
        ("docs/a.md", "# Another\n", "README.md:2: docs/a.md has no heading '#a-page'"),
        ("docs/c.md", "# C\n", "docs/SUMMARY.md does not list docs/c.md"),
        (
            "docs/SUMMARY.md",
            "[A](a.md) [B](deep/b.md)\n[C](c.md)\n",
            "docs/SUMMARY.md:2: docs/c.md is no page of docs/",
        ),
        ("docs/SUMMARY.md", "[A](a.md) [B](deep/b.md)\n[A](a.md)\n", "docs/SUMMARY.md:2: docs/a.md is listed twice"),
        ("README.md", "Rust 1.89 or later\n", "Rust 1.89, where Cargo.toml says 1.92"),
        ("README.md", "Needs Rust.\n", "says nothing of the version"),
        ("README.md", &long, "181 lines, over 180"),
        (
            "docs/a.md",
            "# A page\n```\nsapwood frobnicate\n```\n",
            "docs/a.md:3: sapwood frobnicate: error: unrecognized",
        ),
        (
            "docs/a.md",
            "# A page\n```\n$ sapwood ls --lang a\n```\n",
            "docs/a.md:3: sapwood ls --lang a: error: unexpected",
        ),
        (
            "docs/a.md",
            "# A page\n```\nsapwood commit \\\n  ./tree\n```\n",
            "docs/a.md:3: sapwood commit ./tree: error: the",
        ),
    ];
    for (path, text, expected) in cases {
        let (findings, _) = findings_with(path, text);
        assert!(
            findings.iter().any(|finding| finding.contains(expected)),
            "{text:?} gave {findings:?}, not {expected:?}"
        );
    }
}

#[test]
fn lines_are_split_into_words_as_a_shell_does() {
    let cases: [(&str, Option<&[&str]>); 10] = [
        ("sapwood ls a  b", Some(&["sapwood", "ls", "a", "b"])),
        (
            "sapwood commit --subject 'a # b' --version \"1 2\"c d\\ e",
            Some(&["sapwood", "commit", "--subject", "a # b", "--version", "1 2c", "d e"]),
        ),
        ("sapwood mount http://host/#ref /mnt   # a comment", Some(&["sapwood", "mount", "http://host/#ref", "/mnt"])),
        ("sapwood cat a:/b | sha256sum; ls", Some(&["sapwood", "cat", "a:/b"])),
        ("sapwood serve www &   # in the background", Some(&["sapwood", "serve", "www"])),
        ("sapwood key export release > release.pub", Some(&["sapwood", "key", "export", "release"])),
        ("sapwood fsck 2>/dev/null", Some(&["sapwood", "fsck"])),
        ("sapwood fsck && echo sound", None),
        ("sapwood ls $(cat id)", None),
        ("sapwood ls 'a", None),
    ];
    for (line, expected) in cases {
        let expected = expected.map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(line), expected, "{line}");
    }
}
