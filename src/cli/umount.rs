//! The verb `sapwood umount`, which ends a mount and waits until the processes behind it have ended.
//!
//! *Not here*: unmounting, see `fuse::unmount`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{error, output};
use crate::cli::context::{Context, Run};
use crate::disk::{MountPoint, MountTable};
use crate::fuse::{FILESYSTEM_TYPE, Unmount, UnmountError, unmount};
use crate::mount::{MountProcesses, RunningMount, registry, users_of};

/// How long a mount may be in use without a process that uses it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause between two attempts to unmount such a mount.
const CLOSE_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How long to wait for the processes behind a mount. Without a mount they end within milliseconds; a process that takes this
/// long hangs in something else.
const DAEMON_EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// End mounts
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood umount /mnt
  sapwood umount /mnt/a /mnt/b
  sapwood umount --lazy /mnt
  sapwood umount --all
      every mount of this user that is seen here, the last one first")]
pub(crate) struct Args {
    /// Remove the mount from the directory now, even if it is in use; it ends when its last user is gone
    #[arg(short, long)]
    lazy: bool,
    /// End all mounts of this user
    #[arg(short, long, conflicts_with = "mountpoints")]
    all: bool,
    /// The directories on which they are mounted
    #[arg(value_name = "MOUNTPOINT", required_unless_present = "all")]
    mountpoints: Vec<PathBuf>,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let how = if self.lazy { Unmount::Lazy } else { Unmount::Now };
        let mountpoints = if self.all { own_mountpoints()? } else { self.mountpoints.clone() };
        if mountpoints.is_empty() {
            output::note("nothing is mounted");
        }
        let failures: Vec<anyhow::Error> = mountpoints.iter().filter_map(|path| end(path, how).err()).collect();
        let Some((last, others)) = failures.split_last() else { return Ok(ExitCode::SUCCESS) };
        others.iter().for_each(|error| _ = error::report(error));
        Ok(error::report(last))
    }
}

/// Ends one mount and waits for its processes, unless it is only taken away.
fn end(mountpoint: &Path, how: Unmount) -> Result<()> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    let mount = find_mount(&table, mountpoint)?;
    let entry = registry().list()?.into_iter().find(|entry| entry.device == mount.device);
    let processes = entry.as_ref().map(RunningMount::processes);
    match unmount_when_closed(&mount, how) {
        Err(UnmountError::Busy { .. }) => bail!(describe_users(&table, &mount)),
        result => result?,
    }
    if let (Some(entry), Some(processes), Unmount::Now) = (entry, processes, how) {
        wait_for_end(&mount, &entry, &processes)?;
    }
    Ok(())
}

/// Returns where the mounts of this user are in this mount namespace, the last one first: it may lie inside an earlier one.
fn own_mountpoints() -> Result<Vec<PathBuf>> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    let running = registry().list()?;
    let is_own = |mount: &&MountPoint| {
        mount.filesystem == FILESYSTEM_TYPE && running.iter().any(|entry| entry.device == mount.device)
    };
    Ok(table.all().iter().rev().filter(is_own).map(|mount| mount.path.clone()).collect())
}

/// Unmounts, and tries again for a moment if the mount is in use by no process: the kernel finishes closing a file shortly
/// after the process that had it open goes on or ends.
fn unmount_when_closed(mount: &MountPoint, how: Unmount) -> Result<(), UnmountError> {
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    loop {
        match unmount(&mount.path, how) {
            Err(UnmountError::Busy { .. }) if Instant::now() < deadline && users_of(mount).is_empty() => {
                thread::sleep(CLOSE_RETRY_DELAY);
            }
            done => return done,
        }
    }
}

/// Finds the mount without accessing it: its daemon may hang, which may be the reason to unmount.
fn find_mount(table: &MountTable, given: &Path) -> Result<MountPoint> {
    let path = match table.top(given) {
        Some(_) => given.to_owned(),
        None => resolve_without_touching(given)?,
    };
    match table.top(&path) {
        None => bail!("{} is not mounted", path.display()),
        Some(mount) if mount.filesystem != FILESYSTEM_TYPE => {
            bail!("what is mounted on {} is not Sapwood's but {} ({})", path.display(), mount.source, mount.filesystem)
        }
        Some(mount) => Ok(mount.clone()),
    }
}

/// Returns the path with its parent resolved. The last component is only resolved if it is a link.
fn resolve_without_touching(given: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(given)?;
    let resolved = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if name != OsStr::new("..") && !given.ends_with("..") => {
            parent.canonicalize().map(|parent| parent.join(name))
        }
        _ => absolute.canonicalize(),
    };
    let resolved = resolved.with_context(|| format!("cannot reach {}", given.display()))?;
    match resolved.read_link() {
        Ok(_) => resolved.canonicalize().with_context(|| format!("cannot reach {}", given.display())),
        Err(_) => Ok(resolved),
    }
}

fn describe_users(table: &MountTable, mount: &MountPoint) -> String {
    let mut text = format!("{} is in use", mount.path.display());
    let empty = text.len();
    for user in users_of(mount).into_iter().filter(|user| user.pid != std::process::id()) {
        text.push_str(&format!("\n  process {} ({}): {}", user.pid, user.command, user.holds));
    }
    let inside = table.all().iter().filter(|other| other.path != mount.path && other.path.starts_with(&mount.path));
    for other in inside {
        text.push_str(&format!("\n  mount on {} ({})", other.path.display(), other.filesystem));
    }
    let below = mount.path.display().to_string();
    for other in table.all().iter().filter(|other| other.options.contains(&below)) {
        text.push_str(&format!("\n  mount on {} ({}) is made of it", other.path.display(), other.filesystem));
    }
    text.push_str(if text.len() == empty {
        ", and no process is seen that uses it: it has just ended, or waits for the kernel, or lives in another mount \
         namespace. Try again, or take the mount away under it with --lazy"
    } else {
        "\nend these first, or take the mount away under them with --lazy"
    });
    text
}

fn wait_for_end(mount: &MountPoint, entry: &RunningMount, processes: &MountProcesses) -> Result<()> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    // A bind mount of the filesystem elsewhere keeps it alive, which is intended.
    if table.mounts_of(&mount.device).next().is_some() || processes.wait_for_end(DAEMON_EXIT_TIMEOUT) {
        return Ok(());
    }
    output::note(format_args!(
        "{} is unmounted, but process {} behind it still runs: perhaps another mount namespace holds the mount",
        mount.path.display(),
        entry.pid
    ));
    Ok(())
}
