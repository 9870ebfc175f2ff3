//! `sapwood gc`.

use std::process::ExitCode;

use anyhow::Result;

use super::{Context, output, repository};

/// Remove what no ref, no running mount and no ancestor of a ref needs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood gc --dry-run     what would go
  sapwood gc --depth 3     keep three ancestors of each ref, remove older history")]
pub struct Args {
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    /// Keep this many ancestors of each ref (default: all)
    #[arg(long, value_name = "N")]
    depth: Option<u64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When something needed cannot be read: then nothing is removed.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let collector = store.collector(repository::announced)?;
    let plan = collector.plan(args.depth)?;
    if args.json {
        output::json(&plan)?;
    } else {
        let packed: usize = plan.packs.iter().map(|pack| pack.remove).sum();
        let verb = if args.dry_run { "would remove" } else { "removing" };
        let (commits, images, objects) = (plan.commits.len(), plan.images.len(), plan.objects.len() + packed);
        let size = output::size(plan.bytes);
        output::line(format_args!("{verb} {commits} commits, {images} images, {objects} objects: {size}"))?;
        let (kept, kept_objects) = (plan.kept_commits, output::count(plan.kept_objects as u64));
        output::line(format_args!("keeping {kept} commits, {kept_objects} objects"))?;
    }
    if plan.unread_commits > 0 {
        output::note(format_args!(
            "{} lazy commits do not have their whole image here, so every object is kept; 'sapwood pull --metadata-only' \
             completes the image",
            plan.unread_commits
        ));
    }
    if !args.dry_run {
        collector.apply(&plan)?;
    }
    Ok(ExitCode::SUCCESS)
}
