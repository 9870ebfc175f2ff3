//! The verb `sapwood history`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::output;
use super::sysroot_args::SysrootArgs;
use crate::cli::context::{Context, Run};
use crate::deploy::history::{self, HistoryEvent};

/// What was deployed, booted and given up on this machine, and when
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood history             newest first
  sapwood history --boots     only what was booted
  sapwood history --json -n 100")]
pub(crate) struct Args {
    /// Only what was booted
    #[arg(long)]
    boots: bool,

    /// The largest number of lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    lines: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    sysroot: SysrootArgs,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let opened = self.sysroot.open()?;
        let path = opened.sysroot.layout().history();
        let mut entries = history::read_history(&path).with_context(|| format!("cannot read {}", path.display()))?;
        entries.retain(|entry| !self.boots || entry.event == HistoryEvent::Booted);
        entries.reverse();
        entries.truncate(self.lines);
        if self.json {
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
}
