//! Measures publishing, pulling, mounting what was never pulled, and updating, over a slow link, against ostree, casync
//! and squashfs with the same two versions of a Debian `/usr`.
//!
//! Run it by `benches/remote-run`, which prepares what it needs. Everything is served by one nginx on loopback; clients reach
//! it through a proxy that has a round-trip time and a bandwidth, and counts requests and bytes. Bytes and requests are
//! exact; of seconds only those of one run are comparable.
#![allow(clippy::disallowed_methods, reason = "what a benchmark writes may be lost")]

mod cost;
mod ground;
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
mod updating;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use ground::Ground;
use report::Report;

/// Measure what goes over a network.
#[derive(Parser)]
pub struct Options {
    /// Which parts; publishing is always done when there is nothing published from an earlier run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Section::ALL)]
    sections: Vec<Section>,
    /// Take what an earlier run published. Only for a look: figures of one table belong to one run.
    #[arg(long)]
    reuse: bool,
    /// Leave out casync's mount and what else takes minutes at one go.
    #[arg(long)]
    quick: bool,
    /// Rounds of what takes seconds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where repositories and what is published go: some 8 GB.
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
    let ground = Ground::new(options)?;
    let mut report = Report::new(&ground, options)?;
    let wants = |section| options.sections.contains(&section);
    if !(options.reuse && ground.is_published()) {
        publishing::run(&ground, &mut report)?;
    }
    if wants(Section::Pulling) {
        pulling::run(&ground, &mut report)?;
    }
    if wants(Section::Lazy) {
        lazy::run(&ground, options, &mut report)?;
    }
    if wants(Section::Updating) {
        updating::run(&ground, &mut report)?;
    }
    println!("{}", report.write()?.display());
    Ok(())
}

impl Options {
    /// Rounds of what takes seconds.
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds }
    }
}
