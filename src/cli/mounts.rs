//! `sapwood mounts`: the running mounts with what they have done so far.

use std::io::{self, Write};

use super::mount::registry;
use crate::fuse::Status;

/// List running mounts
#[derive(Debug, Clone, clap::Args)]
pub struct MountsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the list.
///
/// # Errors
/// When the list cannot be read or printed.
pub fn run(args: &MountsArgs) -> anyhow::Result<()> {
    let registry = registry();
    let mounts: Vec<Status> = registry.list()?.iter().map(|mount| registry.status(mount)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &mounts)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", table(&mounts))?;
    }
    Ok(())
}

/// One line a mount below a line of headings, columns as wide as their widest cell.
fn table(mounts: &[Status]) -> String {
    let headings = ["MOUNTPOINT", "SOURCE", "COMMIT", "MODE", "PID", "SINCE", "MESSAGES", "READ", "ERRORS"];
    let mut rows = vec![headings.map(str::to_owned)];
    rows.extend(mounts.iter().map(cells));
    let widths: Vec<usize> =
        (0..headings.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 9]| {
        let padded: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", padded.trim_end())
    };
    rows.iter().map(line).collect()
}

fn cells(status: &Status) -> [String; 9] {
    let mount = &status.mount;
    let figure = |figure: Option<String>| figure.unwrap_or_else(|| "?".to_owned());
    [
        mount.mountpoint.clone(),
        mount.source.clone(),
        mount.commit.short(),
        mount.mode.word().to_owned(),
        mount.pid.to_string(),
        mount.since.clone(),
        figure(status.figures.as_ref().map(|figures| figures.messages.to_string())),
        figure(status.figures.as_ref().map(|figures| format!("{:.1} MiB", figures.bytes_read as f64 / 1_048_576.0))),
        figure(status.figures.as_ref().map(|figures| figures.errors.to_string())),
    ]
}
