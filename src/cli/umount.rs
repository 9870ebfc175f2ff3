//! `sapwood umount`: ends a mount and waits until the process behind it has gone.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::mount::registry;
use super::output;
use crate::disk::{MountPoint, MountTable};
use crate::fuse::{FILESYSTEM_TYPE, Processes, RunningMount, Unmount, UnmountError, unmount, users_of};

/// A daemon without a mount ends within milliseconds; one that takes this long hangs in something else.
const PATIENCE: Duration = Duration::from_secs(10);

/// End a mount
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood umount /mnt
  sapwood umount --lazy /mnt")]
pub struct Args {
    /// Take it out of sight now, even if in use; it ends when its last user is gone
    #[arg(short, long)]
    lazy: bool,
    /// Where it is mounted
    mountpoint: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// When nothing of ours is mounted there, or it is in use; then the message names who uses it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    let mount = find(&table, &args.mountpoint)?;
    let entry = registry().list()?.into_iter().find(|entry| entry.device == mount.device);
    let processes = entry.as_ref().map(RunningMount::processes);
    let how = if args.lazy { Unmount::Lazy } else { Unmount::Now };
    match unmount(&mount.path, how) {
        Err(UnmountError::Busy { .. }) => bail!(describe_users(&table, &mount)),
        result => result?,
    }
    if let (Some(entry), Some(processes), Unmount::Now) = (entry, processes, how) {
        wait_for_end(&mount, &entry, &processes)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The mount that the user means, found without touching it: its daemon may be the reason to unmount.
fn find(table: &MountTable, given: &Path) -> Result<MountPoint> {
    let path = match table.top(given) {
        Some(_) => given.to_owned(),
        None => without_links(given)?,
    };
    match table.top(&path) {
        None => bail!("{} is not mounted", path.display()),
        Some(there) if there.filesystem != FILESYSTEM_TYPE => {
            bail!("what is mounted on {} is not Sapwood's but {} ({})", path.display(), there.source, there.filesystem)
        }
        Some(there) => Ok(there.clone()),
    }
}

/// The path with its parent resolved; the last part stays unless it is a link.
fn without_links(given: &Path) -> Result<PathBuf> {
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
    for user in users_of(mount) {
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
    text.push_str("\nend these first, or take the mount away under them with --lazy");
    text
}

fn wait_for_end(mount: &MountPoint, entry: &RunningMount, processes: &Processes) -> Result<()> {
    let table = MountTable::read().context("cannot read the list of mounts")?;
    // A bind mount of it elsewhere keeps the filesystem, which is as it should be.
    if table.mounts_of(&mount.device).next().is_some() || processes.wait_for_end(PATIENCE) {
        return Ok(());
    }
    output::note(format_args!(
        "{} is unmounted, but process {} behind it still runs: perhaps another mount namespace holds the mount",
        mount.path.display(),
        entry.pid
    ));
    Ok(())
}
