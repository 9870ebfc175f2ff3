//! Measures reads of the largest files by `fio`: small random and large sequential ones, by one and by four processes.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::machine::output;
use crate::options::Options;
use crate::report::Measure;

/// A pattern of reads.
pub struct Pattern {
    kind: &'static str,
    block: &'static str,
    jobs: &'static str,
    /// The measure of its first run.
    pub cold: Measure,
    /// The measure of its second run.
    pub warm: Measure,
}

/// All patterns.
pub const PATTERNS: [Pattern; 4] = [
    Pattern { kind: "randread", block: "4k", jobs: "1", cold: Measure::RandomCold1, warm: Measure::RandomWarm1 },
    Pattern { kind: "randread", block: "4k", jobs: "4", cold: Measure::RandomCold4, warm: Measure::RandomWarm4 },
    Pattern { kind: "read", block: "1m", jobs: "1", cold: Measure::SequentialCold1, warm: Measure::SequentialWarm1 },
    Pattern { kind: "read", block: "1m", jobs: "4", cold: Measure::SequentialCold4, warm: Measure::SequentialWarm4 },
];

impl Pattern {
    /// Runs the pattern once. Returns operations a second for random reads, MB/s for sequential ones.
    pub fn run(&self, files: &[PathBuf], options: &Options) -> anyhow::Result<f64> {
        let random = self.kind == "randread";
        let names: Vec<String> = files.iter().map(|file| file.display().to_string().replace(':', "\\:")).collect();
        let mut arguments: Vec<String> = [
            "--name=peers",
            "--ioengine=psync",
            "--readonly",
            "--group_reporting",
            "--output-format=json",
            "--thread",
            // fio would drop the files from the cache before it starts.
            "--invalidate=0",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--rw={}", self.kind));
        arguments.push(format!("--bs={}", self.block));
        arguments.push(format!("--numjobs={}", self.jobs));
        arguments.push(format!("--filename={}", names.join(":")));
        if random {
            let seconds = if options.quick { 1 } else { 3 };
            arguments.extend([
                "--time_based".into(),
                format!("--runtime={seconds}"),
                "--randrepeat=1".into(),
                "--norandommap".into(),
            ]);
        }
        let text = output("fio", &arguments)?;
        // fio prints notes before the JSON.
        let json = text.find('{').map_or("", |start| &text[start..]);
        let answer: serde_json::Value = serde_json::from_str(json).context("fio's answer")?;
        let read = &answer["jobs"][0]["read"];
        let value = if random { &read["iops"] } else { &read["bw_bytes"] };
        let value = value.as_f64().context("fio's answer has no figure")?;
        Ok(if random { value } else { value / 1e6 })
    }
}
