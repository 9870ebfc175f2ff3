//! The verb `sapwood mounts`, which lists the running mounts with their figures, shows one in detail, and has running mounts go
//! on with a newer program.
//!
//! *Not here*: the figures (`fuse`, `cache`), the list of mounts and the exchange of the program (`crate::mount`). `find` is
//! also *used by* `debug`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{output, prefetch};
use crate::cache::LazyFigures;
use crate::cli::context::{Context, Run};
use crate::disk::MountTable;
use crate::fuse::{BulkReader, FILESYSTEM_TYPE, Health, RequestFigures, Service};
use crate::mount::{
    HANDOFF_VERSIONS, MountStatus, RunningMount, exchange_program, open_own_program, registry, to_open_metrics,
};

/// How long `--reexec` waits for the old worker to end, sending requests to the mount meanwhile.
const OLD_WORKER_EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// List the running mounts of this user, or show one of them in detail
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood mounts
  sapwood mounts /mnt
      how much of it is here, what was fetched, whether it works offline
  sapwood mounts --json
  sapwood mounts --openmetrics
      the figures as Prometheus reads them; see also 'mount --metrics-listen'
  sapwood mounts --reexec
      after an upgrade of this program: all mounts go on with it
  sapwood mounts --reexec /mnt
      the same for one
  sapwood mounts --whole /usr && nightly-index
      only where reading everything fetches nothing

STATE is 'ok'; 'ok, N restarts' when workers ended and were replaced; 'cached only' when they crashed so often that \
nothing is fetched any more, until ten minutes have passed without a crash; 'refusing' when no worker could be started \
(the repository is gone or damaged: the log says more), so that each access is an I/O error, and a worker is tried again \
at least once a minute; 'unsupervised' when the process that would replace a worker is gone; 'silent' when the mount's \
processes do not answer.")]
pub(crate) struct Args {
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
    /// Print nothing; end with 1 if this is a mount that lacks contents, which are fetched when they are read
    #[arg(long, requires = "mountpoint", conflicts_with_all = ["json", "openmetrics", "reexec"])]
    whole: bool,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let registry = registry();
        if let Some(path) = self.mountpoint.as_deref().filter(|_| self.whole) {
            return complete_exit_status(path);
        }
        let named = self.mountpoint.as_deref().map(find).transpose()?;
        if self.reexec {
            return reexec(&named.map_or_else(|| registry.list(), |mount| Ok(vec![mount]))?);
        }
        if self.openmetrics {
            let mounts = named.map_or_else(|| registry.list(), |mount| Ok(vec![mount]))?;
            let statuses: Vec<MountStatus> = mounts.iter().map(|mount| registry.status(mount)).collect();
            output::bytes(to_open_metrics(&statuses).as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(mount) = named {
            let status = registry.status(&mount);
            if self.json {
                output::json(&status)?
            } else {
                print_status(&status)?
            }
            return Ok(ExitCode::SUCCESS);
        }
        let mounts: Vec<MountStatus> = registry.list()?.iter().map(|mount| registry.status(mount)).collect();
        if self.json {
            output::json(&mounts)?;
        } else if mounts.is_empty() {
            output::note(match nix::unistd::geteuid().is_root() {
                true => "nothing is mounted",
                false => "nothing is mounted by this user; root sees the mounts of all, such as /usr of a deployment",
            });
        } else {
            let headings =
                ["MOUNTPOINT", "SOURCE", "COMMIT", "MODE", "PID", "SINCE", "MESSAGES", "READ", "ERRORS", "STATE"];
            let rows: Vec<Vec<String>> = mounts.iter().map(table_row).collect();
            output::table(&headings, &[4, 6, 7, 8], &rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the exit status of `--whole`: success if reading everything below `path` fetches nothing. That is also true if `path`
/// is not in a mount of Sapwood. It fails for a mount that does not answer, and for one of another user.
fn complete_exit_status(path: &Path) -> Result<ExitCode> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    let path = std::path::absolute(path).with_context(|| format!("cannot reach {}", path.display()))?;
    let there = match table.top(&path) {
        // It may not answer, so it is not looked at.
        Some(there) => Some(there),
        None => table.containing(&path.canonicalize().with_context(|| format!("cannot reach {}", path.display()))?),
    };
    let Some(there) = there.filter(|mount| mount.filesystem == FILESYSTEM_TYPE) else { return Ok(ExitCode::SUCCESS) };
    let registry = registry();
    let mount = registry.list()?.into_iter().find(|mount| mount.device == there.device);
    let is_complete = mount.is_some_and(|mount| {
        let status = registry.status(&mount);
        status.figures.is_some() && status.lazy.is_none_or(|lazy| lazy.offline_safe)
    });
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the mount of this user on `path`.
///
/// # Errors
/// When this user has no mount there.
pub(crate) fn find(path: &Path) -> Result<RunningMount> {
    let mount = prefetch::find_running_mount(path)?;
    mount.with_context(|| format!("nothing of yours is mounted on {}: 'sapwood mounts' lists what is", path.display()))
}

fn table_row(status: &MountStatus) -> Vec<String> {
    let mount = &status.mount;
    let unknown = || "?".to_owned();
    let figures = status.figures.as_ref();
    vec![
        mount.mountpoint.clone(),
        mount.source.clone(),
        mount.commit.short(),
        mount.mode.name().to_owned(),
        mount.pid.to_string(),
        mount.since.clone(),
        figures.map_or_else(unknown, |figures| output::count(figures.messages)),
        figures.map_or_else(unknown, |figures| output::size(figures.bytes_read)),
        figures.map_or_else(unknown, |figures| output::count(figures.errors)),
        describe_state(status.health.as_ref()),
    ]
}

fn describe_state(health: Option<&Health>) -> String {
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
        match exchange_worker(mount) {
            Ok(process) => output::note(format_args!("{}: served by process {process} now", mount.mountpoint)),
            Err(error) => {
                output::note(format_args!("sapwood: {}: {error:#}", mount.mountpoint));
                result = ExitCode::FAILURE;
            }
        }
    }
    Ok(result)
}

/// Has the mount go on with this program and returns the process id of its new worker.
fn exchange_worker(mount: &RunningMount) -> Result<u32> {
    if !HANDOFF_VERSIONS.contains(&mount.handoff) {
        bail!(
            "it was mounted by version {}, which hands a mount on in a format that this version, {}, does not know: it has to \
             be unmounted and mounted again",
            mount.version,
            env!("CARGO_PKG_VERSION")
        );
    }
    let registry = registry();
    exchange_program(&registry.exchange_socket_path(&mount.name), open_own_program()?)?;
    let begin = Instant::now();
    loop {
        let now = registry.list()?.into_iter().find(|other| other.name == mount.name).context("it ended meanwhile")?;
        let is_gone = !Path::new("/proc").join(mount.worker_pid.to_string()).exists();
        if (now.worker_pid != mount.worker_pid && is_gone) || begin.elapsed() > OLD_WORKER_EXIT_TIMEOUT {
            return Ok(now.worker_pid);
        }
        // On a kernel that cannot send a request again, the old worker ends only when each of its threads has answered one
        // more request. This sends one.
        if let Err(errno) = nix::sys::statvfs::statvfs(Path::new(&mount.mountpoint)) {
            tracing::debug!("{}: {errno}", mount.mountpoint);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn print_status(status: &MountStatus) -> Result<()> {
    let mount = &status.mount;
    let row = |name: &str, text: String| output::line(format_args!("  {name:<9} {text}"));
    output::line(format_args!("{}: {}, commit {}", mount.mountpoint, mount.source, mount.commit.short()))?;
    row("mounted", format!("{}, by process {}, {}", mount.since, mount.pid, mount.mode.name()))?;
    row("state", describe_state(status.health.as_ref()))?;
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
                row("read by", describe_bulk_readers(&figures.readers))?;
            }
        }
    }
    Ok(row("kernel", describe_kernel_messages(figures))?)
}

fn describe_kernel_messages(figures: &RequestFigures) -> String {
    let (messages, read) = (output::count(figures.messages), output::size(figures.bytes_read));
    match figures.errors {
        0 => format!("{messages} messages, {read} read"),
        errors => format!("{messages} messages, {read} read, {} errors", output::count(errors)),
    }
}

/// Describes the processes that read so much that a large part of the commit is fetched for them.
fn describe_bulk_readers(readers: &[BulkReader]) -> String {
    let name = |reader: &BulkReader| if reader.name.is_empty() { "?".to_owned() } else { reader.name.clone() };
    let one =
        |reader: &BulkReader| format!("{} (process {}): {}", name(reader), reader.pid, output::size(reader.bytes));
    readers.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn lazy_rows(lazy: &LazyFigures) -> Vec<(&'static str, String)> {
    let (count, size) = (output::count, output::size);
    let contents = match lazy.objects_local {
        None => format!("{} in all, {}; which are here is not known yet", count(lazy.objects), size(lazy.bytes)),
        Some(local) => {
            let parts = if lazy.bytes_partial == 0 {
                String::new()
            } else {
                format!(", and {} of others", size(lazy.bytes_partial))
            };
            format!(
                "{} of {} are here, {} of {}{parts}",
                count(local),
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
        percentage(lazy.hits, lazy.hits.saturating_add(lazy.misses))
    );
    let ahead = format!(
        "{} fetched ahead of reading, {} of it not read yet ({}); {} of what is read first",
        size(lazy.bytes_ahead),
        size(lazy.bytes_ahead_unread),
        percentage(lazy.bytes_ahead_unread, lazy.bytes_ahead),
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

fn percentage(part: u64, whole: u64) -> String {
    match (u128::from(part) * 100).checked_div(u128::from(whole)) {
        None => "-".to_owned(),
        Some(percent) => format!("{percent} %"),
    }
}
