//! The command line of the benchmark.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::peer::Kind;
use crate::workload::Name;

/// Measure Sapwood against its peers.
#[derive(Parser)]
pub struct Options {
    /// One round of each, shorter samples.
    #[arg(long)]
    pub quick: bool,
    /// Rounds of the cheap sections; the expensive ones get three at most.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Peers to measure, in this order; the plain directory is always measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    pub peers: Vec<Kind>,
    /// Sections to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Section::ALL)]
    pub sections: Vec<Section>,
    /// Keep both cores from halting by spinners of the idle class, as a busy machine would.
    #[arg(long)]
    pub no_idle: bool,
    /// Directory of images, repositories and copies; must be on the file system of the Debian root.
    #[arg(long, default_value = "/var/tmp/sapwood-bench")]
    pub work: PathBuf,
    /// A word for the report's file name and head, such as what was changed.
    #[arg(long, default_value = "")]
    pub label: String,
    /// `cargo bench` adds this.
    #[arg(long, hide = true)]
    bench: bool,
    /// Another command than the comparison.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Other commands of this program.
#[derive(Subcommand)]
pub enum Command {
    /// Serve a tree's structure by a FUSE mount that does no work, until unmounted.
    Floor {
        /// The tree whose structure is served.
        source: PathBuf,
        /// The mount point.
        target: PathBuf,
    },
    /// Run one workload over a directory and print its time.
    Workload {
        /// The workload.
        #[arg(value_enum)]
        name: Name,
        /// The directory.
        directory: PathBuf,
    },
}

/// A part of the comparison: peers are mounted afresh for each.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Mount time, walk with stat cold and warm, four-way stat, memory.
    Walk,
    /// Read everything cold and warm, open + read + close, memory.
    Read,
    /// Start python3 cold and warm.
    Python,
    /// Compile a small file cold and warm.
    Compile,
    /// Random and sequential reads of the largest files.
    Fio,
    /// Commit the tree, against copying it and packing it.
    Commit,
}

impl Section {
    /// All sections.
    pub const ALL: [Self; 6] = [Self::Walk, Self::Read, Self::Python, Self::Compile, Self::Fio, Self::Commit];
}

impl Options {
    /// Reads the command line; `--quick` means one round.
    pub fn parse_arguments() -> Self {
        let mut options = Self::parse();
        if options.quick {
            options.rounds = 1;
        }
        options.peers.retain(|kind| *kind != Kind::Native);
        options.peers.insert(0, Kind::Native);
        options
    }

    /// Returns whether `section` is to be measured.
    pub fn wants(&self, section: Section) -> bool {
        self.sections.contains(&section)
    }

    /// Returns the rounds for a section that takes a minute a peer.
    pub fn few_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// Returns the number of repetitions whose median is a round's warm figure.
    pub fn repetitions(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }
}
