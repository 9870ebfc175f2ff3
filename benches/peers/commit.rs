//! Measures committing the tree, against copying and packing it. The source is in the page cache; each contender writes to an
//! empty directory on the source's file system.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::machine::{self, drop_caches, fresh_directory, output, time};
use crate::options::Options;
use crate::peer::{Setup, mksquashfs, ostree_commit};
use crate::report::{Measure, Report};
use crate::workload;

/// Names in the table; the others are compared with the first.
pub const CONTENDERS: [&str; 5] =
    ["cp -a", "sapwood commit", "sapwood commit, unchanged", "mksquashfs zstd-3", "ostree commit"];

/// Measures all rounds; contenders alternate.
pub fn all_rounds(options: &Options, setup: &Setup, report: &mut Report, failures: &mut Vec<String>) {
    for round in 0..options.few_rounds() {
        for name in CONTENDERS {
            let load = machine::load();
            eprintln!("commit {round}: {name} (load {load})");
            match measure_contender(name, setup) {
                Ok(samples) => report.add(round, name, &load, samples),
                Err(error) => failures.push(format!("{name}: {error:#}")),
            }
        }
    }
}

fn measure_contender(name: &str, setup: &Setup) -> anyhow::Result<Vec<(Measure, f64)>> {
    let place = fresh_directory(setup.work.join("commit"))?;
    drop_caches()?;
    workload::read_all(&setup.source)?;
    let repository = place.join("repository");
    let command = match name {
        "cp -a" => {
            let mut command = Command::new("cp");
            command.arg("-a").arg(&setup.source).arg(place.join("copy"));
            command
        }
        "mksquashfs zstd-3" => mksquashfs(&setup.source, &place.join("image")),
        "ostree commit" => {
            machine::run("ostree", ["init", "--mode=bare", &format!("--repo={}", repository.display())])?;
            ostree_commit(&setup.source, &repository)
        }
        _ => {
            time(setup.sapwood(&repository, ["init"]))?;
            if name.ends_with("unchanged") {
                time(sapwood_commit(setup, &repository))?;
                rustix::fs::sync();
            }
            sapwood_commit(setup, &repository)
        }
    };
    let took = time(command)?.as_secs_f64();
    // Data that a command leaves to be written later is part of its cost; `sapwood commit` leaves none.
    let begin = Instant::now();
    rustix::fs::sync();
    let flushed = took + begin.elapsed().as_secs_f64();
    let used = output("du", [OsStr::new("-sk"), place.as_os_str()])?;
    let kib: f64 = used.split_whitespace().next().unwrap_or_default().parse()?;
    machine::remove(&place)?;
    Ok(vec![(Measure::Commit, took), (Measure::CommitFlushed, flushed), (Measure::DiskUse, kib * 1024.0 / 1e6)])
}

fn sapwood_commit(setup: &Setup, repository: &Path) -> Command {
    let words = ["commit", "--ref", "usr"].map(OsStr::new);
    setup.sapwood(repository, words.into_iter().chain([setup.source.as_os_str()]))
}
