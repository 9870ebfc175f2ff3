//! The verb `sapwood debug`, which collects what is needed to find a problem in one text file. The user can read the file
//! before giving it to another person.
//!
//! *Invariants*: the report has no contents, no keys and no credentials. URLs are shown without what stands before their `@`
//! or behind their `?`.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::{mounts, output};
use crate::cli::context::{Context, Run};
use crate::disk;
use crate::mount::{RunningMount, registry, runtime_directory, to_open_metrics};

/// The number of bytes at the end of the log that are searched.
const LOG_TAIL_BYTES: u64 = 1 << 20;

/// Collect what is needed to find out what is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood debug bundle /mnt                into a file of the current directory
  sapwood debug bundle /mnt report.txt
  sapwood debug bundle /mnt -              to standard output

The report is plain text: figures, health, the state of the processes, the log of the mount, the settings of \
its repository. It holds no contents of files, no keys and no passwords.")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// About one mount, in one file
    Bundle {
        /// The mount
        mountpoint: PathBuf,
        /// The file, or - [default: sapwood-debug-TIME.txt]
        file: Option<PathBuf>,
    },
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let Action::Bundle { mountpoint, file } = &self.action;
        let mount = mounts::find(mountpoint)?;
        let report = collect_report(&mount);
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
}

/// Collects the report. A part that cannot be read is replaced by the error: an incomplete report is better than none.
fn collect_report(mount: &RunningMount) -> String {
    let status = registry().status(mount);
    let device = mount.device.split_once(':').map_or("", |(_, minor)| minor).to_owned();
    let connection = Path::new("/sys/fs/fuse/connections").join(device);
    let repository = Path::new(&mount.repo);
    let mut report = DebugReport::default();
    report.add_section("version", env!("CARGO_PKG_VERSION"));
    report.add_file("kernel", Path::new("/proc/version"));
    report.add_section("status", &serde_json::to_string_pretty(&status).unwrap_or_else(|error| error.to_string()));
    report.add_section("metrics", &to_open_metrics(&[status]));
    for (name, pid) in [("supervisor", mount.pid), ("worker", mount.worker_pid)] {
        for file in ["status", "limits", "oom_score", "wchan", "cgroup"] {
            report.add_file(&format!("{name}: {file}"), &Path::new("/proc").join(pid.to_string()).join(file));
        }
        report.add_section(&format!("{name}: open files"), &count_descriptors(pid));
    }
    for file in ["waiting", "max_background", "congestion_threshold"] {
        report.add_file(&format!("connection: {file}"), &connection.join(file));
    }
    let is_of_mount = |line: &&str| line.split(' ').nth(2) == Some(&mount.device);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    report.add_section("mount table", &table.lines().filter(is_of_mount).collect::<Vec<_>>().join("\n"));
    report.add_file("repository: settings", &repository.join("config.toml"));
    report.add_section("repository: room", &describe_free_space(repository));
    for file in ["/proc/meminfo", "/proc/loadavg", "/proc/pressure/io", "/proc/pressure/memory"] {
        report.add_file(file, Path::new(file));
    }
    report.add_section("log", &read_log(mount).unwrap_or_else(|error| format!("{error:#}")));
    without_secrets(&report.0)
}

/// The text of a report: parts with headings.
#[derive(Default)]
struct DebugReport(String);

impl DebugReport {
    fn add_section(&mut self, name: &str, text: &str) {
        self.0.push_str(&format!("=== {name}\n{}\n\n", text.trim_end()));
    }

    fn add_file(&mut self, name: &str, path: &Path) {
        self.add_section(
            name,
            &fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display())),
        );
    }
}

fn count_descriptors(pid: u32) -> String {
    match fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) {
        Ok(entries) => entries.count().to_string(),
        Err(error) => error.to_string(),
    }
}

fn describe_free_space(repository: &Path) -> String {
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

/// Reads what the processes of the mount have logged, from the log file of this user or, if there is none, from the journal.
fn read_log(mount: &RunningMount) -> Result<String> {
    let path = runtime_directory().join("mount.log");
    let Ok(mut file) = fs::File::open(&path) else { return read_journal(mount) };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Lines of earlier workers, whose process ids are not known any more, are found by the mountpoint in them.
    let marks = [format!("[{}]", mount.pid), format!("[{}]", mount.worker_pid), mount.mountpoint.clone()];
    let lines: Vec<&str> = text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))).collect();
    Ok(lines.join("\n"))
}

fn read_journal(mount: &RunningMount) -> Result<String> {
    let pids = [mount.pid, mount.worker_pid].map(|pid| format!("_PID={pid}"));
    let mut command = std::process::Command::new("journalctl");
    let [supervisor, worker] = &pids;
    command.args(["--no-pager", "--quiet", "-n", "1000", supervisor, "+", worker]);
    let result = command.output().context("there is neither a log file nor a journal")?;
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Removes user names, passwords and query parameters from all URLs in a text.
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
        // The ref behind # is kept.
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
    fn urls_are_shown_without_credentials() {
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
