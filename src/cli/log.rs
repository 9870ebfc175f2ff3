//! `sapwood log`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{Context, output, repository};
use crate::store::ReadError;

/// List a commit and its ancestors, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood log debian/12
  sapwood log -n 3 debian/12~10")]
pub struct Args {
    /// Where to begin
    source: String,

    /// At most this many commits
    #[arg(short = 'n', long, value_name = "N")]
    max_count: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
///
/// # Errors
/// When a commit cannot be read.
pub fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let store = repository::open(context)?;
    let first = store.resolve(&args.source)?;
    let mut next = Some(first);
    let mut values = Vec::new();
    let mut shown = 0;
    while let Some(id) = next.filter(|_| args.max_count.is_none_or(|max| shown < max)) {
        let commit = match store.commit(id) {
            // History may be cut off.
            Err(ReadError::MissingCommit { .. }) if id != first => break,
            other => other?,
        };
        shown += 1;
        next = commit.parent;
        if args.json {
            values.push(json!({ "id": id, "commit": commit }));
            continue;
        }
        output::line(format_args!("commit {id}"))?;
        super::show::details(&commit)?;
        output::line("")?;
    }
    if args.json {
        output::json(&values)?;
    }
    Ok(ExitCode::SUCCESS)
}
