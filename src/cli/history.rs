//! `sapwood history`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::output;
use super::sysroot_args::SysrootArgs;
use crate::deploy::history::{self, Happening};

/// What was deployed, booted and given up on this machine, and when
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood history             newest first
  sapwood history --boots     only what was booted
  sapwood history --json -n 100")]
pub struct Args {
    /// Only what was booted
    #[arg(long)]
    boots: bool,

    /// How many lines at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    lines: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

/// Runs the verb.
///
/// # Errors
/// When the log cannot be read.
pub fn run(args: &Args) -> Result<ExitCode> {
    let opened = args.sysroot.open()?;
    let path = opened.sysroot.layout().history();
    let mut entries = history::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    entries.retain(|entry| !args.boots || entry.event == Happening::Booted);
    entries.reverse();
    entries.truncate(args.lines);
    if args.json {
        output::json(&entries)?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |entry: &history::HistoryEntry| {
        vec![
            output::time(entry.time),
            entry.event.word().to_owned(),
            entry.deployment.to_string(),
            entry.version.clone().unwrap_or_default(),
            entry.detail.clone().unwrap_or_default(),
        ]
    };
    if entries.is_empty() {
        output::note("nothing happened yet");
    } else {
        let rows: Vec<_> = entries.iter().map(row).collect();
        output::table(&["TIME", "WHAT", "DEPLOYMENT", "VERSION", "MORE"], &[], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}
