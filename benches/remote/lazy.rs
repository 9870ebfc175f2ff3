//! A mount of what was never pulled: first listing, everything's attributes, first programs, everything read.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::mount::{MntFlags, umount2};

use crate::Options;
use crate::cost::{self, Cost};
use crate::ground::{Ground, NAME, PLAIN, PROFILED};
use crate::link::{Link, Shape};
use crate::machine::{self, drop_caches};
use crate::report::{Report, Table};

/// What is done one after the other to a fresh mount: what the table calls it, and the command line.
const STEPS: &[(Table, &str)] = &[
    (Table::LazyList, "ls $USR"),
    (Table::LazyPython, FIRST),
    (Table::LazyCompile, "chroot $ROOT /usr/bin/g++ -o /tmp/small /tmp/small.cc"),
];

/// What is run first; a profile of it is recorded.
pub const FIRST: &str = "chroot $ROOT /usr/bin/python3 -c 'import json,http.client,ssl,sqlite3,asyncio'";

/// Reads every file.
const READ: &str = "find $USR -type f -print0 | xargs -0 cat > /dev/null";

/// Asks for all that `stat` tells of everything.
const FIND: &str = "find $USR -printf '%y %m %U %G %s %T@ %l\\n' > /dev/null";

/// Everything, all peers.
pub fn run(ground: &Ground, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    for _ in 0..options.rounds() {
        for (peer, from, mount_options) in
            [("sapwood, no profile", PLAIN, "profile=none"), ("sapwood, with the profile", PROFILED, "profile=auto")]
        {
            let link = ground.link(Shape::HOME);
            let mounted = Mounted::sapwood(ground, &link, from, mount_options)?;
            let mut first = Some(mounted.cost);
            for (table, command) in STEPS {
                let cost = mounted.step(&link, command)?;
                // The first answer needs the mount.
                let cost = first.take().map_or(cost, |mount| sum(mount, cost));
                report.add(*table, peer, cost);
            }
            mounted.end()?;
        }
        for (table, shape) in [(Table::LazyListRadio, Shape::RADIO), (Table::LazyFind, Shape::HOME)] {
            let link = ground.link(shape);
            let mounted = Mounted::sapwood(ground, &link, PLAIN, "profile=none")?;
            let command = if table == Table::LazyFind { FIND } else { STEPS[0].1 };
            let cost = sum(mounted.cost, mounted.step(&link, command)?);
            report.add(table, "sapwood", cost);
            mounted.end()?;
        }
    }
    let link = ground.link(Shape::HOME);
    let mounted = Mounted::sapwood(ground, &link, PLAIN, "profile=none")?;
    let cost = sum(mounted.cost, mounted.step(&link, READ)?);
    let peak = machine::memory_of(&ground.program)?.map(|memory| memory.peak as f64 / 1024.0);
    report.add(Table::LazyAll, "sapwood", Cost { peak, ..cost });
    mounted.end()?;
    if options.quick {
        return Ok(());
    }
    let link = ground.link(Shape::HOME);
    let mounted = Mounted::casync(ground, &link)?;
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

/// A fresh mount on the chroot's `/usr`, by a client that has nothing.
struct Mounted<'a> {
    ground: &'a Ground,
    cost: Cost,
    child: Option<Child>,
}

impl<'a> Mounted<'a> {
    fn sapwood(ground: &'a Ground, link: &Link, from: &str, options: &str) -> anyhow::Result<Self> {
        let client = ground.client("client-lazy", None)?;
        drop_caches()?;
        let source = format!("{}#{NAME}", ground.url(Some(link), from));
        let options = format!("suid,dev,allow_other,{options}");
        let target = ground.chroot.join(NAME);
        let words = ["mount", "--key", "bench", "-o", &options, &source].map(OsStr::new);
        let command = ground.sapwood(&client, words.into_iter().chain([target.as_os_str()]));
        let cost = cost::through(link, || cost::of_command(command))?;
        Ok(Self { ground, cost, child: None })
    }

    fn casync(ground: &'a Ground, link: &Link) -> anyhow::Result<Self> {
        drop_caches()?;
        let target = ground.chroot.join(NAME);
        let mut command = Command::new("casync");
        command.args(["mount", &format!("--store={}", ground.url(Some(link), "casync/default.castr"))]);
        command.arg(ground.url(Some(link), "casync/1.caidx")).arg(&target);
        let mut child = None;
        let cost = cost::through(link, || {
            cost::of_work(|| {
                child = Some(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
                wait_for_mount(&target)
            })
        })?;
        Ok(Self { ground, cost, child })
    }

    /// Does something to the mount.
    fn step(&self, link: &Link, command: &str) -> anyhow::Result<Cost> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        let shell = with_places(self.ground, shell);
        cost::through(link, || cost::of_work(|| machine::time(shell).map(drop)))
    }

    fn end(mut self) -> anyhow::Result<()> {
        let target = self.ground.chroot.join(NAME);
        match &mut self.child {
            // Waits for the daemon, which may still be writing to the repository that goes away next.
            None => {
                let words = [OsStr::new("umount"), target.as_os_str()];
                machine::time(self.ground.sapwood(&self.ground.work, words)).map(drop)
            }
            Some(child) => {
                umount2(&target, MntFlags::empty())?;
                Ok(child.wait().map(drop)?)
            }
        }
    }
}

/// Lets a command line say `$USR` and `$ROOT`.
pub fn with_places(ground: &Ground, mut command: Command) -> Command {
    command.env("USR", ground.chroot.join(NAME)).env("ROOT", &ground.chroot);
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
