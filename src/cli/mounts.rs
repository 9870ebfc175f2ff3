//! `sapwood mounts`: the running mounts with what they have done so far.

use std::process::ExitCode;

use anyhow::Result;

use super::mount::registry;
use super::output;
use crate::fuse::Status;

/// List the running mounts of this user
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mounts
  sapwood mounts --json")]
pub struct Args {
    /// Print JSON, with the number of messages of each kind from the kernel
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the list cannot be read or printed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let registry = registry();
    let mounts: Vec<Status> = registry.list()?.iter().map(|mount| registry.status(mount)).collect();
    if args.json {
        output::json(&mounts)?;
    } else if mounts.is_empty() {
        output::note("nothing is mounted");
    } else {
        let headings = ["MOUNTPOINT", "SOURCE", "COMMIT", "MODE", "PID", "SINCE", "MESSAGES", "READ", "ERRORS"];
        let rows: Vec<Vec<String>> = mounts.iter().map(cells).collect();
        output::table(&headings, &[4, 6, 7, 8], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(status: &Status) -> Vec<String> {
    let mount = &status.mount;
    let silent = || "?".to_owned();
    let figures = status.figures.as_ref();
    vec![
        mount.mountpoint.clone(),
        mount.source.clone(),
        mount.commit.short(),
        mount.mode.word().to_owned(),
        mount.pid.to_string(),
        mount.since.clone(),
        figures.map_or_else(silent, |figures| output::count(figures.messages)),
        figures.map_or_else(silent, |figures| output::size(figures.bytes_read)),
        figures.map_or_else(silent, |figures| output::count(figures.errors)),
    ]
}
