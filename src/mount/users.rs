//! The processes that keep a mount in use, as far as `/proc` shows them.
//!
//! *Used by* `cli`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::disk::MountPoint;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountUser {
    /// The process number.
    pub(crate) pid: u32,
    /// The name of its program.
    pub(crate) command: String,
    /// What it uses: `cwd`, `root`, `exe`, an open file or a mapped file.
    pub(crate) holds: String,
}

/// Returns the processes that use `mount`. Only root sees those of other users.
pub(crate) fn users_of(mount: &MountPoint) -> Vec<MountUser> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut users: Vec<MountUser> = pids.filter_map(|pid| user(pid, mount)).collect();
    users.sort_by_key(|user| user.pid);
    users
}

fn user(pid: u32, mount: &MountPoint) -> Option<MountUser> {
    let process = Path::new("/proc").join(pid.to_string());
    let holds = held_by_link(&process, mount).or_else(|| held_by_map(&process, mount))?;
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
    Some(MountUser { pid, command, holds })
}

fn held_by_link(process: &Path, mount: &MountPoint) -> Option<String> {
    let below = |link: &Path| fs::read_link(link).ok().filter(|target| target.starts_with(&mount.path));
    for name in ["cwd", "root", "exe"] {
        if let Some(target) = below(&process.join(name)) {
            return Some(format!("{name} {}", target.display()));
        }
    }
    let files = fs::read_dir(process.join("fd")).ok()?;
    files.filter_map(Result::ok).find_map(|file| Some(format!("open {}", below(&file.path())?.display())))
}

/// Returns the first mapped file of the process in `mount`. Lines have the form
/// `7f00-7f01 r-xp 00000000 00:41 17  /mnt/bin/sh`, with the device in hexadecimal.
fn held_by_map(process: &Path, mount: &MountPoint) -> Option<String> {
    let (major, minor) = mount.device.split_once(':')?;
    let device = format!("{:02x}:{:02x}", major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    let maps = BufReader::new(fs::File::open(process.join("maps")).ok()?);
    let line = maps.split(b'\n').filter_map(Result::ok).find(|line| {
        let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        fields.nth(3).is_some_and(|field| field == device.as_bytes())
    })?;
    let text = String::from_utf8_lossy(&line).into_owned();
    Some(format!("mapped {}", text.split_whitespace().nth(5).unwrap_or("a file")))
}
