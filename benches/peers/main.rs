//! Measures a mounted commit against the plain directory, against other ways to mount the same tree, and against the floor: a
//! FUSE mount that does no work.
//!
//! `benches/run` prepares what it needs and runs it. Peers alternate within a round (A B C A B C), each freshly mounted with
//! caches dropped, so that drifts of the machine affect all of them; ratios are taken within a round. `peers walk DIR`, `peers
//! read DIR`, … run one workload and print its time.
#![allow(clippy::disallowed_methods, reason = "what a benchmark writes may be lost")]

mod commit;
mod fio;
mod floor;
mod machine;
mod measure;
mod options;
mod peer;
mod report;
mod workload;

use std::process::ExitCode;

use anyhow::Context as _;

use options::{Command, Options};

fn main() -> ExitCode {
    match run(Options::parse_arguments()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    match &options.command {
        Some(Command::Floor { source, target }) => floor::serve(source, target),
        Some(Command::Workload { name, directory }) => workload::run_by_name(*name, directory),
        None => compare(&options),
    }
}

/// Prepares the peers, measures in rounds, writes the report.
fn compare(options: &Options) -> anyhow::Result<()> {
    let setup = peer::Setup::new(options).context("prepare the benchmark")?;
    let mut peers = Vec::new();
    let mut failures = Vec::new();
    for kind in &options.peers {
        eprintln!("preparing {}", kind.name());
        match peer::Peer::prepare(*kind, &setup) {
            Ok(peer) => peers.push(peer),
            Err(error) => failures.push(format!("{}: {error:#}", kind.name())),
        }
    }
    check_counts(&mut peers, &setup, &mut failures)?;
    let _spinners = options.no_idle.then(machine::Spinners::start).transpose()?;
    let mut report = report::Report::new(&setup, options)?;
    measure::all_rounds(options, &setup, &peers, &mut report, &mut failures);
    if options.wants(options::Section::Commit) {
        commit::all_rounds(options, &setup, &mut report, &mut failures);
    }
    report.failures(&failures);
    let path = report.write()?;
    println!("{}", path.display());
    anyhow::ensure!(failures.is_empty(), "{} measurements failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Removes peers with fewer entries than the plain directory, since they would seem fast.
fn check_counts(peers: &mut Vec<peer::Peer>, setup: &peer::Setup, failures: &mut Vec<String>) -> anyhow::Result<()> {
    let expected = measure::count_entries(&peers[0], setup)?;
    peers.retain(|peer| {
        let wrong = match measure::count_entries(peer, setup) {
            Ok(entries) if entries == expected => return true,
            Ok(entries) => format!("shows {entries} entries, the directory {expected}"),
            Err(error) => format!("{error:#}"),
        };
        failures.push(format!("{}: {wrong}", peer.kind.name()));
        false
    });
    Ok(())
}
