//! Measures publishing, pulling, mounting what was never pulled, and updating, over a slow link, against ostree, casync and
//! squashfs with the same two versions of a Debian `/usr`.
//!
//! `benches/remote-run` prepares what it needs and runs it. One nginx on loopback serves everything; clients reach it through a
//! proxy that has a round-trip time and a bandwidth, and counts requests and bytes. Bytes and requests are exact; seconds are
//! comparable only within one run.
#![allow(clippy::disallowed_methods, reason = "what a benchmark writes may be lost")]

mod cost;
mod lazy;
#[path = "../../tests/common/link.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod link;
#[path = "../peers/machine.rs"]
#[allow(dead_code, reason = "the other benchmark uses more of it")]
mod machine;
mod publishing;
mod pulling;
mod report;
mod setup;
mod updating;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use report::Report;
use setup::Setup;

/// Measure what goes over a network.
#[derive(Parser)]
pub struct Options {
    /// Sections to measure; publishing is always done when there is nothing published from an earlier run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Section::ALL)]
    sections: Vec<Section>,
    /// Use what an earlier run published. Only to see a trend: figures of one table belong to one run.
    #[arg(long)]
    reuse: bool,
    /// Leave out casync's mount and other work that takes minutes at once.
    #[arg(long)]
    quick: bool,
    /// Rounds of the measurements that take seconds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Directory of repositories and publications: some 8 GB.
    #[arg(long, default_value = "/var/tmp/sapwood-bench/remote")]
    work: PathBuf,
    /// A word for the report's name.
    #[arg(long, default_value = "")]
    label: String,
    /// `cargo bench` adds this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Two versions published, and the way from one to the other.
    Publishing,
    /// Everything, to a machine that has nothing.
    Pulling,
    /// First listing, first programs, everything, from a mount of what was never pulled.
    Lazy,
    /// The newer version, to a machine that has the older one.
    Updating,
}

impl Section {
    const ALL: [Self; 4] = [Self::Publishing, Self::Pulling, Self::Lazy, Self::Updating];
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remote: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let setup = Setup::new(options)?;
    let mut report = Report::new(&setup, options)?;
    let wants = |section| options.sections.contains(&section);
    if !(options.reuse && setup.is_published()) {
        publishing::run(&setup, &mut report)?;
    }
    if wants(Section::Pulling) {
        pulling::run(&setup, &mut report)?;
    }
    if wants(Section::Lazy) {
        lazy::run(&setup, options, &mut report)?;
    }
    if wants(Section::Updating) {
        updating::run(&setup, &mut report)?;
    }
    println!("{}", report.write()?.display());
    Ok(())
}

impl Options {
    /// Returns the number of rounds of measurements that take seconds.
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds }
    }
}
