//! The sections: each mounts a peer, runs workloads on it, and returns measures.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::fio;
use crate::machine::{self, drop_caches, time};
use crate::options::{Options, Section};
use crate::peer::{Kind, Mounted, Peer, Setup};
use crate::report::{Measure, Report, median};
use crate::workload;

/// Modules that an ordinary script imports: some hundred files, a dozen shared libraries.
const PYTHON: &str = "exec python3 -c 'import json,ssl,sqlite3,asyncio,http.client'";
const COMPILE: &str = "exec g++ -o /tmp/small /tmp/small.cc";

/// The measures of one peer in one section.
type Samples = Vec<(Measure, f64)>;

/// Measures all sections but the commits, round by round; peers alternate.
pub fn all_rounds(options: &Options, setup: &Setup, peers: &[Peer], report: &mut Report, failures: &mut Vec<String>) {
    for section in Section::ALL.into_iter().filter(|section| *section != Section::Commit && options.wants(*section)) {
        let rounds = match section {
            Section::Read | Section::Fio => options.few_rounds(),
            _ => options.rounds,
        };
        for round in 0..rounds {
            for peer in peers {
                let needs_programs = matches!(section, Section::Python | Section::Compile);
                if needs_programs && !peer.kind.runs_programs() {
                    continue;
                }
                let load = machine::load();
                eprintln!("{} {round}: {} (load {load})", section_name(section), peer.kind.name());
                match measure_section(section, peer, setup, options) {
                    Ok(samples) => report.add(round, peer.kind.name(), &load, samples),
                    Err(error) => {
                        failures.push(format!("{} of {}: {error:#}", section_name(section), peer.kind.name()))
                    }
                }
            }
        }
    }
}

fn section_name(section: Section) -> String {
    use clap::ValueEnum as _;
    section.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn measure_section(section: Section, peer: &Peer, setup: &Setup, options: &Options) -> anyhow::Result<Samples> {
    match section {
        Section::Walk => walk(peer, setup, options),
        Section::Read => read(peer, setup, options),
        Section::Python => program(peer, setup, options, PYTHON, [Measure::PythonCold, Measure::PythonWarm]),
        Section::Compile => program(peer, setup, options, COMPILE, [Measure::CompileCold, Measure::CompileWarm]),
        Section::Fio => fio(peer, setup, options),
        Section::Commit => unreachable!("commits have rounds of their own"),
    }
}

/// Mounts with caches dropped before and after, so that nothing of the tree or of the peer's program is cached.
fn mount_cold<'a>(peer: &Peer, setup: &'a Setup, target: &'a Path) -> anyhow::Result<Mounted<'a>> {
    drop_caches()?;
    let mounted = peer.mount(setup, target)?;
    drop_caches()?;
    Ok(mounted)
}

/// Returns the median of some repetitions, in seconds.
fn warm(options: &Options, mut once: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<f64> {
    let mut times = Vec::new();
    for _ in 0..options.repetitions() {
        times.push(once()?.as_secs_f64());
    }
    Ok(median(&times))
}

fn walk(peer: &Peer, setup: &Setup, options: &Options) -> anyhow::Result<Samples> {
    let mounted = mount_cold(peer, setup, &setup.target)?;
    let mut samples = vec![(Measure::Mount, mounted.took.as_secs_f64())];
    samples.push((Measure::WalkCold, workload::time_walk(&setup.target)?.as_secs_f64()));
    samples.push((Measure::WalkWarm, warm(options, || workload::time_walk(&setup.target))?));
    if let Some(memory) = mounted.memory()? {
        samples.push((Measure::ResidentAfterWalk, memory.resident as f64 / 1024.0));
        samples.push((Measure::AnonymousAfterWalk, memory.anonymous as f64 / 1024.0));
    }
    let (_, files) = workload::walk(&setup.target)?;
    samples.push((Measure::Stat, workload::stat_four_ways(&files)?));
    mounted.unmount()?;
    Ok(samples)
}

fn read(peer: &Peer, setup: &Setup, options: &Options) -> anyhow::Result<Samples> {
    let mounted = mount_cold(peer, setup, &setup.target)?;
    let mut samples = vec![(Measure::ReadCold, workload::time_read_all(&setup.target)?.as_secs_f64())];
    samples.push((Measure::ReadWarm, warm(options, || workload::time_read_all(&setup.target))?));
    let (_, files) = workload::walk(&setup.target)?;
    samples.push((Measure::Open, workload::open_read_close(&files)?.as_secs_f64() * 1e6));
    if let Some(memory) = mounted.memory()? {
        samples.push((Measure::ResidentAfterRead, memory.resident as f64 / 1024.0));
        samples.push((Measure::ResidentPeak, memory.peak as f64 / 1024.0));
    }
    mounted.unmount()?;
    Ok(samples)
}

/// Runs a shell line in a root whose `/usr` is the peer, cold and then warm.
fn program(
    peer: &Peer,
    setup: &Setup,
    options: &Options,
    line: &str,
    [cold_measure, warm_measure]: [Measure; 2],
) -> anyhow::Result<Samples> {
    let target = setup.chroot.join("usr");
    let mounted = mount_cold(peer, setup, &target)?;
    // Loads the machine's own chroot(1) and libraries, which are not measured.
    machine::run("chroot", ["/", "/bin/true"])?;
    let once = || -> anyhow::Result<Duration> {
        let mut command = Command::new("chroot");
        command
            .arg(&setup.chroot)
            .args(["/bin/sh", "-c", line])
            .env("PATH", "/usr/bin:/usr/sbin")
            .env("LC_ALL", "C.UTF-8");
        time(command)
    };
    let cold = once()?.as_secs_f64();
    let warm = warm(options, once)?;
    mounted.unmount()?;
    Ok(vec![(cold_measure, cold), (warm_measure, warm)])
}

fn fio(peer: &Peer, setup: &Setup, options: &Options) -> anyhow::Result<Samples> {
    const FILES: usize = 7;
    let mounted = peer.mount(setup, &setup.target)?;
    let (_, files) = workload::walk(&setup.target)?;
    let files = workload::largest(&files, FILES)?;
    mounted.unmount()?;
    let mut samples = Samples::new();
    for pattern in fio::PATTERNS {
        let mounted = mount_cold(peer, setup, &setup.target)?;
        samples.push((pattern.cold, pattern.run(&files, options)?));
        for file in &files {
            std::io::copy(&mut std::fs::File::open(file)?, &mut std::io::sink())?;
        }
        samples.push((pattern.warm, pattern.run(&files, options)?));
        mounted.unmount()?;
    }
    Ok(samples)
}

/// Returns the number of entries that a peer shows.
pub fn count_entries(peer: &Peer, setup: &Setup) -> anyhow::Result<usize> {
    let mounted = peer.mount(setup, &setup.target)?;
    let (entries, _) = workload::walk(&setup.target)?;
    mounted.unmount()?;
    Ok(entries)
}

/// The plain directory, which is the first peer of each list.
pub const BASE: Kind = Kind::Native;
