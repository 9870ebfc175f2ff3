//! `sapwood mounts`: the running mounts with what they have done so far, one of them in words, and the exchange of the
//! program below them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::mount::{HANDOFF_VERSION, own_program, registry};
use super::{output, prefetch};
use crate::cache::LazyFigures;
use crate::fuse::{BulkReader, Figures, Health, RunningMount, Service, Status, exchange_program, open_metrics};

/// How long an old worker is helped to come to an end, where it has to end by itself.
const FAREWELL: Duration = Duration::from_secs(10);

/// List the running mounts of this user, or say how one of them stands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mounts
  sapwood mounts /mnt              how much of it is here, what was fetched, whether it works offline
  sapwood mounts --json
  sapwood mounts --openmetrics     the figures as Prometheus reads them; see also 'mount --metrics-listen'
  sapwood mounts --reexec          after an upgrade of this program: all mounts go on with it
  sapwood mounts --reexec /mnt     the same for one
  sapwood mounts --whole /usr && nightly-index   only where reading everything fetches nothing

STATE is 'ok'; 'ok, N restarts' when processes that served ended and were replaced; 'cached only' when they crashed so
often that nothing is fetched any more, until ten minutes have passed without a crash; 'refusing' when none came to serve
(the repository is gone or damaged: the log says more), each access is an I/O error, and one is tried again at least once
a minute; 'unsupervised' when the process
that would replace them is gone; 'silent' when nobody answers.")]
pub struct Args {
    /// Only this one, in detail
    mountpoint: Option<PathBuf>,
    /// Print JSON, with the number of messages of each kind from the kernel
    #[arg(long)]
    json: bool,
    /// Print OpenMetrics
    #[arg(long, conflicts_with = "json")]
    openmetrics: bool,
    /// Have the mounts served by the program that this command is, without unmounting them
    #[arg(long, conflicts_with_all = ["json", "openmetrics"])]
    reexec: bool,
    /// Print nothing; end with 1 if this one is a mount that lacks contents, which are fetched when they are read
    #[arg(long, requires = "mountpoint", conflicts_with_all = ["json", "openmetrics", "reexec"])]
    whole: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the list cannot be read or printed, nothing of ours is mounted there, or a program cannot be exchanged.
pub fn run(args: &Args) -> Result<ExitCode> {
    let registry = registry();
    if let Some(path) = args.mountpoint.as_deref().filter(|_| args.whole) {
        return is_whole(path);
    }
    let named = args.mountpoint.as_deref().map(find).transpose()?;
    if args.reexec {
        return reexec(&named.map_or_else(|| registry.list(), |mount| Ok(vec![mount]))?);
    }
    if args.openmetrics {
        let mounts = named.map_or_else(|| registry.list(), |mount| Ok(vec![mount]))?;
        let statuses: Vec<Status> = mounts.iter().map(|mount| registry.status(mount)).collect();
        output::bytes(open_metrics(&statuses).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(mount) = named {
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
        let headings =
            ["MOUNTPOINT", "SOURCE", "COMMIT", "MODE", "PID", "SINCE", "MESSAGES", "READ", "ERRORS", "STATE"];
        let rows: Vec<Vec<String>> = mounts.iter().map(cells).collect();
        output::table(&headings, &[4, 6, 7, 8], &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns success if reading all that is on `path` fetches nothing, which is also true where no mount of ours is.
fn is_whole(path: &Path) -> Result<ExitCode> {
    let Some(mount) = prefetch::running_mount(&path.to_string_lossy())? else { return Ok(ExitCode::SUCCESS) };
    let status = registry().status(&mount);
    let answers = status.figures.is_some();
    let is_whole = answers && status.lazy.is_none_or(|lazy| lazy.offline_safe);
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The mount of this user on `path`.
///
/// # Errors
/// When there is none.
pub fn find(path: &Path) -> Result<RunningMount> {
    let mount = prefetch::running_mount(&path.to_string_lossy())?;
    mount.with_context(|| format!("nothing of yours is mounted on {}: 'sapwood mounts' lists what is", path.display()))
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
        Some(health) if health.service == Service::Refusing => "refusing: no worker comes to serve".to_owned(),
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

fn describe(status: &Status) -> Result<()> {
    let mount = &status.mount;
    let row = |name: &str, text: String| output::line(format_args!("  {name:<9} {text}"));
    output::line(format_args!("{}: {}, commit {}", mount.mountpoint, mount.source, mount.commit.short()))?;
    row("mounted", format!("{}, by process {}, {}", mount.since, mount.pid, mount.mode.word()))?;
    row("state", state(status.health.as_ref()))?;
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
            if !figures.readers.is_empty() {
                row("read by", bulk_readers(&figures.readers))?;
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

/// The processes that have much fetched.
fn bulk_readers(readers: &[BulkReader]) -> String {
    let name = |reader: &BulkReader| if reader.name.is_empty() { "?".to_owned() } else { reader.name.clone() };
    let one =
        |reader: &BulkReader| format!("{} (process {}): {}", name(reader), reader.pid, output::size(reader.bytes));
    readers.iter().map(one).collect::<Vec<_>>().join(", ")
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
        share(lazy.hits, lazy.hits.saturating_add(lazy.misses))
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
    match (u128::from(part) * 100).checked_div(u128::from(whole)) {
        None => "-".to_owned(),
        Some(percent) => format!("{percent} %"),
    }
}
