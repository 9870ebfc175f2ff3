//! `sapwood mounts`: the running mounts with what they have done so far, or one of them in words.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::mount::registry;
use super::{output, prefetch};
use crate::cache::LazyFigures;
use crate::fuse::{Figures, Status};

/// List the running mounts of this user, or say how one of them stands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mounts
  sapwood mounts /mnt          how much of it is here, what was fetched, whether it works offline
  sapwood mounts --json")]
pub struct Args {
    /// Only this one, in detail
    mountpoint: Option<PathBuf>,
    /// Print JSON, with the number of messages of each kind from the kernel
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the list cannot be read or printed, or nothing of ours is mounted there.
pub fn run(args: &Args) -> Result<ExitCode> {
    let registry = registry();
    if let Some(path) = &args.mountpoint {
        let Some(mount) = prefetch::running_mount(&path.to_string_lossy())? else {
            bail!("nothing of yours is mounted on {}: 'sapwood mounts' lists what is", path.display())
        };
        let status = registry.status(&mount);
        if args.json {
            output::json(&status)?
        } else {
            describe(&status)?
        }
        return Ok(ExitCode::SUCCESS);
    }
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

fn describe(status: &Status) -> Result<()> {
    let mount = &status.mount;
    let row = |name: &str, text: String| output::line(format_args!("  {name:<9} {text}"));
    output::line(format_args!("{}: {}, commit {}", mount.mountpoint, mount.source, mount.commit.short()))?;
    row("mounted", format!("{}, by process {}, {}", mount.since, mount.pid, mount.mode.word()))?;
    row("keeps in", mount.repo.clone())?;
    let Some(figures) = &status.figures else {
        return Ok(row("figures", "its process does not answer".to_owned())?);
    };
    match &status.lazy {
        None => row("contents", "all are here".to_owned())?,
        Some(lazy) => {
            for (name, text) in lazy_rows(lazy) {
                row(name, text)?;
            }
        }
    }
    Ok(row("kernel", kernel(figures))?)
}

fn kernel(figures: &Figures) -> String {
    let (messages, read) = (output::count(figures.messages), output::size(figures.bytes_read));
    match figures.errors {
        0 => format!("{messages} messages, {read} read"),
        errors => format!("{messages} messages, {read} read, {} errors", output::count(errors)),
    }
}

fn lazy_rows(lazy: &LazyFigures) -> Vec<(&'static str, String)> {
    let (count, size) = (output::count, output::size);
    let contents = match lazy.objects_local {
        None => format!("{} in all, {}; which are here is not known yet", count(lazy.objects), size(lazy.bytes)),
        Some(here) => {
            let parts = if lazy.bytes_partial == 0 {
                String::new()
            } else {
                format!(", and {} of others", size(lazy.bytes_partial))
            };
            format!(
                "{} of {} are here, {} of {}{parts}",
                count(here),
                count(lazy.objects),
                size(lazy.bytes_local),
                size(lazy.bytes)
            )
        }
    };
    let offline = match (lazy.offline_safe, lazy.image_blocks_missing) {
        (true, _) => "works: everything is here".to_owned(),
        (false, 0) => "only what is here works".to_owned(),
        (false, missing) => format!("only what is here works; {missing} blocks of names and digests are missing, too"),
    };
    let remote = match lazy.offline_seconds {
        None => "answers".to_owned(),
        Some(seconds) => format!("has not answered for {seconds} s"),
    };
    let fetched = format!("{} in {} requests", size(lazy.bytes_fetched), count(lazy.requests));
    let failures =
        if lazy.failures == 0 { String::new() } else { format!(", {} of which failed", count(lazy.failures)) };
    let reads = format!(
        "{} answered at once, {} waited ({})",
        count(lazy.hits),
        count(lazy.misses),
        share(lazy.hits, lazy.hits + lazy.misses)
    );
    let ahead = format!(
        "{} fetched ahead of reading, {} of it not read yet ({}); {} of what is read first",
        size(lazy.bytes_ahead),
        size(lazy.bytes_ahead_unread),
        share(lazy.bytes_ahead_unread, lazy.bytes_ahead),
        size(lazy.bytes_streamed)
    );
    let evicted = format!("{} evicted, {}", count(lazy.evictions), size(lazy.bytes_evicted));
    let cache = match lazy.cache_limit {
        None => "without a limit".to_owned(),
        Some(limit) => format!("{} of {} used; {evicted}", size(lazy.cache_used), size(limit)),
    };
    vec![
        ("contents", contents),
        ("offline", offline),
        ("remote", remote),
        ("fetched", fetched + &failures),
        ("reads", reads),
        ("ahead", ahead),
        ("cache", cache),
    ]
}

fn share(part: u64, whole: u64) -> String {
    match (part * 100).checked_div(whole) {
        None => "-".to_owned(),
        Some(percent) => format!("{percent} %"),
    }
}
