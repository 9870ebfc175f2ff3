//! The cost of a command: time, CPU, memory, and the traffic of the link meanwhile.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;

use crate::link::Link;
use crate::machine;

/// The cost of a command or of other work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Wall time.
    pub seconds: f64,
    /// User and system time of the command and its children.
    pub cpu: Option<f64>,
    /// Peak memory of one process of it, in MiB.
    pub peak: Option<f64>,
    /// Requests through the link.
    pub requests: Option<u64>,
    /// Megabytes towards the client.
    pub megabytes: Option<f64>,
}

/// Runs a command to its end.
pub fn of_command(command: Command) -> anyhow::Result<Cost> {
    let figures = tempfile::NamedTempFile::new()?;
    let mut timed = Command::new("/usr/bin/time");
    timed.args(["-q", "-f", "%e %U %S %M", "-o"]).arg(figures.path()).arg("--").arg(command.get_program());
    timed.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => timed.env(name, value),
            None => timed.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        timed.current_dir(directory);
    }
    machine::time(timed)?;
    let text = fs::read_to_string(figures.path())?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [seconds, user, system, kib] = numbers[..] else { anyhow::bail!("time printed {text:?}") };
    Ok(Cost { seconds, cpu: Some(user + system), peak: Some(kib / 1024.0), ..Cost::default() })
}

/// Measures work that uses `link`.
pub fn through(link: &Link, work: impl FnOnce() -> anyhow::Result<Cost>) -> anyhow::Result<Cost> {
    let before = link.traffic();
    let cost = work()?;
    let now = link.traffic();
    let megabytes = (now.received - before.received) as f64 / 1e6;
    Ok(Cost { requests: Some(now.requests - before.requests), megabytes: Some(megabytes), ..cost })
}

/// Measures work that is no command.
pub fn of_work(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
    let begin = Instant::now();
    work()?;
    Ok(Cost { seconds: begin.elapsed().as_secs_f64(), ..Cost::default() })
}

/// Returns the bytes of a directory or file on disk, in MB; holes and rounding to blocks are not counted.
pub fn size(path: &std::path::Path) -> anyhow::Result<f64> {
    let path = path.to_str().context("paths of the benchmark are UTF-8")?;
    let used = machine::output("du", ["-sb", "--apparent-size", path])?;
    let bytes: f64 = used.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(bytes / 1e6)
}
