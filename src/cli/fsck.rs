//! `sapwood fsck`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Context, output, repository};
use crate::store::{Fsck, FsckReport, Scope, Store};

/// Check what refs lead to; what was found sound before and has not changed is not read again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood fsck             exit status 1 when something is damaged
  sapwood fsck --all       read everything again: disks forget without anything being written
  sapwood fsck --repair    drop what is damaged; committing or pulling again brings it back")]
pub struct Args {
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

/// Runs the verb.
///
/// # Errors
/// When the repository cannot be read at all.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let report =
        if args.repair { repair(&store)? } else { check(&store, if args.all { Scope::All } else { Scope::Changed })? };
    if args.json {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(store: &Store, scope: Scope) -> Result<FsckReport> {
    // A repository on a read-only medium has no lock to take.
    let _hold = store.hold(repository::announced()).ok();
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
    let collector = store.collector(repository::announced)?;
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
        let (lazy, images) = (report.lazy_commits, report.absent_images);
        let (objects, bytes) = (output::count(report.absent_objects as u64), output::size(report.absent_bytes));
        output::line(format_args!(
            "{lazy} lazy commits; not here yet: {images} images, {objects} objects ({bytes}) of the others"
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
