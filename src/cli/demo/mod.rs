//! The verb `sapwood demo`, which commits, mounts, compares, publishes and lazily mounts files of this machine, and removes
//! everything again.
//!
//! | file | content |
//! | --- | --- |
//! | `env` | the temporary directory, the commands that are run in it, the cleanup |
//! | `compare` | the comparison of the mount with the original tree |
//! | `network` | the second half: publishing, serving, mounting lazily |

mod compare;
mod env;
mod network;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use self::compare::{Comparison, compare, read_everything, walk};
use self::env::{DemoEnvironment, Machine, candidate_trees};
use self::network::NetworkFigures;
use super::output;
use crate::cli::context::{Context, Run};

/// The ref that the demonstration commits to.
const REF: &str = "demo";

/// Commit, mount, compare and publish this machine's /usr; clean up
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood demo
  sapwood demo --tree /etc

Commits the tree, mounts it and compares every byte, publishes it, serves it on loopback, mounts that lazily, and removes \
everything again.

Uses a temporary repository in the directory with the most room among $TMPDIR, /tmp and /var/tmp. Needs no root; then \
fusermount3 (Debian: package fuse3) must be there, and is installed through sudo if that asks no password.")]
pub(crate) struct Args {
    /// The tree to commit (default: /usr, or a part of it when there is too little room)
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The figures that the demonstration measured.
struct DemoFigures {
    tree: PathBuf,
    entries: u64,
    bytes: u64,
    commit: Duration,
    recommit: Duration,
    mount: Duration,
    comparison: Comparison,
    compared_in: Duration,
    program: Option<String>,
    rows: Vec<(&'static str, Duration, Duration)>,
    network: NetworkFigures,
}

impl Run for Args {
    fn run(&self, _context: &Context) -> Result<ExitCode> {
        let environment = DemoEnvironment::prepare()?;
        let trees = self.tree.clone().map_or_else(|| candidate_trees(&environment), |tree| Ok(vec![tree]))?;
        let mut last = None;
        for tree in trees {
            match demonstrate(&environment, &tree, self.json) {
                Ok(figures) => return print_report(&figures, self.json),
                // Without root some trees have files that cannot be read. The next candidate is smaller.
                Err(error) if self.tree.is_none() && is_permission_denied(&error) => {
                    output::note(format_args!("{}: {error:#}; taking a smaller tree", tree.display()));
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("there is no tree that fits")))
    }
}

fn is_permission_denied(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("Permission denied")
}

fn demonstrate(environment: &DemoEnvironment, tree: &Path, quiet: bool) -> Result<DemoFigures> {
    let say = |text: std::fmt::Arguments<'_>| {
        if !quiet {
            output::note(text);
        }
    };
    environment.clear()?;
    say(format_args!("$ sapwood init\n$ sapwood commit --ref {REF} {}", tree.display()));
    environment.sapwood(Machine::Publisher, &["init"])?;
    let (commit, committed) = timed(|| commit(environment, tree))?;
    let (recommit, _) = timed(|| commit_again(environment, tree))?;
    let mountpoint = environment.mountpoint();
    say(format_args!("$ sapwood mount {REF} {}", mountpoint.display()));
    let (mount, _) = timed(|| environment.mount(REF))?;
    say(format_args!("reading every file of the mount and of {} and comparing them…", tree.display()));
    let (compared_in, comparison) = timed(|| compare(tree, &mountpoint))?;
    if let Some(difference) = comparison.differences.first() {
        bail!("the mount differs from {}: {difference} ({} in all)", tree.display(), comparison.differences.len());
    }
    let program = run_program(&mountpoint);
    if let Some(program) = &program {
        say(format_args!("{program}"));
    }
    let rows = measure(tree, &mountpoint)?;
    environment.unmount()?;
    let network = network::demonstrate(environment, &say)?;
    Ok(DemoFigures {
        tree: tree.to_owned(),
        entries: committed["commit"]["entries"].as_u64().unwrap_or(0),
        bytes: committed["commit"]["content_bytes"].as_u64().unwrap_or(0),
        commit,
        recommit,
        mount,
        comparison,
        compared_in,
        program,
        rows,
        network,
    })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = Instant::now();
    let value = work()?;
    Ok((start.elapsed(), value))
}

fn commit(environment: &DemoEnvironment, tree: &Path) -> Result<Value> {
    let tree = tree.to_str().context("the path of the tree is not UTF-8")?;
    let text = environment.sapwood(Machine::Publisher, &["commit", "--json", "--ref", REF, tree])?;
    serde_json::from_str(&text).context("cannot understand what 'sapwood commit --json' printed")
}

fn commit_again(environment: &DemoEnvironment, tree: &Path) -> Result<()> {
    let tree = tree.to_str().context("the path of the tree is not UTF-8")?;
    environment.sapwood(Machine::Publisher, &["commit", "--skip-if-unchanged", "--ref", REF, tree]).map(drop)
}

/// Runs the first of some programs that the mount has, and returns its command line and what it printed.
fn run_program(mountpoint: &Path) -> Option<String> {
    let programs: [(&str, &[&str]); 3] = [
        ("bin/python3", &["-c", "import json, ssl, sys; print('hello from', sys.executable)"]),
        ("bin/bash", &["-c", "echo hello from $BASH"]),
        ("bin/uname", &["-a"]),
    ];
    for (program, arguments) in programs {
        let path = mountpoint.join(program);
        let Ok(result) = Command::new(&path).args(arguments).stderr(Stdio::null()).output() else { continue };
        if result.status.success() {
            let shown: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
            let printed = String::from_utf8_lossy(&result.stdout).trim().to_owned();
            return Some(format!("$ {} {}\n{printed}", path.display(), shown.join(" ")));
        }
    }
    None
}

/// A load on a whole tree, which returns the number of entries or bytes.
type TreeWork = fn(&Path) -> Result<u64>;

/// Measures each load on both trees alternately: once to warm up, then three times, of which the shortest time counts.
fn measure(tree: &Path, mountpoint: &Path) -> Result<Vec<(&'static str, Duration, Duration)>> {
    let mut rows = Vec::new();
    let works: [(&str, TreeWork); 2] = [("walk with stat, warm", walk), ("read every file, warm", read_everything)];
    for (name, work) in works {
        let mut best = [Duration::MAX; 2];
        for round in 0..4 {
            for (index, top) in [tree, mountpoint].into_iter().enumerate() {
                let (time, _) = timed(|| work(top))?;
                if round > 0 {
                    best[index] = best[index].min(time);
                }
            }
        }
        rows.push((name, best[0], best[1]));
    }
    Ok(rows)
}

fn print_report(figures: &DemoFigures, as_json: bool) -> Result<ExitCode> {
    ensure!(figures.comparison.differences.is_empty(), "the mount differs from the tree");
    if as_json {
        let rows: Vec<Value> = figures
            .rows
            .iter()
            .map(|(name, plain, mount)| {
                json!({ "what": name, "plain_seconds": plain.as_secs_f64(), "mount_seconds": mount.as_secs_f64() })
            })
            .collect();
        output::json(&json!({
            "tree": figures.tree, "entries": figures.entries, "bytes": figures.bytes,
            "commit_seconds": figures.commit.as_secs_f64(), "recommit_seconds": figures.recommit.as_secs_f64(),
            "mount_seconds": figures.mount.as_secs_f64(), "files_compared": figures.comparison.files,
            "bytes_compared": figures.comparison.bytes, "differences": figures.comparison.differences.len(),
            "program": figures.program, "timings": rows, "network": figures.network.json(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (files, bytes) = (output::count(figures.comparison.files), output::size(figures.comparison.bytes));
    let compared = output::duration(figures.compared_in);
    output::line(format_args!(
        "\n{files} files ({bytes}) are equal, byte for byte, with their metadata ({compared})\n"
    ))?;
    let (entries, size) = (output::count(figures.entries), output::size(figures.bytes));
    let tree = figures.tree.display().to_string();
    let mut rows = vec![
        row(&format!("commit {tree}: {entries} entries, {size}"), None, figures.commit),
        row("commit again, unchanged", None, figures.recommit),
        row("mount", None, figures.mount),
    ];
    rows.extend(figures.rows.iter().map(|(name, plain, mount)| row(name, Some(*plain), *mount)));
    output::table(&["", "PLAIN", "SAPWOOD", "RATIO"], &[1, 2, 3], &rows)?;
    output::line("")?;
    output::table(&["", "TIME", "REQUESTS", "FETCHED"], &[1, 2, 3], &figures.network.rows())?;
    output::line("\neverything was removed again")?;
    Ok(ExitCode::SUCCESS)
}

fn row(name: &str, plain: Option<Duration>, sapwood: Duration) -> Vec<String> {
    let seconds = |time: Duration| format!("{:.3} s", time.as_secs_f64());
    let ratio = plain.map(|plain| format!("{:.2}", sapwood.as_secs_f64() / plain.as_secs_f64().max(1e-9)));
    vec![name.to_owned(), plain.map(seconds).unwrap_or_default(), seconds(sapwood), ratio.unwrap_or_default()]
}
