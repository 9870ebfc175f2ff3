//! `sapwood debug`: what somebody who is to help has to know, in one file that can be read before it is given away.
//!
//! No contents, no keys, no credentials: URLs are shown without what stands before their `@` or behind their `?`.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::mount::{registry, runtime_directory};
use super::{mounts, output};
use crate::disk;
use crate::fuse::{RunningMount, open_metrics};

/// Bytes of the log that are looked at, from its end.
const LOG_MAX: u64 = 1 << 20;

/// Collect what is needed to find out what is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood debug bundle /mnt                into a file of the current directory
  sapwood debug bundle /mnt report.txt
  sapwood debug bundle /mnt -              to standard output

The report is plain text: figures, health, the state of the processes, the log of the mount, the settings of
its repository. It holds no contents of files, no keys and no passwords.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// About one mount, in one file
    Bundle {
        /// The mount
        mountpoint: PathBuf,
        /// The file, or - [default: sapwood-debug-TIME.txt]
        file: Option<PathBuf>,
    },
}

/// Runs the verb.
///
/// # Errors
/// When nothing of this user is mounted there, or the file cannot be written.
pub fn run(args: &Args) -> Result<ExitCode> {
    let What::Bundle { mountpoint, file } = &args.what;
    let mount = mounts::find(mountpoint)?;
    let report = report(&mount);
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let file = file.clone().unwrap_or_else(|| format!("sapwood-debug-{now}.txt").into());
    if file == Path::new("-") {
        output::bytes(report.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    disk::replace(&file, report.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
    output::line(file.display())?;
    Ok(ExitCode::SUCCESS)
}

/// What cannot be learned is said in its place: half a report is better than none.
fn report(mount: &RunningMount) -> String {
    let status = registry().status(mount);
    let device = mount.device.split_once(':').map_or("", |(_, minor)| minor).to_owned();
    let connection = Path::new("/sys/fs/fuse/connections").join(device);
    let repository = Path::new(&mount.repo);
    let mut report = Report::default();
    report.part("version", env!("CARGO_PKG_VERSION"));
    report.file("kernel", Path::new("/proc/version"));
    report.part("status", &serde_json::to_string_pretty(&status).unwrap_or_else(|error| error.to_string()));
    report.part("metrics", &open_metrics(&[status]));
    for (name, pid) in [("supervisor", mount.pid), ("worker", mount.worker_pid)] {
        for file in ["status", "limits", "oom_score", "wchan", "cgroup"] {
            report.file(&format!("{name}: {file}"), &Path::new("/proc").join(pid.to_string()).join(file));
        }
        report.part(&format!("{name}: open files"), &descriptors(pid));
    }
    for file in ["waiting", "max_background", "congestion_threshold"] {
        report.file(&format!("connection: {file}"), &connection.join(file));
    }
    let is_ours = |line: &&str| line.split(' ').nth(2) == Some(&mount.device);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    report.part("mount table", &table.lines().filter(is_ours).collect::<Vec<_>>().join("\n"));
    report.file("repository: settings", &repository.join("config.toml"));
    report.part("repository: room", &room(repository));
    for file in ["/proc/meminfo", "/proc/loadavg", "/proc/pressure/io", "/proc/pressure/memory"] {
        report.file(file, Path::new(file));
    }
    report.part("log", &log(mount).unwrap_or_else(|error| format!("{error:#}")));
    without_secrets(&report.0)
}

#[derive(Default)]
struct Report(String);

impl Report {
    fn part(&mut self, name: &str, text: &str) {
        self.0.push_str(&format!("=== {name}\n{}\n\n", text.trim_end()));
    }

    fn file(&mut self, name: &str, path: &Path) {
        self.part(name, &fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display())));
    }
}

fn descriptors(pid: u32) -> String {
    match fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) {
        Ok(entries) => entries.count().to_string(),
        Err(error) => error.to_string(),
    }
}

fn room(repository: &Path) -> String {
    match rustix::fs::statvfs(repository) {
        Ok(found) => format!(
            "{} of {} bytes free, {} of {} inodes free",
            found.f_bavail * found.f_frsize,
            found.f_blocks * found.f_frsize,
            found.f_favail,
            found.f_files
        ),
        Err(errno) => io::Error::from(errno).to_string(),
    }
}

/// What the processes of the mount have logged: from the journal, or from our file.
fn log(mount: &RunningMount) -> Result<String> {
    let path = runtime_directory().join("mount.log");
    let Ok(mut file) = fs::File::open(&path) else { return journal(mount) };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Earlier workers of the mount are known by what they said of it.
    let marks = [format!("[{}]", mount.pid), format!("[{}]", mount.worker_pid), mount.mountpoint.clone()];
    let ours: Vec<&str> = text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))).collect();
    Ok(ours.join("\n"))
}

fn journal(mount: &RunningMount) -> Result<String> {
    let pids = [mount.pid, mount.worker_pid].map(|pid| format!("_PID={pid}"));
    let mut command = std::process::Command::new("journalctl");
    let [supervisor, worker] = &pids;
    command.args(["--no-pager", "--quiet", "-n", "1000", supervisor, "+", worker]);
    let said = command.output().context("there is neither a log of ours nor a journal")?;
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

/// Cuts what tells who one is out of URLs.
fn without_secrets(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | ',');
        let (url, others) = after.split_at(after.find(is_end).unwrap_or(after.len()));
        let authority = url.find('/').unwrap_or(url.len());
        let url = url[..authority].rfind('@').map_or(url, |end| &url[end + 1..]);
        // A ref behind # stays.
        match (url.find('?'), url.find('#')) {
            (Some(start), hash) => {
                clean.push_str(&url[..start]);
                clean.push_str(hash.filter(|hash| *hash > start).map_or("", |hash| &url[hash..]));
            }
            (None, _) => clean.push_str(url),
        }
        rest = others;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_what_tells_who_one_is() {
        for (text, expected) in [
            ("mounted \"https://me:secret@host/repo#main\" on", "mounted \"https://host/repo#main\" on"),
            ("s3://bucket/a?token=x#b and http://h", "s3://bucket/a#b and http://h"),
            ("https://host/a@b c", "https://host/a@b c"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
    }
}
