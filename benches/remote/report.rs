//! The report: a table for each question, and all figures as CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Options;
use crate::cost::Cost;
use crate::machine;
use crate::setup::Setup;

/// A question, which has a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    PublishFirst,
    PublishSecond,
    Delta,
    Pull,
    LazyList,
    LazyListRadio,
    LazyFind,
    LazyPython,
    LazyCompile,
    LazyAll,
    Update,
}

impl Table {
    const fn title(self) -> &'static str {
        match self {
            Self::PublishFirst => "Publish the older version (bytes: all that is published by then)",
            Self::PublishSecond => "Publish the newer version after it",
            Self::Delta => "Make the way from the older to the newer version (bytes: added to what is published)",
            Self::Pull => "Pull the newer version to a machine that has nothing: 20 ms, 50 Mbit/s",
            Self::LazyList => "Mount what was never pulled and list its root: 20 ms, 50 Mbit/s",
            Self::LazyListRadio => "The same over 100 ms, 1 Mbit/s",
            Self::LazyFind => "Mount and find with all that stat tells of every entry: 20 ms, 50 Mbit/s",
            Self::LazyPython => "Then start Python with json, http.client, ssl, sqlite3, asyncio",
            Self::LazyCompile => "Then compile a small program with g++",
            Self::LazyAll => "Mount and read every file: 20 ms, 50 Mbit/s (compare with the pull)",
            Self::Update => "Pull the newer version to a machine that has the older one: 20 ms, 50 Mbit/s",
        }
    }
}

/// The figures that were measured so far.
pub struct Report {
    head: Vec<String>,
    csv: String,
    name: String,
    rows: BTreeMap<Table, Vec<(String, Vec<Cost>)>>,
}

impl Report {
    /// Starts a report with a description of the machine and the input.
    pub fn new(setup: &Setup, options: &Options) -> anyhow::Result<Self> {
        let date = machine::output("date", ["+%Y-%m-%d"])?.trim().to_owned();
        let commit = machine::output("git", ["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
        let mut head = vec![format!("# Sapwood over a network, {date}"), String::new()];
        head.push(format!("- commit {}, default options; load at the start {}", commit.trim(), machine::load()));
        head.extend(machine::description().into_iter().map(|line| format!("- {line}")));
        for (name, tree) in ["older", "newer"].iter().zip(&setup.trees) {
            let tree = tree.to_str().unwrap_or_default();
            let entries = machine::output("sh", ["-c", &format!("find {tree} | wc -l; du -sb {tree} | cut -f1")])?;
            let [entries, bytes] = entries.split_whitespace().collect::<Vec<_>>()[..] else { continue };
            let megabytes = bytes.parse::<f64>().unwrap_or_default() / 1e6;
            head.push(format!("- {name} version: a Debian `/usr` of {entries} entries, {megabytes:.0} MB"));
        }
        let label = if options.label.is_empty() { String::new() } else { format!("-{}", options.label) };
        let csv = "question,peer,seconds,cpu,requests,megabytes,peak_mib\n".to_owned();
        Ok(Self { head, csv, name: format!("{date}-remote{label}"), rows: BTreeMap::new() })
    }

    /// Adds a cost.
    pub fn add(&mut self, table: Table, peer: &str, cost: Cost) {
        eprintln!("{}: {peer}: {cost:?}", table.title());
        let rows = self.rows.entry(table).or_default();
        match rows.iter_mut().find(|(known, _)| known == peer) {
            Some((_, costs)) => costs.push(cost),
            None => rows.push((peer.to_owned(), vec![cost])),
        }
        let show = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let _ = writeln!(
            self.csv,
            "\"{}\",\"{peer}\",{},{},{},{},{}",
            table.title(),
            cost.seconds,
            show(cost.cpu),
            cost.requests.map(|count| count.to_string()).unwrap_or_default(),
            show(cost.megabytes),
            show(cost.peak)
        );
    }

    /// Writes both files. Returns the path of the tables.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{}.csv", self.name)), &self.csv)?;
        let path = folder.join(format!("{}.md", self.name));
        let mut text = self.head.join("\n") + "\n\nMedian over rounds; × is the ratio to the first line.\n";
        for (table, rows) in &self.rows {
            let _ = writeln!(text, "\n## {}\n\n| | s | × | requests | MB | × | CPU s | peak MiB |", table.title());
            text += "|---|---:|---:|---:|---:|---:|---:|---:|\n";
            let first = Medians::of(&rows[0].1);
            for (peer, costs) in rows {
                let _ = writeln!(text, "| {peer} | {} |", Medians::of(costs).cells(&first).join(" | "));
            }
        }
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// The medians of some rounds.
struct Medians {
    seconds: f64,
    cpu: Option<f64>,
    requests: Option<f64>,
    megabytes: Option<f64>,
    peak: Option<f64>,
}

impl Medians {
    fn of(costs: &[Cost]) -> Self {
        let of = |value: &dyn Fn(&Cost) -> Option<f64>| {
            let mut values: Vec<f64> = costs.iter().filter_map(value).collect();
            values.sort_by(f64::total_cmp);
            (!values.is_empty()).then(|| values[values.len() / 2])
        };
        Self {
            seconds: of(&|cost| Some(cost.seconds)).unwrap_or(f64::NAN),
            cpu: of(&|cost| cost.cpu),
            requests: of(&|cost| cost.requests.map(|count| count as f64)),
            megabytes: of(&|cost| cost.megabytes),
            peak: of(&|cost| cost.peak),
        }
    }

    fn cells(&self, first: &Self) -> [String; 7] {
        let show = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
        let ratio = |mine: Option<f64>, base: Option<f64>| {
            mine.zip(base).map_or_else(|| "–".to_owned(), |(mine, base)| format!("{:.2}", mine / base))
        };
        [
            short(self.seconds),
            ratio(Some(self.seconds), Some(first.seconds)),
            self.requests.map_or_else(|| "–".to_owned(), |count| format!("{count:.0}")),
            show(self.megabytes),
            ratio(self.megabytes, first.megabytes),
            show(self.cpu),
            show(self.peak),
        ]
    }
}

/// Formats a value with three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
