//! The command line.

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
    /// Which peers, in this order; the plain directory is always measured.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    pub peers: Vec<Kind>,
    /// Which parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Section::ALL)]
    pub sections: Vec<Section>,
    /// Keep both cores from halting by spinners of the idle class, as a busy machine would.
    #[arg(long)]
    pub no_idle: bool,
    /// Where images, repositories and copies go; must be on the file system of the Debian root.
    #[arg(long, default_value = "/var/tmp/sapwood-bench")]
    pub work: PathBuf,
    /// A word for the report's file name and head, such as what was changed.
    #[arg(long, default_value = "")]
    pub label: String,
    /// `cargo bench` adds this.
    #[arg(long, hide = true)]
    bench: bool,
    /// Something else than the comparison.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else this program does.
#[derive(Subcommand)]
pub enum Command {
    /// Serve a tree's shape by a FUSE mount that does no work, until unmounted.
    Floor {
        /// The tree whose shape is served.
        source: PathBuf,
        /// Where.
        target: PathBuf,
    },
    /// Run one workload over a directory and print its time.
    Workload {
        /// Which one.
        #[arg(value_enum)]
        name: Name,
        /// Over what.
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
    /// All of them.
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

    /// Whether `section` is to be measured.
    pub fn wants(&self, section: Section) -> bool {
        self.sections.contains(&section)
    }

    /// Rounds for a section that takes a minute a peer.
    pub fn few_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// Repetitions whose median is a round's warm figure.
    pub fn repetitions(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }
}
