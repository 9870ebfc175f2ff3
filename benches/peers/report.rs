//! The report: every figure as CSV, and tables of ratios and of medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::commit::CONTENDERS;
use crate::machine;
use crate::measure::BASE;
use crate::options::Options;
use crate::peer::Setup;

/// The meaning of a figure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Measure {
    Mount,
    WalkCold,
    WalkWarm,
    ReadCold,
    ReadWarm,
    PythonCold,
    PythonWarm,
    CompileCold,
    CompileWarm,
    Stat,
    Open,
    RandomCold1,
    RandomCold4,
    SequentialCold1,
    SequentialCold4,
    RandomWarm1,
    RandomWarm4,
    SequentialWarm1,
    SequentialWarm4,
    ResidentAfterWalk,
    AnonymousAfterWalk,
    ResidentAfterRead,
    ResidentPeak,
    Commit,
    CommitFlushed,
    DiskUse,
}

use Measure as M;

/// The tables, in order: title and columns.
const TABLES: &[(&str, &[Measure])] = &[
    (
        "Files",
        &[
            M::WalkCold,
            M::WalkWarm,
            M::ReadCold,
            M::ReadWarm,
            M::PythonCold,
            M::PythonWarm,
            M::CompileCold,
            M::CompileWarm,
            M::Stat,
            M::Open,
        ],
    ),
    (
        "fio over the seven largest files",
        &[
            M::RandomCold1,
            M::RandomCold4,
            M::SequentialCold1,
            M::SequentialCold4,
            M::RandomWarm1,
            M::RandomWarm4,
            M::SequentialWarm1,
            M::SequentialWarm4,
        ],
    ),
];

const MEMORY: &[Measure] =
    &[M::Mount, M::ResidentAfterWalk, M::AnonymousAfterWalk, M::ResidentAfterRead, M::ResidentPeak];

const COMMIT: &[Measure] = &[M::Commit, M::CommitFlushed, M::DiskUse];

impl Measure {
    fn label(self) -> (&'static str, &'static str) {
        match self {
            M::Mount => ("mount, cold", "s"),
            M::WalkCold => ("walk cold", "s"),
            M::WalkWarm => ("walk warm", "s"),
            M::ReadCold => ("read all cold", "s"),
            M::ReadWarm => ("read all warm", "s"),
            M::PythonCold => ("python cold", "s"),
            M::PythonWarm => ("python warm", "s"),
            M::CompileCold => ("g++ cold", "s"),
            M::CompileWarm => ("g++ warm", "s"),
            M::Stat => ("stat ×4 warm", "op/s"),
            M::Open => ("open+read+close", "µs"),
            M::RandomCold1 => ("cold rand 4k ×1", "IOPS"),
            M::RandomCold4 => ("cold rand 4k ×4", "IOPS"),
            M::SequentialCold1 => ("cold seq 1M ×1", "MB/s"),
            M::SequentialCold4 => ("cold seq 1M ×4", "MB/s"),
            M::RandomWarm1 => ("warm rand 4k ×1", "IOPS"),
            M::RandomWarm4 => ("warm rand 4k ×4", "IOPS"),
            M::SequentialWarm1 => ("warm seq 1M ×1", "MB/s"),
            M::SequentialWarm4 => ("warm seq 1M ×4", "MB/s"),
            M::ResidentAfterWalk => ("RSS after walk", "MiB"),
            M::AnonymousAfterWalk => ("of it anonymous", "MiB"),
            M::ResidentAfterRead => ("RSS after read", "MiB"),
            M::ResidentPeak => ("peak RSS", "MiB"),
            M::Commit => ("time", "s"),
            M::CommitFlushed => ("time with sync", "s"),
            M::DiskUse => ("disk use", "MB"),
        }
    }

    /// Returns whether it is a rate, whose ratio is inverted so that above 1 is always worse.
    fn is_rate(self) -> bool {
        matches!(self.label().1, "op/s" | "IOPS" | "MB/s")
    }
}

/// The figures that were measured so far.
pub struct Report {
    head: Vec<String>,
    csv: String,
    /// Value of each round, by peer and measure.
    values: BTreeMap<(String, Measure), BTreeMap<usize, f64>>,
    order: Vec<String>,
    failures: Vec<String>,
    name: String,
}

impl Report {
    /// Starts a report with a description of the machine and the input.
    pub fn new(setup: &Setup, options: &Options) -> anyhow::Result<Self> {
        let date = machine::output("date", ["+%Y-%m-%d"])?.trim().to_owned();
        let (entries, files) = crate::workload::walk(&setup.source)?;
        let bytes = crate::workload::read_all(&setup.source)?;
        let version = machine::output(&setup.program.display().to_string(), ["--version"]).unwrap_or_default();
        let commit = machine::output("git", ["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
        let mut head = vec![format!("# Sapwood against its peers, {date}{}", label(options, ": ")), String::new()];
        head.push(format!("- {} at {}", version.trim(), commit.trim()));
        head.extend(machine::description().into_iter().map(|line| format!("- {line}")));
        head.push(format!("- all on {}", machine::file_system_of(&setup.work)));
        head.push(format!(
            "- input: a Debian `/usr`, {entries} entries, {} files, {:.0} MB",
            files.len(),
            bytes as f64 / 1e6
        ));
        let rounds =
            format!("- {} rounds ({} for reading everything, fio and commits)", options.rounds, options.few_rounds());
        head.push(format!("{rounds}{}", if options.no_idle { ", idle-class spinners on all cores" } else { "" }));
        let name = format!("{date}-peers{}", label(options, "-"));
        let csv = "round,peer,measure,unit,value,load\n".to_owned();
        Ok(Self { head, csv, values: BTreeMap::new(), order: Vec::new(), failures: Vec::new(), name })
    }

    /// Adds a peer's figures of one round.
    pub fn add(&mut self, round: usize, peer: &str, load: &str, samples: Vec<(Measure, f64)>) {
        if !self.order.iter().any(|known| known == peer) {
            self.order.push(peer.to_owned());
        }
        for (measure, value) in samples {
            let (name, unit) = measure.label();
            let _ = writeln!(self.csv, "{round},\"{peer}\",\"{name}\",{unit},{value},{load}");
            self.values.entry((peer.to_owned(), measure)).or_default().insert(round, value);
        }
    }

    /// Adds what could not be measured.
    pub fn failures(&mut self, failures: &[String]) {
        self.failures = failures.to_vec();
    }

    /// Writes both files. Returns the path of the tables.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.md", self.name));
        fs::write(folder.join(format!("{}.csv", self.name)), &self.csv).context("write the raw figures")?;
        fs::write(&path, self.text()).context("write the tables")?;
        Ok(path)
    }

    fn text(&self) -> String {
        let mut text = self.head.join("\n") + "\n";
        text += "\nRatios are the cost against the plain directory in the same round, median over rounds: above 1 is slower, for\n\
                 rates too. Cold: freshly mounted, all caches dropped. Raw figures are in the CSV file beside this one.\n";
        let peers: Vec<&str> =
            self.order.iter().map(String::as_str).filter(|name| !CONTENDERS.contains(name)).collect();
        for (title, columns) in TABLES {
            self.table(&mut text, &format!("{title}: ratios"), &peers, columns, |peer, measure| {
                self.ratio(BASE.name(), peer, measure)
            });
            self.table(&mut text, &format!("{title}: median (min–max)"), &peers, columns, |peer, measure| {
                self.median(peer, measure)
            });
        }
        self.table(&mut text, "Mount and the daemon's memory", &peers, MEMORY, |peer, measure| {
            self.median(peer, measure)
        });
        let ratio =
            |peer: &str, measure: Measure| match (self.median(peer, measure), self.ratio(CONTENDERS[0], peer, measure))
            {
                (Some(median), Some(ratio)) => Some(format!("{median} = {ratio} ×")),
                (median, _) => median,
            };
        self.table(&mut text, "Commit (from the page cache), and its ratio to `cp -a`", &CONTENDERS, COMMIT, ratio);
        if !self.failures.is_empty() {
            text += "\n## Not measured\n\n";
            self.failures.iter().for_each(|failure| text += &format!("- {failure}\n"));
        }
        text
    }

    fn table(
        &self,
        text: &mut String,
        title: &str,
        rows: &[&str],
        columns: &[Measure],
        cell: impl Fn(&str, Measure) -> Option<String>,
    ) {
        let columns: Vec<Measure> =
            columns.iter().copied().filter(|column| self.values.keys().any(|(_, measure)| measure == column)).collect();
        if columns.is_empty() {
            return;
        }
        let heads = columns.iter().map(|column| {
            let (name, unit) = column.label();
            if title.contains("ratios") { name.to_owned() } else { format!("{name} {unit}") }
        });
        let _ = writeln!(text, "\n## {title}\n\n| | {} |", heads.collect::<Vec<_>>().join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(columns.len()));
        for row in rows {
            let cells = columns.iter().map(|column| cell(row, *column).unwrap_or_else(|| "–".into()));
            let _ = writeln!(text, "| {row} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }

    fn ratio(&self, base: &str, peer: &str, measure: Measure) -> Option<String> {
        let base = self.values.get(&(base.to_owned(), measure))?;
        let mine = self.values.get(&(peer.to_owned(), measure))?;
        let ratios: Vec<f64> = mine
            .iter()
            .filter_map(|(round, value)| {
                base.get(round).map(|base| if measure.is_rate() { base / value } else { value / base })
            })
            .collect();
        (!ratios.is_empty()).then(|| format!("{:.2}", median(&ratios)))
    }

    fn median(&self, peer: &str, measure: Measure) -> Option<String> {
        let values: Vec<f64> = self.values.get(&(peer.to_owned(), measure))?.values().copied().collect();
        let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(l, m), &value| (l.min(value), m.max(value)));
        Some(format!("{} ({}–{})", short(median(&values)), short(least), short(most)))
    }
}

fn label(options: &Options, before: &str) -> String {
    if options.label.is_empty() { String::new() } else { format!("{before}{}", options.label) }
}

/// Formats a value with three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// Returns the middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}
