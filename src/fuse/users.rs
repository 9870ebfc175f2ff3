//! Which processes keep a mount busy, as far as `/proc` shows.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::disk::MountPoint;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub pid: u32,
    /// The name of its program.
    pub command: String,
    /// What it holds: `cwd`, `root`, `exe`, an open file, a mapped file.
    pub holds: String,
}

/// The processes that use `mount`. Those of other users are seen by root only.
#[must_use]
pub fn users_of(mount: &MountPoint) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut users: Vec<User> = pids.filter_map(|pid| user(pid, mount)).collect();
    users.sort_by_key(|user| user.pid);
    users
}

fn user(pid: u32, mount: &MountPoint) -> Option<User> {
    let process = Path::new("/proc").join(pid.to_string());
    let holds = held_by_link(&process, mount).or_else(|| held_by_map(&process, mount))?;
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
    Some(User { pid, command, holds })
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

/// `7f00-7f01 r-xp 00000000 00:41 17  /mnt/bin/sh`, the device in hexadecimal.
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
