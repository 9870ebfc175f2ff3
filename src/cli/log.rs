//! The verb `sapwood log`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{output, repository};
use crate::cli::context::{Context, Run};
use crate::store::ReadError;

/// List a commit and its ancestors, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sapwood log debian/12
  sapwood log -n 3 debian/12~10")]
pub(crate) struct Args {
    /// The commit to begin with
    source: String,

    /// At most this many commits
    #[arg(short = 'n', long, value_name = "N")]
    max_count: Option<usize>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Run for Args {
    fn run(&self, context: &Context) -> Result<ExitCode> {
        let store = repository::open(context)?;
        let first = store.resolve(&self.source)?;
        let mut next = Some(first);
        let mut values = Vec::new();
        let mut shown = 0;
        while let Some(id) = next.filter(|_| self.max_count.is_none_or(|max| shown < max)) {
            let commit = match store.commit(id) {
                // Older commits may have been removed.
                Err(ReadError::MissingCommit { .. }) if id != first => break,
                other => other?,
            };
            shown += 1;
            next = commit.parent;
            if self.json {
                values.push(json!({ "id": id, "commit": commit }));
                continue;
            }
            output::line(format_args!("commit {id}"))?;
            super::show::print_commit(&commit)?;
            output::line("")?;
        }
        if self.json {
            output::json(&values)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
