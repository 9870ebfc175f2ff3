//! The verb `sapwood gc`.
//!
//! *Not here*: what may be removed, see `store::gc`.

use std::process::ExitCode;

use anyhow::Result;

use super::{output, repository};
use crate::cli::context::{Context, Run};

/// Remove what no ref, no running mount and no ancestor of a ref needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood gc --dry-run
      what would go
  sapwood gc --all
      look at every commit, also when no ref was moved back or deleted since the last time
  sapwood gc --depth 3
      keep three ancestors of each ref, remove older history")]
pub(crate) struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Keep this many ancestors of each ref (default: all)
    #[arg(long, value_name = "N")]
    depth: Option<u64>,

    /// Look at everything, also when nothing can have become garbage since the last collection
    #[arg(long)]
    all: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let collector = store.collector(repository::wait_with_notice)?;
        let quick = if self.all || self.depth.is_some() { None } else { collector.plan_since_last()? };
        let plan = match quick {
            Some(plan) => plan,
            None => collector.plan(self.depth)?,
        };
        if self.json {
            output::json(&plan)?;
        } else {
            let packed: usize = plan.packs.iter().map(|pack| pack.remove).sum();
            let verb = if self.dry_run { "would remove" } else { "removing" };
            let (commits, images, objects) = (plan.commits.len(), plan.images.len(), plan.objects.len() + packed);
            let size = output::size(plan.bytes);
            output::line(format_args!("{verb} {commits} commits, {images} images, {objects} objects: {size}"))?;
            match (plan.kept_commits, plan.kept_objects) {
                (Some(commits), Some(objects)) => {
                    let objects = output::count(objects as u64);
                    output::line(format_args!("keeping {commits} commits, {objects} objects"))?;
                }
                _ => output::line("no ref was moved back or deleted since the last collection: keeping everything")?,
            }
        }
        if plan.unread_commits > 0 {
            output::note(format_args!(
                "{} lazy commits do not have their whole image here, so every object is kept; 'sapwood pull --metadata-only' \
                 completes the image",
                plan.unread_commits
            ));
        }
        if !self.dry_run {
            collector.apply(&plan)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
