//! Operations on the machine: dropping caches, reading processes' memory, running commands, reading versions.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// Writes back dirty pages and drops pages, names and inodes from the caches.
pub fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches (needs root)")
}

/// Runs a command to its end; its output is used for the error only.
pub fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<()> {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    time(command).map(drop)
}

/// Runs a command to its end. Returns the time that it took.
pub fn time(mut command: Command) -> anyhow::Result<Duration> {
    // In a file, not in a pipe, which a daemon that is left behind would keep open.
    let said = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let begin = Instant::now();
    let status = command.status().with_context(|| format!("{command:?}"))?;
    let took = begin.elapsed();
    if !status.success() {
        use std::io::{Read as _, Seek as _};
        let (mut text, mut said) = (Vec::new(), said);
        said.rewind()?;
        said.read_to_end(&mut text)?;
        anyhow::bail!("{command:?} ended with {status}: {}", String::from_utf8_lossy(&text).trim());
    }
    Ok(took)
}

/// Returns what a command prints.
pub fn output<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().context(program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Memory of the largest of some processes, in KiB.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// All resident pages, mapped files included.
    pub resident: u64,
    /// Resident pages that are private and not of a file.
    pub anonymous: u64,
    /// The largest number of resident pages so far.
    pub peak: u64,
}

/// Returns the summed memory of all processes of this mount namespace whose program is `program`.
pub fn memory_of(program: &Path) -> anyhow::Result<Option<Memory>> {
    let own = fs::read_link("/proc/self/ns/mnt")?;
    let mut sum: Option<Memory> = None;
    for entry in fs::read_dir("/proc")?.flatten() {
        let at = entry.path();
        let is_it = fs::read_link(at.join("exe")).is_ok_and(|exe| exe == program)
            && fs::read_link(at.join("ns/mnt")).is_ok_and(|namespace| namespace == own)
            && at.file_name() != Some(OsStr::new(&std::process::id().to_string()));
        // A process that has just ended has no status any more.
        let Some(status) = is_it.then(|| fs::read_to_string(at.join("status")).ok()).flatten() else { continue };
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
        };
        let sum = sum.get_or_insert_default();
        sum.resident += field("VmRSS:");
        sum.anonymous += field("RssAnon:");
        sum.peak += field("VmHWM:");
    }
    Ok(sum)
}

/// Processes of the idle class that keep each core from halting; ended when dropped.
pub struct Spinners(Vec<Child>);

impl Spinners {
    /// Starts one for each core.
    pub fn start() -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        let spin = || Command::new("chrt").args(["--idle", "0", "sh", "-c", "while :; do :; done"]).spawn();
        Ok(Self((0..cores).map(|_| spin()).collect::<Result<_, _>>().context("chrt")?))
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns the load of the last minute, and the share of CPU time that other processes used in the last tenth of a second.
pub fn load() -> String {
    let average = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let busy = || -> Option<(u64, u64)> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        Some((fields.get(3)? + fields.get(4)?, fields.iter().sum()))
    };
    let before = busy();
    std::thread::sleep(Duration::from_millis(100));
    let share = before.zip(busy()).map_or(f64::NAN, |(before, after)| {
        100.0 - 100.0 * (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
    });
    format!("{} ({share:.0} % busy)", average.split(' ').next().unwrap_or("?"))
}

/// Returns lines about the machine for the report's head.
pub fn description() -> Vec<String> {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("?")
        .trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = first(fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut lines = vec![format!(
        "{cores} cores of {model}; {}; Linux {}",
        memory.split_whitespace().collect::<Vec<_>>().join(" "),
        kernel.trim()
    )];
    let version = |package: &str| {
        let answer = output("dpkg-query", ["-W", "-f=${Version}", package]).unwrap_or_else(|_| "not installed".into());
        format!("{package} {answer}")
    };
    let packages = ["squashfs-tools", "squashfuse", "erofs-utils", "ostree", "casync", "nginx", "fio", "coreutils"];
    lines.push(packages.map(version).join(", "));
    lines
}

/// Returns the file system of `path`, and its device.
pub fn file_system_of(path: &Path) -> String {
    output(
        "findmnt",
        [OsStr::new("-n"), OsStr::new("-o"), OsStr::new("FSTYPE,OPTIONS"), OsStr::new("-T"), path.as_os_str()],
    )
    .map_or_else(|_| "unknown".to_owned(), |line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Removes a tree of the benchmark.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    run("rm", [OsStr::new("-rf"), OsStr::new("--one-file-system"), path.as_os_str()])
}

/// Makes an empty directory of the benchmark.
pub fn fresh_directory(path: PathBuf) -> anyhow::Result<PathBuf> {
    remove(&path)?;
    fs::create_dir_all(&path)?;
    Ok(path)
}
