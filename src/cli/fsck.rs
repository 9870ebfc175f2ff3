//! The verb `sapwood fsck`.
//!
//! *Not here*: checking and repairing, see `store::fsck`.

use std::process::ExitCode;

use anyhow::Result;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::store::{Fsck, FsckReport, Scope, Store};

/// Check everything that refs lead to, unless it was found sound before
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood fsck
      exit status 1 when something is damaged
  sapwood fsck --all
      read everything again: disks lose data even where nothing is written
  sapwood fsck --repair
      drop what is damaged; committing or pulling again brings it back")]
pub(crate) struct Args {
    /// Read everything, also what was found sound before and has not changed since
    #[arg(long)]
    all: bool,

    /// Drop damaged objects, images and commits so that they can be fetched or committed again; reads everything
    #[arg(long)]
    repair: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let report = if self.repair {
            repair(&store)?
        } else {
            check(&store, if self.all { Scope::All } else { Scope::Changed })?
        };
        if self.json {
            output::json(&report)?;
        } else {
            print(&report)?;
        }
        Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn check(store: &Store, scope: Scope) -> Result<FsckReport> {
    // A repository on a read-only medium is checked without the lock, which cannot be taken there.
    let _removal_guard = store.block_removal(repository::wait_with_notice()).ok();
    let bar = output::item_bar(0);
    let report = Fsck::run(store, scope, &|done, total| {
        if done % 64 == 0 {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    });
    bar.finish_and_clear();
    Ok(report?)
}

fn repair(store: &Store) -> Result<FsckReport> {
    let collector = store.collector(repository::wait_with_notice)?;
    let report = Fsck::run(store, Scope::All, &|_, _| {})?;
    let dropped = collector.drop_damaged(&report)?;
    if dropped > 0 {
        output::note(format_args!("dropped {dropped} damaged thing(s); commit or pull again to bring them back"));
    }
    Ok(report)
}

fn print(report: &FsckReport) -> Result<()> {
    for damage in &report.damage {
        output::line(format_args!("damaged: {}: {}", damage.what, damage.problem))?;
        for (commit, path) in &damage.paths {
            output::line(format_args!("  {} {path}", commit.short()))?;
        }
        if damage.path_count > damage.paths.len() {
            output::line(format_args!("  … and {} more paths", damage.path_count - damage.paths.len()))?;
        }
        if damage.paths.is_empty() && !damage.commits.is_empty() {
            let commits: Vec<String> = damage.commits.iter().map(ToString::to_string).collect();
            output::line(format_args!("  in commit {}", commits.join(", ")))?;
        }
    }
    let (refs, commits, images) = (report.refs, report.commits, report.images);
    let (objects, bytes) = (output::count(report.objects as u64), output::size(report.bytes));
    if report.lazy_commits > 0 {
        let (images, lacking) = (report.absent_images, output::count(report.absent_objects as u64));
        let bytes = output::size(report.absent_bytes);
        output::line(format_args!(
            "of {} lazy commits, {images} images and, of the images that are here, {lacking} objects ({bytes}) are not here yet",
            report.lazy_commits
        ))?;
    }
    let verdict = match report.damage.len() {
        0 => "no damage".to_owned(),
        number => format!("{number} damaged"),
    };
    let summary = format!("{refs} refs, {commits} commits, {images} images, {objects} objects ({bytes}): {verdict}");
    output::line(summary)?;
    if let Some(seconds) = report.relied_on_check_at {
        let time = output::time(seconds);
        output::note(format_args!("what was found sound on {time} and has not changed was not read; '--all' reads it"));
    }
    Ok(())
}
