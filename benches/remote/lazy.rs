//! Measures a mount of what was never pulled: first listing, all attributes, first programs, all contents.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::mount::{MntFlags, umount2};

use crate::Options;
use crate::cost::{self, Cost};
use crate::link::{Link, Shape};
use crate::machine::{self, drop_caches};
use crate::report::{Report, Table};
use crate::setup::{NAME, PLAIN, PROFILED, Setup};

/// Steps on a fresh mount, in order: the table, and the command line.
const STEPS: &[(Table, &str)] = &[
    (Table::LazyList, "ls $USR"),
    (Table::LazyPython, FIRST),
    (Table::LazyCompile, "chroot $ROOT /usr/bin/g++ -o /tmp/small /tmp/small.cc"),
];

/// The first program that is run; a profile of it is recorded.
pub const FIRST: &str = "chroot $ROOT /usr/bin/python3 -c 'import json,http.client,ssl,sqlite3,asyncio'";

/// Reads every file.
const READ_COMMAND: &str = "find $USR -type f -print0 | xargs -0 cat > /dev/null";

/// Reads all attributes of every entry.
const STAT_COMMAND: &str = "find $USR -printf '%y %m %U %G %s %T@ %l\\n' > /dev/null";

/// Measures all steps of all peers.
pub fn run(setup: &Setup, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    for _ in 0..options.rounds() {
        for (peer, from, mount_options) in
            [("sapwood, no profile", PLAIN, "profile=none"), ("sapwood, with the profile", PROFILED, "profile=auto")]
        {
            let link = setup.link(Shape::HOME);
            let mounted = Mounted::sapwood(setup, &link, from, mount_options)?;
            let mut first = Some(mounted.cost);
            for (table, command) in STEPS {
                let cost = mounted.step(&link, command)?;
                // The first step includes the mount.
                let cost = first.take().map_or(cost, |mount| sum(mount, cost));
                report.add(*table, peer, cost);
            }
            mounted.end()?;
        }
        for (table, shape) in [(Table::LazyListRadio, Shape::RADIO), (Table::LazyFind, Shape::HOME)] {
            let link = setup.link(shape);
            let mounted = Mounted::sapwood(setup, &link, PLAIN, "profile=none")?;
            let command = if table == Table::LazyFind { STAT_COMMAND } else { STEPS[0].1 };
            let cost = sum(mounted.cost, mounted.step(&link, command)?);
            report.add(table, "sapwood", cost);
            mounted.end()?;
        }
    }
    let link = setup.link(Shape::HOME);
    let mounted = Mounted::sapwood(setup, &link, PLAIN, "profile=none")?;
    let cost = sum(mounted.cost, mounted.step(&link, READ_COMMAND)?);
    let peak = machine::memory_of(&setup.program)?.map(|memory| memory.peak as f64 / 1024.0);
    report.add(Table::LazyAll, "sapwood", Cost { peak, ..cost });
    mounted.end()?;
    if options.quick {
        return Ok(());
    }
    let link = setup.link(Shape::HOME);
    let mounted = Mounted::casync(setup, &link)?;
    let mut first = Some(mounted.cost);
    for (table, command) in STEPS {
        let cost = mounted.step(&link, command)?;
        report.add(*table, "casync mount", first.take().map_or(cost, |mount| sum(mount, cost)));
    }
    mounted.end()
}

fn sum(a: Cost, b: Cost) -> Cost {
    let add = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
    Cost {
        seconds: a.seconds + b.seconds,
        requests: a.requests.zip(b.requests).map(|(a, b)| a + b),
        megabytes: add(a.megabytes, b.megabytes),
        ..Cost::default()
    }
}

/// A fresh mount on the chroot's `/usr`, by an empty client.
struct Mounted<'a> {
    setup: &'a Setup,
    cost: Cost,
    child: Option<Child>,
}

impl<'a> Mounted<'a> {
    fn sapwood(setup: &'a Setup, link: &Link, from: &str, options: &str) -> anyhow::Result<Self> {
        let client = setup.client("client-lazy", None)?;
        drop_caches()?;
        let source = format!("{}#{NAME}", setup.url(Some(link), from));
        let options = format!("suid,dev,allow_other,{options}");
        let target = setup.chroot.join(NAME);
        let words = ["mount", "--key", "bench", "-o", &options, &source].map(OsStr::new);
        let command = setup.sapwood(&client, words.into_iter().chain([target.as_os_str()]));
        let cost = cost::through(link, || cost::of_command(command))?;
        Ok(Self { setup, cost, child: None })
    }

    fn casync(setup: &'a Setup, link: &Link) -> anyhow::Result<Self> {
        drop_caches()?;
        let target = setup.chroot.join(NAME);
        let mut command = Command::new("casync");
        command.args(["mount", &format!("--store={}", setup.url(Some(link), "casync/default.castr"))]);
        command.arg(setup.url(Some(link), "casync/1.caidx")).arg(&target);
        let mut child = None;
        let cost = cost::through(link, || {
            cost::of_work(|| {
                child = Some(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
                wait_for_mount(&target)
            })
        })?;
        Ok(Self { setup, cost, child })
    }

    /// Runs a step on the mount.
    fn step(&self, link: &Link, command: &str) -> anyhow::Result<Cost> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        let shell = with_places(self.setup, shell);
        cost::through(link, || cost::of_work(|| machine::time(shell).map(drop)))
    }

    fn end(mut self) -> anyhow::Result<()> {
        let target = self.setup.chroot.join(NAME);
        match &mut self.child {
            // Waits for the daemon, which may still be writing to the repository that is removed next.
            None => {
                let words = [OsStr::new("umount"), target.as_os_str()];
                machine::time(self.setup.sapwood(&self.setup.work, words)).map(drop)
            }
            Some(child) => {
                umount2(&target, MntFlags::empty())?;
                Ok(child.wait().map(drop)?)
            }
        }
    }
}

/// Sets `$USR` and `$ROOT` for a command line.
pub fn with_places(setup: &Setup, mut command: Command) -> Command {
    command.env("USR", setup.chroot.join(NAME)).env("ROOT", &setup.chroot);
    command
}

fn wait_for_mount(target: &Path) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        if table.lines().filter_map(|line| line.split(' ').nth(4)).any(|at| Path::new(at) == target) {
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_secs(600), "nothing is mounted at {}", target.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}
