//! Runs the console blocks of README and handbook as a reader would type them, and compares what they print.
//!
//! A block that begins with ```` ```console ```` is run: its lines with `$ ` in front are given to one shell for each page, in
//! `/tmp/tour` of a mount namespace of its own, with the program under test first in the path. The other lines are what is
//! printed. Figures, ids and dates may differ; a line of `…` stands for any number of lines. *Not here*: whether commands
//! parse, which `tidy` checks for all blocks of all pages.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::programs::sapwood;
use crate::common::sandbox::Sandbox;

/// The page with the short tour.
const README: &str = "README.md";

/// The pages whose console blocks are run, and the page whose blocks a reader has done before.
const PAGES: [(&str, Option<&str>); 4] =
    [(README, None), ("docs/tour.md", None), ("docs/mount.md", Some(README)), ("docs/publish.md", Some(README))];

/// What stands between the outputs of two commands.
const MARK: &str = "\u{1}";

#[test]
#[ignore = "takes a minute"]
fn console_blocks_print_what_the_pages_say() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut differences = Vec::new();
    let mut count = 0;
    let read = |page: &str| commands_of(&fs::read_to_string(package.join(page)).expect("the page is committed"));
    for (page, before) in PAGES {
        let (before, commands) = (before.map(read).unwrap_or_default(), read(page));
        assert!(!commands.is_empty(), "{page} has no console block");
        count += commands.len();
        let printed = run(before.iter().chain(&commands));
        let printed = printed.iter().skip(before.len()).map(Some).chain(std::iter::repeat(None));
        for (command, printed) in commands.iter().zip(printed) {
            let printed = printed.map_or("(the shell ended before this command)", String::as_str);
            if !matches(&command.output, printed) {
                let expected = command.output.join("\n");
                differences.push(format!("{page}: $ {}\nthe page has:\n{expected}\nprinted:\n{printed}", command.text));
            }
        }
    }
    assert!(count > 25, "only {count} commands were found");
    assert!(differences.is_empty(), "{} of {count} commands:\n{}", differences.len(), differences.join("\n\n"));
}

/// A command and what the page says that it prints.
struct Documented {
    text: String,
    output: Vec<String>,
}

fn commands_of(page: &str) -> Vec<Documented> {
    let mut commands: Vec<Documented> = Vec::new();
    let mut is_inside = false;
    for line in page.lines() {
        match line {
            "```console" => is_inside = true,
            "```" => is_inside = false,
            _ if !is_inside => {}
            _ => match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push(Documented { text: command.to_owned(), output: Vec::new() }),
                (None, Some(last)) => last.output.push(line.to_owned()),
                (None, None) => panic!("output before the first command: {line}"),
            },
        }
    }
    commands
}

/// Runs the commands in one shell and returns what each printed.
fn run<'a>(commands: impl Iterator<Item = &'a Documented>) -> Vec<String> {
    let sandbox = Sandbox::new("handbook");
    let mut script = String::from("exec 2>&1\nset +m\nip link set lo up\nmkdir -p /tmp/tour && cd /tmp/tour\n");
    for command in commands {
        let _ = writeln!(script, "printf '{MARK}'\n{}", command.text);
        // A server needs a moment before it answers.
        if command.text.split(" #").next().unwrap_or_default().trim_end().ends_with('&') {
            script.push_str("\nsleep 2\n");
        }
    }
    // Mounts and background programs of the page end with its namespaces.
    let path = sandbox.join("script");
    fs::write(&path, script).expect("writable");
    let program = sapwood();
    let directory = program.parent().expect("a program lies in a directory");
    let inner = "mount -t tmpfs -o size=2g tour /tmp && exec bash /dev/fd/9 9<&0";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--net",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "--propagation",
            "private",
            "sh",
            "-c",
            inner,
        ])
        .env_clear()
        .env("PATH", format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", directory.display()))
        .env("HOME", "/tmp")
        .env("LC_ALL", "C.UTF-8")
        .stdin(fs::File::open(&path).expect("written a moment ago"))
        .output()
        .expect("util-linux is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(MARK).skip(1).map(str::to_owned).collect()
}

/// Whether `printed` is what the page says, figures, ids, dates and blanks apart.
fn matches(expected: &[String], printed: &str) -> bool {
    let printed: Vec<String> = printed.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let expected: Vec<String> = expected.iter().map(|line| plain(line)).filter(|line| !line.is_empty()).collect();
    matches_lines(&expected, &printed)
}

fn matches_lines(expected: &[String], printed: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=printed.len()).any(|skipped| matches_lines(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed.first() == Some(first) && matches_lines(rest, &printed[1..]),
    }
}

/// A line whose figures (with their units), ids and dates are all alike.
fn plain(line: &str) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words = line.split_whitespace().map(|word| {
        let is_id = |part: &str| part.len() >= 12 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut plain = String::new();
        for part in word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let (core, end) = part.split_at(part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
            let is_figure = core.bytes().next().is_some_and(|byte| byte.is_ascii_digit());
            plain.push_str(if is_id(core) || is_figure || MONTHS.contains(&core) { "0" } else { core });
            plain.push_str(end);
        }
        // 1.66 and 2,571 are one figure each.
        while let Some(at) = plain.find("0.0").or_else(|| plain.find("0,0")).or_else(|| plain.find("0:0")) {
            plain.replace_range(at..at + 3, "0");
        }
        plain
    });
    words.filter(|word| !UNITS.contains(&word.trim_end_matches([',', ';', ')', '.']))).collect::<Vec<_>>().join(" ")
}

#[test]
fn comparison_of_outputs_ignores_figures_and_nothing_else() {
    let page = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(matches(&page("py: 99 entries, 1.66 MB; 0.02 s"), "py: 1,099 entries, 536 kB; 12.1 s\n"));
    assert!(matches(&page("a\n…\nz 1"), "a\nb\nc\nz 2\n"));
    assert!(matches(&page("9966e9b64e6d (new)"), "0123456789ab (new)"));
    assert!(!matches(&page("py: 99 entries"), "py: 99 entries\nwarning: something else"));
    assert!(!matches(&page("would send"), "sent"));
    assert!(!matches(&page("a"), ""));
}
