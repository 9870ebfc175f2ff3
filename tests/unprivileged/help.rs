//! `--help`: the groups of verbs, the width of the lines, and the pages of `docs/` that are made from the same tables.
//!
//! The text at the end of a help has three kinds of lines. An unindented one is a paragraph, and one that is indented by six or more
//! explains the line above: each is a single line that clap wraps at the width of the terminal. A line that is indented by less is a
//! command, which is shown as it is and has to fit at 80 columns.
//!
//! `SAPWOOD_WRITE_DOCS=1 cargo test --test unprivileged help::` writes the generated parts of the pages anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Command;
use sapwood::fuse::{MountOption, OPTION_GROUPS, OptionGroup};

/// The widths at which every help is right: the usual one of a terminal, and the largest that is used.
const WIDTHS: [usize; 2] = [80, 100];

/// The indentation from which a line is wrapped.
const EXPLANATION_INDENT: usize = 6;

#[test]
fn each_verb_is_in_one_group_with_its_own_description() {
    let mut command = sapwood::cli::command().term_width(100);
    let help = command.render_help().to_string();
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    for verb in sapwood::cli::verb_groups().flat_map(|(_, verbs)| verbs) {
        *groups.entry(verb).or_default() += 1;
    }
    let visible: Vec<&Command> =
        command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help").collect();
    assert!(visible.len() > 30, "found only {} verbs", visible.len());
    for verb in &visible {
        let about = verb.get_about().unwrap_or_else(|| panic!("{} has no description", verb.get_name())).to_string();
        assert_eq!(groups.remove(verb.get_name()), Some(1), "{} is in one group", verb.get_name());
        let line = format!("  {:<10}{about}", verb.get_name());
        assert!(help.lines().any(|shown| shown == line), "the help lacks {line:?}:\n{help}");
    }
    assert!(groups.is_empty(), "no verbs: {groups:?}");
}

#[test]
fn help_fits_its_width_and_is_wrapped_once() {
    let mut findings = Vec::new();
    for width in WIDTHS {
        let mut command = sapwood::cli::command().term_width(width);
        command.build();
        let mut helps = Vec::new();
        collect(&mut command, &mut helps);
        assert!(helps.len() > 50, "found only {} commands", helps.len());
        findings.extend(helps.iter().flat_map(|help| help.findings(width)));
    }
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// The help of a command.
struct Help {
    command: String,
    /// The text at its end, as it is written.
    end: String,
    /// All of it, as it is shown.
    shown: String,
}

fn collect(command: &mut Command, helps: &mut Vec<Help>) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let text = |text: Option<&clap::builder::StyledStr>| text.map(ToString::to_string).unwrap_or_default();
    let (short, long) = (text(command.get_after_help()), text(command.get_after_long_help()));
    let end = if long.is_empty() { short.clone() } else { long };
    helps.push(Help { command: format!("{name} -h"), end: short, shown: command.render_help().to_string() });
    helps.push(Help { command: format!("{name} --help"), end, shown: command.render_long_help().to_string() });
    let verbs = command.get_subcommands_mut().filter(|verb| verb.get_name() != "help");
    verbs.for_each(|verb| collect(verb, helps));
}

impl Help {
    fn findings(&self, width: usize) -> Vec<String> {
        let mut findings = Vec::new();
        for line in self.shown.lines().filter(|line| line.chars().count() > width) {
            findings.push(format!("{} at {width}: too wide: {line:?}", self.command));
        }
        let lines: Vec<&str> = self.end.lines().collect();
        for pair in lines.windows(2) {
            let indents = [indent(pair[0]), indent(pair[1])];
            let is_wrapped = |indent: usize| indent == 0 || indent >= EXPLANATION_INDENT;
            let is_text = pair.iter().all(|line| !line.is_empty()) && !pair[0].ends_with(':');
            if is_text && indents[0] == indents[1] && is_wrapped(indents[0]) {
                findings.push(format!("{}: a paragraph is wrapped by hand after {:?}", self.command, pair[0]));
            }
        }
        let is_shown = |line: &str| self.shown.lines().any(|shown| shown == line);
        let as_it_is = lines.iter().filter(|line| (1..EXPLANATION_INDENT).contains(&indent(line)));
        for line in as_it_is.filter(|line| !is_shown(line)) {
            findings.push(format!("{} at {width}: broken by clap: {line:?}", self.command));
        }
        findings
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[test]
fn rules_about_help_report_violations() {
    let cases: [(&str, &str, &str); 4] = [
        ("a short line\nand another", "a short line\nand another", "wrapped by hand"),
        ("  x\n      explained\n      in two lines", "", "wrapped by hand"),
        ("  sapwood a b", "  sapwood a\n  b", "broken by clap"),
        ("", "a line of more than twenty columns", "too wide"),
    ];
    for (end, shown, expected) in cases {
        let help = Help { command: String::new(), end: end.to_owned(), shown: shown.to_owned() };
        let findings = help.findings(20);
        assert!(findings.iter().any(|finding| finding.contains(expected)), "{end:?} gave {findings:?}");
    }
    let good = "Examples:\n  sapwood a\n      explained\n\nA paragraph.";
    let help = Help { command: String::new(), end: good.to_owned(), shown: good.to_owned() };
    assert_eq!(help.findings(20), Vec::<String>::new());
}

// ------------------------------------------------------------------------------------------------- pages of docs/

const BEGIN: &str =
    "<!-- The following is generated: SAPWOOD_WRITE_DOCS=1 cargo test --test unprivileged help:: -->\n\n";
const END: &str = "\n<!-- The generated part ends here. -->\n";

/// Compares the generated part of a page with what it should be, or writes it.
fn check_page(page: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{page} lacks {BEGIN:?}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{page} lacks {END:?}"));
    if std::env::var_os("SAPWOOD_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("writable");
        return;
    }
    let first = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "{page} is not what the table says, first at {first:?}. This writes it anew:\n\
         SAPWOOD_WRITE_DOCS=1 cargo test --test unprivileged help::"
    );
}

#[test]
fn page_of_mount_options_is_made_from_their_table() {
    let sections: Vec<String> = OPTION_GROUPS.iter().map(option_section).collect();
    check_page("docs/mount-options.md", &sections.join("\n"));
}

fn option_section(group: &OptionGroup) -> String {
    let mut text = format!("## {}\n\n", group.title);
    if !group.note.is_empty() {
        text.push_str(&format!("{}\n\n", group.note));
    }
    let (ignored, rows): (Vec<&MountOption>, Vec<_>) = group.options.iter().partition(|option| option.is_ignored());
    if !rows.is_empty() {
        text.push_str("| option | default | effect |\n| --- | --- | --- |\n");
    }
    for option in rows {
        // A vertical bar would end the cell.
        let form = option.form().replace('|', "\\|");
        text.push_str(&format!("| `{form}` | {} | {} |\n", option.default, option.help));
    }
    let names: Vec<String> = ignored.iter().map(|option| format!("`{}`", option.name)).collect();
    if !names.is_empty() {
        text.push_str(&format!("{}\n", names.join(", ")));
    }
    text
}

/// Without the feature `demo` there is a verb less than on the page.
#[cfg(feature = "demo")]
#[test]
fn page_of_verbs_is_made_from_their_table() {
    let command = sapwood::cli::command();
    let mut text = String::new();
    for (title, verbs) in sapwood::cli::verb_groups() {
        let blank = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{blank}## {title}\n\n| verb | what it does |\n| --- | --- |\n"));
        for verb in verbs {
            let about = command.find_subcommand(verb).and_then(Command::get_about).expect("each has one");
            text.push_str(&format!("| `{verb}` | {about} |\n"));
        }
    }
    check_page("docs/verbs.md", &text);
}
