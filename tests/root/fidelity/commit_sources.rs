//! What a commit leaves out is what rsync leaves out, and trees over each other are what tar and rsync make of them.
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::facts::{Facts, Scope};
use crate::common::sandbox::{Repository, Sandbox, run};

/// Paths of files; a path that ends in a slash is an empty directory.
const FILES: &[&str] = &[
    "a.o",
    "a.c",
    "cache/x",
    "var/cache/apt/pkg.bin",
    "var/cache.txt",
    "var/lib/cache",
    "usr/lib/python/__pycache__/m.pyc",
    "usr/lib/python/m.py",
    "usr/lib/a/b/c/d",
    "usr/share/doc/x/README",
    "usr/share/doc/",
    "we[ird",
    "star*name",
    "back\\slash",
    "name with space",
    "xa/ya/za",
    "ab",
    "a-b",
    "a]b",
    "\u{e4}\u{f6}",
];

const PATTERNS: &[&[&str]] = &[
    &["*.o"],
    &["/cache"],
    &["cache"],
    &["cache/"],
    &["/var/cache/"],
    &["/var/*"],
    &["var/cache"],
    &["lib/a/b"],
    &["/usr/**/d"],
    &["**/doc"],
    &["usr/**"],
    &["/usr/share/***"],
    &["a?b", "x*/y*"],
    &["[a-c]*"],
    &["[!a-c]*"],
    &["we[[]ird"],
    &["we[ird*]", "a[]-]b"],
    &["star\\*name"],
    &["back\\slash"],
    &["*\\\\*"],
    &["name with*"],
    &["/usr/lib/*/m.py", "README"],
    &["/"],
    &["*"],
    &["nothing", "/a/b/c", "usr/lib/python/"],
    &["*/*/*"],
    &["\u{e4}*"],
];

fn make(top: &Path, files: &[&str]) {
    for file in files {
        let path = top.join(file);
        if file.ends_with('/') {
            fs::create_dir_all(&path).expect("writable");
        } else {
            fs::create_dir_all(path.parent().expect("below the top")).expect("writable");
            fs::write(&path, file).expect("writable");
        }
    }
}

fn commit<A: AsRef<OsStr>>(repository: &Repository, arguments: &[A]) {
    let fixed = ["commit", "--ref", "new"].map(OsStr::new);
    repository.run(fixed.into_iter().chain(arguments.iter().map(AsRef::as_ref))).success();
}

#[test]
fn commit_leaves_out_what_rsync_leaves_out() {
    let sandbox = Sandbox::new("commit-exclude");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    make(&tree, FILES);
    let tar = sandbox.join("all.tar");
    run("tar", ["--directory".as_ref(), tree.as_os_str(), "-cf".as_ref(), tar.as_os_str(), ".".as_ref()]).success();
    repository.commit("all", &tree);
    for (number, patterns) in PATTERNS.iter().enumerate() {
        // rsync takes "/" for its whole source; here it is no pattern.
        if *patterns == ["/"] {
            let said = repository.run(["commit", "--ref", "new", "--exclude", "/", tree.to_str().expect("UTF-8")]);
            assert!(said.failure(1).contains("is empty"));
            continue;
        }
        let excluded: Vec<String> = patterns.iter().map(|pattern| format!("--exclude={pattern}")).collect();
        let expected = sandbox.join(&format!("rsync{number}"));
        let copied = ["-a".to_owned(), format!("{}/", tree.display()), format!("{}/", expected.display())];
        run("rsync", copied.iter().chain(&excluded)).success();
        let found = run(
            "find",
            [expected.as_os_str(), "-mindepth".as_ref(), "1".as_ref(), "-printf".as_ref(), "/%P\\n".as_ref()],
        );
        let found = found.success();
        let expected: BTreeSet<&str> = found.lines().collect();
        let list = sandbox.join("list");
        fs::write(&list, format!("# patterns\n\n; more\r\n{}\n", patterns.join("\n"))).expect("writable");
        let sources = [
            vec![tree.display().to_string()],
            vec!["--tar".to_owned(), tar.display().to_string()],
            vec!["--tree".to_owned(), "ref=all".to_owned()],
        ];
        for (at, source) in sources.iter().enumerate() {
            let from = [format!("--exclude-from={}", list.display())];
            commit(&repository, &[&source[..], if at == 1 { &from } else { &excluded }].concat());
            let listed = repository.run(["ls", "-R", "--json", "new"]).success();
            let rows: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
            let paths: BTreeSet<&str> = rows.iter().map(|row| row["path"].as_str().expect("text")).collect();
            assert_eq!(paths, expected, "{patterns:?} {source:?}");
        }
    }
    // What is left out is not read, and its content is in no pack.
    let other = sandbox.repository("other");
    commit(&other, &[OsStr::new("--exclude"), "*".as_ref(), "--tar".as_ref(), tar.as_os_str()]);
    let listed = run(
        "find",
        [
            other.path().join("objects").as_os_str(),
            other.path().join("packs").as_os_str(),
            "-type".as_ref(),
            "f".as_ref(),
        ],
    );
    assert_eq!(listed.success(), "");
}

#[test]
fn trees_over_each_other_are_as_unpacked_in_order() {
    let sandbox = Sandbox::new("commit-layers");
    let repository = sandbox.repository("repo");
    let [low, high, expected] = ["low", "high", "expected"].map(|name| sandbox.directory(name));
    make(&low, &["same/a", "same/b", "file-to-link", "empty/", "link-to-file", "deep/x/y/z", "other"]);
    make(&high, &["same/b", "same/c", "link-to-file", "empty", "deep/x/new"]);
    fs::write(high.join("same/b"), "the upper one").expect("writable");
    symlink("other", high.join("file-to-link")).expect("writable");
    symlink("same", low.join("s")).expect("writable");
    fs::hard_link(low.join("other"), low.join("other2")).expect("writable");
    fs::hard_link(high.join("same/c"), high.join("c2")).expect("writable");
    run("chmod", ["0700".as_ref(), high.join("deep").as_os_str()]).success();
    let mut tars = Vec::new();
    for tree in [&low, &high] {
        // GNU tar keeps whole seconds.
        run(
            "find",
            [tree.as_os_str(), "-exec".as_ref(), "touch".as_ref(), "-hd@7".as_ref(), "{}".as_ref(), "+".as_ref()],
        )
        .success();
        let tar = tree.with_extension("tar");
        run("tar", ["-C".as_ref(), tree.as_os_str(), "-cf".as_ref(), tar.as_os_str(), ".".as_ref()]).success();
        run("tar", ["-C".as_ref(), expected.as_os_str(), "-xpf".as_ref(), tar.as_os_str()]).success();
        tars.push(tar.display().to_string());
    }
    let expected = Facts::of(&expected, Scope::All);
    repository.commit("low", &low);
    let forms: [[&str; 2]; 4] = [
        [&format!("tar={}", tars[0]), &format!("tar={}", tars[1])],
        ["ref=low", &format!("dir={}", high.display())],
        [&format!("dir={}", low.display()), &format!("tar={}", tars[1])],
        ["ref=low:/", &format!("dir={}", high.display())],
    ];
    let check = |words: &str| {
        let out = sandbox.join(&words.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"));
        repository.run(["export", "new", out.to_str().expect("UTF-8")]).success();
        expected.assert_same(&Facts::of(&out, Scope::All), words);
    };
    for (number, [lower, upper]) in forms.iter().enumerate() {
        commit(&repository, &["--tree", lower, "--tree", upper]);
        check(&format!("form {number}"));
    }
    commit(&repository, &["--tar", &tars[0], "--tar", &tars[1]]);
    check("tars");
    // A directory with entries is not replaced by something else, as by tar.
    make(&low, &["empty/now-full"]);
    for upper in [format!("dir={}", high.display()), format!("tar={}", tars[1])] {
        let lower = format!("dir={}", low.display());
        let said = repository.run(["commit", "--ref", "new", "--tree", &lower, "--tree", &upper]).failure(1);
        assert!(said.contains("empty"), "{said}");
    }
    repository.assert_clean();
}

#[test]
fn whiteouts_of_container_layers_are_refused_or_taken() {
    let sandbox = Sandbox::new("commit-whiteouts");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    make(&tree, &["etc/.wh.passwd", "etc/kept"]);
    let tar = sandbox.join("layer.tar");
    run("tar", ["-C".as_ref(), tree.as_os_str(), "-cf".as_ref(), tar.as_os_str(), ".".as_ref()]).success();
    let tar = tar.display().to_string();
    let said = repository.run(["commit", "--ref", "new", "--tar", &tar]).failure(1);
    assert!(said.contains("whiteout") && said.contains("--whiteouts verbatim"), "{said}");
    commit(&repository, &["--whiteouts", "verbatim", "--tar", &tar]);
    assert_eq!(repository.run(["ls", "new:/etc"]).success(), ".wh.passwd\nkept");
    // A directory is taken as it is: there the name is nothing special.
    repository.commit("directory", &tree);
}
