//! What verbs print is safe for a terminal, and whole and exact for programs.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::common::sandbox::{Sandbox, finish, run};

/// Names that do something else than stand there when a terminal shows them, or that look like several lines.
const NAMES: [&[u8]; 7] = [
    b"esc\x1b]0;title\x07",
    b"two\nlines",
    b"cr\rx",
    b"\xc2\x9b31m",
    b"\xe2\x80\xaereversed",
    b"caf\xe9",
    b"tab\there",
];

fn is_safe(text: &str) -> bool {
    !text.chars().any(|c| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c))
}

#[test]
fn no_verb_sends_names_raw_to_a_terminal() {
    let sandbox = Sandbox::new("print-names");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    repository.commit("main", &tree);
    for name in NAMES {
        let path = tree.join(OsStr::from_bytes(name));
        fs::create_dir(&path).expect("writable");
        fs::write(path.join(OsStr::from_bytes(name)), name).expect("writable");
        symlink(OsStr::from_bytes(name), path.join("link")).expect("writable");
    }
    repository.commit("main", &tree);
    let count = NAMES.len();
    for (arguments, lines) in [
        (&["ls", "main"][..], Some(count)),
        (&["ls", "-l", "main"], Some(count)),
        (&["ls", "-R", "main"], Some(3 * count)),
        (&["ls", "-lR", "main"], Some(3 * count)),
        (&["diff", "main"], Some(3 * count + 1)),
        (&["diff", "--no-mtime", "main"], None),
        (&["ls", "-R", "--json", "main"], None),
        (&["diff", "--json", "main"], None),
        (&["log", "main"], None),
        (&["refs"], Some(2)),
    ] {
        let printed = repository.run(arguments).success();
        assert!(is_safe(&printed), "{arguments:?}: {printed:?}");
        assert!(lines.is_none_or(|lines| printed.lines().count() == lines), "{arguments:?}: {printed}");
    }
    for name in NAMES {
        let path = [b"main:/", name, b"/link"].concat();
        for verb in [&["show"][..], &["ls", "-l"], &["show", "--json"]] {
            let verb = verb.iter().map(|word| OsStr::new(*word));
            let printed = repository.run(verb.chain([OsStr::from_bytes(&path)])).success();
            assert!(is_safe(&printed), "{printed:?}");
        }
        // So are messages.
        let missing = [b"main:/none", name].concat();
        assert!(is_safe(
            &repository.run([OsStr::new("cat"), OsStr::from_bytes(&missing)]).any_failure().replace('\t', "")
        ));
    }
    // The exact bytes are for programs.
    let printed = { repository.command(["ls", "-0", "main"]) }.output().expect("it can be started").stdout;
    let mut expected: Vec<&[u8]> = NAMES.to_vec();
    expected.sort_unstable();
    assert_eq!(printed.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect::<Vec<_>>(), expected);
}

#[test]
fn archives_are_written_to_pipes_and_over_existing_files() {
    let sandbox = Sandbox::new("export-forms");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    fs::write(tree.join("file"), "content").expect("writable");
    repository.commit("main", &tree);
    let export = |target: &str, more: &[&str]| repository.run([&["export", "main", "--tar", target], more].concat());
    let plain = sandbox.join("plain.tar").display().to_string();
    export(&plain, &[]).success();
    let expected = fs::read(&plain).expect("written");
    assert!(export(&plain, &[]).failure(1).contains("hint: --overwrite"));
    fs::write(&plain, vec![b'x'; 100_000]).expect("writable");
    export(&plain, &["--overwrite"]).success();
    assert_eq!(fs::read(&plain).expect("written"), expected);
    let fifo = sandbox.join("fifo");
    run("mkfifo", [&fifo]).success();
    let reading = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).expect("a writer comes")
    });
    export(fifo.to_str().expect("UTF-8"), &[]).success();
    assert_eq!(reading.join().expect("no panic"), expected);
    let printed =
        { repository.command(["export", "main", "--tar", "/dev/stdout"]) }.output().expect("it starts").stdout;
    assert_eq!(printed, expected);
    let full = fs::File::options().write(true).open("/dev/full").expect("there");
    let mut command = repository.command(["refs"]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().expect("it can be started");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("cannot write the output") && !said.contains("gc"), "{said}");
}

#[test]
fn memory_of_a_long_listing_in_json_is_bounded() {
    let sandbox = Sandbox::new("ls-memory");
    let repository = sandbox.repository("repo");
    let tree = sandbox.directory("tree");
    for directory in 0..200 {
        let path = tree.join(format!("{directory}"));
        fs::create_dir(&path).expect("writable");
        (0..200).for_each(|file| fs::write(path.join(format!("a-file-with-a-name-{file}")), "").expect("writable"));
    }
    repository.commit("main", &tree);
    let peak = |arguments: &[&str]| {
        let found = finish(repository.command(arguments));
        (found.memory, found.success())
    };
    let (text, _) = peak(&["ls", "-R", "main"]);
    let (json, printed) = peak(&["ls", "-R", "--json", "main"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(rows.len(), 40_200);
    // A value in memory takes over a KiB: all of them would be 50 MB.
    assert!(json < text + (8 << 20), "{json} bytes as JSON, {text} as text");
    for (source, count) in [("main:/0/a-file-with-a-name-0", 1), ("main:/0", 200)] {
        let printed = repository.run(["ls", "--json", source]).success();
        assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&printed).expect("JSON").len(), count);
    }
}
