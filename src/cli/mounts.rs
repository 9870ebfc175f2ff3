//! `sapwood mounts`: the running mounts with what they have done so far, and the exchange of the program below them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::mount::{HANDOFF_VERSION, own_program, registry};
use super::output;
use crate::fuse::{Health, RunningMount, Service, Status, exchange_program};

/// How long an old worker is helped to come to an end, where it has to end by itself.
const FAREWELL: Duration = Duration::from_secs(10);

/// List the running mounts of this user
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mounts
  sapwood mounts --json
  sapwood mounts --reexec          after an upgrade of this program: all mounts go on with it
  sapwood mounts --reexec /mnt     the same for one

STATE is 'ok'; 'ok, N restarts' when processes that served ended and were replaced; 'cached only' when they crashed so
often that nothing is fetched any more, until ten minutes have passed without a crash; 'unsupervised' when the process
that would replace them is gone; 'silent' when nobody answers.")]
pub struct Args {
    /// Print JSON, with the number of messages of each kind from the kernel
    #[arg(long)]
    json: bool,
    /// Have the mounts served by the program that this command is, without unmounting them
    #[arg(long, conflicts_with = "json")]
    reexec: bool,
    /// Only these
    mountpoints: Vec<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When the list cannot be read or printed, or a program not be exchanged.
pub fn run(args: &Args) -> Result<ExitCode> {
    let registry = registry();
    let mounts = wanted(args, registry.list()?)?;
    if args.reexec {
        return reexec(&mounts);
    }
    let mounts: Vec<Status> = mounts.iter().map(|mount| registry.status(mount)).collect();
    if args.json {
        output::json(&mounts)?;
    } else if mounts.is_empty() {
        output::note("nothing is mounted");
    } else {
        let headings =
            ["MOUNTPOINT", "SOURCE", "COMMIT", "MODE", "PID", "SINCE", "MESSAGES", "READ", "ERRORS", "STATE"];
        let rows: Vec<Vec<String>> = mounts.iter().map(cells).collect();
        output::table(&headings, &[4, 6, 7, 8], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Those that were named, or all.
fn wanted(args: &Args, mounts: Vec<RunningMount>) -> Result<Vec<RunningMount>> {
    if args.mountpoints.is_empty() {
        return Ok(mounts);
    }
    let find = |path: &PathBuf| {
        let absolute = std::path::absolute(path)?;
        let named = mounts.iter().find(|mount| Path::new(&mount.mountpoint) == absolute);
        named.cloned().with_context(|| format!("{} is not on the list of running mounts", path.display()))
    };
    args.mountpoints.iter().map(find).collect()
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
        state(status.health.as_ref()),
    ]
}

fn state(health: Option<&Health>) -> String {
    match health {
        None => "silent".to_owned(),
        Some(health) if health.service == Service::CachedOnly => format!("cached only, {} crashes", health.crashes),
        Some(health) if !health.is_supervised => "unsupervised".to_owned(),
        Some(health) if health.deaths > 0 => format!("ok, {} restarts", health.deaths),
        Some(_) => "ok".to_owned(),
    }
}

fn reexec(mounts: &[RunningMount]) -> Result<ExitCode> {
    let mut result = ExitCode::SUCCESS;
    for mount in mounts {
        match exchange(mount) {
            Ok(process) => output::note(format_args!("{}: served by process {process} now", mount.mountpoint)),
            Err(error) => {
                output::note(format_args!("sapwood: {}: {error:#}", mount.mountpoint));
                result = ExitCode::FAILURE;
            }
        }
    }
    Ok(result)
}

/// Exchanges the program; returns the process that serves.
fn exchange(mount: &RunningMount) -> Result<u32> {
    if mount.handoff != HANDOFF_VERSION {
        bail!(
            "it was mounted by version {}, which hands a mount on in another way than this one, {}: it has to be unmounted \
             and mounted again",
            mount.version,
            env!("CARGO_PKG_VERSION")
        );
    }
    let registry = registry();
    exchange_program(&registry.orders_socket(&mount.name), own_program()?)?;
    let begin = Instant::now();
    loop {
        let now = registry.list()?.into_iter().find(|other| other.name == mount.name).context("it ended meanwhile")?;
        let is_gone = !Path::new("/proc").join(mount.worker_pid.to_string()).exists();
        if (now.worker_pid != mount.worker_pid && is_gone) || begin.elapsed() > FAREWELL {
            return Ok(now.worker_pid);
        }
        // On a kernel that cannot send a request again, the old process ends when each of its threads has answered one more.
        if let Err(errno) = nix::sys::statvfs::statvfs(Path::new(&mount.mountpoint)) {
            tracing::debug!("{}: {errno}", mount.mountpoint);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
